"""Our RLOO against trl's, the code of another: advantages of a round, and the loss after the policy has moved.

trl is no dependency: `pip install trl accelerate datasets` into an environment of your own runs it (seen with 1.16).
No network is trained or loaded: trl's trainer is given its answers, their rewards and log-probabilities.
"""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.stages.reinforcement import ReinforcementOptions, formulas
from peftbench.stages.reinforcement.algorithms import ALGORITHMS

LENGTHS = [3, 1, 4, 2, 2, 5]
SAMPLES, BETA, CLIP = 3, 0.2, 0.2


def flat(seed: int, scale: float) -> Tensor:
    """(tokens,) numbers."""
    return scale * torch.randn(sum(LENGTHS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OLD, REFERENCE, NEW = flat(1, 1.0) - 3, flat(2, 1.0) - 3, flat(1, 1.0) - 3 + flat(3, 0.5)
REWARDS = torch.tensor([1.0, -1.0, -3.0, -3.0, 1.0, 1.0], dtype=torch.float64)


def padded(tokens: Tensor) -> Tensor:
    """(answers, longest) as trl has them."""
    return torch.nn.utils.rnn.pad_sequence(list(tokens.split(LENGTHS)), batch_first=True, padding_value=7.0)


class Network:
    """What trl asks of a network before it calls it."""

    training = True
    is_gradient_checkpointing = False


def trls_trainer() -> Any:
    """trl's RLOOTrainer without a network."""
    trainer_module = pytest.importorskip("trl.trainer.rloo_trainer")
    from accelerate import Accelerator

    class Given(trainer_module.RLOOTrainer):  # type: ignore[misc]
        """What a network, a tokenizer and a judge would say is given."""

        def __init__(self) -> None:
            self.accelerator = Accelerator(cpu=True)
            self.args = SimpleNamespace(
                per_device_train_batch_size=len(LENGTHS), gradient_checkpointing_kwargs=None, report_to=[]
            )
            self.policy, self.ref_model = Network(), Network()
            self.model = self.policy
            self.known = {self.policy: OLD, self.ref_model: REFERENCE}
            self._tokenizer = SimpleNamespace(pad_token_id=0)
            self.num_generations, self.beta, self.normalize_advantages = SAMPLES, BETA, False
            self.epsilon_low = self.epsilon_high = CLIP
            self.pad_to_multiple_of = self.reward_clip_range = self.eos_token_ids = None
            self.mask_truncated_completions = self.aux_loss_enabled = False
            self.reward_weights, self.reward_func_names = torch.ones(1, dtype=torch.float64), ["judge"]
            self._metrics = {"train": defaultdict(list)}
            self._logs = {
                "prompt": deque(),
                "completion": deque(),
                "advantages": deque(),
                "rewards": defaultdict(deque),
            }
            self._pending_extra_logs, self._pending_metrics = {}, {}
            self.state = SimpleNamespace(global_step=0)

        def _generate(self, prompts: list[str]) -> tuple[list[list[int]], list[list[int]], list[str]]:
            return [[1, 2] for _ in prompts], [[3] * length for length in LENGTHS], ["" for _ in prompts]

        def _calculate_rewards(self, *given: object) -> Tensor:
            return REWARDS[:, None]

        def _get_per_token_logps_and_entropies(self, model: Any, *given: object, **more: object) -> tuple[Any, ...]:
            found = padded(self.known[model])
            return found, torch.zeros_like(found), None

    return Given()


@pytest.mark.slow
def test_rloo_is_trls() -> None:
    theirs = trls_trainer()
    batch = theirs._generate_and_score_completions([{"prompt": "a"}] * SAMPLES + [{"prompt": "b"}] * SAMPLES)

    rloo, options = ALGORITHMS["rloo"], ReinforcementOptions(algorithm="rloo", samples=SAMPLES, clip=CLIP)
    advantages, _ = rloo.advantages(REWARDS, OLD - REFERENCE, torch.zeros_like(OLD), LENGTHS, options, BETA)
    assert torch.allclose(advantages, formulas.spread(batch["advantages"], LENGTHS), rtol=0, atol=1e-12)

    new = NEW.clone().requires_grad_()
    losses = rloo.losses(new, {"old": OLD, "advantages": advantages, "lengths": LENGTHS}, options, BETA)
    prompts = len(LENGTHS) / SAMPLES
    ours = rloo.total(losses, LENGTHS, torch.tensor(LENGTHS), prompts) / prompts  # as the loop divides it
    moved = NEW.clone().requires_grad_()
    theirs.known[theirs.policy] = moved
    loss = theirs._compute_loss(theirs.policy, batch)
    assert torch.allclose(ours, loss, rtol=0, atol=1e-12)
    assert ((NEW - OLD).split(LENGTHS)[0].sum().exp() - 1).abs() > 1e-3, "the policy has moved"

    (gradient,) = torch.autograd.grad(ours, new)
    (wanted,) = torch.autograd.grad(loss, moved)
    assert torch.allclose(gradient, wanted, rtol=0, atol=1e-12)
    assert (gradient == 0).any(), "an answer is held by the clip"
