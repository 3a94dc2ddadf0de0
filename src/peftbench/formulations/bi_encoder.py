"""Texts to vectors whose cosine says how near two texts are: any encoder, used as sentence encoders are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from peftbench.cache import Cache
from peftbench.formulations.pooling import Reader
from peftbench.models.base import Backbone
from peftbench.models.content import content_id

BATCH = 64


class BiEncoder:
    """Texts to vectors of length 1: the backbone's pooled hidden states, as sentence encoders are used.

    Args:
        backbone: an encoder loaded for `features`.
        max_length: tokens kept of a text.
    """

    def __init__(self, backbone: Backbone, device: torch.device, max_length: int = 64) -> None:
        self.backbone, self.device, self.max_length = backbone, device, max_length
        self.read = Reader(backbone, backbone.pooling)
        model: nn.Module = backbone.model
        model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, d), fp32."""
        out = np.empty((len(texts), self.backbone.output_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            inputs = self.backbone.tokenizer(
                [self.backbone.prefix + texts[i] for i in places],
                padding=True, truncation=True, max_length=self.max_length, return_tensors="pt",
            ).to(self.device)  # fmt: skip
            vectors = F.normalize(self.read(self.backbone.model, inputs), dim=-1)
            out[places] = vectors.cpu().numpy()
        return out


def sentence_vectors(name: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Texts -> (texts, d) vectors of length 1 of `model=NAME`, on the CPU. They are kept for later commands, and the
    model is loaded when one is missing.

    Raises:
        UsageError: there is no such model, or it cannot be had.
    """
    from peftbench.config import compose

    content = content_id(compose([f"model={name}"]).model)

    def vectors(texts: Sequence[str]) -> np.ndarray:
        def missing(places: list[int]) -> np.ndarray:
            return bi_encoder(name, torch.device("cpu"))([texts[i] for i in places])

        return np.stack(Cache("sentences").fill([[content, text] for text in texts], missing))

    return vectors


@lru_cache(maxsize=1)
def bi_encoder(name: str, device: torch.device) -> BiEncoder:
    """That of `model=NAME`, loaded once. The random numbers of whoever asks stay as they were.

    Raises:
        UsageError: there is no such model, or it cannot be had.
    """
    from peftbench.config import compose
    from peftbench.models import load_backbone

    with torch.random.fork_rng():
        return BiEncoder(load_backbone(compose([f"model={name}"]).model, "features", dropout=0.0), device)
