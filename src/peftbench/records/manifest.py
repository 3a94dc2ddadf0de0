"""`peftbench.json` in a run's `adapter/` folder: all that it takes, beside the weights, to answer new rows.

It holds no path, host or user of the machine that trained: a folder may be sent to somebody else. Free of torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from peftbench.config.schema import (
    FormulationConfig,
    MethodConfig,
    ModelConfig,
    ProtocolConfig,
    RunConfig,
    TaskConfig,
    TrackingConfig,
    TrainerConfig,
)
from peftbench.config.sections import build_section
from peftbench.errors import UsageError, did_you_mean
from peftbench.files import readable_errors, write_atomic
from peftbench.models.hashing import content_hash
from peftbench.records.record import Record, plain
from peftbench.tasks.base import DataSource, Mixture, PatternSet, Row, TaskData
from peftbench.tasks.tuple_formats import TupleForm
from peftbench.tuners.base import WHOLE_BACKBONE
from peftbench.version import __version__

FILE = "peftbench.json"
FORMAT = 1
TRAINER = ("max_length", "dropout", "attention", "precision", "eval_batch_tokens")
"""What of the trainer decides an answer."""
NEITHER = ("lr", "weight_decay", "space", "type", "init_from", "trick")
"""What of the method decides how it is trained, and so no answer of what was trained."""

NOT_KEPT = ("train", "dev", "test", "source")
"""Of the task: its rows, and where they lay."""

PATHS = ("path", "file", "mlm_head")
"""Keys of `model` and of the sections of `method` that may name a file of the user's."""

Manifest = dict[str, Any]


def make(
    record: Record,
    cfg: RunConfig,
    task: TaskData,
    *,
    kind: str,
    pairs: bool,
    backbone: Mapping[str, Any] | None = None,
    shown: Sequence[Row] = (),
    start: Path | None = None,
) -> Manifest:
    """The manifest of what a run has trained.

    Args:
        record: the run's; names it.
        cfg: of the model that answers, which may be a variation of the run's.
        task: without rows; with the patterns and terms that its formulation reads.
        kind: "learner" or "classical".
        pairs: whether rows have two texts.
        backbone: name, family, purpose, revision, pooling, prefix and hidden size; None for a method without one.
        shown: training rows that stand in every input (demonstrations).
        start: in the `adapter/` folder of another run, all weights of the backbone, in the place of pre-trained ones.
    """
    method = {name: value for name, value in asdict(cfg.method).items() if name not in NEITHER}
    found = {
        "format": FORMAT,
        "peftbench": __version__,
        "run_id": record.run_id,
        "kind": kind,
        "backbone": dict(backbone or {}),
        "model": without_paths(asdict(cfg.model)) if backbone else {},
        "method": without_paths(method),
        "trainer": {name: getattr(cfg.trainer, name) for name in TRAINER},
        "seed": cfg.seed,
        "task": _facts(task),
        "pairs": pairs,
        "shown": [asdict(row) for row in shown],
    }
    if start is not None:
        found["start"] = {"run": start.parent.parent.name, "sha256": content_hash([start])}
    return dict(plain(found))


def start_of(manifest: Manifest, folder: Path) -> Path | None:
    """The weights that stand in the place of the backbone's pre-trained ones, unless the run has kept all weights of
    its own: in the folder of the run that trained them, which lies beside this one's.

    Args:
        folder: the run's `adapter/`.

    Raises:
        UsageError: that run is not there, or has trained other weights since.
    """
    start = manifest.get("start")
    if start is None or (folder / WHOLE_BACKBONE).is_file():
        return None
    file = Path(folder.parent.parent, start["run"], "adapter", WHOLE_BACKBONE)
    if not file.is_file() or content_hash([file]) != start["sha256"]:
        state = "other than they were" if file.is_file() else "not there"
        raise UsageError(
            f"run {manifest['run_id']}: it started from the weights of run {start['run']}, which are {state} "
            f"({file}). Put them back, or run both again with rerun=true."
        )
    return file


def part(
    formulation: FormulationConfig, task: TaskData, *, pairs: bool, head: Mapping[str, str], shown: Sequence[Row]
) -> Manifest:
    """What of a manifest is another for each task, where a run has learned several.

    Args:
        head: of what the task is answered with, its name in a run of that task alone -> its name in this run's file.
    """
    options = without_paths(asdict(formulation))
    own = {"formulation": options, "task": _facts(task), "pairs": pairs, "head": dict(head)}
    return dict(plain({**own, "shown": [asdict(row) for row in shown]}))


def of_task(manifest: Manifest, name: str | None) -> Manifest:
    """The manifest as if the run had learned that task alone; None for a run that has.

    Raises:
        UsageError: there are several tasks and none is named, or the run has not learned that one.
    """
    run, parts = f"run {manifest['run_id']}", manifest.get("parts")
    if parts is None:
        if name is not None:
            raise UsageError(f"--task {name}: {run} has learned a single task. Leave it out.")
        return manifest
    if name not in parts:
        known = f"Known: {', '.join(parts)}." if name is None else did_you_mean(name, parts)
        raise UsageError(f"{run} has learned several tasks; --task NAME says which one is asked. {known}")
    own = dict(parts[name])
    method = {**manifest["method"], "formulation": own.pop("formulation")}
    return {**{key: value for key, value in manifest.items() if key != "parts"}, **own, "method": method}


