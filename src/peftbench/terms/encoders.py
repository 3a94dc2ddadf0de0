"""The second model of SciPrompt's filter, a cross-encoder for pairs. The first is a `BiEncoder`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from peftbench.errors import UsageError

BATCH = 64


class CrossEncoder:
    """Pairs of texts to how far they contradict each other.

    Args:
        name: a model on the hub, or a folder, for sequence classification: with one output (its sigmoid is taken) or
            with one whose label begins with "contra" (contradiction, contrasting).

    Raises:
        UsageError: it cannot be had, or no output says contradiction.
    """

    def __init__(self, name: str, device: torch.device, max_length: int = 128) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"--cross-encoder {name}: cannot be loaded ({reason}).") from error
        labels = {int(i): str(label) for i, label in model.config.id2label.items()}
        against = [i for i, label in labels.items() if label.lower().startswith("contra")]
        if len(labels) > 1 and not against:
            raise UsageError(
                f"--cross-encoder {name}: none of its labels ({', '.join(labels.values())}) says contradiction."
            )
        self.column = against[0] if len(labels) > 1 else None
        self.model, self.device, self.max_length = model.to(device).eval(), device, max_length

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(pairs,), each from 0 to 1."""
        parts = []
        for start in range(0, len(pairs), BATCH):
            first, second = zip(*pairs[start : start + BATCH], strict=True)
            inputs = self.tokenizer(
                list(first), list(second),
                padding=True, truncation=True, max_length=self.max_length, return_tensors="pt",
            ).to(self.device)  # fmt: skip
            logits = self.model(**inputs).logits.float()
            part = logits[:, 0].sigmoid() if self.column is None else logits.softmax(-1)[:, self.column]
            parts.append(part.cpu().numpy())
        return np.concatenate(parts)
