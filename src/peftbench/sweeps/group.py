"""Runs of a sweep that are done as a group, in one process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from peftbench.inputs import InputCache
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.run_job import Ended, run_job


def run_jobs(jobs: Sequence[Job], inputs: InputCache) -> list[Ended]:
    """Do one run, or train several together; what came of each, in order.

    Raises:
        KeyboardInterrupt: the process was told to stop; runs in training have saved a checkpoint, each for itself.
    """
    works = [partial(run_job, job.config, inputs) for job in jobs if job.config is not None]
    if len(works) == 1:
        return [works[0]()]
    from peftbench.passes.shared_pass import serve
    from peftbench.passes.turns import Company

    members = Company(works, serve).run()
    for member in members:
        if member.error is not None:
            raise member.error
    return [member.result for member in members]
