"""Results as one small file to be shipped, see `records.packed`: what is left out, and how the rest is made small."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError
from peftbench.files import readable_errors, write_atomic
from peftbench.records.packed import PACKED
from peftbench.records.predictions import Item, line_of, read_predictions
from peftbench.records.record import Record
from peftbench.records.store import Store, encode

DIGITS = 4
"""Significant digits that are kept of times, and of curves but for their last values. Scores and counts stay exact."""


def pack(store: Store, records: Iterable[Record], folder: Path) -> Path:
    """Write `folder/packed.tar.xz` of these runs; the same runs give the same bytes.

    Raises:
        UsageError: a run's predictions are gone or are not those of its record, or the folder cannot be written or
            holds results that are not packed.
    """
    if (folder / "records").exists():
        raise UsageError(f"{folder} holds results of its own; packed ones need a folder for themselves.")
    # what is alike lies side by side: the records first, then the answers to the same items
    ordered = sorted(records, key=lambda r: (r.task, r.subset, r.model, r.method, r.data_seed, r.seed, r.run_id))
    answers = {r.run_id: _answers(store, r) for r in ordered if r.predictions.get("file")}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for record in ordered:
            _add(archive, f"records/{record.run_id}.json", encode(_shortened(record, answers.get(record.run_id))))
        for run_id, lines in answers.items():
            _add(archive, f"runs/{run_id}/predictions.jsonl", lines)
        for name, text in _experiments(store, ordered):
            _add(archive, f"conf/experiment/{name}", text)
    packed = lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    with readable_errors("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / PACKED, packed)
    return folder / PACKED


def _answers(store: Store, record: Record) -> bytes:
    """The predictions of a run, an item a line, without scores and raw text."""
    facts = record.predictions
    items = read_predictions(store.folder(record.run_id) / str(facts["file"]), facts.get("sha256"))
    return b"".join(line_of(Item(i.id, i.target, i.prediction, group=i.group, source=i.source)) for i in items)


def _shortened(record: Record, answers: bytes | None) -> Record:
    """The record with the hash of the shortened predictions, and with fewer digits of what was measured by a clock."""
    facts: dict[str, Any] = {}
    if answers is not None:
        kept = {key: value for key, value in record.predictions.items() if key in ("count", "invalid")}
        facts = {**kept, "file": "predictions.jsonl", "sha256": hashlib.sha256(answers).hexdigest(), "shortened": True}
    rounded = {name: _round(getattr(record, name)) for name in ("seconds", "cpu_seconds")}
    # the last values are kept as they are: `peftbench reproduce` looks for the same last loss
    curves = {name: [*_round(values[:-1]), *values[-1:]] for name, values in record.curves.items()}
    stages = [{key: _round(v) if "seconds" in key else v for key, v in stage.items()} for stage in record.stages]
    return replace(record, predictions=facts, stages=stages, curves=curves, **rounded)


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_round(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _experiments(store: Store, records: Iterable[Record]) -> Iterator[tuple[str, bytes]]:
    """File name and text of each chosen settings file that is still with the results."""
    names = {f"{name}.yaml" for r in records if (name := r.tuning.get("experiment"))}
    for name in sorted(names):
        path = store.out_dir / "conf" / "experiment" / name
        if path.is_file():
            yield name, path.read_bytes()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # its date is 1970, its owner nobody
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
