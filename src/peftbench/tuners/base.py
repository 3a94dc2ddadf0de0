"""What is trained: the contract that every tuner fulfils, so that the rest of the program never asks for its name.
Free of torch, as what declares a tuner is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftbench.config.registry import imported
from peftbench.config.schema import TunerConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftbench.models.base import Backbone
    from peftbench.tasks.base import Row
    from peftbench.tuners.ranks import Rank

WHOLE_BACKBONE = "backbone.safetensors"
"""File of a tuner that trains all weights of the backbone, in which any other tuner may go on from them."""
ParamGroups = dict[str, "list[nn.Parameter]"]
"""Group name -> parameters. The method's `lr` mapping gives each group its own learning rate by this name."""


@dataclass(frozen=True)
class TunerContext:
    """What a tuner may know besides the backbone."""

    max_length: int
    """Longest input in tokens, without virtual tokens (DePT's s)."""
    label_words: tuple[str, ...]
    """For initialisers that use class labels."""
    seed: int
    pool: Sequence[Row] = ()
    """The task's whole training split, for initialisers that look at unlabelled texts."""
    shots: Sequence[Row] = ()
    """The drawn training rows."""
    domains: tuple[str, ...] = ()
    """The domains that the task's rows come from, in a fixed order."""
    restoring: bool = False
    """Whether all that is trained will be read from a file, so that initial values need no texts to look at."""


@dataclass(frozen=True)
class TunerDeclaration:
    """What a built-in tuner declares of itself, as the constant `TUNER` of a module that imports nothing heavy. A tuner
    from outside the package may be a bare subclass of `Tuner`.

    Attributes:
        build: the subclass of `Tuner`, or another function from options to tuner; or where it is, "module:Class",
            imported when a tuner is built.
        options: dataclass of the tuner's options.
        results_version: raised when the same keys would give other numbers; renames the runs that have the tuner.
        uses: dotted keys and sections of the config, besides its own, the budget and `init_from`, that decide what it
            does.
        trains_weights: whether it trains weights of the backbone itself, which have to be fp32 then (`model.load`).
        settle: completes the options when the config is composed, as by the hash of a file that they name; raises
            UsageError.
        replaces_words: whether, with these options, the words of a text are not looked up in the network's word
            embeddings, so that a trick cannot change them there.
        side_by_side: whether, with these options, what is trained inside the network treats each row of a batch by
            itself, in modules that are called with the rows first, and is all that differs between runs: the condition
            for several to be trained together (`peftbench.training.together`). `check-method` holds it to that.
        stays_on: whether, with these options, `Tuner.disabled` has no context in which the network is the bare one;
            none that trains weights has.
    """

    build: Callable[[Any], Tuner] | str
    options: type[TunerConfig] = TunerConfig
    results_version: int = 1
    uses: tuple[str, ...] = ()
    trains_weights: bool = False
    settle: Callable[[Any], None] | None = None
    replaces_words: Callable[[Any], bool] = lambda options: False
    stays_on: Callable[[Any], bool] = lambda options: False
    side_by_side: Callable[[Any], bool] = lambda options: False

    def __call__(self, cfg: Any) -> Tuner:
        """The tuner with these options."""
        return self.build_function()(cfg)

    def build_function(self) -> Callable[[Any], Tuner]:
        """What builds it, imported."""
        build: Callable[[Any], Tuner] = imported(self.build)
        return build

    def switches_off(self, options: Any) -> bool:
        """Whether the network can be had as it is without the tuner; see `Tuner.disabled`."""
        return not (self.trains_weights or self.stays_on(options))

    def needed_modules(self) -> list[str]:
        """What it imports sooner or later."""
        return [self.build.partition(":")[0]] if isinstance(self.build, str) else []


