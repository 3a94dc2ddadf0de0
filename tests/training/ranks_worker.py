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
order = config["ranks"][place.rank]
if order == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(config["folder"], f"pid{place.rank}").write_text(str(os.getpid()))
while order != "hang" and not all(Path(config["folder"], f"pid{rank}").exists() for rank in range(place.world)):
    time.sleep(0.02)  # who leaves first leaves when the others are there, however busy the machine is
try:
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order in ("hang", "stubborn"):
        time.sleep(120)
        Path(config["folder"], f"slept{place.rank}").touch()
except KeyboardInterrupt:
    Path(config["folder"], f"left{place.rank}").touch()
    sys.exit(130)
if isinstance(order, int):
    sys.stderr.write(f"rank {place.rank} says why\n")
    sys.exit(order)
