"""The `reinforcement` stage: answers are drawn, judged, and made likelier or rarer (PPO, RLOO, GRPO).

The stage is ours, after the papers and, for PPO, after the last version of trl's `PPOTrainer` for judged texts, which
trl has since removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.config import registry
from peftbench.config.components import TRAINING, choices
from peftbench.config.schema import number, one_of, packaged, rates
from peftbench.errors import UsageError
from peftbench.formulations.declared import declaration
from peftbench.stages.base import Stage
from peftbench.tasks.problems import kind, kinds

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

NAME = "reinforcement"
KEY = f"method.{NAME}"


@packaged("method/ppo", NAME)
@dataclass
class ReinforcementOptions:
    """`method.reinforcement`: how answers are drawn and what is learned from them."""

    algorithm: str = one_of("ppo", "rloo", "grpo")
    steps: int | None = number(ge=0)
    epochs: float | None = number(gt=0)
    batch_size: int = number(ge=1)
    micro_batch: int | None = number(ge=1)
    samples: int = number(ge=1)
    inner_epochs: int = number(ge=1)
    warmup: float = number(ge=0)
    schedule: str = one_of("linear", "cosine", "constant")
    lr: dict[str, float] = rates()
    reward_right: float = number()
    reward_wrong: float = number()
    reward_invalid: float = number()
    reference: str = one_of("base", "start")
    beta: float = number(ge=0)
    kl_target: float | None = number(gt=0)
    kl_horizon: float = number(gt=0)
    clip: float = number(gt=0)
    gamma: float = number(ge=0, le=1)
    gae_lambda: float = number(ge=0, le=1)
    value_weight: float = number(ge=0)
    value_clip: float = number(gt=0)
    most_ratio: float | None = number(gt=1)


def fits(run: RunConfig) -> None:
    """Whether answers can be drawn, judged and compared with a reference, as far as that is known without weights.

    Raises:
        UsageError: the formulation does not generate, or not freely; the targets have no reward; the tuner cannot be
            switched off; one answer a prompt cannot be compared with others.
    """
    options, posed = run.method.options(NAME), run.method.formulation
    problem = choices(run).problem
    declared = declaration(posed.name)  # whether it fits the backbone is asked when that is chosen, as of any method
    if declared.stands_for is not None:
        declared = declaration(declared.stands_for(run.model.family, run.labelled, problem))
    if not declared.writes(posed):
        raise UsageError(
            f"method/formulation={posed.name}: the stage {NAME} draws answers that are written out, and this scores or "
            "classifies. Use method/formulation=generate, or method/formulation=prompted with "
            "method.formulation.by=generate."
        )
    for key, plain in (("constrain", "none"), ("sample", False)):
        if getattr(posed, key, plain) != plain:
            raise UsageError(
                f"method.formulation.{key}={str(getattr(posed, key)).lower()}: the stage {NAME} draws from the model's "
                f"own distribution itself, and the answers that are tested are the likeliest ones. Set "
                f"method.formulation.{key}={str(plain).lower()}."
            )
    if kind(problem).reward is None:
        able = ", ".join(name for name, other in sorted(kinds().items()) if other.reward)
        raise UsageError(
            f"task={run.task.name}: the stage {NAME} has no reward for {problem} targets. Those of these have one: "
            f"{able}."
        )
    if options.algorithm != "ppo" and options.samples < 2:
        raise UsageError(
            f"{KEY}.samples={options.samples}: {options.algorithm} compares the answers to one prompt with each other. "
            f"Use 2 and more, or {KEY}.algorithm=ppo."
        )
    _check_reference(run, options)


def _check_reference(run: RunConfig, options: ReinforcementOptions) -> None:
    tuner = run.method.tuner
    if options.reference != "base" or not registry.is_declared("tuner", tuner.name):
        return
    if not registry.get("tuner", tuner.name).switches_off(tuner):
        raise UsageError(
            f"{KEY}.reference=base: is the network with the tuner switched off, and method/tuner={tuner.name} cannot "
            f"be (it changes the network's own weights or inputs). Use method/tuner=lora, or {KEY}.reference=start, "
            "which keeps a copy of what is trained."
        )


STAGE = Stage(
    run="peftbench.stages.reinforcement.training:reinforcement",
    fits=fits,
    options=ReinforcementOptions,
    section=NAME,
    uses=TRAINING,
    several_processes=False,
    steps_key=f"{KEY}.steps",
)
