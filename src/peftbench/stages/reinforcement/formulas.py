"""The arithmetic of PPO, RLOO and GRPO on plain tensors.

What belongs to tokens is flat: all tokens of the first answer, then those of the second; `lengths` says how many each
has. What belongs to answers has a place for each; answers to one prompt stand together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-8
"""Added to a variance, as trl does."""
GROUP_EPSILON = 1e-4
"""Added to the standard deviation of a group's rewards, as trl does; the paper has none."""


def sums(tokens: Tensor, lengths: Sequence[int]) -> Tensor:
    """(answers,) sums of what their tokens have."""
    return torch.stack([part.sum() for part in tokens.split(list(lengths))])


def spread(answers: Tensor, lengths: Sequence[int]) -> Tensor:
    """(tokens,) what their answer has."""
    return answers.repeat_interleave(torch.tensor(list(lengths), device=answers.device))


def token_rewards(rewards: Tensor, log_ratios: Tensor, lengths: Sequence[int], beta: float) -> Tensor:
    """(tokens,) -`beta` log(pi / ref) of each token, and the answer's reward at its last one (Ziegler et al. 2019)."""
    found = -beta * log_ratios
    ends = torch.tensor(list(lengths), device=found.device).cumsum(0) - 1
    found[ends] += rewards
    return found


def gae(rewards: Tensor, values: Tensor, lengths: Sequence[int], gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (tokens,) both, by generalised advantage estimation (Schulman et al. 2016): with
    d_t = r_t + gamma V_{t+1} - V_t, A_t = d_t + gamma lam A_{t+1}, and R_t = A_t + V_t. Behind the last token there is
    nothing."""
    advantages = torch.zeros_like(values)
    start = 0
    for length in lengths:
        later, value = 0.0, 0.0
        for t in reversed(range(start, start + length)):
            later = float(rewards[t]) + gamma * value - float(values[t]) + gamma * lam * later
            value, advantages[t] = float(values[t]), later
        start += length
    return advantages, advantages + values


def whitened(values: Tensor) -> Tensor:
    """With mean 0 and variance 1 (unbiased), over all tokens of a batch; a single one is 0."""
    if len(values) < 2:
        return torch.zeros_like(values)
    return (values - values.mean()) * torch.rsqrt(values.var() + EPSILON)


def leave_one_out(rewards: Tensor, samples: int) -> Tensor:
    """(answers,) reward less the mean of the other answers to the prompt: RLOO (Ahmadian et al. 2024, arXiv
    2402.14740)."""
    groups = rewards.view(-1, samples)
    return ((samples * groups - groups.sum(1, keepdim=True)) / (samples - 1)).flatten()


def group_relative(rewards: Tensor, samples: int) -> Tensor:
    """(answers,) reward less the mean of the prompt's answers, in their standard deviations (unbiased): GRPO (Shao et
    al. 2024, arXiv 2402.03300, equation 3 and section 4.1.2)."""
    groups = rewards.view(-1, samples)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + GROUP_EPSILON)).flatten()


def clipped(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - `clip`, 1 + `clip`)) with rho = exp(`log_ratio`): PPO's loss (Schulman et al.
    2017, equation 7)."""
    ratio = log_ratio.exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def value_losses(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error, of the value or of the value held within `clip` of the old one, whichever is larger."""
    held = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (held - returns).square())


def kl_estimates(log_ratios: Tensor) -> Tensor:
    """ref / pi - log(ref / pi) - 1 of each token, of log(pi / ref): unbiased and never negative (GRPO, equation 4)."""
    return (-log_ratios).exp() + log_ratios - 1


def next_beta(beta: float, kl: float, target: float, horizon: float, answers: int) -> float:
    """The weight of the KL after a batch of `answers` whose mean KL was `kl` (Ziegler et al. 2019, section 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * answers / horizon)
