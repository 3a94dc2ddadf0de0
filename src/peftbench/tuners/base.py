"""What is trained: the contract that every tuner fulfils, so that the rest of the program never asks for its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

if TYPE_CHECKING:
    from peftbench.models.base import Backbone

ParamGroups = dict[str, list[nn.Parameter]]
"""Group name -> parameters. The method's `lr` mapping gives each group its own learning rate by this name."""


@dataclass(frozen=True)
class TunerContext:
    """What a tuner may know besides the backbone."""

    max_length: int
    """Longest input in tokens, without virtual tokens (DePT's s)."""
    label_words: tuple[str, ...]
    """For initialisers that use class labels."""
    seed: int


class Tuner(ABC):
    """Makes some parameters of a backbone trainable, or adds some."""

    families: ClassVar[frozenset[str]] = frozenset({"encoder", "seq2seq", "causal"})
    virtual_tokens: int = 0
    """Positions that `build`'s result has in front of the real tokens in its (encoder's or decoder's) hidden states.
    0 for an encoder-decoder's decoder side, which the loss and the generated ids are read from."""

    def __init__(self, cfg: Any) -> None:
        """`cfg` is the tuner's own dataclass from `peftbench.config.tuners`."""
        self.cfg = cfg

    @abstractmethod
    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        """Freeze `backbone.model`, make or add what is trainable, and return the module to call in its place.

        The result takes the same keyword arguments as `backbone.model` and returns the same outputs, with
        `virtual_tokens` more positions in front. Raises UsageError if the pair cannot work.
        """

    @abstractmethod
    def param_groups(self, model: nn.Module) -> ParamGroups:
        """All trainable parameters of `build`'s result, each in exactly one named group."""

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        """The count by the method's formula, or None where there is no closed formula."""
        return None

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what was trained to `folder` as safetensors and JSON."""

    @abstractmethod
    def load(self, model: nn.Module, folder: Path) -> None:
        """Read it back into a module fresh from `build`."""
