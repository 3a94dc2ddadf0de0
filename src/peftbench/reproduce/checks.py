"""What must be as it was before a run can be repeated, and how equal the result can then be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from peftbench.config.load import from_plain
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.inputs import InputCache, Inputs
from peftbench.measure.environment import code_version, cpu_name, versions
from peftbench.records.record import Record
from peftbench.version import __version__

EXACT, ROUNDING = "exact", "rounding"
"""Equal to the last bit; or equal but for rounding, which training may make larger."""


@dataclass(frozen=True)
class Refusal:
    """Something that the result rests on and that is not what it was. `can_force`: a run is possible all the same."""

    what: str
    can_force: bool = True


def rebuild_config(record: Record, out_dir: str, devices: int | None) -> RunConfig:
    """The run's config, to be filed below `out_dir` and to be computed with as many threads as then.

    Raises:
        UsageError: this version of peftbench does not know a key or a value of it.
    """
    try:
        cfg = from_plain(record.config)
    except UsageError as error:
        raise UsageError(
            f"reproduce {record.run_id}: this peftbench ({__version__}) cannot read the run's config, which peftbench "
            f"{_recorded_version(record)} wrote: {error}"
        ) from None
    cfg = replace(cfg, out_dir=out_dir, rerun=True)
    cfg.tracking = replace(cfg.tracking, wandb="disabled")
    threads = record.environment.get("threads")
    cfg.trainer = replace(cfg.trainer, devices=devices or cfg.trainer.devices, threads=cfg.trainer.threads or threads)
    revision = record.model_info.get("revision")
    if cfg.model.source == "hub" and revision:
        cfg.model = replace(cfg.model, revision=revision)  # what was read then, wherever the name points to today
    return cfg


def refusals(record: Record, cfg: RunConfig, inputs: InputCache) -> list[Refusal]:
    """What is no longer the same: package version, data, draw, model. Loads the data, but not torch.

    Raises:
        UsageError: the data or the model cannot be found at all.
    """
    return [*_version(record), *_inputs(record, inputs.load(cfg)), *_model(record, cfg)]


def _version(record: Record) -> Iterator[Refusal]:
    recorded = _recorded_version(record)
    if recorded != __version__:
        yield Refusal(f"the run was made by peftbench {recorded}, this is {__version__} (pip install it to repeat it)")


def _recorded_version(record: Record) -> str:
    return str((record.environment.get("versions") or {}).get("peftbench", "of an unknown version"))


def _inputs(record: Record, now: Inputs) -> Iterator[Refusal]:
    recorded = record.data.get("sha256")
    current = now.data.sha256()
    if recorded != current:
        yield Refusal(
            f"the data of {record.task}{'/' + record.subset if record.subset else ''} is not the same: its hash was "
            f"{str(recorded)[:12]}, it is {current[:12]}{_changed_files(record, now)}"
        )
    if record.draw.get("sha256") != now.draw.sha256():
        yield Refusal(
            f"the draw is not the same: protocol {record.protocol}, data seed {record.data_seed} gave other rows "
            f"(hash {str(record.draw.get('sha256'))[:12]}, now {now.draw.sha256()[:12]})"
        )


def _changed_files(record: Record, now: Inputs) -> str:
    before = (record.data.get("source") or {}).get("files") or {}
    after = dict(now.data.source.files)
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    where = f" in {now.data.source.where}" if now.data.source.where else ""
    return f" ({', '.join(names)}{where} changed)" if names else ""


def _model(record: Record, cfg: RunConfig) -> Iterator[Refusal]:
    recorded = record.model_info.get("revision")
    if not cfg.method.needs_model or cfg.model.source == "random" or recorded is None:
        return
    from peftbench.models.content import content_id
    from peftbench.models.sources import locate

    current, release = content_id(cfg.model), locate(cfg.model).release
    if recorded.partition("+")[0] == release:
        return  # before 0.2.0 a package was named by its version
    if current != recorded:
        yield Refusal(f"model={cfg.model.name} is not the same: its revision was {recorded}, it is {current}")


def conditions(record: Record, devices: int) -> list[str]:
    """What differs between then and now and may change how numbers are rounded.

    The device and the number format are known once the new run has one: see `later_conditions`.
    """
    then, found = record.environment, []
    if then.get("cpu") != (cpu := cpu_name()):
        found.append(f"processor: {then.get('cpu')}, now {cpu}")
    before, after = then.get("versions") or {}, versions()
    changed = [
        f"{name} {before.get(name, 'absent')}, now {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if changed:
        found.append("packages: " + "; ".join(changed))
    if then.get("n_devices") != devices:
        found.append(f"processes: {then.get('n_devices')}, now {devices}")
    return found


def code_changes(record: Record, cfg: RunConfig) -> list[str]:
    """What differs in peftbench itself. It loosens no tolerance: if a number changes with the code, that is news."""
    then, now = record.environment, code_version()
    before, after = ((facts.get("git_sha"), facts.get("dirty")) for facts in (then, now))
    found = []
    if before != after or after[1]:
        found.append(f"peftbench's code: {_commit(*before)}, now {_commit(*after)}")
    if keys := sorted(f"{key}={value}" for key, value in _new_keys(record.config, asdict(cfg), "")):
        found.append("keys that the config did not have: " + ", ".join(keys[:5]) + (" ..." if len(keys) > 5 else ""))
    return found


def _commit(sha: str | None, dirty: bool | None) -> str:
    return "as installed" if sha is None else f"commit {sha[:8]}" + (" with changes" if dirty else "")


def later_conditions(old: Record, new: Record) -> list[str]:
    """What the new run's record adds to `conditions`."""
    found = []
    for name in ("device", "gpu", "precision", "threads"):
        before, after = old.environment.get(name), new.environment.get(name)
        if before != after:
            found.append(f"{name}: {before}, now {after}")
    if "cpu" not in (old.environment.get("device"), new.environment.get("device")):
        found.append("computed on a GPU, where sums are not always taken in the same order")
    return found


def _new_keys(old: dict[str, Any], new: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys that only the new config has, with the value that is taken for them."""
    for key, value in new.items():
        if key not in old:
            yield f"{prefix}{key}", value
        elif isinstance(value, dict) and isinstance(old[key], dict) and key not in ("subsets", "arch", "hub"):
            yield from _new_keys(old[key], value, f"{prefix}{key}.")
