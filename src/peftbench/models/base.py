"""A loaded backbone and what the rest of the program may ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from peftbench.models.formats import count

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peftbench.models.anatomy.parts import Anatomy
    from peftbench.models.architecture import Family, Purpose


@dataclass
class Backbone:
    """A pre-trained network with its tokenizer.

    Attributes:
        name: the name used in `model=NAME`.
        family: decides which formulations fit.
        purpose: how `model` was loaded.
        model: in eval mode, fp32, on the CPU.
        tokenizer: a fast tokenizer with a pad token; `padding_side` is right for encoders and encoder-decoders,
            left for causal models.
        hidden_size: d, the width of the hidden states between the blocks.
        output_size: the width of what the bare stack returns, and so of a head; d in most networks (OPT-350m projects).
        embedding_size: the width of the word embeddings, and so of soft prompts; d in most networks.
        max_positions: positions the network can take, soft prompts included; None if unlimited (T5).
        pooling: how one vector is read off the hidden states, of an encoder-decoder the encoder's: `mean` over real
            tokens, `cls` (first real token) or `last` (last real token).
        prefix: text put before every input (E5 was trained with "query: " / "passage: ").
        revision: `peftbench.models.content.content_id`: equal for equal weights, config and tokenizer.
        source: one readable line, for the record.
    """

    name: str
    family: Family
    purpose: Purpose
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    hidden_size: int
    max_positions: int | None
    pooling: Literal["mean", "cls", "last"]
    prefix: str
    revision: str
    source: str
    embedding_size: int = 0
    output_size: int = 0

    def __post_init__(self) -> None:
        self.embedding_size = self.embedding_size or self.hidden_size
        self.output_size = self.output_size or self.hidden_size

    @property
    def anatomy(self) -> Anatomy:
        """Which modules are which part of the network. Raises UsageError if that cannot be known."""
        from peftbench.models.anatomy import anatomy_of

        return anatomy_of(self.model)

    def facts(self) -> dict[str, Any]:
        """What a record says of it."""
        names = ("family", "revision", "source", "pooling", "hidden_size")
        return {name: getattr(self, name) for name in names}

    def total_parameters(self) -> int:
        """Number of parameters, shared tensors counted once."""
        return sum(count(p) for p in self.model.parameters())
