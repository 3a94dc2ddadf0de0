"""What the runs of a plan share, and what that saves: lines for `peftbench plan`. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from peftbench.config.schema import RunConfig
from peftbench.sweeps.jobs import backbone_key
from peftbench.sweeps.sharing import gain, group_size, groups, why_alone, wins


def sharing(configs: Sequence[RunConfig], one_process: bool) -> list[str]:
    """A line for each kind of sharing among the runs that are to be done.

    Args:
        one_process: whether one process of this machine does them, which alone makes groups.
    """
    return [*_frozen(configs), *_together(configs, one_process)]


def _frozen(configs: Sequence[RunConfig]) -> Iterator[str]:
    reading = [cfg for cfg in configs if cfg.trainer.reuse_frozen and cfg.method.needs_model]
    if reading:
        shapes = {(backbone_key(cfg), cfg.trainer.max_length, cfg.trainer.precision) for cfg in reading}
        yield (
            f"shared: {_runs(len(reading))} read the states behind untouched blocks (trainer.reuse_frozen), which are "
            f"made once for each text, batch and each of {len(shapes)} backbone{'s' * (len(shapes) > 1)} and lengths"
        )


def _together(configs: Sequence[RunConfig], one_process: bool) -> Iterator[str]:
    asked = [cfg for cfg in configs if cfg.trainer.together != "off"]
    if asked and not one_process:
        yield "trainer.together: only one process of this machine makes groups (hydra.launcher.n_jobs=1); all run alone"
        return
    made = [group for group in groups(asked) if len(group) > 1]
    gains = [found for group in made if (found := gain(group[0]))]
    if made:
        count, largest = sum(map(len, made)), max(map(len, made))
        saves = f"; training was measured to take 1/{min(gains):.2g} of its CPU seconds" if gains else ""
        yield f"shared: {_runs(count)} are trained together, in {len(made)} groups of up to {largest}{saves}"
    reasons = Counter(why_alone(cfg) or _size_one(cfg) for cfg in asked if group_size(cfg) == 1)
    lonely = sum(len(group) == 1 and group_size(group[0]) > 1 for group in groups(asked))
    reasons += Counter({"no other run is alike": lonely})
    yield from (f"trained alone: {_runs(count)}: {reason}" for reason, count in reasons.most_common() if count)
    if not asked and one_process:
        able = [cfg for cfg in configs if not why_alone(cfg) and wins(cfg)]
        if len(able) > 1:
            yield f"{_runs(len(able))} could be trained together, sooner and to the same end: trainer.together=auto"


def _size_one(cfg: RunConfig) -> str:
    found = gain(cfg)
    if not found:
        return "nothing of their shape was measured to train faster together"
    return f"together they were measured to be no faster ({found:.2g} times)"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"
