"""What optuna does for a search: it proposes values, learns from their scores and weighs the keys. It writes nothing.

A study lives as long as its process. The same sampler with the same seed, told the same scores, proposes the same
values, so a search goes on where it stopped by being done again with the scores that are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.config.space import DIGITS, Dimension
from peftbench.errors import UsageError

if TYPE_CHECKING:
    import optuna

RANDOM_LEAST, RANDOM_MOST = 4, 10
"""TPE's random start: a quarter of the trials, within these bounds. Optuna's 10 are half of a search of 20."""
WEIGHED_FROM = 8
"""Scored trials from which shares of the keys are worth a line."""


class Study:
    """One search in memory: `ask` for values, `tell` their score.

    `start` holds values to try first; keys whose start lies outside of the space are drawn.
    """

    def __init__(self, sampler: str, space: Sequence[Dimension], seed: int, trials: int | None, start: Mapping) -> None:
        try:
            import optuna
        except ImportError:
            raise UsageError(f"search={sampler} needs optuna: pip install 'peftbench[search]'.") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = {d.key: d for d in space}
        self.start = {key: value for key, value in start.items() if self.space[key].contains(value)}
        samplers = optuna.samplers
        at_random = min(max((trials or RANDOM_MOST * 4) // 4, RANDOM_LEAST), RANDOM_MOST)
        self._study = optuna.create_study(
            direction="maximize",
            sampler=samplers.TPESampler(seed=seed, n_startup_trials=at_random)
            if sampler == "tpe"
            else samplers.RandomSampler(seed=seed),
        )
        if self.start:
            self._study.enqueue_trial({key: self._inner(self.space[key], value) for key, value in self.start.items()})

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """A new trial and the value of each key."""
        trial = self._study.ask()
        return trial, {key: self._suggest(trial, dimension) for key, dimension in self.space.items()}

    def tell(self, trial: optuna.Trial, score: float | None) -> None:
        """The trial's score; None if it has none, which teaches the sampler nothing."""
        from optuna.trial import TrialState

        if score is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, score)

    def importances(self) -> dict[str, float]:
        """Key -> its share in how the scores vary (fANOVA), most first; empty where too little is known."""
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        scores = [t.value for t in self._study.get_trials(deepcopy=False) if t.value is not None]
        if len(scores) < WEIGHED_FROM or len(set(scores)) == 1:
            return {}
        shares = get_param_importances(self._study, evaluator=FanovaImportanceEvaluator(seed=0))
        return {key: float(share) for key, share in shares.items()}

    def _suggest(self, trial: optuna.Trial, dimension: Dimension) -> Any:
        key, values = dimension.key, dimension.values
        if dimension.scale is None:  # by position: optuna knows no lists, and takes True for 1
            return values[trial.suggest_categorical(key, range(len(values)))]
        if dimension.scale == "int":
            return trial.suggest_int(key, *values)
        value = trial.suggest_float(key, *values, log=dimension.scale == "log")
        return value if value == self.start.get(key) else float(f"{value:.{DIGITS}g}")

    @staticmethod
    def _inner(dimension: Dimension, value: Any) -> Any:
        return dimension.values.index(value) if dimension.scale is None else value
