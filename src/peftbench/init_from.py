"""The runs that a run starts from (`method.init_from`): what of them it takes, and whether they were trained on texts
of its test set. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from peftbench.config.load import from_plain
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.tasks import data_dir, load_task
from peftbench.tasks.base import Row, text_key
from peftbench.tuners.base import WHOLE_BACKBONE


class Source(NamedTuple):
    """What a run starts from.

    Attributes:
        folder: with what the run `method.init_from` has trained.
        weights: all weights of the backbone, where that run or one before it has trained them; they stand in the place
            of the pre-trained ones, whatever the tuner.
        note: for the record.
    """

    folder: Path
    weights: Path | None
    note: str


def source_of(cfg: RunConfig) -> Source:
    """What `method.init_from` leads to.

    Raises:
        UsageError: that run is not finished, saved nothing, or trained another backbone.
    """
    run, store = str(cfg.method.init_from), Store(Path(cfg.out_dir))
    record, folder = store.load(run), store.folder(run) / "adapter"
    if record is None or record.status != "done":
        state = "no such run" if record is None else f"the run is {record.status}"
        raise UsageError(
            f"method.init_from={run}: {state} in out_dir={cfg.out_dir}. "
            "`peftbench leaderboard` lists the finished runs."
        )
    if record.model != cfg.model.name:
        raise UsageError(
            f"method.init_from={run}: that run trained model={record.model}, not model={cfg.model.name}; what it "
            "learned means nothing to another backbone."
        )
    if not folder.exists():
        raise UsageError(f"method.init_from={run}: {folder} is absent; run the source task with trainer.save=all.")
    note = f"started from run {run} ({record.method} on {record.task}/{record.subset}, {record.shots} shots)"
    return Source(folder, _whole_weights(store, run), note)


def _whole_weights(store: Store, run: str | None) -> Path | None:
    """Those of the nearest run, from this one back, that has trained the whole backbone."""
    seen = set[str]()
    while run and run not in seen:
        seen.add(run)
        if (file := store.folder(run) / "adapter" / WHOLE_BACKBONE).is_file():
            return file
        record = store.load(run)
        run = ((record.config.get("method") or {}) if record else {}).get("init_from")
    return None


def check_sources(cfg: RunConfig, tests: Sequence[Row]) -> list[str]:
    """Compare the train and dev rows of the source run, and of those that it started from, with the rows in `tests`.

    Texts are compared as a draw compares train with test (docs/protocols.md). The rule is the draw's too: with
    `protocol.drop_overlap` nothing of test may have been trained on, without it the rows are counted.

    Returns:
        A note for each source: how many of its rows stand in test, or why that is not known.

    Raises:
        UsageError: some do, and `protocol.drop_overlap` is set. A finished run cannot drop them any more.
    """
    store, test_keys = Store(Path(cfg.out_dir)), {text_key(row) for row in tests}
    notes: list[str] = []
    run, seen = cfg.method.init_from, set[str]()
    while run and run not in seen:
        seen.add(run)
        record = store.load(run)
        if record is None:  # of the first one `source_of` says that it is missing
            unknown = f"method.init_from: whether rows of run {run} stand in test was not checked: no record"
            return [*notes, unknown] if notes else []
        try:
            rows = drawn_rows(record, store.folder(run), cfg)
        except UsageError as error:
            notes.append(f"method.init_from: whether rows of run {run} stand in test was not checked: {error}")
        else:
            notes.append(_verdict(record, rows, [row for row in rows if text_key(row) in test_keys], cfg))
        run = (record.config.get("method") or {}).get("init_from")
    return notes


def drawn_rows(record: Record, folder: Path, cfg: RunConfig) -> list[Row]:
    """The train and dev rows of a finished run, read anew from its task's data.

    Args:
        record: the run's.
        folder: the run's; its `draw.json` names the rows.
        cfg: of the run that asks; says where data lies on this machine.

    Raises:
        UsageError: the file is gone, or the data is, or it has changed since.
    """
    try:
        ids = json.loads((folder / "draw.json").read_text(encoding="utf-8"))["ids"]
    except (OSError, ValueError, KeyError):
        raise UsageError(f"{folder / 'draw.json'} cannot be read.") from None
    source = from_plain(record.config)
    data = load_task(source.task, data_dir(cfg) or data_dir(source))
    if data.sha256() != record.data.get("sha256"):
        raise UsageError(f"the data of {record.task}/{record.subset} is not what that run was trained on.")
    rows = {row.id: row for split in (data.train, data.dev, data.test) for row in split}
    return [rows[name] for name in (*ids["train"], *ids["dev"])]


def _verdict(record: Record, rows: Sequence[Row], shared: Sequence[Row], cfg: RunConfig) -> str:
    """The note about one source. Raises UsageError if it must not be one."""
    of_run = f"run {record.run_id} ({record.task}/{record.subset})"
    found = f"{len(shared)} of the {len(rows)} train and dev rows of {of_run}"
    if shared and cfg.protocol.drop_overlap:
        raise UsageError(
            f"method.init_from={cfg.method.init_from}: {found} stand in the test set of this run, `{shared[0].id}` for "
            "example. Start from a run on other texts, or set protocol.drop_overlap=false, which keeps a note of it."
        )
    return f"method.init_from: {found} stand in test"