def _facts(task: TaskData) -> dict[str, Any]:
    """A task without its rows and their place, as plain data."""
    found = asdict(replace(task, mixture=None, tasks={}))
    found = {name: value for name, value in found.items() if name not in (*NOT_KEPT, "mixture")}
    if task.mixture is not None:
        parts = {name: _facts(part) for name, part in task.mixture.parts.items()}
        found["mixture"] = {"parts": parts, "exponent": task.mixture.exponent}
    return found


def without_paths(section: dict[str, Any]) -> dict[str, Any]:
    """A section of the config with the file's name in the place of each absolute path."""
    kept = dict(section)
    for key, value in section.items():
        if isinstance(value, dict):
            kept[key] = without_paths(value)
        elif key in PATHS and isinstance(value, str):
            kinds = [kind(value) for kind in (PurePosixPath, PureWindowsPath)]
            absolute = [path.name for path in kinds if path.is_absolute() or value.startswith("~")]
            kept[key] = absolute[0] if absolute else value
    return kept


def write(folder: Path, manifest: Manifest) -> None:
    """Write `folder/peftbench.json`."""
    text = json.dumps(manifest, ensure_ascii=False, allow_nan=False, indent=1)
    write_atomic(folder / FILE, text.encode("utf-8", "surrogatepass"))


def read(folder: Path) -> Manifest:
    """The manifest of an `adapter/` folder.

    Raises:
        UsageError: there is none, it is damaged, or a newer peftbench wrote it.
    """
    path = folder / FILE
    with readable_errors("read", path):
        if not path.is_file():
            raise UsageError(
                f"{path}: no such file; a run of an earlier peftbench did not write it. Run it again with rerun=true."
            )
        content = path.read_bytes()
    try:
        manifest = json.loads(content)
        if manifest["format"] > FORMAT:
            raise UsageError(f"{path}: written by peftbench {manifest['peftbench']}, which is newer. Update peftbench.")
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: damaged ({type(error).__name__}: {error}). Run it again with rerun=true.") from None
    return dict(manifest)


def config_of(manifest: Manifest) -> RunConfig:
    """The config with which the model is made again; what decides no answer is left at nothing.

    Raises:
        UsageError: this version of peftbench does not know a key.
    """
    model = manifest["model"]
    method: MethodConfig = build_section("method", manifest["method"])
    return RunConfig(
        model=build_section("model", pinned(model, manifest["backbone"])) if model else ModelConfig(),
        method=method,
        task=TaskConfig(),
        protocol=ProtocolConfig(),
        trainer=TrainerConfig(name="saved", threads=None, progress=False, **manifest["trainer"]),
        tracking=TrackingConfig(wandb="disabled"),
        shots=1,
        seed=manifest["seed"],
    )


def pinned(model: Mapping[str, Any], backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The model's config, of the hub at the commit that was trained."""
    revision = str(backbone.get("revision", "")).partition("+")[0]
    return {**model, **({"revision": revision} if model["source"] == "hub" else {})}


def task_of(manifest: Manifest) -> TaskData:
    """The task that `make` was given, without rows."""
    return _task(manifest["task"])


def _task(plain: Mapping[str, Any]) -> TaskData:
    facts = {name: value for name, value in plain.items() if name != "test_rows"}  # for a while of 0.2's making
    sets = {name: {**found, "patterns": tuple(found["patterns"])} for name, found in facts.pop("cloze").items()}
    cloze = {n: PatternSet(**{**s, "words": {k: tuple(v) for k, v in s["words"].items()}}) for n, s in sets.items()}
    terms = {label: tuple((word, score) for word, score in own) for label, own in facts.pop("terms").items()}
    score_range = facts.pop("score_range")
    form = TupleForm.of(facts.pop("tuple_form", {}))
    mixture = facts.pop("mixture", None)
    parts = {name: _task(part) for name, part in mixture["parts"].items()} if mixture else {}
    names = ("labels", "fields", "metrics", "languages", "unlabeled", "domains", "notes")
    lists = {name: tuple(facts.pop(name)) for name in names if name in facts}
    return TaskData(
        **facts,
        **lists,  # type: ignore[arg-type]
        train=(),
        dev=(),
        test=(),
        source=DataSource("local", ""),
        cloze=cloze,
        terms=terms,
        score_range=tuple(score_range) if score_range else None,
        tuple_form=form,
        mixture=Mixture(parts, mixture["exponent"]) if mixture else None,
    )


def shown_rows(manifest: Manifest) -> list[Row]:
    """The training rows that stand in every input."""
    return [Row(**row) for row in manifest["shown"]]
