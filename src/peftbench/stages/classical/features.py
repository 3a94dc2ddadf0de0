"""Feature vectors for classical models: TF-IDF n-grams, or a frozen backbone's pooled hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.cache import Cache
from peftbench.stages.base import Context
from peftbench.stages.classical import STAGE
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from peftbench.models.base import Backbone


class Features:
    """Fitted on the train rows, then applied to any rows."""

    backbone: Backbone | None = None
    """What the features were read from, where they come from a network."""
    modules: tuple[str, ...] = ()
    """What they import when they are computed."""

    def __init__(self, context: Context) -> None:
        """Of the run in `context`; raises UsageError if it lacks what they are made from."""

    def fit(self, rows: Sequence[Row]) -> Any:
        """Learn what there is to learn from `rows` and return their feature matrix (rows, features)."""
        return self.transform(rows)

    def transform(self, rows: Sequence[Row]) -> Any:
        """Feature matrix (rows, features)."""
        raise TypeError(f"{type(self).__name__} makes no features")

    def remarks(self) -> list[str]:
        """What a reader of the result must know."""
        return []

    def loaded_backbone(self) -> Backbone:
        """The network behind the features."""
        raise TypeError(f"{type(self).__name__} reads no network")

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by name and plain facts: all that was learned from the train rows."""
        return {}, {}

    def load_state(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Put back what `state` gave."""


def whole_text(row: Row) -> str:
    """Everything there is to read, uncut."""
    return row.text if row.pair is None else f"{row.text}\n{row.pair}"


class NoFeatures(Features):
    """One constant column: for models that look at the labels alone."""

    def transform(self, rows: Sequence[Row]) -> np.ndarray:
        return np.zeros((len(rows), 1))


class NgramFeatures(Features):
    """Word n-grams and character n-grams inside word boundaries, side by side: sublinear TF-IDF, or raw counts.

    Texts without a word (emoji, punctuation) are told by their characters alone; without either, by nothing.
    """

    modules = ("sklearn.feature_extraction.text", "scipy.sparse")

    def __init__(self, context: Context) -> None:
        cfg = context.cfg.method.options("classical")
        kinds = {
            "words": (cfg.word_ngrams, {"token_pattern": r"(?u)\b\w+\b"}),
            "characters": (cfg.char_ngrams, {"analyzer": "char_wb"}),
        }
        self.vectorizers = {
            name: _vectorizer(cfg.features, ngram_range=tuple(lengths), max_features=cfg.max_terms, **options)
            for name, (lengths, options) in kinds.items()
            if lengths
        }
        self.more_texts = [whole_text(r) for r in context.draw.dev] if cfg.vocabulary == "train+dev" else []
        self.without: list[str] = []

    def fit(self, rows: Sequence[Row]) -> Any:
        texts = [whole_text(r) for r in rows]
        for name, vectorizer in list(self.vectorizers.items()):
            try:
                vectorizer.fit([*texts, *self.more_texts])
            except ValueError as error:
                if "empty vocabulary" not in str(error):
                    raise
                del self.vectorizers[name]
                self.without.append(name)
        return self.transform(rows)

    def transform(self, rows: Sequence[Row]) -> Any:
        from scipy.sparse import hstack

        texts = [whole_text(r) for r in rows]
        if not self.vectorizers:
            return np.zeros((len(rows), 1))
        return hstack([vectorizer.transform(texts) for vectorizer in self.vectorizers.values()]).tocsr()

    def remarks(self) -> list[str]:
        return (
            [f"the train texts hold no {' and no '.join(self.without)}: features without them"] if self.without else []
        )

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        parts = self.vectorizers
        terms = {n: sorted(part.vocabulary_, key=part.vocabulary_.__getitem__) for n, part in parts.items()}
        weights = {f"idf_{n}": part.idf_ for n, part in parts.items() if hasattr(part, "idf_")}
        return weights, {"terms": terms}

    def load_state(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        self.vectorizers = {name: part for name, part in self.vectorizers.items() if name in facts["terms"]}
        for name, part in self.vectorizers.items():
            part.vocabulary_ = {term: column for column, term in enumerate(facts["terms"][name])}
            if f"idf_{name}" in arrays:
                part.idf_ = arrays[f"idf_{name}"]


def _vectorizer(features: str, **options: Any) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    if features == "counts":
        return CountVectorizer(**options)
    return TfidfVectorizer(sublinear_tf=True, **options)


class EmbeddingFeatures(Features):
    """Pooled hidden states of the frozen backbone, unit length, cached on disk by content.

    A vector depends on the backbone's weights, the pooling, the prefix, the input length and the text, and on nothing
    else, so one computation serves every draw, seed and shot count, whichever process makes it.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.computed = self.cached = 0

    def remarks(self) -> list[str]:
        return [
            f"{self.cached} of {self.cached + self.computed} embeddings came from the cache; "
            "the times are without their computation"
        ]

    def transform(self, rows: Sequence[Row]) -> np.ndarray:
        backbone = self.loaded_backbone()

        def compute(missing: list[int]) -> np.ndarray:
            self.computed += len(missing)
            self.cached -= len(missing)
            return self.embed(backbone, [rows[i] for i in missing])

        self.cached += len(rows)
        identity = self.identity(backbone)
        return np.stack(Cache("embeddings").fill([[*identity, row.text, row.pair] for row in rows], compute))

    def loaded_backbone(self) -> Backbone:
        from peftbench.models import load_backbone
        from peftbench.models.checks import check_length

        if self.backbone is None:
            with self.context.clock("model"):
                self.backbone = load_backbone(self.context.cfg.model, "features", dropout=0.0)
            check_length(self.backbone, self.context.cfg.trainer.max_length)
            self.context.model_info.update(self.backbone.facts())
        return self.backbone

    def identity(self, backbone: Backbone) -> list[Any]:
        """What a vector depends on besides the text; unit length is what `embed` gives."""
        length = self.context.cfg.trainer.max_length
        of = [STAGE.results_version, backbone.revision, backbone.pooling, "unit length", backbone.prefix, length]
        return [*of, "real positions"] if backbone.family == "causal" else of  # once padding was counted too

    def embed(self, backbone: Backbone, rows: Sequence[Row]) -> np.ndarray:
        """(rows, d) fp32, in row order; batches are bucketed by length."""
        import torch
        import torch.nn.functional as F
        from torch import nn

        from peftbench.config.schema import FormulationConfig
        from peftbench.formulations.head.formulation import HeadFormulation
        from peftbench.formulations.pooling import Reader
        from peftbench.training.batching import evaluation_batches
        from peftbench.tuners.positions import count_real_positions

        context = self.context
        head = HeadFormulation(backbone, context.data, context.cfg.trainer.max_length, FormulationConfig(name="head"))
        items = head.encode(rows)
        read = Reader(backbone, backbone.pooling)
        out = np.empty((len(items), backbone.output_size), dtype=np.float32)
        device = context.processes().device
        model: nn.Module = backbone.model
        model.to(device).eval()
        if backbone.family == "causal":
            count_real_positions(model)
        with torch.inference_mode():
            for indices in evaluation_batches([i.length for i in items], context.cfg.trainer.eval_batch_tokens):
                batch = head.collate([items[i] for i in indices])
                inputs = {name: values.to(device) for name, values in batch.items() if torch.is_tensor(values)}
                vectors = F.normalize(read(model, inputs), dim=-1)
                out[indices] = vectors.cpu().numpy()
        return out
