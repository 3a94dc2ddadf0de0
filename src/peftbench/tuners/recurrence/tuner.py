"""The recurrence adapter (Yoshida, Ettinger and Gimpel, arXiv 2008.07027; in the thesis arXiv 2408.16241), for texts
longer than an encoder's window.

The text is cut into windows of w tokens. After each window its hidden states are pooled to z (d), a three-layer MLP
makes r = MLP(z), and the next window gets r as one extra position whose key and value all its tokens see at an inner
block. Only the MLP is trained.

Our reading: z is the mean over the real tokens of the stack's output, r enters in front of one block (the middle one
by default) and is cut off behind it, and the outputs of all windows stand side by side. The paper has language models;
of a bidirectional encoder the text's special tokens stand in the first and the last window only. In a decoder the last
token of a window predicts the first of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.models.checks import hidden_size
from peftbench.tuners.adapter_files import read_module, write_module
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.extra_rows import call_with_rows, check_room, stack_of
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


class Recurrent(nn.Module):
    """An encoder or a decoder that reads window after window; inputs may be longer than its positions, padded on either
    side.

    Each text's windows begin at its first real token, and positions begin anew in each window.

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

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **per_token: Tensor) -> Any:
        """Hidden states (batch, n, d), or a language model's logits (batch, n, vocabulary), of (batch, n) ids; further
        arguments are per token."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        starts = mask.argmax(1, keepdim=True)
        columns = torch.arange(mask.shape[1], device=mask.device)
        there, back = (starts + columns) % mask.shape[1], (columns - starts) % mask.shape[1]
        inputs = {name: value.gather(1, there) for name, value in per_token.items()}
        found = torch.cat(self._read(input_ids.gather(1, there), mask.gather(1, there), inputs), dim=1)
        return self._output(found.gather(1, back.unsqueeze(-1).expand_as(found)))

    def _read(self, ids: Tensor, mask: Tensor, per_token: dict[str, Tensor]) -> list[Tensor]:
        """What each window gives, of texts that begin in the first column."""
        state: Tensor | None = None
        outputs = []
        for i, start in enumerate(range(0, ids.shape[1], self.window)):
            columns = slice(start, start + self.window)
            if state is not None and i % self.horizon == 0:
                state = state.detach()
            remembering = self._block[0]
            remembering.row = None if state is None else self.memory(state.float()).unsqueeze(1)
            inputs = {name: value[:, columns] for name, value in per_token.items()}
            output, hidden = self._window(ids[:, columns], mask[:, columns], inputs)
            outputs.append(output)
            state = self._remember(hidden, mask[:, columns], state)
        return outputs

    def _window(self, ids: Tensor, mask: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What one window gives, and its hidden states. A row of padding only sees itself, and nobody reads it."""
        visible = torch.where(mask.any(1, keepdim=True), mask, 1)
        hidden = self.model(input_ids=ids, attention_mask=visible, **inputs).last_hidden_state
        return hidden, hidden

    @staticmethod
    def _output(found: Tensor) -> Any:
        return BaseModelOutput(last_hidden_state=found)

    @staticmethod
    def _remember(hidden: Tensor, mask: Tensor, before: Tensor | None) -> Tensor:
        """(batch, d) mean over the window's real tokens; a text that has ended keeps its state."""
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        now = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return now if before is None else torch.where(mask.any(1, keepdim=True), now, before)


class RecurrentLM(Recurrent):
    """A causal language model. No token sees a later one: a window is remembered once it is over."""

    def __init__(self, model: PreTrainedModel, window: int, block: str, horizon: int) -> None:
        super().__init__(model, window, block, horizon)
        self._hidden: Tensor | None = None
        stack_of(model).register_forward_hook(self._note)

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        self._hidden = output[0]

    def _window(self, ids: Tensor, mask: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        visible = torch.where(mask.any(1, keepdim=True), mask, 1)
        logits = self.model(input_ids=ids, attention_mask=visible, use_cache=False, **inputs).logits
        hidden, self._hidden = self._hidden, None
        assert hidden is not None
        return logits, hidden

    @staticmethod
    def _output(found: Tensor) -> CausalLMOutput:
        return CausalLMOutput(logits=found)  # type: ignore[arg-type]

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        pad_token_id: int,
        eos_token_id: int,
        logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] = (),
        do_sample: bool = False,
        num_beams: int = 1,
    ) -> Tensor:
        """(batch, n + new) ids, the likeliest token each time. There is no cache: all is read again for each token.

        Raises:
            ValueError: something else than the likeliest token is wanted.
        """
        if do_sample or num_beams != 1:
            raise ValueError("a recurrent language model writes the likeliest token")
        ids, mask = input_ids, attention_mask
        going = torch.ones_like(ids[:, :1])
        for _ in range(max_new_tokens):
            scores = self(ids, mask).logits[:, -1].float()
            for processor in logits_processor:
                scores = processor(ids, scores)
            new = torch.where(going.bool(), scores.argmax(-1, keepdim=True), pad_token_id)
            ids, mask = torch.cat([ids, new], dim=1), torch.cat([mask, going], dim=1)
            going = going * (new != eos_token_id)
            if not going.any():
                break
        return ids


class RecurrenceTuner(Tuner):
    """A memory between the windows of a long text: 3 (d^2 + d) numbers. Group `recurrence`.

    Where layers share one block (ALBERT), all of them see what is remembered. A text of at most w tokens is read as by
    the bare encoder, and teaches the memory nothing.
    """

    families = frozenset({"encoder", "causal"})
    why_families = "an encoder-decoder reads its text in one half and answers in the other"
    takes_cache = False
    reads_windows = True
    cfg: RecurrenceOptions

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        self.window_and_block(backbone, context)

    def window_and_block(self, backbone: Backbone, context: TunerContext) -> tuple[int, str]:
        """w, and the full name of the block that sees what is remembered. Raises UsageError if the pair cannot work."""
        if backbone.purpose == "mlm":
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
        head = backbone.model.get_output_embeddings() if backbone.purpose == "lm" else None
        if (backbone.output_size if head is None else head.weight.shape[1]) != backbone.hidden_size:
            raise UsageError(
                f"method=recurrence: model={backbone.name} gives states of another width than its blocks have, and "
                "what is remembered has to fit both. Use another model, or another tuner."
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
            made = RecurrentLM if backbone.purpose == "lm" else Recurrent
            return made(backbone.model.requires_grad_(False), window, block, self.cfg.horizon)

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {"recurrence": [p for p in model.parameters() if p.requires_grad]}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        d = backbone.hidden_size
        return 3 * (d * d + d)

    def save(self, model: nn.Module, folder: Path) -> None:
        """`recurrence.safetensors`: the MLP."""
        assert isinstance(model, Recurrent)
        write_module(model.memory, folder / FILE)

    def load(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, Recurrent)
        read_module(model.memory, folder / FILE)
