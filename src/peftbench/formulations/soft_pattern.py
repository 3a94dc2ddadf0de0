"""Cloze with a soft pattern: the words of the pattern and the label words are vectors of their own, which are trained.

PCP's soft variant (Shi and Lipani 2023, arXiv 2305.01711), which has it from DART: every token of the pattern and every
label word gets a new row of the vocabulary that starts as a copy of its own. Here the new rows stand beside the
vocabulary: the pattern's are put in the place of the embedding layer's answer, the label words' in that of the output
layer. Untrained, it answers as the hard pattern does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.errors import UsageError
from peftbench.formulations import mlm_head
from peftbench.formulations.base import Batch, Encoded, Formulation
from peftbench.formulations.cloze import ClozeConfig
from peftbench.formulations.cloze.formulation import ClozeFormulation
from peftbench.formulations.text import pad
from peftbench.formulations.verbalizers import MeanVerbalizer
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData

HARD = -1
"""In the place of a vector's number: the token keeps the model's own vector."""


class SoftPatternCloze(ClozeFormulation):
    """Trains (pattern's tokens + labels) vectors and a bias a label. A pattern's word that the tokenizer joins with the
    text beside it keeps the model's own vector in that row (our reading).

    Attributes:
        vectors: (pattern's tokens, d), in the order of the pattern.
        labels: from the state before the output layer to the labels' scores; a label of several words or tokens
            starts as their mean.
    """

    title = "cloze"
    snippet = Formulation.snippet  # refuses

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: ClozeConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        if not isinstance(self.verbalizer, MeanVerbalizer):
            raise UsageError(
                "method.formulation.soft_pattern=true trains the label words itself: leave verbalizer=manual, "
                "calibration=none and learn_weights=false."
            )
        self.pattern_ids = self.encoder.literal_ids()
        tokens = sum(map(len, self.pattern_ids))
        self.vectors = nn.Parameter(torch.zeros(tokens, embedding_layer(backbone.model).weight.shape[1]))
        self.labels = nn.Linear(mlm_head.output_matrix(backbone.model).shape[1], len(self.answer.labels))

    @torch.no_grad()
    def attach(self, model: nn.Module) -> None:
        ids = [token for own in self.pattern_ids for token in own]
        matrix = embedding_layer(model).weight
        self.vectors.copy_(matrix[torch.tensor(ids, dtype=torch.long, device=matrix.device)])
        # a mean of scores is the score of the mean of rows
        self.labels.weight.copy_(self.verbalizer(mlm_head.output_matrix(model).T.float()).T)
        bias = mlm_head.output_bias(model)
        self.labels.bias.copy_(torch.zeros(()) if bias is None else self.verbalizer(bias[None].float())[0])
        super().attach(model)

    def encode_one(self, row: Row) -> Encoded:
        """One row; `data["vectors"]` has a number for each token, of its vector or `HARD`."""
        item = super().encode_one(row)
        ids, numbers, first = item.data["input_ids"], [HARD] * item.length, 0
        for own, places in zip(self.pattern_ids, self.encoder.literal_places(row), strict=True):
            if [ids[place] for place in places] == own:
                for number, place in enumerate(places, first):
                    numbers[place] = number
            first += len(own)
        return replace(item, data={**item.data, "vectors": numbers})

    def collate(self, items: Sequence[Encoded]) -> Batch:
        return {**super().collate(items), "vectors": pad([item.data["vectors"] for item in items], HARD, "right")}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, labels)."""
        with in_place_of_words(model, self.vectors, batch["vectors"]), mlm_head.states_before_output(model) as states:
            self.word_scores(model, batch)
        with torch.autocast(states[-1].device.type, enabled=False):
            scores: Tensor = self.labels(states[-1].float())
        return scores


def embedding_layer(model: nn.Module) -> nn.Embedding:
    """The word embeddings, wherever a tuner has wrapped them or the model."""
    return next(module for module in _with_wrappers(model) if isinstance(module, nn.Embedding))


def _with_wrappers(model: nn.Module) -> list[nn.Module]:
    """The word embeddings, behind what a tuner has put around them."""
    network = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    outer: nn.Module = network.get_input_embeddings()
    return [outer, *(module for module in outer.modules() if module is not outer and isinstance(module, nn.Embedding))]


@contextmanager
def in_place_of_words(model: nn.Module, vectors: Tensor, numbers: Tensor) -> Iterator[None]:
    """Within the block the word embeddings are `vectors[number]` where `numbers` (batch, n) is not `HARD`. Some tuners
    ask the layer itself, some what they have put around it: both answer so."""

    def put(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
        if embedded.shape[:-1] != numbers.shape:  # a tuner that looks up words of its own
            return embedded
        chosen = vectors[numbers.clamp(min=0)].to(embedded.dtype)
        return torch.where((numbers != HARD)[..., None], chosen, embedded)

    handles = [module.register_forward_hook(put) for module in _with_wrappers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
