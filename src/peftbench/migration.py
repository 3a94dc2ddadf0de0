"""New names for the runs of earlier versions, which hashed the whole config and the version of peftbench.

A run keeps its old name too: `former/<old id>` holds the new one, and whoever asks the store for the old one is led on.
Each step is atomic and comes in an order in which a process may die after any of them: given again, the same call goes
on, and nothing is lost or double then. A run that somebody works on is left to them.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from peftbench.config.load import from_plain
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.files import readable_errors, write_atomic
from peftbench.formulations.cloze import ClozeConfig
from peftbench.hub import COMMIT
from peftbench.inputs import adapter_content
from peftbench.models.content import content_id, random_revision
from peftbench.models.sources import locate
from peftbench.records.ids import run_id
from peftbench.records.leases import Lease, LeaseHeld
from peftbench.records.record import Record
from peftbench.records.store import Store

log = logging.getLogger(__name__)

MARK = ".named"
"""In a folder of results whose runs have been looked at."""


@dataclass
class Migration:
    """What became of the runs: old id -> new id, old id -> why it keeps it, old id -> the run that it is one with."""

    renamed: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    double: dict[str, str] = field(default_factory=dict)


def migrate_if_safe(store: Store) -> Migration | None:
    """`migrate`, once in the life of a folder: if it can be written and nobody works in it. None if it was not."""
    if not store.records.is_dir() or (store.out_dir / MARK).exists() or not os.access(store.out_dir, os.W_OK):
        return None
    if any(holder.alive for holder in store.holders().values()):
        return None
    done = migrate(store)
    if done.renamed or done.double or done.kept:
        log.warning(
            "%d runs of an earlier version in %s have new ids, %d keep theirs (`peftbench migrate` says why); the old "
            "ids find them still.", len(done.renamed) + len(done.double), store.out_dir, len(done.kept),
        )  # fmt: skip
    return done


def migrate(store: Store) -> Migration:
    """Give every record of an earlier version its new id.

    Raises:
        UsageError: the folder cannot be written.
    """
    done = Migration()
    old = [record for record in store.all() if not record.identity]
    for record in sorted(old, key=lambda r: (r.status != "done", r.created)):
        try:
            basis = {"contents": _contents(record, store), "versions": {}}
            new = _new_id(record, basis)
            with readable_errors("rename runs in", store.out_dir):
                is_double = _rename(store, record, new, basis)
            (done.double if is_double else done.renamed)[record.run_id] = new
        except LeaseHeld:
            done.kept[record.run_id] = "somebody works on it"
        except UsageError as error:
            done.kept[record.run_id] = str(error)
    write_atomic(store.out_dir / MARK, b"2\n", durable=False)
    return done


def _new_id(record: Record, basis: dict[str, dict[str, str]]) -> str:
    draw, data = record.draw.get("sha256"), record.data.get("sha256")
    if not draw or not data:
        raise UsageError("its record does not say which rows it had")
    return run_id(asdict(from_plain(record.config)), draw, data, basis)


def _contents(record: Record, store: Store) -> dict[str, str]:
    """The weights that the run started from, as far as its record and what lies beside it can tell.

    Raises:
        UsageError: they cannot.
    """
    cfg = from_plain(record.config)
    if not cfg.method.needs_model:
        return {}
    found = {"model": _weights(record, cfg)}
    if cfg.method.init_from is not None:
        found["init_from"] = adapter_content(store, cfg.method.init_from)
        if found["init_from"] == "absent":
            raise UsageError(f"what run {cfg.method.init_from} had trained, from which it started, is gone")
    posed = cfg.method.formulation
    if isinstance(posed, ClozeConfig) and posed.demonstrations and posed.demonstrations_nearest < 1:
        raise UsageError("its record does not say which weights chose its demonstrations")
    return found


def _weights(record: Record, cfg: RunConfig) -> str:
    """The content id of the backbone. A package was named by its version, which says as much while it is installed."""
    if cfg.model.source == "random":
        return random_revision(cfg.model.arch)
    revision = str(record.model_info.get("revision") or "")
    if cfg.model.source == "hub":
        revision = revision or str(cfg.model.revision)
        if not COMMIT.fullmatch(revision):
            raise UsageError("its record does not say which commit of the model it had")
        return revision
    if revision.startswith("sha256:"):
        return revision
    if not revision or revision.partition("+")[0] != locate(cfg.model).release:
        raise UsageError(f"its record does not say which weights it had ({revision or 'no revision'})")
    current = content_id(cfg.model)
    if current.partition("+")[2] != revision.partition("+")[2]:
        raise UsageError("its masked-LM head is another one by now")
    return current


def _rename(store: Store, record: Record, new: str, basis: dict[str, dict[str, str]]) -> bool:
    """The steps of one run; whether another run has the new name already, so that this one is set aside.

    Raises:
        LeaseHeld: somebody works on it.
    """
    old = record.run_id
    with ExitStack() as claims:
        for name in dict.fromkeys((old, new)):
            claims.callback(Lease(store.claims, name).release)
        other = store.read(store.path(new))
        if other is not None and old not in other.former_ids:
            write_atomic(store.former(old), new.encode())
            store.supersede(old)
            with suppress(OSError):
                (store.out_dir / "runs" / old).rmdir()
            return True
        write_atomic(store.former(old), new.encode())
        _move(store.out_dir / "runs" / old, store.out_dir / "runs" / new)
        store.save(replace(record, run_id=new, identity=basis, former_ids=[*record.former_ids, old]))
        store.path(old).unlink(missing_ok=True)
    return False


def _move(old: Path, new: Path) -> None:
    """Rename a run's folder, if that has not been done; an empty one in the way goes."""
    if old.is_dir():
        if new.is_dir() and any(new.iterdir()):
            raise UsageError(f"{new} is there already and holds other files")
        os.replace(old, new)
