"""`peftbench plan ...`: the command line and the screen of `peftbench.inspect.plan`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from textwrap import shorten
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from peftbench.config.hydra_source import CONFIG_MODULE
from peftbench.config.load import explain
from peftbench.config.sections import build
from peftbench.errors import UsageError, did_you_mean
from peftbench.inspect.estimate import NO_BASIS
from peftbench.inspect.machine import this_machine
from peftbench.inspect.plan import Options, Plan, PlannedJob, as_json, make_plan
from peftbench.inspect.remembered import RememberedInputs
from peftbench.measure.clock import duration
from peftbench.sweeps.jobs import compose_jobs, expand
from peftbench.sweeps.launchers import LAUNCHERS
from peftbench.sweeps.live import labels
from peftbench.views.display import print_table, say

SHOWN = 20
NOTE = 80
"""Characters of a note in the table; above it each mistake stands in full, once."""
HELP = """\
usage: peftbench plan [-m] [KEY=VALUE,VALUE ...] [hydra/launcher=NAME] [--all] [--json]

What the same command without `plan` would run: which runs there are, which are done already, what the others will cost
(from earlier records; the basis is named), what will not fit, and the array jobs that would be submitted.

  --all     a line for every combination, not only for the first {shown}
  --json    machine-readable

Exit codes: 0; 2 if a combination cannot be a run.
"""
WORDS = {
    "pending": "to do",
    "unfinished": "left by a process that died: go on from the last checkpoint, or begin anew",
    "interrupted": "go on from the last checkpoint, or begin anew",
    "failed": "tried again",
    "diverged": "tried again",
    "running": "left to their owners",
    "done": "reported, not run",
    "duplicate": "the same run as an earlier combination",
    "mistake": "cannot be run",
}


def plan_command(argv: Sequence[str]) -> int:
    """`peftbench plan`; returns the exit code.

    Raises:
        UsageError: an option or an override cannot be read.
    """
    if {"-h", "--help"} & {*argv}:
        print(HELP.format(shown=SHOWN), end="")
        return 0
    flags = {a for a in argv if a.startswith("-") and a not in ("-m", "--multirun")}
    if unknown := sorted(flags - {"--all", "--json"}):
        raise UsageError(f"plan {unknown[0]}: no such option. {did_you_mean(unknown[0], ['--all', '--json', '-m'])}")
    overrides = [a for a in argv if not a.startswith("-")]
    launcher, options = chosen_launcher(overrides)
    jobs = compose_jobs(expand([o for o in overrides if not _for_hydra(o)]), RememberedInputs())
    plan = make_plan(jobs, launcher, options, this_machine())
    if "--json" in flags:
        print(json.dumps(as_json(plan), indent=1))
    else:
        show(plan, len(jobs) if "--all" in flags else SHOWN)
    return 2 if plan.counts["mistake"] else 0


def _for_hydra(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def chosen_launcher(overrides: Sequence[str]) -> tuple[str, Options]:
    """The launcher that the command names, with its file's options and those of the command.

    Raises:
        UsageError: there is no such launcher or no such option.
    """
    own = [o for o in overrides if _for_hydra(o)]
    try:
        parsed = OverridesParser.create().parse_overrides(own)
    except HydraException as error:
        raise explain(error, own) from None
    name, given = "local", {}
    for override in parsed:
        if override.key_or_group == "hydra/launcher":
            name = str(override.value())
        elif override.key_or_group.startswith("hydra.launcher."):
            given[override.key_or_group.removeprefix("hydra.launcher.")] = override.value()
    if name not in LAUNCHERS:
        raise UsageError(f"hydra/launcher={name}: no such launcher. {did_you_mean(name, LAUNCHERS)}")
    file = files(CONFIG_MODULE) / "hydra" / "launcher" / f"{name}.yaml"
    plain: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    plain.pop("_target_", None)
    return name, build(LAUNCHERS[name][0], {**plain, **given}, "hydra.launcher")


def show(plan: Plan, limit: int) -> None:
    """Everything on the screen."""
    counts = plan.counts
    say(f"{len(plan.jobs):,} combination{'s' if len(plan.jobs) != 1 else ''}, launcher {plan.launcher}")
    print_table(
        ["state", ">runs", "what happens"],
        [[state, f"{counts[state]:,}", words] for state, words in WORDS.items() if counts[state]],
    )
    for line in _facts(plan):
        say(line)
    _show_jobs(plan, limit)


def _facts(plan: Plan) -> Iterator[str]:
    """What the runs to do will cost and on what that rests; what will not fit; what is wrong; what is submitted."""
    cost, to_do = plan.cost, plan.to_do
    if len(to_do) > cost.unknown:
        peak = f", up to {cost.peak_mib:,.0f} MiB a process" if cost.peak_mib else ""
        yield (
            f"time: about {duration(cost.wall_seconds)}, {cost.at_a_time} at a time; "
            f"{duration(cost.cpu_seconds)} of CPU{peak}"
        )
    elif to_do:
        yield "time: unknown, no earlier run is like one of these"
    bases = Counter(p.estimate.basis for p in to_do if p.estimate)
    for basis, count in bases.most_common():
        yield f"  {count:,} from: {basis}" if basis != NO_BASIS.basis else f"  {count:,} without a basis, not counted"
    yield from plan.shared
    for words, group in _grouped((p, p.misfit) for p in to_do if p.misfit):
        yield f"does not fit: {len(group):,} x {words}; for example {' '.join(group[0].job.overrides)}"
    yield from (f"warning: {words}" for words in plan.warnings)
    for words, group in _grouped((p, p.job.error) for p in plan.jobs if p.job.error):
        yield f"mistake: {len(group):,} x {words}"
        yield f"  for example {' '.join(group[0].job.overrides)}"
    if plan.refused:
        yield "so the whole command would be refused, and nothing be run"
    for owner, group in _grouped((p, str(p.run.holder)) for p in plan.jobs if p.state == "running" and p.run):
        yield f"claimed: {len(group):,} by {owner}"
    yield from (f"would submit an {spec}" for spec in plan.arrays)


def _grouped(pairs: Any) -> list[tuple[str, list[PlannedJob]]]:
    """Jobs that share their words, the largest group first, ten groups at most."""
    groups: dict[str, list[PlannedJob]] = {}
    for planned, words in pairs:
        groups.setdefault(words, []).append(planned)
    return sorted(groups.items(), key=lambda item: -len(item[1]))[:10]


def _show_jobs(plan: Plan, limit: int) -> None:
    """A line a combination, those that are to be done first."""
    names = labels([p.job for p in plan.jobs])
    ordered = sorted(plan.jobs, key=lambda p: list(WORDS).index(p.state))
    rows = []
    for planned in ordered[:limit]:
        cost = planned.estimate
        rows.append(
            [
                names[planned.job.number],
                planned.state,
                planned.job.run_id or "",
                duration(cost.seconds) if cost else "",
                f"{cost.peak_mib:,.0f}" if cost and cost.peak_mib else "",
                shorten(planned.misfit or planned.job.error, width=NOTE),
            ]
        )
    print_table(["combination", "state", "run", ">time", ">MiB", "note"], rows)
    if len(ordered) > limit:
        say(f"{len(ordered) - limit:,} more; `--all` shows them")
