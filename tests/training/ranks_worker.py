"""Stands in for `peftbench.ddp_worker` under the launcher: each rank does what the JSON file tells it to."""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from peftbench import ddp_worker
from peftbench.training.launch import LEASH, find_place

config = json.loads(Path(sys.argv[1]).read_text())
place = find_place(os.environ)
assert place is not None
assert os.environ[LEASH] == "1"
ddp_worker.GRACE_SECONDS = config.get("grace", ddp_worker.GRACE_SECONDS)
ddp_worker.hold_leash()
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
print(f"rank {place.rank} of {place.world} at {place.address}, {os.environ['OMP_NUM_THREADS']} threads", flush=True)
order = config["ranks"][place.rank]


class HangsAtTheEnd:
    """Keeps the interpreter's lock in its destructor, as gloo's process group may whose other member is gone."""

    sleep = ctypes.PyDLL(None).sleep  # PyDLL: with the lock

    def __del__(self) -> None:
        type(self).sleep(3600)


if order == "no end":
    last = HangsAtTheEnd()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if order == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def say_that_it_is_there() -> None:
    """Whole or not at all: others read it."""
    draft = Path(config["folder"], f"draft{place.rank}")
    draft.write_text(str(os.getpid()))
    draft.rename(draft.with_name(f"pid{place.rank}"))


try:
    say_that_it_is_there()  # a signal may come from here on
    while order != "hang" and not all(Path(config["folder"], f"pid{rank}").exists() for rank in range(place.world)):
        time.sleep(0.02)  # who leaves first leaves when the others are there, however busy the machine is
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order in ("hang", "stubborn", "no end"):
        time.sleep(3600)
        Path(config["folder"], f"slept{place.rank}").touch()
except KeyboardInterrupt:
    Path(config["folder"], f"left{place.rank}").touch()
    sys.exit(130)
if isinstance(order, int):
    sys.stderr.write(f"rank {place.rank} says why\n")
    sys.exit(order)
