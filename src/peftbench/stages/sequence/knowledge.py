"""What a model still knows: its language-model loss on neutral texts, against that of the bare backbone.

Causal models: the loss of each token given those before it (logits at a place predict the token behind it). Encoders:
the masked-LM loss at places that are always the same. A model that was loaded without its language-model head (for a
classification head) is read through the pre-trained head, put onto its hidden states; the head keeps the pre-trained
word embeddings even where those of the stack are trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.formulations.base import Encoded
from peftbench.formulations.mlm import MlmFormulation
from peftbench.models import load_backbone
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from peftbench.learner import Learner
    from peftbench.models.architecture import Purpose
    from peftbench.stages.base import Context

Scores = Callable[[Tensor], Tensor]
"""(1, n) token ids -> (n, vocabulary) logits."""
PURPOSES: dict[str, Purpose] = {"causal": "lm", "encoder": "mlm"}
Z = 1.959964
"""Of a 95 % interval."""


class Losses(NamedTuple):
    """Of each text: the sum of the losses of its predicted tokens, and how many they are."""

    sums: list[float]
    tokens: list[int]


class Knowledge:
    """The texts of `task.knowledge`, and the pre-trained head where the learner has none.

    Raises:
        UsageError: the backbone has no language-model head, or is an encoder-decoder.
    """

    def __init__(self, context: Context, learner: Learner) -> None:
        cfg, family = context.cfg, learner.backbone.family
        if family not in PURPOSES:
            raise UsageError(
                f"task.knowledge: model={cfg.model.name} is an encoder-decoder, whose pre-training loss is not "
                "measured. Use an encoder or a causal model, or task.knowledge=null."
            )
        self.learner, self.context, self.causal = learner, context, family == "causal"
        self.device = context.processes().device
        try:
            bare = load_backbone(cfg.model, PURPOSES[family], dropout=0.0)
        except UsageError as error:
            raise UsageError(f"task.knowledge: {error}") from None
        self.items = self._encoded(bare)
        network: nn.Module = bare.model
        self._bare: nn.Module | None = network.to(self.device)
        self._head = None if learner.backbone.purpose == PURPOSES[family] else bare.model

    def of_the_bare_model(self) -> Losses:
        """The baseline. The bare network is kept after this only if its head is needed."""
        network = self._bare
        assert network is not None
        found = self._losses(lambda ids: network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0])
        self._bare = None
        return found

    def now(self) -> Losses:
        """Of the learner as it is."""
        was, _ = self.learner.training, self.learner.eval()
        try:
            return self._losses(self._scores)
        finally:
            self.learner.train(was)

    def _scores(self, ids: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.learner.tuner.needs_answer_starts:
            inputs["answer_starts"] = torch.zeros_like(ids[:, :1])
        virtual, output = self.learner.tuner.virtual_tokens, self.learner.model(**inputs)
        if self._head is None:
            return output.logits[0, virtual:]
        with seeing(self._head.base_model, output.last_hidden_state[:, virtual:]):  # type: ignore[arg-type]
            return self._head(input_ids=ids, attention_mask=inputs["attention_mask"]).logits[0]

    @torch.no_grad()
    def _losses(self, scores: Scores) -> Losses:
        """In the weights' own precision, whatever the run's is: a change may be smaller than what bf16 rounds off."""
        found = Losses([], [])
        for ids, places, targets in self.items:
            logits = scores(ids.to(self.device)).float().cpu()
            found.sums.append(float(F.cross_entropy(logits[places], targets, reduction="sum")))
            found.tokens.append(len(targets))
        return found

    def _encoded(self, bare: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each text the (1, n) ids that are shown, the places whose logits predict something, and what is there."""
        length = self.context.cfg.trainer.max_length
        rows = [Row(f"text:{number}", text, None) for number, text in enumerate(self.context.data.knowledge)]
        if self.causal:
            found = (torch.tensor(bare.tokenizer(row.text, verbose=False)["input_ids"][:length]) for row in rows)
            return [(ids[None], torch.arange(len(ids) - 1), ids[1:]) for ids in found if len(ids) > 1]
        masked = MlmFormulation(bare, self.context.data, length, self.context.cfg.method.formulation).eval()
        return [_masked(masked, item) for item in masked.encode(rows) if item.weight]


def _masked(formulation: MlmFormulation, item: Encoded) -> tuple[Tensor, Tensor, Tensor]:
    shown, places = formulation.masked(item)
    original = torch.tensor(item.data["input_ids"])
    return torch.tensor(shown)[None], torch.tensor(places), original[places]


@contextmanager
def seeing(stack: nn.Module, states: Tensor) -> Iterator[None]:
    """Within the block the stack returns these last hidden states, whatever it computes."""

    def replace(_stack: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (states, *output[1:])
        output[next(iter(output))] = states
        return output

    handle = stack.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def facts(asked: Sequence[Losses]) -> dict[str, Any]:
    """For the record, from the losses of the bare model and of the model after each task.

    Returns:
        `texts`, `tokens`; by point in time: `loss`, in nats a token; `change`, that less the bare model's; `margin`,
        half of its 95 % interval over the texts, the same texts in both (a ratio of sums, by its linearisation).
    """
    bare, count = asked[0], sum(asked[0].tokens)
    changes = [[loss - before for loss, before in zip(own.sums, bare.sums, strict=True)] for own in asked]
    return {
        "texts": len(bare.tokens),
        "tokens": count,
        "loss": [sum(own.sums) / count for own in asked],
        "change": [sum(own) / count for own in changes],
        "margin": [margin(own, bare.tokens) for own in changes],
    }


def margin(sums: Sequence[float], tokens: Sequence[int]) -> float | None:
    """Half of the 95 % interval of sum(sums) / sum(tokens) over a sample of texts; None for a single text."""
    n, mean = len(sums), sum(sums) / sum(tokens)
    if n < 2:
        return None
    spread = sum((own - mean * count) ** 2 for own, count in zip(sums, tokens, strict=True))
    return Z * math.sqrt(spread * n / (n - 1)) / sum(tokens)
