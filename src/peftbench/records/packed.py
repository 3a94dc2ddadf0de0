"""Results that were shipped as one file: `packed.tar.xz` in a folder is read by every view as that folder's results.

What is in it is laid out as a folder of results, so `tar -xf packed.tar.xz` gives one, too:

  records/<run_id>.json           the records, with fewer digits of times and curves
  runs/<run_id>/predictions.jsonl the answer to each test item, without the scores of the labels and without raw text:
                                  all that intervals, paired tests and metrics need
  conf/experiment/<name>.yaml     the settings that searches chose, for `+experiment=NAME`

Packed results are read, never written to: they are unpacked once into the cache. `records.pack` makes them.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from peftbench.cache import build_once
from peftbench.errors import UsageError
from peftbench.files import readable_errors

PACKED = "packed.tar.xz"
MEMBER = re.compile(r"records/[\w-]+\.json|runs/[\w-]+/predictions\.jsonl|conf/experiment/[\w-]+\.yaml", re.ASCII)
MOST_BYTES, MOST_FILES = 2**30, 200_000
"""Of what a file may unpack to."""


def unpacked(path: Path) -> Path:
    """The folder of results that a packed file holds, made once in the cache.

    Raises:
        UsageError: it cannot be read or is no packed file: damaged, cut short, or with other members than `MEMBER`.
    """
    with readable_errors("read", path):
        facts = path.stat()
    return _unpacked(path.resolve(), facts.st_mtime_ns, facts.st_size)


@cache
def _unpacked(path: Path, changed: int, size: int) -> Path:
    with readable_errors("read", path):
        content = path.read_bytes()
    name = f"records-{hashlib.sha256(content).hexdigest()[:32]}"
    return build_once(name, lambda folder: _extract(path, content, folder), "packed", f"the records of {path}")


def _extract(path: Path, content: bytes, folder: Path) -> None:
    """Write the members below `folder`; a name that is none of ours ends it before it is looked at."""
    import io
    import lzma
    import tarfile

    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as archive:
            for count, member in enumerate(archive):
                total += member.size
                if not member.isreg() or not MEMBER.fullmatch(member.name):
                    raise UsageError(f"{path}: `{member.name[:80]}` does not belong into packed records.")
                if total > MOST_BYTES or count >= MOST_FILES:
                    raise UsageError(
                        f"{path}: more than {MOST_BYTES >> 20} MiB or {MOST_FILES} files: no packed records."
                    )
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                read = archive.extractfile(member)
                target.write_bytes(b"" if read is None else read.read())
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UsageError(f"{path} is damaged or no packed file of records ({error}). Fetch it again.") from error
    (folder / "records").mkdir(exist_ok=True)
