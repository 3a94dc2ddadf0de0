"""Our metrics as `evaluate.Metric` modules, because those of the hub cannot be loaded offline.

Classes travel as ids (-1 is an invalid prediction) and results are fractions, as with the hub's modules. They can be
combined: `evaluate.combine([Accuracy(), F1Weighted()]).compute(references=..., predictions=...)`. A run uses the plain
functions of `peftbench.tasks.problems`, which costs it no import of `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import datasets
import evaluate

from peftbench.tasks.problems import classification, regression


class _Metric(evaluate.Metric):
    """One function of `peftbench.tasks.problems`; `value` is the type of a reference and of a prediction."""

    function: ClassVar[Callable[..., float]]
    value: ClassVar[str] = "int32"
    options: ClassVar[tuple[str, ...]] = ()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).function.__doc__ or "",
            citation="",
            inputs_description="references and predictions of equal length",
            features=datasets.Features(
                {"predictions": datasets.Value(self.value), "references": datasets.Value(self.value)}
            ),
        )

    def _compute(self, *, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        # `evaluate.combine` hands every option to every module
        own = {name: options[name] for name in self.options if name in options}
        function = type(self).function
        return {function.__name__: function(references, predictions, **own)}


class Accuracy(_Metric):
    function = staticmethod(classification.accuracy)


class F1Macro(_Metric):
    function = staticmethod(classification.f1_macro)


class F1Weighted(_Metric):
    function = staticmethod(classification.f1_weighted)


class F1Binary(_Metric):
    """Option `positive`: the id of the positive class, default 1."""

    function = staticmethod(classification.f1_binary)
    options = ("positive",)


class MCC(_Metric):
    function = staticmethod(classification.mcc)


class ExactMatchGroup(_Metric):
    """Option `groups`: the group of each row."""

    function = staticmethod(classification.exact_match_group)
    options = ("groups",)


class Pearson(_Metric):
    function = staticmethod(regression.pearson)
    value = "float64"


class Spearman(_Metric):
    function = staticmethod(regression.spearman)
    value = "float64"


MODULES: dict[str, type[_Metric]] = {
    cls.function.__name__: cls
    for cls in (Accuracy, F1Macro, F1Weighted, F1Binary, MCC, ExactMatchGroup, Pearson, Spearman)
}
"""Metric name -> its module."""
