"""A launcher: the runs of a sweep in this process, the last one first. Hydra finds whatever lies in `hydra_plugins`."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn


class LastFirstLauncher(BasicLauncher):
    """Hydra's own launcher with the order turned round."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """The returns in the order in which the jobs were given."""
        return super().launch(job_overrides[::-1], initial_job_idx)[::-1]


ConfigStore.instance().store(
    group="hydra/launcher",
    name="last_first",
    node={"_target_": f"{LastFirstLauncher.__module__}.{LastFirstLauncher.__qualname__}"},
    provider="last_first",
)
