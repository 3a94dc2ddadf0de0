"""`peftbench pack`: records and answers of runs as one small file that every view reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftbench.errors import UsageError
from peftbench.records.find import existing_store
from peftbench.records.pack import pack
from peftbench.views.filters import ViewParser, choose, every_row


def pack_command(argv: Sequence[str]) -> int:
    """Run `peftbench pack ARGV`; returns the exit code. Raises UsageError for what cannot be packed."""
    options = _parser().parse(argv)
    store = existing_store(options.out_dir)
    if options.to.exists() and not options.to.is_dir():
        raise UsageError(f"pack --to {options.to}: is a file. Give a folder; it is made if it is not there.")
    rows = choose(every_row(options), options)
    if not rows:
        raise UsageError(f"pack: no runs in `{options.out_dir}` that match.")
    records = [record for row in rows if (record := store.load(row["run_id"])) is not None]
    path = pack(store, records, options.to)
    print(f"{path}: {len(records):,} runs, {path.stat().st_size / 2**20:.2f} MiB. --out-dir {options.to} reads them.")
    return 0


def _parser() -> ViewParser:
    parser = ViewParser(
        "pack",
        "Records of runs and their answers to the test items as FOLDER/packed.tar.xz, which every view reads.",
        "Example: peftbench pack --out-dir results/board --to docs/board/records; then "
        "peftbench table board --out-dir docs/board/records",
    )
    parser.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="a folder for the packed records alone"
    )
    return parser
