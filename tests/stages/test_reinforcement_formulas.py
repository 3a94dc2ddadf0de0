"""The arithmetic of PPO, RLOO and GRPO against the papers' formulas written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftbench.stages.reinforcement import formulas
from peftbench.tasks.base import DataSource, TaskData
from peftbench.tasks.problems import kind
from peftbench.tasks.problems.base import Rewards

LENGTHS = [3, 1, 2]
RANDOM = np.random.RandomState(0)
TOKENS = RANDOM.normal(size=(4, 6))


def close(found: torch.Tensor, wanted: np.ndarray | list[float]) -> bool:
    return np.allclose(found.numpy(), np.asarray(wanted), rtol=0, atol=1e-12)


def test_the_reward_stands_at_the_last_token_of_an_answer() -> None:
    ratios = torch.tensor(TOKENS[0])
    found = formulas.token_rewards(torch.tensor([1.0, -1.0, -3.0]).double(), ratios, LENGTHS, beta=0.2)
    wanted = -0.2 * TOKENS[0]
    wanted[[2, 3, 5]] += [1, -1, -3]
    assert close(found, wanted)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0)])
def test_gae_is_the_weighted_sum_of_all_later_errors(gamma: float, lam: float) -> None:
    rewards, values = TOKENS[0], TOKENS[1]
    wanted, start = [], 0
    for length in LENGTHS:
        r, v = rewards[start : start + length], np.append(values[start : start + length], 0)
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        wanted += [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, length)) for t in range(length)]
        start += length
    found, returns = formulas.gae(torch.tensor(rewards), torch.tensor(values), LENGTHS, gamma, lam)
    assert close(found, wanted)
    assert close(returns, np.array(wanted) + values)
    if gamma == lam == 1:
        assert close(returns[:3], np.cumsum(rewards[2::-1])[::-1]), "the return of an answer is what is still to come"


def test_whitened_advantages_have_mean_0_and_variance_1() -> None:
    x = TOKENS[0]
    assert close(formulas.whitened(torch.tensor(x)), (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-8))
    assert formulas.whitened(torch.tensor([5.0])).tolist() == [0.0]
    assert formulas.whitened(torch.full((4,), -3.0)).tolist() == [0.0] * 4


def test_leave_one_out_compares_with_the_others() -> None:
    rewards = RANDOM.normal(size=(3, 4))
    wanted = [r - np.mean(np.delete(group, i)) for group in rewards for i, r in enumerate(group)]
    assert close(formulas.leave_one_out(torch.tensor(rewards).flatten(), 4), wanted)


def test_group_relative_is_the_standard_score_in_the_group() -> None:
    rewards = RANDOM.normal(size=(3, 4))
    wanted = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    assert close(formulas.group_relative(torch.tensor(rewards).flatten(), 4), wanted.ravel())
    assert formulas.group_relative(torch.full((4,), -3.0), 4).tolist() == [0.0] * 4, "alike: nothing to learn"


def test_clipped_loss_takes_the_worse_of_both() -> None:
    new, old, advantages = TOKENS[0], TOKENS[1], TOKENS[2]
    rho = np.exp(new - old)
    wanted = -np.minimum(rho * advantages, np.clip(rho, 0.8, 1.2) * advantages)
    assert close(formulas.clipped(torch.tensor(new - old), torch.tensor(advantages), 0.2), wanted)
    log_ratio = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    formulas.clipped(log_ratio, torch.tensor([1.0, -1.0, -1.0, 1.0]), 0.2).sum().backward()
    assert (log_ratio.grad != 0).tolist() == [False, False, True, True], "no gradient beyond the clip, but back from it"


def test_value_loss_is_clipped_round_the_old_value() -> None:
    values, old, returns = TOKENS[0], TOKENS[1], TOKENS[2]
    held = np.clip(values, old - 0.2, old + 0.2)
    wanted = 0.5 * np.maximum((values - returns) ** 2, (held - returns) ** 2)
    assert close(formulas.value_losses(*map(torch.tensor, (values, old, returns)), 0.2), wanted)


def test_the_kl_estimate_is_never_negative_and_0_at_the_reference() -> None:
    ratio = TOKENS[0] - TOKENS[1]
    assert close(formulas.kl_estimates(torch.tensor(ratio)), np.exp(-ratio) + ratio - 1)
    assert formulas.kl_estimates(torch.tensor(ratio)).min() >= 0
    assert formulas.kl_estimates(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_beta_follows_the_kl() -> None:
    assert formulas.next_beta(0.2, kl=6.0, target=6.0, horizon=10_000, answers=16) == 0.2
    assert formulas.next_beta(0.2, kl=60.0, target=6.0, horizon=10_000, answers=16) == 0.2 * (1 + 0.2 * 16 / 10_000)
    assert formulas.next_beta(0.2, kl=5.4, target=6.0, horizon=100, answers=10) == pytest.approx(0.2 * (1 - 0.1 * 0.1))
    assert formulas.next_beta(0.2, kl=0.0, target=6.0, horizon=100, answers=10) == 0.2 * (1 - 0.2 * 0.1)


def task(**changes: object) -> TaskData:
    facts = {
        "name": "toy", "subset": "", "train": [], "dev": [], "test": [], "labels": ("no", "yes"), "label_words": {},
        "fields": ("text",), "problem": "classification", "main_metric": "accuracy", "metrics": ("accuracy",),
        "source": DataSource("packaged", "test"),
    }  # fmt: skip
    return TaskData(**{**facts, **changes})  # type: ignore[arg-type]


TABLE = Rewards(1.0, -1.0, -3.0)


def test_rewards_of_labels() -> None:
    reward = kind("classification").reward
    assert reward is not None
    assert [reward("yes", answer, task(), TABLE) for answer in ("yes", "no", None)] == [1, -1, -3]


def test_rewards_of_scores() -> None:
    reward, stsb = kind("regression").reward, task(problem="regression", labels=(), score_range=(0.0, 5.0))
    assert reward is not None
    assert [reward(3.5, answer, stsb, TABLE) for answer in (3.0, 3.5, None)] == [2.0, 2.5, -2.5]
