"""DePT, decomposed prompt tuning (Shi and Lipani, ICLR 2024, arXiv 2309.05173), as a tuner that peft hosts.

The input of the frozen network becomes [P ; E(x) + D]: a short soft prompt P in front of the frozen word embeddings
E(x), shifted by a trained offset D.

offset=position (DePT): D = alpha / sqrt(r) * A B, one row a *position*, the same for every text.
offset=token (ADePT; Tang, Hu and Liu, ICLR 2025): D = ReLU(E W1 + b1) W2 + b2, a function of each *token's* embedding.

Either way D = 0 before the first step, so training starts from plain prompt tuning with P.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.models.checks import check_length
from peftbench.tuners.base import ParamGroups, TunerContext
from peftbench.tuners.dept import DeptOptions
from peftbench.tuners.peft_adapter import PeftTuner, task_type, wrap
from peftbench.tuners.prompt_init import initial_rows, initial_token_ids, stored_prompt
from peftbench.tuners.ranks import Rank
from peftbench.tuners.soft_prompt_layer import DeptConfig, parameter_count, rank_for_budget
from peftbench.tuners.soft_prompt_model import adapter_of


class DeptTuner(PeftTuner):
    """DePT in a benchmark run. Groups `prompt` (P) and `offset` (A and B, or W1, b1, W2, b2)."""

    identity_at_start = "prompt_tuning"
    budget_knob = "rank"
    cfg: DeptOptions
    needs_answer_starts = True

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        check_length(backbone, context.max_length, self.cfg.num_virtual_tokens, "method.tuner.num_virtual_tokens")

    def ranks(self, backbone: Backbone, context: TunerContext) -> list[Rank]:
        if not isinstance(self.cfg, DeptOptions) or self.cfg.offset == "token":
            return []  # a soft prompt without an offset; or one with a ReLU between its two factors
        return [offset_rank(self.rank(backbone, context), backbone, context)]

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        self.check(backbone, context)
        config = self.peft_config(backbone, context)
        m = config.num_virtual_tokens
        self.virtual_tokens = 0 if backbone.family == "seq2seq" else m
        self.longest_text = config.max_length if config.rank and config.offset == "position" else None
        model = wrap(backbone, config, context.seed)
        rows = self.start_rows(backbone, context)
        if rows is not None:
            set_prompt(model, rows)
        if self.cfg.init == "bayesprompt":
            self.notes.append(f"init=bayesprompt looked at {len(context.pool)} unlabelled texts of the training split")
        return model

    def start_rows(self, backbone: Backbone, context: TunerContext) -> Tensor | None:
        """(num_virtual_tokens, d) rows to start from; None: tokens' embeddings or random rows (`initial_tensors`)."""
        return initial_rows(self.cfg, backbone, context)

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
            return rank_for_budget(cfg.budget_tokens, m, context.max_length, backbone.embedding_size, cfg.offset)
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
        rank, s, d = self.rank(backbone, context), context.max_length, backbone.embedding_size
        return parameter_count(self.cfg.num_virtual_tokens, rank, s, d, self.cfg.offset)


@torch.no_grad()
def set_prompt(model: nn.Module, rows: Tensor) -> None:
    """Overwrite P of the active adapter, its rows filled in turn from `rows` (any number, d)."""
    prompt = adapter_of(model)[1]["P"]
    prompt.copy_(rows[torch.arange(len(prompt)) % len(rows)])


def offset_rank(rank: int, backbone: Backbone, context: TunerContext) -> Rank:
    """The rank of A B, an offset for each position."""
    s, d = context.max_length, backbone.embedding_size
    return Rank("rank", rank, min(s, d), f"an offset of {s} positions (trainer.max_length) x {d}")
