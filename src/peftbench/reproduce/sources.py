"""The runs that a run to be repeated started from (`method.init_from`), back to the one that started from none."""

from __future__ import annotations

import os
from collections.abc import Iterator

from peftbench.inputs import adapter_content
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.reproduce.checks import Refusal

GONE = "absent"


def source_of(record: Record) -> str | None:
    """Id of the run that this one started from, as it was called then."""
    return (record.config.get("method") or {}).get("init_from")


def chain(store: Store, record: Record) -> Iterator[tuple[Record, str, Record | None]]:
    """A run, the id of its source and that one's record, from `record` back as far as there are records."""
    after: Record | None = record
    seen = set[str]()
    while after is not None and (name := source_of(after)) and name not in seen:
        seen.add(name)
        source = store.load(name)
        yield after, name, source
        after = source


def missing(store: Store, record: Record) -> Iterator[Refusal]:
    """What is gone, or no longer the same, of the runs that `record` started from.

    Every link counts: the backbone's weights may be those of the first, and no row of any may stand in test.
    """
    for after, name, source in chain(store, record):
        told = f"run {after.run_id} started from run {name}"
        if source is None:
            yield Refusal(
                f"{told}, which is not in `{store.out_dir}` (bring records/{name}.json and runs/{name} there)", False
            )
            continue
        content = adapter_content(store, name)
        then = (after.identity.get("contents") or {}).get("init_from")
        if content == GONE:
            folder = store.folder(name) / "adapter"
            yield Refusal(f"{told}, whose weights are gone ({folder}; its command with rerun=true makes them)", False)
        elif then not in (None, content):
            yield Refusal(f"{told}, which has been trained again since, to other weights")


def lend(store: Store, reproductions: Store, record: Record) -> None:
    """Let every run that `record` started from be found in the store of reproductions too."""
    for _, name, source in chain(store, record):
        for run_id in dict.fromkeys([name, source.run_id] if source else [name]):
            for there, link in (
                (store.path(run_id), reproductions.path(run_id)),
                (store.former(run_id), reproductions.former(run_id)),
                (store.out_dir / "runs" / run_id, reproductions.out_dir / "runs" / run_id),
            ):
                if there.exists() and not link.exists():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(os.path.relpath(there.resolve(), link.parent.resolve()))
