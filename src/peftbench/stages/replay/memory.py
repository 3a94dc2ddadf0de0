"""Experience replay: rows of earlier tasks of a sequence are trained on again, among those of the present one.

What TRACE and the HFT paper call replay (a share of the data of each earlier task is mixed in). Which rows are kept is
drawn once a task, evenly over its drawn train rows; they are mixed in as further rows, so that a pass over the data
holds each row once, old or new. Both are our reading, not confirmed in the papers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from peftbench.formulations.by_task import ByTask
from peftbench.stages.base import Context, Predictor
from peftbench.stages.learning import LearnerPredictor
from peftbench.stages.supervised.training import supervised

if TYPE_CHECKING:
    from peftbench.tasks.base import Row


def replay(context: Context, incoming: Predictor | None) -> Predictor:
    """Train on the task's rows and the memory of those before it; a dev set is of the present task alone."""
    if not context.earlier:
        return supervised(context, incoming)
    assert isinstance(incoming, LearnerPredictor)
    share = context.cfg.method.options("replay").memory
    memory = {
        name: kept(rows, share, context.draw.data_seed, number)
        for number, (name, rows) in enumerate(context.earlier.items())
    }
    old = [row for rows in memory.values() for row in rows]
    own = replace(context, draw=replace(context.draw, train=(*context.draw.train, *old)))
    learner = incoming.learner
    assert isinstance(learner.formulation, ByTask)
    learner.formulation.learn({str(row.domain) for row in own.draw.train})
    found = supervised(own, LearnerPredictor(learner, own))
    note = f"{len(old)} of {len(own.draw.train)} train rows are of earlier tasks (replay)"
    context.reports[-1].notes.append(note)
    return found


def kept(rows: Sequence[Row], share: float, seed: int, number: int) -> list[Row]:
    """The memory of the 0-based task: its share of the drawn train rows, rounded up, in their order."""
    count = math.ceil(share * len(rows))
    chosen = np.random.RandomState([seed % 2**32, number]).permutation(len(rows))[:count]
    return [rows[place] for place in sorted(chosen)]
