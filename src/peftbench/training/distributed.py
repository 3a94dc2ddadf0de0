"""This process among those that train together: rank, device, and the few things they say to each other."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist

# Imported before there is a group: its functions take the group of import time as a default argument, and when DDP
# imports it later they keep the group alive after `close`, whose threads then may abort the process as it ends.
import torch.distributed.nn.functional

from peftbench.config.schema import TrainerConfig
from peftbench.errors import UsageError
from peftbench.training.launch import Place, find_place

OWN_THREADS = torch.get_num_threads()
"""What torch takes by itself, from the cores or OMP_NUM_THREADS."""
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
    if not place.rendezvous:
        # srun leaves these unset; torchrun's own store is reached through the environment, hence env://.
        os.environ.setdefault("MASTER_ADDR", place.address)
        os.environ.setdefault("MASTER_PORT", str(place.port))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch_dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=Path(place.rendezvous).as_uri() if place.rendezvous else "env://",
        rank=place.rank,
        world_size=place.world,
        timeout=TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
