"""DePT, decomposed prompt tuning (Shi and Lipani, ICLR 2024, arXiv 2309.05173), as a tuner that peft hosts.

The input of the frozen network becomes [P ; E(x) + D]: a short soft prompt P in front of the frozen word embeddings
E(x), shifted by a trained offset D.

offset=position (DePT): D = alpha / sqrt(r) * A B, one row a *position*, the same for every text.
offset=token (ADePT; Tang, Hu and Liu, ICLR 2025): D = ReLU(E W1 + b1) W2 + b2, a function of each *token's* embedding.

Either way D = 0 before the first step, so training starts from plain prompt tuning with P.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftModel, PeftType, TaskType
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.config import tuners as schema
from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.base import ParamGroups, TunerContext
from peftbench.tuners.peft_adapter import PeftTuner, task_type, wrap
from peftbench.tuners.peft_types import register_type
from peftbench.tuners.positions import accepts_position_ids, positions_from_mask
from peftbench.tuners.prompt_init import initial_rows, initial_token_ids, stored_prompt

IGNORE = -100
"""Label of a position that the loss skips."""

TASK_TYPES = (TaskType.FEATURE_EXTRACTION, TaskType.SEQ_CLS, TaskType.SEQ_2_SEQ_LM, TaskType.CAUSAL_LM)
BUDGET_TOLERANCE = 0.05


@dataclass
class DeptConfig(PeftConfig):
    """peft's view of one DePT adapter; everything needed to rebuild it is in `adapter_config.json`.

    Attributes:
        num_virtual_tokens: m, rows of P. 0: offsets only.
        rank: r. 0: prompt tuning. None: derived from `num_virtual_tokens_budget`.
        num_virtual_tokens_budget: l, take the rank with which the adapter has the size of an l-token prompt.
        alpha: the position offset is scaled by alpha / sqrt(r). Not used by the token offset.
        max_length: s, longest input in tokens without the prompt; only the position offset is bound by it.
        offset: `position` or `token`.
        token_dropout: dropout inside the token offset.
        padding_side: `right`: token i takes row i of D. `left`: the last token takes row s - 1, so that the offset of
            a text does not depend on its padding. Causal models are padded on the left.
        init_token_ids: m token ids whose embeddings P starts from; None: unit normal rows.
        init_seed: seed of the random initial values.
        target_modules: set by the tuner: the input embedding.
    """

    num_virtual_tokens: int = 40
    rank: int | None = 45
    num_virtual_tokens_budget: int | None = None
    alpha: float = 8.0
    max_length: int = 256
    offset: str = "position"
    token_dropout: float = 0.1
    padding_side: str = "right"
    init_token_ids: list[int] | None = None
    init_seed: int = 0
    target_modules: str | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.DEPT  # type: ignore[attr-defined]
        if self.task_type not in TASK_TYPES:
            # Without one, peft calls the bare model and the adapter would be ignored without a word; with token
            # classification or question answering the labels would not line up with the m extra positions.
            allowed = ", ".join(t.value for t in TASK_TYPES)
            raise ValueError(f"DePT needs a task_type, one of {allowed}; found {self.task_type}.")
        if self.rank is None and self.num_virtual_tokens_budget is None:
            raise ValueError("DePT needs a rank, or num_virtual_tokens_budget to derive it from.")
        if self.num_virtual_tokens == 0 and self.rank == 0:
            raise ValueError("DePT with num_virtual_tokens=0 and rank=0 trains nothing.")
        if self.offset not in ("position", "token") or self.padding_side not in ("right", "left"):
            raise ValueError(f"DePT: offset={self.offset}, padding_side={self.padding_side}: no such choice.")
        if self.init_token_ids is not None and len(self.init_token_ids) != self.num_virtual_tokens:
            raise ValueError(
                f"DePT: {len(self.init_token_ids)} init_token_ids for {self.num_virtual_tokens} virtual tokens."
            )


def parameter_count(m: int, rank: int, s: int, d: int, offset: str) -> int:
    """Trainable numbers: m d + (s + d) r for `position`, m d + 2 d r + r + d for `token` (no offset at r = 0)."""
    if rank == 0:
        return m * d
    return m * d + ((s + d) * rank if offset == "position" else 2 * d * rank + rank + d)


def rank_for_budget(budget_tokens: int, m: int, s: int, d: int, offset: str) -> int:
    """The rank with which the adapter has as many trainable numbers as a soft prompt of `budget_tokens` rows.

    Raises:
        ValueError: the nearest whole rank misses the budget by more than 5 %.
    """
    budget = budget_tokens * d
    spare, per_rank = (budget - m * d, s + d) if offset == "position" else (budget - m * d - d, 2 * d + 1)
    rank = max(0, round(spare / per_rank))
    count = parameter_count(m, rank, s, d, offset)
    if abs(count - budget) > BUDGET_TOLERANCE * budget:
        raise ValueError(
            f"no rank gives {budget_tokens} tokens x {d} = {budget:,} trainable numbers with {m} virtual tokens and "
            f"inputs of {s} tokens: rank {rank}, the nearest, gives {count:,} ({count / budget - 1:+.1%})"
        )
    return rank


def gamma(config: DeptConfig) -> float:
    """The scale of the position offset."""
    return config.alpha / math.sqrt(config.rank) if config.rank else 0.0


def initial_tensors(config: DeptConfig, embedding: nn.Embedding) -> dict[str, Tensor]:
    """Attribute name -> fp32 initial value; random numbers come from `init_seed` alone.

    A and W1 are Kaiming uniform with a = sqrt(5), for these shapes uniform in +-1/sqrt(r); B, W2 and the biases are
    zero. What the config does not use (P at m = 0, the offset at r = 0) is left out.
    """
    generator = torch.Generator().manual_seed(config.init_seed)
    m, r, d = config.num_virtual_tokens, config.rank or 0, embedding.weight.shape[1]

    def kaiming(rows: int) -> Tensor:
        return nn.init.kaiming_uniform_(torch.empty(rows, r), a=math.sqrt(5), generator=generator)

    tensors = {}
    if m and config.init_token_ids is not None:
        ids = torch.tensor(config.init_token_ids, device=embedding.weight.device)
        tensors["dept_P"] = embedding(ids).detach().float().clone()
    elif m:
        tensors["dept_P"] = torch.randn(m, d, generator=generator)
    if r and config.offset == "position":
        tensors |= {"dept_A": kaiming(config.max_length), "dept_B": torch.zeros(r, d)}
    elif r:
        tensors |= {
            "dept_W1": kaiming(d),
            "dept_b1": torch.zeros(r),
            "dept_W2": torch.zeros(r, d),
            "dept_b2": torch.zeros(d),
        }
    return tensors


class DeptEmbedding(nn.Module, BaseTunerLayer):
    """The input embedding with the adapters' tensors beside it.

    Called with token ids it returns the frozen embeddings unchanged, because the same module may serve a decoder or,
    tied, the output head; only `prompted` builds the network's new input.
    """

    adapter_layer_names: tuple[str, ...] = ("dept_P", "dept_A", "dept_B", "dept_W1", "dept_b1", "dept_W2", "dept_b2")

    def __init__(self, base_layer: nn.Embedding, adapter_name: str, config: DeptConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.configs: dict[str, DeptConfig] = {}
        self.prompt_encoder: nn.Module | None = None
        """P-tuning's: row numbers (m,) -> prompt (m, d)."""
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        for name in self.other_param_names:
            setattr(self, name, BufferDict(persistent=True))
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: DeptConfig) -> None:
        """Add an adapter."""
        self.configs[adapter_name] = config
        for name, value in initial_tensors(config, self.base_layer).items():
            getattr(self, name)[adapter_name] = nn.Parameter(value.to(self.weight.device))

    def forward(self, input_ids: Tensor) -> Tensor:
        """(...) ids -> (..., d) frozen embeddings."""
        return self.base_layer(input_ids)

    def current(self) -> tuple[DeptConfig, dict[str, Tensor]]:
        """Config and tensors (without the `dept_` in their names) of the one active adapter."""
        if len(self.active_adapters) != 1:
            raise ValueError(f"DePT runs one adapter at a time; active are {self.active_adapters}.")
        name = self.active_adapters[0]
        present = {n: getattr(self, n) for n in self.adapter_layer_names}
        return self.configs[name], {n.removeprefix("dept_"): p[name] for n, p in present.items() if name in p}

    def prompted(self, input_ids: Tensor, answer_starts: Tensor | None = None) -> Tensor:
        """(batch, n) ids -> (batch, m + n, d): the prompt, then the shifted embeddings.

        Args:
            input_ids: padded as the adapter's `padding_side` says.
            answer_starts: (batch, 1) column from which the tokens are the answer that a causal model is taught. They
                take no offset and do not move the text's, because none is added to them when they are generated.

        Raises:
            ValueError: n > s, so some positions would have no offset.
        """
        config, tensors = self.current()
        embedded = self.base_layer(input_ids)
        shifted = embedded
        if config.rank:
            columns = torch.arange(input_ids.shape[1], device=input_ids.device)
            if config.offset == "position":
                offset = self._position_offset(config, tensors, columns, answer_starts)
            else:
                offset = self._token_offset(config, tensors, embedded)
            if answer_starts is not None:
                offset = offset * (columns < answer_starts).unsqueeze(-1)
            shifted = embedded + offset  # never in place: with gradient checkpointing the embeddings may be a leaf
        if "P" not in tensors:
            return shifted.to(embedded.dtype)
        prompt = self.prompt(config, tensors).expand(len(input_ids), -1, -1)
        return torch.cat([prompt, shifted.to(prompt.dtype)], dim=1).to(embedded.dtype)

    def prompt(self, config: DeptConfig, tensors: dict[str, Tensor]) -> Tensor:
        """(m, d): what stands in front of the input. P itself, or what is computed from it."""
        if self.prompt_encoder is None:
            return tensors["P"]
        return self.prompt_encoder(torch.arange(len(tensors["P"]), device=tensors["P"].device))

    def product(self, tensors: dict[str, Tensor], rows: Tensor | slice) -> Tensor:
        """(..., d): the chosen rows of A B, before the scale."""
        return tensors["A"][rows] @ tensors["B"]

    def _position_offset(
        self, config: DeptConfig, tensors: dict[str, Tensor], columns: Tensor, answer_starts: Tensor | None
    ) -> Tensor:
        """(n, d), or (batch, n, d) where the answers of a left-padded batch start in different columns."""
        n, s = len(columns), config.max_length
        if answer_starts is None:
            check_length(n, s)
        if config.padding_side == "right":
            rows: Tensor | slice = slice(n)
        elif answer_starts is None:
            rows = slice(s - n, s)
        else:
            rows = (columns + s - answer_starts).clamp(0, s - 1)
        return gamma(config) * self.product(tensors, rows)

    def _token_offset(self, config: DeptConfig, tensors: dict[str, Tensor], embedded: Tensor) -> Tensor:
        """(batch, n, d), a function of each token's own embedding."""
        hidden = F.relu(embedded.to(tensors["W1"].dtype) @ tensors["W1"] + tensors["b1"])
        return F.dropout(hidden, config.token_dropout, self.training) @ tensors["W2"] + tensors["b2"]


