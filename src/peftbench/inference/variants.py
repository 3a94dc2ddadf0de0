"""The finished learner, asked in another way: other options, another form of the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from peftbench.formulations.base import Batch, Prediction
from peftbench.formulations.calibrated import Calibrated
from peftbench.formulations.in_words import TextFormulation
from peftbench.stages.calibration.prior import CONTENT_FREE, without_content

if TYPE_CHECKING:
    from peftbench.inference.base import Ask
    from peftbench.learner import Learner
    from peftbench.tasks.base import Row, TaskData


def variant(
    learner: Learner,
    ask: Ask,
    like: Row,
    task: TaskData | None = None,
    shots: Sequence[Row] | None = None,
    **changes: Any,
) -> Learner:
    """The same tuned model behind its formulation with other options; with contextual calibration its prior is measured
    as the stage `calibration` measures that of the method's own.

    Args:
        like: a row, of whose shape the inputs without content are.
        task: another form of the task; None: as it is.
        shots: other demonstrations.
        changes: of the formulation's options.
    """
    own = learner.formulation
    assert isinstance(own, TextFormulation)
    made = learner.with_formulation(own.varied(learner.backbone, task, **changes)).eval()
    if shots is not None:
        made.formulation.shots = shots
    formulation = made.formulation
    if isinstance(formulation, Calibrated) and formulation.cfg.calibration != "none":
        rows = [without_content(like, text, number) for number, text in enumerate(CONTENT_FREE)]
        measured = [list(p.scores.values()) for p in ask(rows, lambda batch: _shares(made, batch), made)]
        formulation.calibrate(made.model, torch.tensor(measured))
    return made


def _shares(learner: Learner, batch: Batch) -> list[Prediction]:
    """What labels have before calibration, in the scores of predictions without an answer."""
    assert isinstance(learner.formulation, Calibrated)
    found = learner.formulation.word_scores(learner.model, batch).tolist()
    pairs = zip(batch["ids"], found, strict=True)
    return [Prediction(id_, None, {str(n): share for n, share in enumerate(own)}) for id_, own in pairs]