class Tuner(ABC):
    """Makes some parameters of a backbone trainable, or adds some."""

    families: ClassVar[frozenset[str]] = frozenset({"encoder", "seq2seq", "causal"})
    why_families: str = ""
    """Why it fits no other family: half a sentence for the message of a refusal."""
    options: ClassVar[type | None] = None
    """Of a tuner from outside the package: the dataclass, a `TunerConfig`, that checks `method.tuner.options`."""

    virtual_tokens: int = 0
    """Positions that `build`'s result has in front of the real tokens in its (encoder's or decoder's) hidden states.
    0 for an encoder-decoder's decoder side, which the loss and the generated ids are read from."""

    longest_text: int | None = None
    """Tokens of a text beyond which `build`'s result refuses it; None: as many as the backbone takes."""

    needs_answer_starts: bool = False
    """Whether a causal model must be told in teacher forcing where the answer begins (because an offset or an
    instruction mask ends there): it gets the keyword `answer_starts`, (batch, 1) columns of the first answer tokens.
    Not `labels`: from those a model computes a loss of its own, over its whole vocabulary, that nobody reads. Of any
    other tuner a prompt may be read in two parts, the second behind the cache of the first
    (`peftbench.formulations.shared_prefix`)."""

    takes_cache: bool = True
    """Whether `build`'s result can be called again with the `past_key_values` that it has returned, ids of new tokens,
    their `position_ids` (virtual positions not counted) and an `attention_mask` over old and new tokens, (batch, n) or
    (batch, 1, new, n), without places for virtual ones. If not, every label is scored in a pass of its own."""

    reads_windows: bool = False
    """Whether `build`'s result cuts a text up itself: it may have more tokens than the backbone has positions."""

    domain_tokens: Mapping[str, int] = MappingProxyType({})
    """Of a tuner with experts by domain: domain -> the token id that tells it a text's domain, in the first place of
    the text's tokens. Set by `build`; the formulation writes it there."""

    budget_knob: str | None = None
    """The key of `cfg` that `method.budget` sets. `expected_parameters` must grow with it."""

    identity_at_start: Literal["base", "prompt_tuning"] | None = None
    """What the outputs equal before the first step: those of the bare backbone, those of prompt tuning with the same
    first prompt (the config's keys of the same names), or None: neither, by design. `check-method` holds you to it."""

    def __init__(self, cfg: Any) -> None:
        """`cfg` is the tuner's own dataclass, see `TunerDeclaration`."""
        self.cfg = cfg
        self.notes: list[str] = []
        """What a reader of the result must know; it goes into the record."""

    def check(self, backbone: Backbone, context: TunerContext) -> None:  # noqa: B027 - most fit every network
        """Asked before weights are loaded or downloaded: `backbone` is an outline, its parameters have shapes and no
        values, and it has no tokenizer. `build` may rely on it having been asked.

        Raises:
            UsageError: the pair cannot work, and why.
        """

    def ranks(self, backbone: Backbone, context: TunerContext) -> Sequence[Rank]:
        """The ranks of its options, each with what it cannot exceed; asked where `check` is, and of an outline too."""
        return ()

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

    def with_knob(self, cfg: Any, value: int) -> Any:
        """`cfg` with `budget_knob` set to `value`."""
        return replace(cfg, **{str(self.budget_knob): value})

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what was trained to `folder` as safetensors and JSON."""

    @abstractmethod
    def load(self, model: nn.Module, folder: Path) -> None:
        """Read it back into a module fresh from `build`."""

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        """A context in which `model` computes what the bare backbone would; None if the tuner has no such switch."""
        return None

    def before_training(self, model: nn.Module, gradients: Iterable[int]) -> None:  # noqa: B027
        """Called before a training begins, also one that goes on from a checkpoint (with the weights that it began
        with).

        Args:
            gradients: one pass over the training's items: each time it is asked, it gives how many batches there are,
                and the parameters have the gradients of the next one's mean loss. What is not asked costs nothing.
        """

    def after_training(self, model: nn.Module) -> None:  # noqa: B027
        """Called when a training is over, with the state of it that is kept: before anything is answered with it."""

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:  # noqa: B027 - most tuners need none
        """Called in each of the `steps` optimiser steps (0-based `step`) once the gradients of the global batch are
        there, equal on every process: the place to add the gradient of a penalty on the parameters themselves."""

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:  # noqa: B027
        """Called after the optimiser has moved the parameters; the gradients are still there."""

    def step_state(self, model: nn.Module) -> dict[str, Tensor]:
        """What `before_step` and `after_step` remember from step to step beside the trainable parameters: tensors by
        name, on the CPU. Part of every checkpoint; with it, a resumed training equals an uninterrupted one."""
        return {}

    def load_step_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Put back what `step_state` gave."""

    def on_round(self, model: nn.Module, round: int) -> None:  # noqa: B027
        """Called when another round of training begins (`round` 0 was that of `build`), before its optimiser is made:
        a round of self-training, or a task of a sequence. What is trainable may change."""

    def warm_start(self, model: nn.Module, folder: Path) -> None:
        """Start from what a run with the same tuner has saved in `folder`."""
        self.load(model, folder)
