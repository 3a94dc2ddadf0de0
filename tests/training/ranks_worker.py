"""Stands in for `peftbench.ddp_worker` under the launcher: each rank does what the JSON file tells it to."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from peftbench.ddp_worker import hold_leash
from peftbench.training.launch import LEASH, find_place

config = json.loads(Path(sys.argv[1]).read_text())
place = find_place(os.environ)
assert place is not None
assert os.environ[LEASH] == "1"
hold_leash()
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
print(f"rank {place.rank} of {place.world} at {place.address}, {os.environ['OMP_NUM_THREADS']} threads", flush=True)
Path(config["folder"], f"pid{place.rank}").write_text(str(os.getpid()))
order = config["ranks"][place.rank]
try:
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if order in ("hang", "stubborn"):
        time.sleep(120)
except KeyboardInterrupt:
    Path(config["folder"], f"left{place.rank}").touch()
    sys.exit(130)
if isinstance(order, int):
    sys.stderr.write(f"rank {place.rank} says why\n")
    sys.exit(order)
