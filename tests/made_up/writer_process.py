"""One of many processes that file records at the same time: FOLDER NUMBER COUNT."""

import sys

from made_up_records import a_record

from peftbench.records import leaderboard
from peftbench.records.store import Store

leaderboard._LOCK_SECONDS = 1200  # else the last of them may leave an older table behind, with a warning
store = Store(sys.argv[1])
for index in range(int(sys.argv[3])):
    run_id = f"{int(sys.argv[2]):04x}{index:04x}"
    with store.claim(run_id):
        store.save(a_record(run_id, created=f"2026-11-21T08:{index % 60:02d}:00+00:00", seed=index))
        leaderboard.rebuild(store)
