"""PPO, RLOO and GRPO: what each makes of a round of judged answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from peftbench.formulations.base import Batch
from peftbench.stages.reinforcement import ReinforcementOptions, formulas


class Algorithm(ABC):
    """What differs between them. Of `batch`, see `policy.Policy.collate`: a part of a round."""

    critic = False
    """Whether a value head is trained along."""

    @abstractmethod
    def advantages(
        self, rewards: Tensor, log_ratios: Tensor, values: Tensor, lengths: Sequence[int],
        options: ReinforcementOptions, beta: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Advantages and what the value head is to learn, (tokens,) both, of a whole round."""

    @abstractmethod
    def losses(self, new: Tensor, batch: Batch, options: ReinforcementOptions, beta: float) -> Tensor:
        """Of tokens or of answers, as `total` takes them; `new`: (tokens,) log-probabilities of the policy now."""

    def value_losses(self, values: Tensor, batch: Batch, options: ReinforcementOptions) -> Tensor:
        """(tokens,) of the value head, weighted."""
        return options.value_weight * formulas.value_losses(
            values, batch["values"], batch["returns"], options.value_clip
        )

    @abstractmethod
    def total(self, losses: Tensor, lengths: Sequence[int], every: Tensor, prompts: float) -> Tensor:
        """The batch's share of the mean loss of a round, times its number of `prompts`; `lengths`: of the batch's
        answers, `every`: of all in the round."""

    def next_beta(self, beta: float, kl: float, answers: int, options: ReinforcementOptions) -> float:
        """The weight of the KL in the next round."""
        if options.kl_target is None:
            return beta
        return formulas.next_beta(beta, kl, options.kl_target, options.kl_horizon, answers)


class Ppo(Algorithm):
    """Tokens are actions, a value head is the baseline (Schulman et al. 2017; for texts, Ziegler et al. 2019)."""

    critic = True

    def advantages(
        self, rewards: Tensor, log_ratios: Tensor, values: Tensor, lengths: Sequence[int],
        options: ReinforcementOptions, beta: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        given = formulas.token_rewards(rewards, log_ratios, lengths, beta)
        found, returns = formulas.gae(given, values, lengths, options.gamma, options.gae_lambda)
        return formulas.whitened(found), returns

    def losses(self, new: Tensor, batch: Batch, options: ReinforcementOptions, beta: float) -> Tensor:
        return formulas.clipped(new - batch["old"], batch["advantages"], options.clip)

    def total(self, losses: Tensor, lengths: Sequence[int], every: Tensor, prompts: float) -> Tensor:
        return losses.sum() * prompts / int(every.sum())


class Rloo(Algorithm):
    """An answer is one action, the other answers to its prompt are the baseline (Ahmadian et al. 2024, arXiv
    2402.14740). The KL is a part of the reward. With more than one inner epoch the answer's ratio is clipped, as in
    trl; in the first step on a round the gradient is REINFORCE's."""

    def advantages(
        self, rewards: Tensor, log_ratios: Tensor, values: Tensor, lengths: Sequence[int],
        options: ReinforcementOptions, beta: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        given = rewards - beta * formulas.sums(log_ratios, lengths)
        found = formulas.leave_one_out(given, options.samples)
        return formulas.spread(found, lengths), torch.zeros_like(values)

    def losses(self, new: Tensor, batch: Batch, options: ReinforcementOptions, beta: float) -> Tensor:
        lengths = batch["lengths"]
        ends = torch.tensor(lengths, device=new.device).cumsum(0) - 1
        return formulas.clipped(formulas.sums(new - batch["old"], lengths), batch["advantages"][ends], options.clip)

    def total(self, losses: Tensor, lengths: Sequence[int], every: Tensor, prompts: float) -> Tensor:
        return losses.sum() * prompts / len(every)


class Grpo(Algorithm):
    """Rewards relative to the prompt's other answers, tokens clipped as in PPO, the KL in the loss (Shao et al. 2024,
    arXiv 2402.03300)."""

    def advantages(
        self, rewards: Tensor, log_ratios: Tensor, values: Tensor, lengths: Sequence[int],
        options: ReinforcementOptions, beta: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        found = formulas.group_relative(rewards, options.samples)
        return formulas.spread(found, lengths), torch.zeros_like(values)

    def losses(self, new: Tensor, batch: Batch, options: ReinforcementOptions, beta: float) -> Tensor:
        moved = formulas.clipped(new - batch["old"], batch["advantages"], options.clip)
        return moved + beta * formulas.kl_estimates(new - batch["reference"])

    def total(self, losses: Tensor, lengths: Sequence[int], every: Tensor, prompts: float) -> Tensor:
        own = formulas.sums(losses, lengths) / torch.tensor(lengths, device=losses.device)
        return own.sum() * prompts / len(every)


ALGORITHMS: dict[str, Algorithm] = {"ppo": Ppo(), "rloo": Rloo(), "grpo": Grpo()}
