"""The stage at work: the policy is trained on the drawn rows, and its sampled answers to test are scored at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from peftbench.formulations.base import Encoded
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import LearnerPredictor, fresh, train_on, uses_dev
from peftbench.stages.ledger import once
from peftbench.stages.reinforcement import NAME, ReinforcementOptions
from peftbench.stages.reinforcement.algorithms import ALGORITHMS
from peftbench.stages.reinforcement.policy import CURVES, VALUE, Judge, Policy
from peftbench.tasks.problems.base import Rewards
from peftbench.training.batching import evaluation_batches

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.learner import Learner
    from peftbench.records.record import Record
    from peftbench.tasks.base import Row

SAMPLED = "_sampled"
"""Ends the names of scores of drawn answers; those of the likeliest ones have the metrics' own names."""
SHOWN = ("reward", "kl", "invalid", "right", "beta")
"""Of the curves: what the record has of the first and of the last round."""


def reinforcement(context: Context, incoming: Predictor | None) -> Predictor:
    """Train what the stage before has left, or a fresh learner (zero-shot), by rewards of its answers to the draw's
    train rows; their targets are looked at by the rewards alone. Without a row, or with no steps, nothing is trained,
    and the answers to test are measured as ever."""
    learner = incoming.learner if isinstance(incoming, LearnerPredictor) else fresh(context).learner
    policy = policy_of(context, learner)
    predictor, rows = Reinforced(policy, context), context.draw.train
    if not rows or policy.options.steps == 0:
        context.reports.append(StageReport(NAME))
        return predictor
    predictor.encode(rows)
    if uses_dev(context):
        predictor.encode(context.draw.dev)
    context.reports.append(once(context, learner, lambda folder: fit(context, predictor, folder)))
    return predictor


def asked(predictor: LearnerPredictor, rows: Sequence[Row]) -> list[Encoded]:
    """Prompts of rows, each counting alike, as long as prompt and answer may become."""
    room = cast("Any", predictor.learner.formulation).answer_length
    items = predictor.encode(rows)
    return [replace(item, weight=1.0, length=len(item.data["prompt"]) + room) for item in items]


def policy_of(context: Context, learner: Learner) -> Policy:
    """The learner as a policy whose answers to the draw's train rows are judged."""
    options: ReinforcementOptions = context.cfg.method.options(NAME)
    return Policy(
        learner,
        judge_of(context, learner, context.draw.train, options),
        options,
        seed=context.cfg.seed,
        precision=context.precision,
        budget=context.cfg.trainer.eval_batch_tokens,
        log=context.log,
    )


def judge_of(context: Context, learner: Learner, rows: Sequence[Row], options: ReinforcementOptions) -> Judge:
    """Reads an answer as the formulation does where nothing else could be meant, and gives what the kind of targets
    makes of it."""
    by_id, data, formulation = {row.id: row for row in rows}, context.data, cast("Any", learner.formulation)
    table = Rewards(options.reward_right, options.reward_wrong, options.reward_invalid)
    assert data.kind.reward is not None
    reward = data.kind.reward

    def judge(name: str, text: str) -> tuple[float, bool, bool]:
        row = by_id[name]
        task = data.part(row.domain)
        found = formulation.read_strictly(text, task)
        right = found is not None and data.kind.is_right(row.target, found)
        return reward(row.target, found, task, table), found is None, right

    return judge


def stage_config(cfg: RunConfig) -> RunConfig:
    """The run's config, its trainer with the stage's own length, batch and rates."""
    own: Any = cfg.method.options(NAME)
    names = ("steps", "epochs", "batch_size", "micro_batch", "warmup", "schedule")
    trainer = replace(cfg.trainer, **{name: getattr(own, name) for name in names})
    lr = own.lr if ALGORITHMS[own.algorithm].critic else {name: rate for name, rate in own.lr.items() if name != VALUE}
    return replace(cfg, trainer=trainer, method=replace(cfg.method, lr=lr))


def fit(context: Context, predictor: Reinforced, folder: Path) -> StageReport:
    """Train, and tell what the rounds were like."""
    policy, report = predictor.policy, StageReport(NAME)
    train_on(
        context,
        cast("Learner", policy),
        asked(predictor, context.draw.train),
        folder,
        report,
        cfg=stage_config(context.cfg),
        select=context.draw.select,
        evaluate=(lambda: context.dev_score(predictor)) if uses_dev(context) else None,
        on_log=context.log,
        repeats=policy.options.inner_epochs,
    )
    predictor.learner.said = ""
    told = dict(zip(CURVES, policy.history.T.tolist(), strict=True))
    trained, drawn, left_out, alike = policy.tally.tolist()
    report.curves |= told
    report.tokens = int(trained)
    report.facts |= {"algorithm": policy.options.algorithm, "rounds": float(policy.rounds), "drawn_tokens": drawn}
    report.facts |= {
        f"{name}_{when}": told[name][place] for name in SHOWN for when, place in (("first", 0), ("last", -1))
    }
    report.facts |= {"left_out_passes": left_out} if left_out else {}
    if alike:
        report.notes.append(f"{NAME}: in {alike:.0f} of {policy.rounds} rounds all answers had the same reward")
    if policy.head is not None:
        report.facts["value_parameters"] = float(sum(p.numel() for p in policy.head.parameters()))
    return report


class Reinforced(LearnerPredictor):
    """A learner whose likeliest answers are tested as any, and whose drawn answers to test are scored besides."""

    def __init__(self, policy: Policy, context: Context) -> None:
        super().__init__(policy.learner, context)
        self.policy = policy

    def finish(self, record: Record) -> None:
        """Add the scores of one drawn answer to each row of test."""
        from peftbench.tasks.metrics import score

        context, rows = self.context, self.context.draw.test
        with context.clock("eval"), context.meter.phase("eval"):
            texts, kl = self.drawn(rows)
            formulation: Any = self.learner.formulation
            judge = judge_of(context, self.learner, rows, self.policy.options)
            labels = [formulation.read(texts[row.id], context.data.part(row.domain)) for row in rows]
            scores = score(context.data, rows, labels)
            judged = [judge(row.id, texts[row.id]) for row in rows]
        record.scores |= {f"{name}{SAMPLED}": value for name, value in scores.items()}
        rewards, invalid, _ = zip(*judged, strict=True)
        record.scores |= {"invalid": 100 * sum(invalid) / len(rows), "reward": sum(rewards) / len(rows), "kl": kl}

    def drawn(self, rows: Sequence[Row]) -> tuple[dict[str, str], float]:
        """Row id -> the text of an answer that is drawn to it, and the mean KL to the reference."""
        texts: dict[str, str] = {}
        kl, items = 0.0, asked(self, rows)
        for places in evaluation_batches([item.length for item in items], self.context.cfg.trainer.eval_batch_tokens):
            batch = [items[place] for place in places]
            found = self.policy.answer(batch, "test", samples=1)
            texts |= dict(zip((item.id for item in batch), self.policy.texts(found.answers), strict=True))
            kl += found.kl() * len(batch) / len(rows)
        return texts, kl
