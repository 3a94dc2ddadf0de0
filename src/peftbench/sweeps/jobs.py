"""The runs of a sweep: every combination composed, checked and named before the first one starts. Free of torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from peftbench.config.doors import shortened
from peftbench.config.load import explain
from peftbench.config.many import Composer
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.inputs import InputCache


@dataclass(frozen=True)
class Job:
    """One run of a sweep, or the reason why it cannot be one.

    Attributes:
        number: position in the sweep, from 0.
        overrides: what the command line of this run alone would be.
        config: None if it does not compose. Its sections are shared with other jobs: not to be changed.
        run_id: None if the config, the data or the draw is wrong.
        error: the mistake, if there is one.
        same_as: number of an earlier job with the same run id.
    """

    number: int
    overrides: tuple[str, ...]
    config: RunConfig | None
    run_id: str | None
    error: str = ""
    same_as: int | None = None


def expand(overrides: Sequence[str], params: Mapping[str, str] | None = None) -> list[tuple[str, ...]]:
    """The overrides of every job: all combinations of the values in a sweep, the last key changing fastest.

    Args:
        overrides: as on a command line with -m, `method=lora,dept seed=range(1,4)`.
        params: further ones, as `hydra.sweeper.params` gives them; what stands in `overrides` replaces them.

    Raises:
        UsageError: an override cannot be read, or is a kind of sweep that has no list of values (`interval`).
    """
    texts = [*(f"{key}={value}" for key, value in (params or {}).items()), *overrides]
    try:
        parsed = OverridesParser.create().parse_overrides(texts)
    except HydraException as error:
        raise explain(error, texts) from None
    choices = {override.get_key_element(): _values(override) for override in parsed}
    return list(itertools.product(*choices.values()))


def _values(override: Override) -> list[str]:
    """What one override stands for: as many overrides as it has values."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise UsageError(f"{override.input_line}: a sweep needs a list of values: {key}=1,2,3 or {key}=range(1,4).")
    try:
        values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:  # Hydra's own, about range and its like
        raise UsageError(f"{shortened(override.input_line)}: cannot be made a list of values: {error}.") from None
    if not values:
        raise UsageError(f"{shortened(override.input_line)}: has no value.")
    return values


def compose_jobs(job_overrides: Sequence[Sequence[str]], inputs: InputCache | None = None) -> list[Job]:
    """Compose, check and name every job. A mistake does not raise; it stands in its job.

    Args:
        job_overrides: the overrides of each job, from `expand`.
        inputs: keeps data and draws that were loaded for the names, for the runs to use.
    """
    composer, inputs = Composer(), inputs or InputCache()
    configs: list[RunConfig | UsageError] = []
    for overrides in job_overrides:
        try:
            configs.append(composer.compose(overrides))
        except UsageError as error:
            configs.append(error)
    names = _names(configs, inputs)
    first: dict[str, int] = {}
    jobs = []
    for number, (overrides, config, name) in enumerate(zip(job_overrides, configs, names, strict=True)):
        mistake = config if isinstance(config, UsageError) else name if isinstance(name, UsageError) else None
        run_id = name if isinstance(name, str) else None
        earlier = None if run_id is None else first.setdefault(run_id, number)
        jobs.append(
            Job(
                number=number,
                overrides=tuple(overrides),
                config=None if isinstance(config, UsageError) else config,
                run_id=run_id,
                error=str(mistake) if mistake else "",
                same_as=None if earlier == number else earlier,
            )
        )
    return jobs


def _names(configs: Sequence[RunConfig | UsageError], inputs: InputCache) -> list[str | UsageError | None]:
    """The run id of each config or what is wrong with its data; data set by data set, so that each is loaded once."""
    names: list[str | UsageError | None] = [None] * len(configs)
    by_data: dict[tuple, list[int]] = {}
    for number, config in enumerate(configs):
        if isinstance(config, RunConfig):
            by_data.setdefault(inputs.data_key(config), []).append(number)
    for number in itertools.chain.from_iterable(by_data.values()):
        config = configs[number]
        assert isinstance(config, RunConfig)
        try:
            names[number] = identify(config, inputs)
        except UsageError as error:
            names[number] = error
    return names


def identify(cfg: RunConfig, inputs: InputCache) -> str:
    """The run id that `peftbench.runner.run` would give, without torch.

    Raises:
        UsageError: the data or the draw is wrong.
    """
    return inputs.run_id(cfg)


def backbone_key(cfg: RunConfig) -> str:
    """Equal for runs that can share a loaded backbone; "" for runs without one."""
    if not cfg.method.needs_model:
        return ""
    return json.dumps([asdict(cfg.model), cfg.trainer.dropout, cfg.trainer.device])
