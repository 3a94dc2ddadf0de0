"""A trained learner whose answers are drawn as the method says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.config import registry
from peftbench.errors import UsageError
from peftbench.inference.base import Inference
from peftbench.inference.cost import CALLS, SECONDS, TOKENS, compared, counted
from peftbench.stages.base import Context, Predictor
from peftbench.stages.learning import LearnerPredictor

if TYPE_CHECKING:
    from peftbench.formulations.base import Prediction
    from peftbench.records.record import Record
    from peftbench.tasks.base import Row


class InferencePredictor(Predictor):
    """Answers by an inference; whatever else is asked, the learner's predictor answers."""

    def __init__(self, inner: LearnerPredictor, inference: Inference, name: str) -> None:
        self.inner, self.inference, self.name = inner, inference, name
        self.cost: Counter[str] = Counter()
        self.probe: dict[str, dict[str, float]] = {}

    @classmethod
    def of(cls, context: Context, predictor: Predictor) -> InferencePredictor:
        """The method's inference over what its stages have left.

        Raises:
            UsageError: they left no learner.
        """
        chosen = context.cfg.method.inference
        if not isinstance(predictor, LearnerPredictor):
            raise UsageError(f"method/inference={chosen.name}: the method's last stage leaves no language model.")
        return cls(predictor, registry.get("inference", chosen.name)(chosen, predictor.learner), chosen.name)

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        with counted(self.inner.learner.model, self.cost):
            found = self._drawn(rows)
        self.cost["rows"] += len(rows)
        return found

    def _drawn(self, rows: Sequence[Row]) -> list[Prediction]:
        return self.inference.answer(rows, self.inner.ask_learner)

    def finish(self, record: Record) -> None:
        """`record.inference`: what its answers cost beside plain ones, and what there is to tell of them."""
        context = self.inner.context
        every = [Counter(own) for own in context.processes().gather(dict(self.cost))]
        told = [Counter(own) for own in context.processes().gather(dict(self.inference.sums))]
        with context.clock("probe"):
            ways = {"plain": self.inner.predict, "own": self._drawn}
            each = compared(self.inner.learner.model, context.draw.test, ways) if context.draw.test else {}
        record.inference |= {
            "name": self.name,
            "rows": every[0]["rows"],
            **{key: sum(own[key] for own in every) for key in (CALLS, TOKENS)},
            SECONDS: max(own[SECONDS] for own in every),
            "each": each,
            "facts": self.inference.facts(sum(told, Counter())),
        }
        self.inner.finish(record)

    def remarks(self) -> list[str]:
        return [*self.inner.remarks(), *self.inference.remarks()]

    def counts(self) -> dict[str, int]:
        return self.inner.counts()

    def tokenisation(self) -> dict[str, Any]:
        return self.inner.tokenisation()

    def costs(self) -> Mapping[str, float]:
        return self.inner.costs()

    def answer_facts(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Mapping[str, float]:
        return {} if self.inference.pools else self.inner.answer_facts(rows, predictions)

    def prompts(self) -> Mapping[str, str]:
        return self.inner.prompts()

    def save(self, folder: Path) -> None:
        self.inner.save(folder)

    def manifest(self, record: Record) -> dict[str, Any] | None:
        found = self.inner.manifest(record)
        if found is not None and self.inference.needs_shots:
            found["shown"] = [asdict(row) for row in self.inner.learner.formulation.shots]
        return found
