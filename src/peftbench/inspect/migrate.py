"""`peftbench migrate`: new names for the runs of earlier versions. See `peftbench.migration`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from peftbench.migration import migrate
from peftbench.options import OptionParser
from peftbench.records.find import existing_store
from peftbench.records.leaderboard import rebuild
from peftbench.views.display import say


def migrate_command(argv: Sequence[str]) -> int:
    """Rename what can be renamed; say what keeps its name, and why."""
    options = OptionParser("migrate", "Gives the runs of earlier versions their new ids.").parse(argv)
    store = existing_store(options.out_dir)
    done = migrate(store)
    if done.renamed or done.double:
        rebuild(store)
    if options.json:
        say(json.dumps(asdict(done)))
        return 0
    for old, new in done.renamed.items():
        say(f"{old} -> {new}")
    for old, new in done.double.items():
        say(f"{old} is the run {new}; set aside in superseded/")
    for old, reason in done.kept.items():
        say(f"{old} keeps its name: {reason}")
    say(f"{len(done.renamed)} renamed, {len(done.double)} set aside, {len(done.kept)} kept. Old ids find them still.")
    return 0
