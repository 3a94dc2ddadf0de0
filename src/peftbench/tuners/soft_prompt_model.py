"""A frozen network behind a soft prompt and offsets (`soft_prompt_layer`): what peft calls in place of the base model.

Ids become prompted embeddings, and mask, positions, token types and labels are made as much longer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftModel, TaskType
from torch import Tensor, nn

from peftbench.models.anatomy import scale_of
from peftbench.models.anatomy.names import first_position
from peftbench.tuners.hosted import HostedModel
from peftbench.tuners.peft_types import register_type
from peftbench.tuners.positions import accepts_position_ids, positions_from_mask, with_places_in_front
from peftbench.tuners.soft_prompt_layer import DeptConfig, SoftPromptEmbedding, check_length, rank_for_budget

IGNORE = -100
"""Label of a position that the loss skips."""


class SoftPromptModel(HostedModel):
    """Turns token ids into prompted embeddings before the base model's `forward` and `generate`.

    Outputs of encoders and causal models have m more positions in front, as under peft's prompt tuning; an
    encoder-decoder's encoder has them, its decoder not. `generate` returns what the base model's would: for a causal
    model the ids of the input followed by the new ones. Calls with `inputs_embeds` are passed through as they are.
    """

    prefix = "dept_"
    tuner_layer_cls = SoftPromptEmbedding
    title = "A soft prompt"
    why_not_merged = "a soft prompt and input offsets are not a change of any weight"

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        assert isinstance(peft_config, DeptConfig)
        embedding = self.model.get_input_embeddings()
        # Of what stands behind the embeddings nothing is asked.
        self.first_position, self.scale = first_position(self.model), scale_of(self.model)
        self.takes_positions = accepts_position_ids(self.model)
        # A string is matched as a regular expression against the whole name: exactly this module, and neither the
        # encoder's and decoder's own copies (T5) nor another embedding of the same short name.
        peft_config.target_modules = next(name for name, m in self.model.named_modules() if m is embedding)
        if peft_config.rank is None:
            assert peft_config.num_virtual_tokens_budget is not None
            peft_config.rank = rank_for_budget(
                peft_config.num_virtual_tokens_budget,
                peft_config.num_virtual_tokens,
                peft_config.max_length,
                embedding.weight.shape[1],
                peft_config.offset,
            )
        return peft_config

    def put(
        self, config: DeptConfig, adapter: str, target: nn.Module, name: str, parent: nn.Module, place: str
    ) -> None:
        if isinstance(target, SoftPromptEmbedding):
            target.update_layer(adapter, config)
            return
        assert isinstance(target, nn.Embedding)
        self._replace_module(parent, name, self.tuner_layer_cls(target, adapter, config), target)

    def _check_tied_modules(self, model: nn.Module, peft_config: PeftConfig) -> None:
        """Nothing to check: the embedding matrix itself is never changed, so a tied output head is not concerned."""

    @property
    def layer(self) -> SoftPromptEmbedding:
        """The wrapped input embedding."""
        return self.model.get_input_embeddings()

    def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """The base model's forward on the prompted embeddings of `input_ids` (batch, n).

        In a causal model's teacher forcing the answer begins at the columns `answer_starts` (batch, 1), else at the
        first of `labels`: see `SoftPromptEmbedding.prompted`.
        """
        if input_ids is None or self.layer.disable_adapters:
            kwargs.pop("answer_starts", None)
            return self.model(input_ids=input_ids, **kwargs)
        return self.model(**self.prompted_inputs(input_ids, kwargs))

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """The base model's generate, started from the prompted embeddings of `inputs` (or `input_ids`)."""
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if input_ids is None or self.layer.disable_adapters:
            return self.model.generate(inputs=input_ids, **kwargs)
        generated = self.model.generate(**self.prompted_inputs(input_ids, kwargs))
        return generated if self.model.config.is_encoder_decoder else put_in_front(input_ids, generated)

    def prompted_inputs(self, input_ids: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The base model's arguments: embeddings in place of ids, and everything per token made m longer."""
        config, _ = self.layer.current()
        m = config.num_virtual_tokens
        new = {name: value for name, value in kwargs.items() if value is not None}
        if "inputs_embeds" in new or "encoder_outputs" in new:
            raise ValueError("give either input_ids or inputs_embeds / encoder_outputs, not both")
        mask = new.get("attention_mask")
        if new.get("past_key_values") is not None and new["past_key_values"].get_seq_length() > 0:
            return self._continued(input_ids, new)
        if mask is not None:
            if mask.dim() != 2:
                raise ValueError(f"DePT needs an attention_mask of shape (batch, n), found {tuple(mask.shape)}.")
            new["attention_mask"] = F.pad(mask, (m, 0), value=1)
        if "token_type_ids" in new:
            new["token_type_ids"] = F.pad(new["token_type_ids"], (m, 0), value=0)
        starts = new.pop("answer_starts", None)
        if config.task_type == TaskType.CAUSAL_LM and "labels" in new:
            starts = answer_starts(new["labels"], mask) if starts is None else starts
            new["labels"] = F.pad(new["labels"], (m, 0), value=IGNORE)
        bound = config.rank and config.offset == "position"
        if starts is not None and bound and input_ids.shape[1] > config.max_length:
            check_length(longest_text(starts, mask, input_ids.shape[1]), config.max_length)
        positions = self._position_ids(new.get("position_ids"), new.get("attention_mask"), config)
        if positions is not None:
            new["position_ids"] = positions
        prompted = self.layer.prompted(input_ids, starts)
        # What a network does to the embeddings of ids it may not do to embeddings that it is given.
        new["inputs_embeds"] = prompted if self.scale == 1 else prompted * self.scale
        return new

    def _continued(self, input_ids: Tensor, new: dict[str, Any]) -> dict[str, Any]:
        """The arguments for tokens (batch, k) behind a cache that begins with the prompt: they are an answer, which has
        no offset. The mask is of all tokens, (batch, n + k), or (batch, 1, k, n + k); positions are of the new ones."""
        m, mask, positions = (
            self.layer.current()[0].num_virtual_tokens,
            new.get("attention_mask"),
            new.get("position_ids"),
        )
        if mask is None:
            raise ValueError(
                "a soft prompt behind a filled cache needs an attention_mask over all tokens; or call generate"
            )
        new.pop("answer_starts", None)
        new |= {"input_ids": input_ids, "attention_mask": with_places_in_front(mask, m)}
        if positions is None and self.takes_positions and mask.dim() == 2:
            positions = positions_from_mask(mask)[:, -input_ids.shape[1] :] + self.first_position
        return new | ({"position_ids": positions + m} if positions is not None else {})

    def _position_ids(self, given: Tensor | None, mask: Tensor | None, config: DeptConfig) -> Tensor | None:
        """(batch, m + n): the prompt takes the first positions and moves the text's by m; None: the model's own.

        Models number embeddings from left to right, which is right unless there is padding on the left.
        """
        m, first = config.num_virtual_tokens, self.first_position
        if given is not None:
            prompt = torch.arange(first, first + m, device=given.device).expand(len(given), -1)
            return torch.cat([prompt, given + m], dim=1)
        if config.padding_side == "left" and mask is not None and self.takes_positions:
            return positions_from_mask(mask) + first
        return None


def answer_starts(labels: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, 1): the column of each row's first label. n where there is none, or where the text itself is the
    target (its first token has a label), as in plain language modelling."""
    n = labels.shape[1]
    answers = labels != IGNORE
    starts = answers.int().argmax(1, keepdim=True)
    first_token = torch.zeros_like(starts) if mask is None else mask.int().argmax(1, keepdim=True)
    return torch.where((starts <= first_token) | ~answers.any(1, keepdim=True), n, starts)


def longest_text(starts: Tensor, mask: Tensor | None, n: int) -> int:
    """Most real tokens before the answer in any row; the answer itself takes no offset."""
    if mask is None:
        return int(starts.max())
    before = torch.arange(n, device=mask.device) < starts
    return int((mask.bool() & before).sum(1).max())


def put_in_front(input_ids: Tensor, generated: Any) -> Any:
    """Ids of the input before the generated ones, which a model fed with embeddings leaves out.

    `generated` is a (batch x returned sequences, new) tensor or an output object that holds one in `sequences`.
    """
    if not isinstance(generated, Tensor):
        generated.sequences = put_in_front(input_ids, generated.sequences)
        return generated
    repeated = input_ids.repeat_interleave(len(generated) // len(input_ids), dim=0)
    return torch.cat([repeated, generated], dim=1)


register_type(DeptConfig, SoftPromptModel)


def adapter_of(model: nn.Module) -> tuple[DeptConfig, dict[str, Tensor]]:
    """Config and tensors of the active adapter of what a soft-prompt tuner's `build` returned."""
    assert isinstance(model, PeftModel)
    assert isinstance(model.base_model, SoftPromptModel)
    return model.base_model.layer.current()