class DeptModel(BaseTuner):
    """Turns token ids into prompted embeddings before the base model's `forward` and `generate`.

    Outputs of encoders and causal models have m more positions in front, as under peft's prompt tuning; an
    encoder-decoder's encoder has them, its decoder not. `generate` returns what the base model's would: for a causal
    model the ids of the input followed by the new ones. Calls with `inputs_embeds` are passed through as they are.
    """

    prefix = "dept_"
    tuner_layer_cls = DeptEmbedding
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - as peft declares it

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        assert isinstance(peft_config, DeptConfig)
        embedding = self.model.get_input_embeddings()
        self.first_position = first_position(self.model)
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

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: DeptConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **unused: Any,
    ) -> None:
        if isinstance(target, DeptEmbedding):
            target.update_layer(adapter_name, peft_config)
        else:
            assert isinstance(target, nn.Embedding)
            self._replace_module(parent, target_name, self.tuner_layer_cls(target, adapter_name, peft_config), target)

    def _check_tied_modules(self, model: nn.Module, peft_config: PeftConfig) -> None:
        """Nothing to check: the embedding matrix itself is never changed, so a tied output head is not concerned."""

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            "A DePT adapter cannot be merged into the base model: a soft prompt and input offsets are not a change of "
            "any weight. Keep the adapter beside the model, or call unload() to drop it."
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ValueError("DePT does not support adapter_names (several adapters in one batch). Use set_adapter.")
        yield

    @property
    def layer(self) -> DeptEmbedding:
        """The wrapped input embedding."""
        return self.model.get_input_embeddings()

    def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """The base model's forward on the prompted embeddings of `input_ids` (batch, n).

        In a causal model's teacher forcing the answer begins at the columns `answer_starts` (batch, 1), else at the
        first of `labels`: see `DeptEmbedding.prompted`.
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
        if new.get("past_key_values") is not None and new["past_key_values"].get_seq_length() > 0:
            raise ValueError("DePT puts its prompt before the first token: call generate to continue from a cache.")
        mask = new.get("attention_mask")
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
        new["inputs_embeds"] = self.layer.prompted(input_ids, starts)
        return new

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


def check_length(longest: int, s: int) -> None:
    """Raises ValueError for a text with positions that have no offset."""
    if longest > s:
        raise ValueError(
            f"an input of {longest} tokens, but this DePT adapter has offsets for max_length={s}. Truncate the input, "
            "or train with a longer max_length."
        )


def first_position(model: PreTrainedModel) -> int:
    """The position id of a first token: 0, but padding_idx + 1 in RoBERTa and its relatives."""
    relatives = any(hasattr(m, "create_position_ids_from_inputs_embeds") for m in model.modules())
    return int(model.config.pad_token_id) + 1 if relatives else 0


def put_in_front(input_ids: Tensor, generated: Any) -> Any:
    """Ids of the input before the generated ones, which a model fed with embeddings leaves out.

    `generated` is a (batch x returned sequences, new) tensor or an output object that holds one in `sequences`.
    """
    if not isinstance(generated, Tensor):
        generated.sequences = put_in_front(input_ids, generated.sequences)
        return generated
    repeated = input_ids.repeat_interleave(len(generated) // len(input_ids), dim=0)
    return torch.cat([repeated, generated], dim=1)


def register_dept() -> None:
    """Make peft know the type DEPT."""
    register_type(DeptConfig, DeptModel)


class DeptTuner(PeftTuner):
    """DePT in a benchmark run. Groups `prompt` (P) and `offset` (A and B, or W1, b1, W2, b2)."""

    identity_at_start = "prompt_tuning"
    budget_knob = "rank"
    cfg: schema.DeptConfig
    needs_answer_starts = True

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        config = self.peft_config(backbone, context)
        m, limit = config.num_virtual_tokens, backbone.max_positions
        if limit is not None and m + context.max_length > limit:
            raise UsageError(
                f"method.tuner.num_virtual_tokens={m} and trainer.max_length={context.max_length} need "
                f"{m + context.max_length} positions, but model={backbone.name} has {limit}. "
                f"Use trainer.max_length={limit - m} or less, or fewer virtual tokens."
            )
        self.virtual_tokens = 0 if backbone.family == "seq2seq" else m
        model = wrap(backbone, config, context.seed)
        rows = initial_rows(self.cfg, backbone, context)
        if rows is not None:
            set_prompt(model, rows)
        if self.cfg.init == "bayesprompt":
            self.notes.append(f"init=bayesprompt looked at {len(context.pool)} unlabelled texts of the training split")
        return model

    def peft_config(self, backbone: Backbone, context: TunerContext) -> DeptConfig:
        """The adapter's config for this backbone."""
        return DeptConfig(
            **self.soft_prompt(backbone, context),
            rank=self.rank(backbone, context),
            num_virtual_tokens_budget=self.cfg.budget_tokens,
            alpha=self.cfg.alpha,
            offset=self.cfg.offset,
            token_dropout=self.cfg.token_dropout,
        )

    def soft_prompt(self, backbone: Backbone, context: TunerContext) -> dict[str, Any]:
        """The part of the adapter's config that every soft prompt has."""
        return {
            "task_type": task_type(backbone),
            "num_virtual_tokens": self.cfg.num_virtual_tokens,
            "max_length": context.max_length,
            "padding_side": "left" if backbone.family == "causal" else "right",
            "init_token_ids": initial_token_ids(self.cfg, backbone, context),
            "init_seed": context.seed,
        }

    def rank(self, backbone: Backbone, context: TunerContext) -> int:
        """The configured rank, or the one that `budget_tokens` leads to.

        Raises:
            UsageError: both are given or none is, no rank meets the budget, or nothing would be trained.
        """
        cfg, m = self.cfg, self.cfg.num_virtual_tokens
        if cfg.budget_tokens is None:
            if cfg.rank is None:
                raise UsageError("method.tuner.rank=null: set it, or method.tuner.budget_tokens to derive it from.")
            if cfg.rank == 0 and m == 0:
                raise UsageError("method.tuner.num_virtual_tokens=0 and method.tuner.rank=0: nothing to train.")
            return cfg.rank
        if cfg.rank is not None:
            raise UsageError(
                f"method.tuner.budget_tokens={cfg.budget_tokens} derives the rank, but method.tuner.rank={cfg.rank} "
                "is set too. Add method.tuner.rank=null, or drop the budget."
            )
        try:
            return rank_for_budget(cfg.budget_tokens, m, context.max_length, backbone.hidden_size, cfg.offset)
        except ValueError as error:
            raise UsageError(
                f"method.tuner.budget_tokens={cfg.budget_tokens}: {error}. Choose another "
                "method.tuner.num_virtual_tokens, or set method.tuner.rank instead of a budget."
            ) from None

    def warm_start(self, model: nn.Module, folder: Path) -> None:
        """Start from another run of this tuner; from any other soft prompt take the rows of the prompt."""
        try:
            self.load(model, folder)
        except UsageError:
            rows = stored_prompt(folder)
            if rows is None or rows.shape[1] != adapter_of(model)[1]["P"].shape[1]:
                raise
            set_prompt(model, rows)
            self.notes.append(f"only the {len(rows)} rows of the stored prompt were taken over")

    def param_groups(self, model: nn.Module) -> ParamGroups:
        groups: ParamGroups = {"prompt": [], "offset": []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups["prompt" if ".dept_P." in name else "offset"].append(parameter)
        return {name: parameters for name, parameters in groups.items() if parameters}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        rank, s, d = self.rank(backbone, context), context.max_length, backbone.hidden_size
        return parameter_count(self.cfg.num_virtual_tokens, rank, s, d, self.cfg.offset)


@torch.no_grad()
def set_prompt(model: nn.Module, rows: Tensor) -> None:
    """Overwrite P of the active adapter, its rows filled in turn from `rows` (any number, d)."""
    prompt = adapter_of(model)[1]["P"]
    prompt.copy_(rows[torch.arange(len(prompt)) % len(rows)])


def adapter_of(model: nn.Module) -> tuple[DeptConfig, dict[str, Tensor]]:
    """Config and tensors of the active adapter of what `DeptTuner.build` returned."""
    assert isinstance(model, PeftModel)
    assert isinstance(model.base_model, DeptModel)
    return model.base_model.layer.current()
