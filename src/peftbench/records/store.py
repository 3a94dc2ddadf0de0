"""Where runs are kept: one JSON record a run, written whole or not at all, checked whenever it is read.

out_dir/
  records/<run_id>.json      the truth; everything else can be made from these
  runs/<run_id>/             files of the run: predictions, draw, adapter, checkpoints, W&B
  claims/<run_id>.*.json     who works on the run (peftbench.records.leases)
  former/<old id>            the id now of a run that was called so before (peftbench.migration)
  superseded/                what `rerun=true` replaced
  quarantine/                records that failed their checksum
  leaderboard.csv            a view (peftbench.records.leaderboard)

Or `packed.tar.xz` alone: results that are only read (peftbench.records.packed).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from peftbench.errors import UsageError
from peftbench.files import NotAFile, again, check_place, read_file, readable_errors, sync_folder, write_atomic
from peftbench.records.leases import Found, Holder, Lease, scan
from peftbench.records.packed import PACKED, unpacked
from peftbench.records.record import RUN_ID, Record

log = logging.getLogger(__name__)

_CHECKSUM = re.compile(rb'\{\n  "checksum": "([0-9a-f]{64})",\n')


class CorruptRecord(ValueError):
    """The bytes are not those that were written."""


def encode(record: Record) -> bytes:
    """JSON bytes of a record, a line a field. The first field is the SHA-256 of all bytes after its line."""
    lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in record.to_dict().items()]
    body = ("  " + ",\n  ".join(lines) + "\n}\n").encode()
    return b'{\n  "checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body


def decode(content: bytes, run_id: str) -> Record:
    """The record of this run in `encode`'s bytes.

    Raises:
        CorruptRecord: a single bit differs, or a field is not what a record holds (`records.schema`).
        NewerRecord: a newer peftbench wrote it.
    """
    head = _CHECKSUM.match(content)
    if head is None:
        raise CorruptRecord("it is cut short or is not a record" if content else "it is empty")
    if hashlib.sha256(memoryview(content)[head.end() :]).hexdigest().encode() != head[1]:
        raise CorruptRecord("its content does not fit its checksum")
    try:
        record = Record.from_dict(json.loads(content, parse_constant=_no_number))
    except RecursionError as error:
        raise CorruptRecord("nested too deeply") from error
    except ValueError as error:
        raise CorruptRecord(str(error)) from error
    if record.run_id != run_id:
        raise CorruptRecord(f"it holds run {record.run_id}")
    return record


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class Store:
    """The results in one folder. Any number of processes may use the same folder at the same time."""

    def __init__(self, out_dir: str | Path) -> None:
        check_place("out_dir", out_dir)
        self.out_dir = Path(out_dir)
        self.packed: Path | None = None
        """The file that these results were read from, if they are packed."""
        if (packed := self.out_dir / PACKED).is_file() and not (self.out_dir / "records").exists():
            self.packed, self.out_dir = packed, unpacked(packed)
        self.records = self.out_dir / "records"
        self.claims = self.out_dir / "claims"
        self._held: dict[str, Lease] = {}

    def folder(self, run_id: str) -> Path:
        """Folder of a run's files, also by a former id; it may not exist yet."""
        own = self.out_dir / "runs" / _safe(run_id)
        return own if own.exists() else self.out_dir / "runs" / (self.renamed(run_id) or run_id)

    def former(self, run_id: str) -> Path:
        """The file with the id that a run has now which was called so before (`peftbench migrate`)."""
        return self.out_dir / "former" / _safe(run_id)

    def renamed(self, run_id: str) -> str | None:
        """The id that a run has now which was called `run_id` before; None if none was."""
        try:
            return _safe(self.former(run_id).read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            return None

    def path(self, run_id: str) -> Path:
        """File of a run's record; it may not exist yet."""
        return self.records / f"{_safe(run_id)}.json"

    @contextmanager
    def claim(self, run_id: str) -> Iterator[Path]:
        """Hold the run for this process and yield its folder, made if need be. A folder that was made and is still
        empty when the run is given back goes again: a refused command leaves nothing.

        When the process dies, however it does, others may take the run over: at once on its own machine, elsewhere
        when its lease is over.

        Raises:
            LeaseHeld: another process holds the run (its host, process id and start are named).
            UsageError: the folder cannot be written.
        """
        self._refuse_packed()
        folder = self.folder(run_id)
        made = [f for f in (folder, folder.parent, self.claims, self.out_dir, *self.out_dir.parents) if not f.exists()]
        with readable_errors("write to", self.out_dir):
            again(partial(folder.mkdir, parents=True, exist_ok=True))
            claim = Lease(self.claims, run_id)
        self._held[run_id] = claim
        try:
            yield folder
        finally:
            del self._held[run_id]
            claim.release()
            for unused in made:
                with suppress(OSError):  # something is in it
                    unused.rmdir()

    def check_claim(self, run_id: str) -> None:
        """Make sure that the run is still this process's, if it was claimed through this object.

        Raises:
            LeaseLost: it was out of reach for longer than the lease, and another process has taken the run over.
        """
        if run_id in self._held:
            with readable_errors("write to", self.claims):
                self._held[run_id].check()

    def holder(self, run_id: str) -> Holder | None:
        """Who works on the run; the last one who did, if it died over it; None if it is free."""
        return self._newest(scan(self.claims, _safe(run_id))).get(run_id)

    def holders(self) -> dict[str, Holder]:
        """`holder` of every run that has one, by run id, for the price of one listing."""
        return self._newest(scan(self.claims))

    @staticmethod
    def _newest(claims: list[Found]) -> dict[str, Holder]:
        best: dict[str, Holder] = {}
        for claim in sorted(claims, key=lambda c: (c.holder.alive, -c.holder.beat_age)):
            best[claim.run_id] = claim.holder
        return best

    def save(self, record: Record) -> Path:
        """Write the record; from then on the run is known, across crashes. Write the run's other files before.

        Raises:
            LeaseLost: this object claimed the run, but another process has taken it over.
            UsageError: the folder cannot be written or the disk is full; an earlier record of the run is intact.
        """
        self._refuse_packed()
        path = self.path(record.run_id)
        self.check_claim(record.run_id)
        write_atomic(path, encode(record), check=lambda: self.check_claim(record.run_id))
        return path

    def _refuse_packed(self) -> None:
        if self.packed is not None:
            raise UsageError(
                f"out_dir={self.packed.parent}: its records are packed and only read. Give another out_dir, or unpack "
                f"them into one: mkdir FOLDER && tar -xf {self.packed} -C FOLDER"
            )

    def load(self, run_id: str) -> Record | None:
        """The run's record, also by a former id; None if there is none. A corrupt one is put into quarantine and
        counts as none.

        Raises:
            UsageError: there is one that cannot be read or a newer peftbench wrote: nobody may write over it.
        """
        record = self._read(self.path(run_id))
        if record is None and (now := self.renamed(run_id)):
            return self._read(self.path(now))
        return record

    def all(self) -> list[Record]:
        """Every sound record, oldest first."""
        read = (self.read(path) for path in self.files())
        return sorted((r for r in read if r is not None), key=lambda r: (r.created, r.run_id))

    def files(self) -> list[Path]:
        """The record files; leftovers of killed processes are hidden files and not among them."""
        return [Path(entry.path) for entry in self.scan()]

    def scan(self) -> list[os.DirEntry[str]]:
        """Like `files`, without the cost of a `Path` for each of many."""
        with readable_errors("read", self.records):
            if not self.records.exists():
                return []
            return [
                entry for entry in os.scandir(self.records) if entry.name.endswith(".json") and entry.name[0] != "."
            ]

    def read(self, path: Path) -> Record | None:
        """The record in `path`; None if it is gone, corrupt and now in quarantine, or, with one warning a process,
        if it cannot be read or a newer peftbench wrote it: one odd file does not cost the view of all others."""
        try:
            return self._read(path)
        except UsageError as error:
            if path not in _told:
                _told.add(path)
                log.warning("The record %s is left out. %s", path, error)
            return None

    def _read(self, path: Path) -> Record | None:
        try:
            with readable_errors("read", path):
                content = _content(path)
            return None if content is None else decode(content, path.stem)
        except CorruptRecord as error:
            self._quarantine(path, error)
            return None

    def supersede(self, run_id: str) -> Path | None:
        """Move the run's record and folder to `superseded/<run_id>.<created>/`; None if it has no record.

        The caller holds the claim. The record moves first: a crash in between leaves a run that is not done.
        """
        record = self.load(run_id)
        if record is None:
            return None
        stamp = re.sub(r"[^0-9A-Za-z]", "", record.created.split("+")[0])
        with readable_errors("move the earlier result in", self.out_dir):
            home = _fresh(self.out_dir / "superseded" / f"{run_id}.{stamp}")
            home.mkdir(parents=True)
            os.replace(self.path(run_id), home / f"{run_id}.json")
            sync_folder(home)
            sync_folder(self.records)
            if self.folder(run_id).exists():
                os.replace(self.folder(run_id), home / "run")
                self.folder(run_id).mkdir()
        return home

    def _quarantine(self, path: Path, error: CorruptRecord) -> None:
        """Set a corrupt record aside, with one warning, so that its run counts as not done."""
        with readable_errors("move the damaged record in", self.out_dir):
            aside = _fresh(self.out_dir / "quarantine" / path.name)
            aside.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(path, aside)
            except FileNotFoundError:
                return  # another reader was first, and warned
            if _is_sound(aside, path.stem):  # a writer replaced the corrupt file after it was read: give that one back
                with suppress(FileExistsError):
                    os.link(aside, path)
                aside.unlink()
                return
        log.warning(
            "The record %s is damaged (%s). It was moved to %s and is not used; give the run's command again.",
            path,
            error,
            aside,
        )


_told: set[Path] = set()
"""Records that a warning of this process has named."""


def _content(path: Path) -> bytes | None:
    """The bytes of a record's file; None if there is none. Raises CorruptRecord if something else has its name."""
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
    except NotAFile as error:
        raise CorruptRecord(str(error)) from error


def _safe(run_id: str) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(f"`{run_id}` is not a run id. `peftbench leaderboard` lists the runs there are.")
    return run_id


def _is_sound(path: Path, run_id: str) -> bool:
    try:
        decode(_content(path) or b"", run_id)
    except CorruptRecord:
        return False
    return True


def _fresh(path: Path) -> Path:
    """`path`, or `path` with the first number that makes it a name not in use."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
