"""What Hydra has to find in its namespace for plugins; the work is done in `peftbench.sweeps.launchers`.

Hydra imports this file at every start, so it imports nothing but Hydra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """Every combination of the values in a command. Nothing is written, and all jobs are checked at once."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        from hydra.core.plugins import Plugins

        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra with the overrides."""
        from peftbench.sweeps.jobs import compose_jobs, expand
        from peftbench.sweeps.launchers import refuse

        jobs = expand(arguments, self.params)
        if not isinstance(self.launcher, PeftbenchLauncher):
            refuse(compose_jobs(jobs))
        returns = self.launcher.launch([list(job) for job in jobs], 0)
        return [job.return_value for job in returns]  # a foreign launcher's errors come out here


class PeftbenchLauncher(Launcher):
    """Base of ours. The exit code, if not 0, ends the program: Hydra has no other way to pass it on."""

    name: str

    def __init__(self, **options: Any) -> None:
        self.options = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in options.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by the sweeper with the overrides of each job."""
        from peftbench.sweeps.launchers import run_sweep

        code = run_sweep(self.name, self.options, job_overrides)
        if code:
            raise SystemExit(code)
        return []


class LocalLauncher(PeftbenchLauncher):
    """`hydra/launcher=local`."""

    name = "local"


class SlurmLauncher(PeftbenchLauncher):
    """`hydra/launcher=slurm`."""

    name = "slurm"
