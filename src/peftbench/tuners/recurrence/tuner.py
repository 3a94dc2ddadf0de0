"""The recurrence adapter (Yoshida, Ettinger and Gimpel, arXiv 2008.07027; in the thesis arXiv 2408.16241), for texts
longer than an encoder's window.

The text is cut into windows of w tokens. After each window its hidden states are pooled to z (d), a three-layer MLP
makes r = MLP(z), and the next window gets r as one extra position whose key and value all its tokens see at an inner
block. Only the MLP is trained.

Our reading, for a bidirectional encoder in place of the paper's language model: z is the mean over the real tokens of
the last block's output, r enters in front of one block (the middle one by default) and is cut off behind it, the text's
special tokens stand in the first and the last window only, and the states of all windows, side by side, are the output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.models.checks import hidden_size
from peftbench.tuners.adapter_files import read_module, write_module
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.extra_rows import call_with_rows, check_room
from peftbench.tuners.recurrence import RecurrenceOptions

FILE = "recurrence.safetensors"


class RememberingBlock(nn.Module):
    """A block that attends to one more row, where it is given one."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.row: Tensor | None = None
        """(batch, 1, d), what is remembered; None in the first window."""

    def __getattr__(self, name: str) -> Any:
        """A stack may ask its blocks for facts about themselves."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.row is None:
            return self.base_layer(hidden_states, *args, **kwargs)
        return call_with_rows(self.base_layer, self.row, hidden_states, args, kwargs)


class RecurrentEncoder(nn.Module):
    """An encoder that reads window after window; inputs may be longer than its positions, padded on the right.

    Args:
        window: w, tokens a window.
        block: full name of the block that sees what is remembered.
        horizon: windows over which the gradient flows back.
    """

    def __init__(self, model: PreTrainedModel, window: int, block: str, horizon: int) -> None:
        super().__init__()
        self.model = model
        self.window = window
        self.horizon = horizon
        d = hidden_size(model)
        last = nn.Linear(d, d)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.memory = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d), nn.GELU(), last)
        self._block = (RememberingBlock(model.get_submodule(block)),)  # in a tuple: it is a child of the stack already
        model.set_submodule(block, self._block[0])

    @property
    def config(self) -> Any:
        """The backbone's."""
        return self.model.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **per_token: Tensor) -> BaseModelOutput:
        """`last_hidden_state` (batch, n, d) of (batch, n) ids; further arguments are per token."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        state: Tensor | None = None
        outputs = []
        for i, start in enumerate(range(0, input_ids.shape[1], self.window)):
            columns = slice(start, start + self.window)
            if state is not None and i % self.horizon == 0:
                state = state.detach()
            remembering = self._block[0]
            remembering.row = None if state is None else self.memory(state.float()).unsqueeze(1)
            inputs = {name: value[:, columns] for name, value in per_token.items()}
            hidden = self._window(input_ids[:, columns], mask[:, columns], inputs)
            outputs.append(hidden)
            state = self._remember(hidden, mask[:, columns], state)
        return BaseModelOutput(last_hidden_state=torch.cat(outputs, dim=1))

    def _window(self, ids: Tensor, mask: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Hidden states of one window. A row of padding only sees itself, and nobody reads it."""
        visible = torch.where(mask.any(1, keepdim=True), mask, 1)
        return self.model(input_ids=ids, attention_mask=visible, **inputs).last_hidden_state

    @staticmethod
    def _remember(hidden: Tensor, mask: Tensor, before: Tensor | None) -> Tensor:
        """(batch, d) mean over the window's real tokens; a text that has ended keeps its state."""
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        now = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return now if before is None else torch.where(mask.any(1, keepdim=True), now, before)


class RecurrenceTuner(Tuner):
    """A memory between the windows of a long text: 3 (d^2 + d) numbers. Group `recurrence`.

    Where layers share one block (ALBERT), all of them see what is remembered. A text of at most w tokens is read as by
    the bare encoder, and teaches the memory nothing.
    """

    families = frozenset({"encoder"})
    why_families = "a window is remembered by all of its states, each of which has seen the whole window"
    cfg: RecurrenceOptions

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        self.window_and_block(backbone, context)

    def window_and_block(self, backbone: Backbone, context: TunerContext) -> tuple[int, str]:
        """w, and the full name of the block that sees what is remembered. Raises UsageError if the pair cannot work."""
        if backbone.purpose != "features":
            raise UsageError(
                "method=recurrence: reads a text window by window and has no masked-LM head for "
                "method/formulation=cloze. Use method/formulation=head, or another tuner."
            )
        limit = backbone.max_positions or context.max_length
        quarter = max(2, -(-context.max_length // 4))
        window = min(quarter, limit) if self.cfg.window is None else self.cfg.window
        check_room(backbone, window + 1)
        if window > limit:
            raise UsageError(
                f"method.tuner.window={window}: model={backbone.name} has {limit} positions. Use {limit} or less."
            )
        if context.max_length <= window:
            raise UsageError(
                f"method.tuner.window={window}: with trainer.max_length={context.max_length} every text fits into one "
                "window, and there is nothing to remember. Raise trainer.max_length, or use a smaller window."
            )
        blocks = backbone.anatomy.last.blocks
        block = len(blocks) // 2 if self.cfg.block is None else self.cfg.block
        if block >= len(blocks):
            raise UsageError(f"method.tuner.block={block}: model={backbone.name} has blocks 0 to {len(blocks) - 1}.")
        return window, blocks[block].name

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        window, block = self.window_and_block(backbone, context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            return RecurrentEncoder(backbone.model.requires_grad_(False), window, block, self.cfg.horizon)

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {"recurrence": [p for p in model.parameters() if p.requires_grad]}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        d = backbone.hidden_size
        return 3 * (d * d + d)

    def save(self, model: nn.Module, folder: Path) -> None:
        """`recurrence.safetensors`: the MLP."""
        assert isinstance(model, RecurrentEncoder)
        write_module(model.memory, folder / FILE)

    def load(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, RecurrentEncoder)
        read_module(model.memory, folder / FILE)
