"""The policy as the training loop sees it: a learner that draws answers to its prompts and learns from what they got.

`begin_step` draws a round of answers to the step's prompts, has them judged, and works out advantages; the
`inner_epochs` steps on these prompts move the policy by them. Old log-probabilities are those of the very passes that
the first of these steps makes, batch by batch, so its ratio is 1, and the reference's are those of the same passes
without the tuner, so the KL of an adapter that has changed nothing is 0: exactly, not to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.config.schema import with_options
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded
from peftbench.formulations.generate import GenerateConfig
from peftbench.formulations.generate.formulation import GenerateFormulation
from peftbench.formulations.in_words import IGNORE
from peftbench.stages.around import AroundLearner
from peftbench.stages.reinforcement import KEY, ReinforcementOptions
from peftbench.stages.reinforcement.algorithms import ALGORITHMS
from peftbench.training.batching import evaluation_batches
from peftbench.training.precision import autocast
from peftbench.training.predict import to_device
from peftbench.tuners.base import ParamGroups

if TYPE_CHECKING:
    from peftbench.learner import Learner

VALUE = "value"
"""Name of the value head and of its parameter group."""
STATE = "reinforcement "
"""In front of what a checkpoint holds besides the learner."""
CURVES = ("round_step", "reward", "kl", "invalid", "right", "beta", "answer_tokens")
"""What is told of each round: optimiser steps before it; means over its answers of reward, KL to the reference in nats,
whether they are invalid or right, and tokens; and the weight of the KL in its rewards."""


@dataclass
class Drawn:
    """Answers to prompts, those to one prompt together.

    Attributes:
        answers: ids of each, the end included where one was written.
        old, reference, values: (tokens,) see `Round`.
    """

    answers: list[Tensor]
    old: Tensor
    reference: Tensor
    values: Tensor

    def kl(self) -> float:
        """Mean over answers of the sum of their log-ratios: an estimate of KL(policy || reference), in nats."""
        return float((self.old - self.reference).double().sum() / len(self.answers))


@dataclass
class Round:
    """What is learned from the answers to a batch of prompts, those to one prompt together. On the CPU.

    Attributes:
        tokens: (tokens,) ids of all answers, one after the other.
        lengths: (answers,) tokens of each.
        old: (tokens,) log-probabilities under the policy that drew them.
        reference: (tokens,) those under the reference.
        values: (tokens,) what the value head expected; zeros without one.
        advantages: (tokens,)
        returns: (tokens,) what the value head is to learn; zeros without one.
    """

    tokens: Tensor
    lengths: Tensor
    old: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


Judge = Callable[[str, str], tuple[float, bool, bool]]
"""(row id, text) -> reward, whether it is no answer, whether it is the right one."""


class Policy(AroundLearner):
    """`learner` as it draws answers and learns from them.

    `forward` gives the sum over a batch's prompts of their share of the loss: the loop's mean over prompts is the mean
    over all tokens of a round (PPO), over its answers (RLOO), or over its answers of the mean over their tokens (GRPO).

    Args:
        judge: says what an answer is worth.
        options: of the stage.
        seed: of the run; draws follow from it, the round, the row's id, the answer's number and the token's place.
        precision: in which passes are made.
        budget: tokens with padding in a batch of prompts that are drawn from.
        log: called with the numbers of each round.
    """

    def __init__(
        self, learner: Learner, judge: Judge, options: ReinforcementOptions, *, seed: int, precision: str,
        budget: int, log: Callable[[dict[str, float]], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(learner)
        formulation = learner.formulation
        assert isinstance(formulation, GenerateFormulation)
        self.judge, self.options, self.seed, self.precision = judge, options, seed, precision
        self.budget, self.log = budget, log
        self.algorithm = ALGORITHMS[options.algorithm]
        self.how = replace(
            with_options(formulation.how, GenerateConfig), sample=True, sample_seed=seed, temperature=1.0, top_p=1.0
        )
        self.device = next(learner.model.parameters()).device
        self.head = nn.Linear(learner.backbone.hidden_size, 1) if self.algorithm.critic else None
        if self.head is not None:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
            self.head.to(self.device)
        kept = learner.parameters() if options.reference == "start" else ()
        self.start = {p: p.detach().clone() for p in kept if p.requires_grad}
        self.beta, self.rounds = options.beta, 0
        self.round: Round | None = None
        self.places: dict[str, int] = {}
        self.history = torch.zeros(0, len(CURVES), dtype=torch.float64)
        self.tally = torch.zeros(4, dtype=torch.float64)
        """Tokens trained on, tokens drawn, passes left out since their ratio was too large, and rounds whose answers
        all had the same reward."""
        if options.reference == "base" and learner.tuner.disabled(learner.model) is None:
            raise UsageError(
                f"{KEY}.reference=base: this tuner cannot be switched off. Use {KEY}.reference=start, which keeps a "
                "copy of what is trained."
            )

    # What the loop calls

    def begin_step(self, step: int, seed: int, items: Sequence[Encoded]) -> None:
        """Draw answers to the step's prompts, if they are new ones."""
        self.learner.begin_step(step, seed, items)
        self.places = {item.id: place for place, item in enumerate(items)}
        if step == 0:
            self.tally.zero_()  # of the step that was measured
        if step % self.options.inner_epochs == 0:
            self.round = self._new_round(step, items)

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Teacher forcing of the answers that were drawn to the prompts of `items`, and what is known of their tokens.
        To prompts of no round (of the step that is measured) they are drawn now."""
        if any(item.id not in self.places for item in items):
            self.places, self.round = {item.id: place for place, item in enumerate(items)}, self._judged(items, "")[0]
        assert self.round is not None
        drawn, k = self.round, self.options.samples
        answers = [self.places[item.id] * k + number for item in items for number in range(k)]
        ends = drawn.lengths.cumsum(0).tolist()
        lengths = [int(drawn.lengths[answer]) for answer in answers]
        where = torch.cat([torch.arange(ends[a] - n, ends[a]) for a, n in zip(answers, lengths, strict=True)])
        known = {name: getattr(drawn, name)[where] for name in ("old", "reference", "values", "advantages", "returns")}
        prompts = [item.data["prompt"] for item in items for _ in range(k)]
        return {**self._forced(prompts, list(drawn.tokens[where].split(lengths))), **known, "lengths": lengths}

    def forward(self, batch: Batch) -> Tensor:
        """Scalar; see the class."""
        assert self.round is not None
        new, values = self._read(batch)
        losses = self.algorithm.losses(new, batch, self.options, self.beta)
        if values is not None:
            losses = losses + self.algorithm.value_losses(values, batch, self.options)
        prompts = len(self.round.lengths) / self.options.samples
        total = self.algorithm.total(losses, batch["lengths"], self.round.lengths, prompts)
        self.tally[0] += int(batch["lm_attention_mask"].sum())
        most = self.options.most_ratio
        if most is not None and float((new.detach() - batch["old"]).exp().mean()) > most:
            self.tally[2] += 1
            return 0.0 * new.sum()
        return total

    def param_groups(self) -> ParamGroups:
        own = {} if self.head is None else {VALUE: list(self.head.parameters())}
        return {**self.learner.param_groups(), **own}

    def trainable_state(self) -> dict[str, Tensor]:
        return {**self.learner.trainable_state(), **self._head_state()}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        if self.head is not None:
            own = {name.removeprefix(STATE + "head."): t for name, t in state.items() if name.startswith(STATE)}
            self.head.load_state_dict(own)
        self.learner.load_trainable_state({name: t for name, t in state.items() if not name.startswith(STATE)})

    def training_state(self) -> dict[str, Tensor]:
        """What the learner keeps, the value head, the round that is being learned from, and the history."""
        own = {"history": self.history, "tally": self.tally, "beta": torch.tensor(self.beta, dtype=torch.float64)}
        if self.round is not None:
            own |= {f"round {field.name}": getattr(self.round, field.name) for field in fields(Round)}
        kept = {f"{STATE}{name}": tensor.clone().contiguous() for name, tensor in own.items()}
        return {**self.learner.training_state(), **self._head_state(), **kept}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        own = {name.removeprefix(STATE): t for name, t in state.items() if name.startswith(STATE)}
        if self.head is not None:
            self.head.load_state_dict({"weight": own["head.weight"], "bias": own["head.bias"]})
        self.history, self.tally, self.beta = own["history"].clone(), own["tally"].clone(), float(own["beta"])
        self.rounds = len(self.history)
        if "round tokens" in own:
            self.round = Round(**{field.name: own[f"round {field.name}"].clone() for field in fields(Round)})
        self.learner.load_training_state({name: t for name, t in state.items() if not name.startswith(STATE)})

    def _head_state(self) -> dict[str, Tensor]:
        own = {} if self.head is None else self.head.state_dict()
        return {f"{STATE}head.{name}": tensor.detach().to("cpu", copy=True) for name, tensor in own.items()}

    # A round

    def answer(self, items: Sequence[Encoded], name: str, samples: int) -> Drawn:
        """Draw `samples` answers to each prompt.

        Args:
            name: of the round: another one draws other answers.
        """
        with self._asked():
            answers = self._written(items, name, samples)
            self.tally[1] += sum(map(len, answers))
            return Drawn(answers, *self._known(items, answers, samples))

    def texts(self, answers: Sequence[Tensor]) -> list[str]:
        """Answers as they are read."""
        ids = [answer.tolist() for answer in answers]
        return list(self.learner.formulation.tokenizer.batch_decode(ids, skip_special_tokens=True))

    def _new_round(self, step: int, items: Sequence[Encoded]) -> Round:
        """Draw, book what came of it, and weigh the KL anew for the next round."""
        found, means = self._judged(items, str(self.rounds))
        numbers = {"round_step": float(step), **means, "beta": self.beta}
        row = torch.tensor([[numbers[name] for name in CURVES]], dtype=torch.float64)
        self.history, self.rounds = torch.cat([self.history, row]), self.rounds + 1
        self.learner.said = f"reward {means['reward']:+.2f} · KL {means['kl']:.2f} · invalid {means['invalid']:.0%}"
        if self.log is not None:
            self.log({"step": step, **{name: numbers[name] for name in CURVES[1:]}})
        self.beta = self.algorithm.next_beta(self.beta, means["kl"], len(found.lengths), self.options)
        return found

    def _judged(self, items: Sequence[Encoded], name: str) -> tuple[Round, dict[str, float]]:
        """A round, and means over its answers."""
        k = self.options.samples
        drawn = self.answer(items, name, k)
        asked = [item.id for item in items for _ in range(k)]
        judged = [self.judge(name, text) for name, text in zip(asked, self.texts(drawn.answers), strict=True)]
        rewards, invalid, right = torch.tensor(judged, dtype=torch.float32).T
        self.tally[3] += bool((rewards == rewards[0]).all())
        lengths = [len(answer) for answer in drawn.answers]
        advantages, returns = self.algorithm.advantages(
            rewards, drawn.old - drawn.reference, drawn.values, lengths, self.options, self.beta
        )
        means = {"reward": rewards, "invalid": invalid, "right": right, "answer_tokens": torch.tensor(lengths)}
        known = (drawn.old, drawn.reference, drawn.values, advantages, returns)
        return Round(torch.cat(drawn.answers), torch.tensor(lengths), *known), {
            "kl": drawn.kl(),
            **{name: float(column.double().mean()) for name, column in means.items()},
        }

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Nothing is learned in the block, and no dropout is at work."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad(), autocast(self.precision, self.device):
                yield
        finally:
            self.train(was_training)

    def _written(self, items: Sequence[Encoded], name: str, samples: int) -> list[Tensor]:
        """(tokens,) ids of the answers, up to their end."""
        formulation: Any = self.learner.formulation
        asked = [(item, number) for item in items for number in range(samples)]
        found: dict[int, Tensor] = {}
        for places in evaluation_batches([item.length for item, _ in asked], self.budget):
            batch = to_device(formulation.collate([asked[place][0] for place in places]), self.device)
            batch["ids"] = [f"{asked[place][0].id}#{name}.{asked[place][1]}" for place in places]
            ids = formulation.generated(self.learner.model, batch, self.how).cpu()
            found |= {place: _until(formulation.eos, row) for place, row in zip(places, ids, strict=True)}
        return [found[place] for place in range(len(asked))]

    def _known(
        self, items: Sequence[Encoded], answers: Sequence[Tensor], samples: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities under policy and reference, and values, (tokens,) each, in the passes of a step."""
        size, k = self.options.micro_batch or self.options.batch_size, samples
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(items), size):
            prompts = [item.data["prompt"] for item in items[start : start + size] for _ in range(k)]
            batch = to_device(self._forced(prompts, answers[start * k : (start + size) * k]), self.device)
            old, values = self._read(batch)
            with self._reference():
                reference, _ = self._read(batch, critic=False)
            parts.append((old.cpu(), reference.cpu(), torch.zeros_like(old).cpu() if values is None else values.cpu()))
        old, reference, values = (torch.cat(column) for column in zip(*parts, strict=True))
        return old, reference, values

    def _forced(self, prompts: Sequence[list[int]], answers: Sequence[Tensor]) -> Batch:
        formulation: Any = self.learner.formulation
        batch: Batch = formulation.teacher_batch(prompts, [answer.tolist() for answer in answers])
        return batch

    def _read(self, batch: Batch, critic: bool = True) -> tuple[Tensor, Tensor | None]:
        """(tokens,) log-probabilities of a batch's answers, and values where there is a head."""
        formulation: Any = self.learner.formulation
        with self._inputs_of_head() as states:
            logits, labels = formulation.answer_logits(self.learner.model, batch, prompts=False)
        asked = labels != IGNORE
        found = -F.cross_entropy(logits[asked].float(), labels[asked], reduction="none")
        if self.head is None or not critic:
            return found, None
        hidden = states[-1] if formulation.encoder_decoder else states[-1][:, :-1]
        hidden = hidden[:, -labels.shape[1] :]  # without a soft prompt's places
        return found, self.head(hidden[asked].float()).squeeze(-1).float()

    @contextmanager
    def _inputs_of_head(self) -> Iterator[list[Tensor]]:
        """What the network's output layer reads in the block, (batch, positions, d): its last hidden states."""
        states: list[Tensor] = []
        layer = self.learner.backbone.model.get_output_embeddings()
        hook = layer.register_forward_pre_hook(lambda module, given: states.append(given[0]))
        try:
            yield states
        finally:
            hook.remove()

    @contextmanager
    def _reference(self) -> Iterator[None]:
        """The network without the tuner, or as it was when the stage began."""
        learner = self.learner
        if self.options.reference == "base":
            virtual, learner.formulation.virtual_tokens = learner.formulation.virtual_tokens, 0
            try:
                with learner.tuner.disabled(learner.model):  # type: ignore[union-attr]
                    yield
            finally:
                learner.formulation.virtual_tokens = virtual
            return
        now = {parameter: parameter.data for parameter in self.start}
        try:
            for parameter, value in self.start.items():
                parameter.data = value
            yield
        finally:
            for parameter, value in now.items():
                parameter.data = value


def _until(end: int, ids: Tensor) -> Tensor:
    """Up to the first `end`, which is kept."""
    ends = (ids == end).nonzero()
    return ids[: int(ends[0]) + 1] if len(ends) else ids
