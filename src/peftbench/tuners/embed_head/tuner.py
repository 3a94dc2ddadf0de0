"""Embeddings and head alone are trained."""

from __future__ import annotations

from torch import nn

from peftbench.models.base import Backbone
from peftbench.tuners.selective import SelectiveTuner


class EmbedHeadTuner(SelectiveTuner):
    """Word embeddings and, where the backbone was loaded with it, its language-model head (Zlotchevski et al.,
    ESEC/FSE 2022, arXiv 2208.13928: the lightweight variant "embeddings and output"). Group `embedding`.

    A head that is tied to the embeddings is the same matrix, counted once. Position and type embeddings stay frozen.
    Train it without weight decay, which would move the rows of words that never occur.
    """

    group = "embedding"

    def select(self, backbone: Backbone) -> list[nn.Parameter]:
        ends = (backbone.model.get_input_embeddings(), backbone.model.get_output_embeddings())
        parameters = [p for module in ends if module is not None for p in module.parameters()]
        return list(dict.fromkeys(parameters))
