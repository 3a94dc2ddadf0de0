"""Which run comes next: runs that share a backbone follow each other, and among them those that share their data."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

from peftbench.inputs import InputCache
from peftbench.sweeps.jobs import Job, backbone_key
from peftbench.sweeps.sharing import group_key, group_size


class WaitingJobs:
    """Jobs that wait. Each has a config."""

    def __init__(self, jobs: Iterable[Job], inputs: InputCache) -> None:
        by_backbone: dict[str, dict[tuple, list[Job]]] = {}
        for job in jobs:
            assert job.config is not None
            same = by_backbone.setdefault(backbone_key(job.config), {})
            same.setdefault(inputs.data_key(job.config), []).append(job)
        self._groups = {
            key: deque(job for same in by_data.values() for job in same) for key, by_data in by_backbone.items()
        }
        self._taken: dict[str, int] = {}
        self._keys: dict[int, str] = {}

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups.values())

    def take(self, backbone: str | None = None) -> tuple[Job, str] | None:
        """The next job and its backbone's key, for a process that holds `backbone`; None if no job waits.

        Whose own group is empty helps where the fewest have begun, so that backbones are loaded seldom.
        """
        waiting = [key for key, group in self._groups.items() if group]
        if not waiting:
            return None
        key = backbone if backbone in waiting else min(waiting, key=lambda k: self._taken.get(k, 0))
        self._taken[key] = self._taken.get(key, 0) + (key != backbone)
        return self._groups[key].popleft(), key

    def take_like(self, job: Job, most: int) -> list[Job]:
        """The next jobs that may be trained together with `job`, which was taken, so that they are `most` with it."""
        assert job.config is not None
        if most == 1:
            return []
        group = self._groups[backbone_key(job.config)]
        taken = list(itertools.islice((each for each in group if self._key(each) == self._key(job)), most - 1))
        for each in taken:
            group.remove(each)
        return taken

    def _key(self, job: Job) -> str:
        """Equal for jobs that may be trained together; of one that is trained alone its own."""
        if job.number not in self._keys:
            assert job.config is not None
            alone = group_size(job.config) == 1
            self._keys[job.number] = f"run {job.number}" if alone else group_key(job.config)
        return self._keys[job.number]

    def clear(self) -> None:
        """Let no further job begin."""
        self._groups.clear()
