"""How a task is posed to a backbone: rows in, losses and predictions out.

A formulation tokenises rows (`encode`), makes padded batches (`collate`), and turns a forward pass of the tuned model
into a loss or into predictions. It never asks which tuner or which data set it serves; it is told how many virtual
tokens the tuner puts in front of the hidden states (`virtual_tokens`) so that these never disturb pooling, padding or
label positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.formulations.fitting import Cut
from peftbench.formulations.predictions import Prediction
from peftbench.tasks.base import bare_task

if TYPE_CHECKING:
    from peftbench.config.schema import FormulationConfig
    from peftbench.formulations.snippets import Network
    from peftbench.models.architecture import Purpose
    from peftbench.models.base import Backbone
    from peftbench.tasks.base import Row, TaskData

PROMPT_TEXT = "prompt_text"
"""In an item's `data`: the prompt as a text, if it is to be kept beside the answer."""
SHOWN_ANSWERS = "shown_answers"
"""In an item's `data`: (start, end) in that text of each answer that is shown in it; a batch has the lists of all."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised item.

    Attributes:
        id: the row's id.
        length: tokens that its forward pass costs, virtual tokens not counted; batches are bucketed by it.
        weight: what the item counts in the mean loss: 1.0, or its number of label tokens for token losses.
        data: whatever the formulation's `collate` needs (plain Python lists, no tensors).
        cut: what became of the row's texts to fit `max_length`; None if that was not looked at.
        share: how often it comes up in a pass of training, in the mean.
    """

    id: str
    length: int
    weight: float
    data: dict[str, Any]
    cut: Cut | None = None
    share: float = 1.0


__all__ = ["Batch", "Encoded", "Formulation", "Prediction", "Way"]

Batch = dict[str, Any]
"""Tensors by name, plus `ids` (list of row ids, in batch order)."""


class Way(NamedTuple):
    """One of several ways in which a formulation can ask the same rows.

    Attributes:
        observed: whether it belongs to those that may be trained on.
        form: asks in this way alone.
    """

    name: str
    observed: bool
    form: Formulation


class Formulation(nn.Module, ABC):
    """Base class; trainable parts of the formulation itself (a classification head) are its parameters."""

    title: ClassVar[str] = ""
    """Its name in records, where that is not the class's."""
    purpose: ClassVar[Purpose]
    families: ClassVar[frozenset[str]]
    can_answer_untrained: ClassVar[bool] = False
    """Of a plug-in that is not declared by `peftbench.formulations.declared.Declared`, which explains both."""

    words_count: ClassVar[bool] = True
    """Whether what a step costs may depend on the very words of a batch, not only on its shapes and masks."""

    writes_domains: ClassVar[bool] = False
    """Whether its texts begin with the tokens of `domain_tokens`, where there are any."""

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__()
        self.tokenizer = backbone.tokenizer
        self.task = task
        self.max_length = max_length
        self.notes: list[str] = []
        """What a reader of the result must know; it goes into the record."""
        self.virtual_tokens = 0
        """Rows that the tuner puts before the real tokens in the hidden states; set by the Learner."""
        self.pass_answer_starts = False
        """Whether a causal model is told where the answer begins (`Tuner.needs_answer_starts`); set by the Learner."""
        self.takes_cache = True
        """Whether the tuned model can go on from a key/value cache (`Tuner.takes_cache`); set by the Learner."""
        self.domain_tokens: Mapping[str, int] = {}
        """Domain -> the token that the tuner wants in the first place of its texts; set by the Learner."""
        self.shots: Sequence[Row] = ()
        """The drawn training rows; set by the Learner."""
        self.step = self.seed = 0
        """The present training step and the seed of the training, for what is drawn anew in every step; set by the
        loop. Whatever follows from them and an item's id alone is the same on any number of processes."""

    @classmethod
    def recorded_name(cls) -> str:
        """Its name in records."""
        return cls.title or cls.__name__.removesuffix("Formulation").lower()

    @classmethod
    def check(cls, task: TaskData, cfg: FormulationConfig) -> None:
        """Asked before a backbone is loaded.

        Raises:
            UsageError: the options do not fit the task.
        """

    def portable(self, cfg: FormulationConfig) -> tuple[FormulationConfig, TaskData]:
        """Config and task from which this formulation is made again, without any file and without the task's rows.

        Args:
            cfg: what it was made from.
        """
        return cfg, bare_task(self.task)

    def text_names(self, pairs: bool) -> list[str]:
        """Names of a row's texts that it reads, in the order in which its exported code is given them."""
        return ["text", "pair"] if pairs else ["text"]

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        """A Python file that answers as this formulation does, with torch, transformers and peft alone.

        Args:
            model: what the tuner has made of the backbone.
            network: how the file loads it.
            pairs: whether rows have two texts.

        Raises:
            UsageError: it cannot be said in a few lines.
        """
        raise UsageError(f"a {type(self).__name__} cannot be exported. `peftbench predict` answers for this run.")

    def shown_rows(self) -> Sequence[Row]:
        """Training rows that stand in every input."""
        return ()

    def attach(self, model: nn.Module) -> None:
        """Called once with the tuned `model`, before training."""

    def own_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """What the formulation trains, by name: its own parameters, or some that it frees in the tuned `model`."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def kept_state(self) -> dict[str, Tensor]:
        """Name -> CPU copy of what it holds beside its parameters and that must survive a restart (a prior)."""
        parameters = {name for name, _ in self.named_parameters()}
        return {n: t.detach().to("cpu", copy=True) for n, t in self.state_dict().items() if n not in parameters}

    def load_kept_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `kept_state` gave."""
        buffers = dict(self.named_buffers())
        for name, tensor in state.items():
            buffers[name].copy_(tensor)

    def label_tokens(self) -> dict[str, list[str]]:
        """Label name -> the tokens that stand for it; empty for a formulation that does not write its labels."""
        return {}

    def tokens_depend_on(self) -> Hashable | None:
        """All that `encode` depends on besides its class, the backbone and the rows: what it gives may then be kept for
        another run. None: it is not kept."""
        return None

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Tokenise; truncated to `max_length` tokens. Rows without a target get no labels."""

    def answers(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[Prediction]:
        """One prediction a row, from those of the items that `encode` made of the rows, in their order."""
        return list(predictions)

    def ways(self) -> Sequence[Way]:
        """The ways in which test rows are asked, that of `predict` first; empty for a formulation that has one."""
        return ()

    def answer_facts(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Numbers about its answers to the labelled test `rows` besides scores, for the record's `compute`."""
        return {}

    @abstractmethod
    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Padded CPU tensors of one batch."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum over the batch of weight x loss (a scalar): the loop divides by the weight of the whole global batch."""

    def words_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(batch, n) ids that `loss` has the network look up, and 1 where one is a word of the text, neither padding
        nor of an answer that is trained on."""
        return batch["input_ids"], batch["attention_mask"]

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        """Predictions in batch order. Called under `torch.no_grad()` in eval mode."""
