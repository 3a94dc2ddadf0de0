"""EPT, efficient prompt tuning by prompt fusion and multi-space projection (Lan et al., AAAI 2025, arXiv 2405.11464).

Our reading: no code was released, and the formulas below follow the abstract and third-party descriptions only. Print
results as "EPT (our reading)".

On top of DePT's input [P ; E(x) + gamma C], C = A B, the prompt that stands in front is rebuilt from P and C:

    P* = P + softmax(Q K^T / sqrt(h)) C + sum_i g_i relu(P Down_i) Up_i      Q = P W_q, K = C W_k
    g  = softmax(mean over rows of P W_g)

Both added terms are zero before the first step, and neither reads the text, so that a trained EPT is a DePT adapter
with prompt P* (`export_static`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftType
from torch import Tensor, nn

from peftbench.models.base import Backbone
from peftbench.tuners.adapter_files import write_adapter
from peftbench.tuners.base import ParamGroups, TunerContext
from peftbench.tuners.dept.tuner import DeptTuner, offset_rank
from peftbench.tuners.ept import EptOptions
from peftbench.tuners.peft_types import register_type
from peftbench.tuners.prompt_init import sampled_token_ids
from peftbench.tuners.ranks import Rank
from peftbench.tuners.soft_prompt_layer import DeptConfig, SoftPromptEmbedding, parameter_count
from peftbench.tuners.soft_prompt_model import SoftPromptModel, adapter_of

FUSION, SPACES = ("ept_Wq", "ept_Wk"), ("ept_down", "ept_up", "ept_gate")


@dataclass
class EptConfig(DeptConfig):
    """peft's view of one EPT adapter.

    Attributes:
        fusion: add the attention of the prompt over the rows of C.
        fusion_hidden: h, width of W_q and W_k; 0: no projections, attention by P and C themselves.
        spaces: K, number of subspaces; 0: none.
        bottleneck: b, width of a subspace.
        gate: `prompt_mean` weighs the spaces alike for all rows of the prompt, `per_token` for each row.
        svd_token_ids: s token ids; A and B start from the truncated SVD of their embeddings, and C = A B - A_0 B_0.
            None: as DePT, A random and B zero.
    """

    fusion: bool = True
    fusion_hidden: int = 0
    spaces: int = 4
    bottleneck: int = 4
    gate: str = "prompt_mean"
    svd_token_ids: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.EPT  # type: ignore[attr-defined]
        if self.num_virtual_tokens == 0 or self.offset != "position":
            raise ValueError("EPT rebuilds a prompt from position offsets: num_virtual_tokens >= 1, offset=position.")
        if self.gate not in ("prompt_mean", "per_token"):
            raise ValueError(f"EPT: gate={self.gate}: no such choice; prompt_mean or per_token.")
        if self.svd_token_ids is not None and len(self.svd_token_ids) != self.max_length:
            raise ValueError(f"EPT: {len(self.svd_token_ids)} svd_token_ids for max_length={self.max_length}.")

    @property
    def fuses(self) -> bool:
        """Whether there is anything to attend to."""
        return self.fusion and bool(self.rank)


class EptEmbedding(SoftPromptEmbedding):
    """DePT's layer with the tensors that rebuild the prompt, and A_0, B_0 where A B does not start at zero."""

    adapter_layer_names = (*SoftPromptEmbedding.adapter_layer_names, *FUSION, *SPACES)
    other_param_names = ("ept_start_A", "ept_start_B")

    def update_layer(self, adapter_name: str, config: DeptConfig) -> None:
        assert isinstance(config, EptConfig)
        super().update_layer(adapter_name, config)
        for name, value in rebuilding_tensors(config, self.base_layer.weight.shape[1]).items():
            getattr(self, name)[adapter_name] = nn.Parameter(value.to(self.weight.device))
        if config.svd_token_ids is not None and config.rank:
            ids = torch.tensor(config.svd_token_ids, device=self.weight.device)
            for name, value in zip("AB", factors(self.base_layer(ids).detach().float(), config.rank), strict=True):
                getattr(self, f"dept_{name}")[adapter_name] = nn.Parameter(value.clone())
                getattr(self, f"ept_start_{name}")[adapter_name] = value

    def current(self) -> tuple[DeptConfig, dict[str, Tensor]]:
        config, tensors = super().current()
        name = self.active_adapters[0]
        starts = {n: getattr(self, n) for n in self.other_param_names}
        return config, tensors | {n: values[name] for n, values in starts.items() if name in values}

    def product(self, tensors: dict[str, Tensor], rows: Tensor | slice) -> Tensor:
        product = super().product(tensors, rows)
        if "ept_start_A" in tensors:
            product = product - tensors["ept_start_A"][rows] @ tensors["ept_start_B"]
        return product

    def prompt(self, config: DeptConfig, tensors: dict[str, Tensor]) -> Tensor:
        """P*, (m, d). The fusion attends to all s rows of C, whatever the length of the text."""
        assert isinstance(config, EptConfig)
        rebuilt = short = tensors["P"]
        if config.fuses:
            rebuilt = rebuilt + self._fused(short, self.product(tensors, slice(None)), tensors)
        if config.spaces:
            rebuilt = rebuilt + self._projected(short, tensors, config)
        return rebuilt

    @staticmethod
    def _fused(short: Tensor, values: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """(m, d): attention of the prompt rows over the s rows of C."""
        queries, keys = short, values
        if "ept_Wq" in tensors:
            queries, keys = short @ tensors["ept_Wq"], values @ tensors["ept_Wk"]
        return (queries @ keys.T / math.sqrt(queries.shape[1])).softmax(-1) @ values

    @staticmethod
    def _projected(short: Tensor, tensors: dict[str, Tensor], config: EptConfig) -> Tensor:
        """(m, d): the weighted sum of the K subspaces' projections, each (m, d)."""
        spaces = torch.relu(short @ tensors["ept_down"]) @ tensors["ept_up"]
        return torch.einsum("km,kmd->md", gate_weights(short, tensors["ept_gate"], config.gate), spaces)


def gate_weights(short: Tensor, gate: Tensor, kind: str) -> Tensor:
    """(K, m) weights of the subspaces for each prompt row; each column sums to 1."""
    scores = short @ gate
    if kind == "prompt_mean":
        scores = scores.mean(0, keepdim=True).expand(len(short), -1)
    return scores.softmax(-1).T


def rebuilding_tensors(config: EptConfig, d: int) -> dict[str, Tensor]:
    """Attribute name -> initial value: W_q, W_k and Down Xavier uniform, Up and the gate zero."""
    generator = torch.Generator().manual_seed(config.init_seed + 1)  # DePT's own tensors use init_seed

    def xavier(rows: int, columns: int) -> Tensor:
        return nn.init.xavier_uniform_(torch.empty(rows, columns), generator=generator)

    tensors: dict[str, Tensor] = {}
    if config.fuses and config.fusion_hidden:
        tensors |= {name: xavier(d, config.fusion_hidden) for name in FUSION}
    if config.spaces:
        down = torch.stack([xavier(d, config.bottleneck) for _ in range(config.spaces)])
        up = torch.zeros(config.spaces, config.bottleneck, d)
        tensors |= dict(zip(SPACES, (down, up, torch.zeros(d, config.spaces)), strict=True))
    return tensors


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(s, r) and (r, d): the truncated SVD U_r S_r V_r^T of an (s, d) matrix, S_r shared out by its square root."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root.unsqueeze(1) * v[:rank]


class EptModel(SoftPromptModel):
    """DePT's model around an `EptEmbedding`."""

    prefix = "ept_"
    tuner_layer_cls = EptEmbedding


register_type(EptConfig, EptModel)


class EptTuner(DeptTuner):
    """EPT (our reading). Groups `prompt` (P), `offset` (A and B) and `fusion` (whatever rebuilds the prompt)."""

    cfg: EptOptions  # type: ignore[assignment]

    def ranks(self, backbone: Backbone, context: TunerContext) -> list[Rank]:
        return [offset_rank(self.cfg.rank, backbone, context)]

    def peft_config(self, backbone: Backbone, context: TunerContext) -> EptConfig:
        cfg, s = self.cfg, context.max_length
        return EptConfig(
            **self.soft_prompt(backbone, context),
            rank=cfg.rank,
            alpha=cfg.alpha,
            fusion=cfg.fusion,
            fusion_hidden=cfg.fusion_hidden if cfg.fusion_proj == "linear" else 0,
            spaces=cfg.spaces,
            bottleneck=cfg.bottleneck,
            gate=cfg.gate,
            svd_token_ids=sampled_token_ids(backbone, s, context.seed) if cfg.offset_init == "svd" else None,
        )

    def param_groups(self, model: nn.Module) -> ParamGroups:
        groups: ParamGroups = {"prompt": [], "offset": [], "fusion": []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                kind = "prompt" if ".dept_P." in name else "offset" if ".dept_" in name else "fusion"
                groups[kind].append(parameter)
        return {name: parameters for name, parameters in groups.items() if parameters}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        cfg, d, rank = self.cfg, backbone.embedding_size, self.cfg.rank
        fusion = 2 * d * cfg.fusion_hidden if cfg.fusion and rank and cfg.fusion_proj == "linear" else 0
        spaces = cfg.spaces * (2 * d * cfg.bottleneck + d)
        dept = parameter_count(cfg.num_virtual_tokens, rank, context.max_length, d, "position")
        return dept + fusion + spaces


@torch.no_grad()
def export_static(model: nn.Module, folder: Path) -> None:
    """Write the DePT adapter that computes what a trained EPT does: prompt P*, and C as A B.

    Where A B started at A_0 B_0, C = [A, -A_0] [B ; B_0] has rank 2 r, and alpha grows by sqrt(2) to keep the scale.
    """
    config, tensors = adapter_of(model)
    assert isinstance(config, EptConfig)
    prefix, layer = next((n, m) for n, m in model.named_modules() if isinstance(m, EptEmbedding))
    names = DeptConfig.__dataclass_fields__
    static = DeptConfig(**{n: getattr(config, n) for n in names if n not in ("peft_type", "init_token_ids")})
    stored = {"P": layer.prompt(config, tensors)}
    if config.rank:
        stored |= {"A": tensors["A"], "B": tensors["B"]}
    if "ept_start_A" in tensors:
        stored["A"] = torch.cat([tensors["A"], -tensors["ept_start_A"]], dim=1)
        stored["B"] = torch.cat([tensors["B"], tensors["ept_start_B"]])
        static.rank, static.alpha = 2 * int(config.rank or 0), config.alpha * math.sqrt(2)
    write_adapter(folder, static, {f"{prefix}.dept_{name}": value for name, value in stored.items()})
