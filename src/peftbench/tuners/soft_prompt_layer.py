"""A soft prompt and input offsets at the word embeddings, for every tuner that trains in front of the network.

Saved as adapters of the type DEPT, whose formulas and source the tuner `dept` has: at rank 0 it is a plain soft prompt.
Here are the config that peft stores, the number of trainable parameters, the initial values, and the wrapped
embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftType, TaskType
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

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


class SoftPromptEmbedding(nn.Module, BaseTunerLayer):
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


def check_length(longest: int, s: int) -> None:
    """Raises ValueError for a text with positions that have no offset."""
    if longest > s:
        raise ValueError(
            f"an input of {longest} tokens, but this DePT adapter has offsets for max_length={s}. Truncate the input, "
            "or train with a longer max_length."
        )
