"""This process among those that train together: rank, device, and the few things they say to each other."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as torch_dist

# Imported before there is a group: its functions take the group of import time as a default argument, and when DDP
# imports it later they keep the group alive after `close`, whose threads then may abort the process as it ends.
import torch.distributed.nn.functional

from peftbench.config.schema import TrainerConfig
from peftbench.errors import UsageError
from peftbench.training.launch import Place, check_place, find_place

OWN_THREADS = torch.get_num_threads()
"""What torch takes by itself, from the cores or OMP_NUM_THREADS."""
WAIT, WAIT_SECONDS = "PEFTBENCH_WAIT_SECONDS", 600.0
"""How long a process waits for the others to start, and the variable that sets it."""
SILENT_SECONDS, STEP_SECONDS = 5.0, 0.2
TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for one another, for example while rank 0 writes. A rank that *died* is noticed at once."""


@dataclass(frozen=True)
class Dist:
    """A process in its world. A process alone is a world of one, and every method works without a group."""

    device: torch.device
    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        self.sum(torch.zeros(1, device=self.device))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, which lies on `device`, summed over ranks in place."""
        if self.world > 1:
            torch_dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The JSON-able `value` of every rank, by rank, on every rank. It travels as JSON text, never pickled."""
        if self.world == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        sizes = torch.zeros(self.world, dtype=torch.int64, device=self.device)
        sizes[self.rank] = len(text)
        lengths = self.sum(sizes).tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=self.device)
        padded[: len(text)] = text
        received = [torch.empty_like(padded) for _ in lengths]
        torch_dist.all_gather(received, padded)
        return [json.loads(r[:n].cpu().numpy().tobytes()) for r, n in zip(received, lengths, strict=True)]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's JSON-able `value`, on every rank."""
        return self.gather(value if self.main else None)[0]

    def close(self) -> None:
        """Leave the group, if there is one."""
        if torch_dist.is_initialized():
            torch_dist.destroy_process_group()


def join(cfg: TrainerConfig) -> Dist:
    """Join the world that torchrun, `launch` or srun made, else be alone; set this process's threads.

    gloo connects CPUs, nccl GPUs. Raises UsageError when `trainer.device` asks for a GPU that is not there.
    """
    torch.set_num_threads(cfg.threads or OWN_THREADS)  # the run before may have had another number
    place = find_place(os.environ)
    device = choose_device(cfg.device, place.local_rank if place else 0)
    if place is None:
        return Dist(device)
    if not torch_dist.is_initialized():
        _connect(place, device)
    return Dist(device, place.rank, place.world, place.local_rank)


def choose_device(device: str, local_rank: int) -> torch.device:
    """`auto` takes a GPU if there is one; each process of a machine has its own."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not found):
        return torch.device("cpu")
    if not found:
        raise UsageError("trainer.device=cuda: no CUDA device is visible to torch; use `trainer.device=cpu` or `auto`.")
    if local_rank >= found:
        raise UsageError(
            f"process {local_rank + 1} on this machine finds {found} GPU(s): start at most {found} with "
            f"`trainer.devices={found}`, or use `trainer.device=cpu`."
        )
    return torch.device("cuda", local_rank)


def _connect(place: Place, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = meet(place, float(os.environ.get(WAIT, WAIT_SECONDS)))
    torch_dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.world,
        timeout=TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )


def meet(place: Place, seconds: float) -> torch_dist.Store:
    """The store of these processes, once every one of them has come. The wait is done here in short steps, and not in
    torch, where it would be silent and hear no signal.

    Raises:
        UsageError: somebody did not come within `seconds`, the port is taken, or the node's name means nothing.
    """
    check_place(place)
    deadline, store, told = time.monotonic() + seconds, None, False
    while True:
        store = store or _store(place)
        missing = _missing(store, place) if store else [0]
        if store and not missing:
            return store
        if not told and time.monotonic() > deadline - seconds + SILENT_SECONDS:
            told = True
            print(f"peftbench: {_waits(place, missing)}", file=sys.stderr, flush=True)
        if time.monotonic() > deadline:
            raise UsageError(f"{_waits(place, missing)} That was {seconds:.0f} s ({WAIT}=SECONDS sets how long).")
        time.sleep(STEP_SECONDS)


def _waits(place: Place, missing: Sequence[int]) -> str:
    """What the process waits for, and how to do without."""
    who = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
    where = "" if place.rendezvous else f" at {place.address}:{place.port}"
    return (
        f"rank {place.rank} of {place.world} waits for {len(missing)} of {place.world} processes (rank {who}){where}. "
        "To run in one process, start it outside of the step: unset SLURM_STEP_ID, or RANK and WORLD_SIZE."
    )


def _store(place: Place) -> torch_dist.Store | None:
    """The place where the processes meet; None if rank 0, which holds it, is not there yet."""
    if place.rendezvous:
        return torch_dist.FileStore(place.rendezvous, place.world)
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    main = place.rank == 0 and not hosted
    try:
        if not main:
            socket.create_connection((place.address, place.port), timeout=STEP_SECONDS * 5).close()
        store = torch_dist.TCPStore(place.address, place.port, None, main, wait_for_workers=False)
    except OSError:
        return None
    except RuntimeError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UsageError(
            f"rank {place.rank}: port {place.port} is taken, perhaps by another command in the same step that still "
            "waits for its processes. End that one, or set MASTER_PORT to a free port."
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return torch_dist.PrefixStore(f"peftbench/{attempt}", store)


def _missing(store: torch_dist.Store, place: Place) -> list[int]:
    """Ranks that have not come yet; notes that this one has."""
    store.set(f"here/{place.rank}", "1")
    return [rank for rank in range(place.world) if not store.check([f"here/{rank}"])]


def check_alike(every: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that all ranks do the same run with the same code on the same data.

    Args:
        every: what each rank says of itself, by rank; nested dictionaries count by their leaves.

    Raises:
        UsageError: on every rank; names what differs on which.
    """
    flat = [dict(_leaves(facts)) for facts in every]
    names = dict.fromkeys(name for facts in flat for name in facts)
    found = []
    for name in names:
        values = [facts.get(name) for facts in flat]
        odd = [rank for rank, value in enumerate(values) if value != values[0]]
        if odd:
            who = ", ".join(map(str, odd[:4])) + (" ..." if len(odd) > 4 else "")
            found.append(f"{name} ({str(values[0])[:40]} on rank 0, {str(values[odd[0]])[:40]} on rank {who})")
    if found:
        more = f" and {len(found) - 6} more" if len(found) > 6 else ""
        raise UsageError(f"The ranks do not do the same run: {'; '.join(found[:6])}{more}. Nothing was trained.")


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
