"""The checks, one function each: a `Bench` in, a `Verdict` out. An exception is a failure too (`suite.py`)."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from peftbench.conformance.bench import (
    BATCH,
    STEPS,
    Bench,
    difference,
    gap_of,
    logits,
    named_tensors,
    one_by_one,
    tuner_groups,
)
from peftbench.formulations.base import Encoded
from peftbench.formulations.generate.formulation import GenerateFormulation, new_tokens
from peftbench.formulations.in_words import IGNORE, TextFormulation
from peftbench.formulations.scoring import log_likelihoods
from peftbench.formulations.shared_prefix import LEAST
from peftbench.formulations.text import pad_inputs
from peftbench.formulations.trie import Trie
from peftbench.learner import Learner
from peftbench.measure.probe import Probe, probe_step
from peftbench.training.precision import autocast
from peftbench.tuners.prompt_tuning import PromptTuningOptions
from peftbench.tuners.prompt_tuning.tuner import PromptTuningTuner

EQUAL = 1e-6
"""Relative difference of logits that come from the same numbers by the same operations."""
CLOSE = 1e-4
"""The same where the order of additions differs: other padding, other batches."""
FIT_LOSS = 0.9 * math.log(2)
"""Nats an item. What does not see the text has ln 2 at the least, however long it is trained. Before a frozen random
encoder, under a frozen random head, prompts reach 0.39 to 0.43 in 200 steps, P-tuning's 0.52, and the embeddings of the
two tokens around every text 0.53 to 0.59; what trains inside the network gets near 0."""
FALL = {"seq2seq": 1 / 2, "causal": 2 / 3}
"""Share of the first loss that is enough where the answer is text. A frozen random network bounds how far prompts can
turn the words of its decoder: 20 of them reach 0.3, EPT's 6 reach 0.4 in 200 steps. Or the right one of the two answers
becomes the likelier one: that takes no more than telling the texts apart, which an adapter of the encoder alone can."""
FIT_STEPS = (40, 160)
"""Steps after which the loss is looked at, one after the other."""
LEARNT = 0.98
"""Share of the first loss that a few steps in half precision must come below."""
FACTORS = (1.0, 10.0, 0.1, 100.0)
"""Multiples of the method's learning rates, which are meant for real networks."""


@dataclass(frozen=True)
class Verdict:
    """What a check found, and by how much or in which tensor."""

    status: Literal["pass", "fail", "not claimed"]
    detail: str = ""


Check = Callable[[Bench], Verdict]


def passed(detail: str = "") -> Verdict:
    """The promise is kept."""
    return Verdict("pass", detail)


def failed(detail: str) -> Verdict:
    """It is not; `detail` says by how much, or where."""
    return Verdict("fail", detail)


def not_claimed(reason: str) -> Verdict:
    """The tuner does not promise it, and why."""
    return Verdict("not claimed", reason)


def declared(bench: Bench) -> Verdict:
    """Every trainable parameter is in exactly one group; no other gets a gradient; each moves within the steps."""
    learner, before = bench.start
    names = {parameter: name for name, parameter in learner.named_parameters()}
    groups = [p for params in learner.param_groups().values() for p in params]
    if twice := [names.get(p, "?") for p, times in Counter(groups).items() if times > 1]:
        return failed(f"in two groups: {first(twice)}")
    if foreign := [str(tuple(p.shape)) for p in groups if p not in names]:
        return failed(f"a declared parameter of shape {first(foreign)} is not part of the module that `build` returns")
    if frozen := [names[p] for p in groups if not p.requires_grad]:
        return failed(f"declared, but requires_grad is False: {first(frozen)}")
    mine = set(groups)
    if hidden := [name for p, name in names.items() if p.requires_grad and p not in mine]:
        return failed(f"trainable, but in no group of `param_groups`: {first(hidden)}")
    learner.train()
    learner(learner.collate(learner.encode(bench.task.train))).backward()
    reached = [name for p, name in names.items() if p.grad is not None and p not in mine]
    learner.zero_grad()
    if reached:
        return failed(f"gets a gradient, but is in no group of `param_groups`: {first(reached)}")
    bench.trained  # noqa: B018 - trains the learner of `start`
    if still := [names[p] for p in groups if torch.equal(p, before[names[p]])]:
        return failed(f"declared, but the same after {bench.steps} steps: {first(still)}")
    return passed(f"{len(groups)} tensors")


def frozen_base(bench: Bench) -> Verdict:
    """Everything that is not declared has the same bits after `STEPS` steps as before."""
    learner, before = bench.trained, bench.start[1]
    mine = {id(p) for params in learner.param_groups().values() for p in params}
    rest = [(name, tensor) for name, tensor in named_tensors(learner) if id(tensor) not in mine]
    if gone := [name for name, _ in rest if name not in before]:
        return failed(f"appeared during training: {first(gone)}")
    changed = {name: tensor for name, tensor in rest if not same_bits(tensor, before[name])}
    if changed:
        name = next(iter(changed))
        gap = (changed[name].double() - before[name].double()).abs().max()
        return failed(
            f"{name} changed by up to {gap:.1e} in {bench.steps} steps ({len(changed)} of {len(rest)} tensors)"
        )
    return passed(f"{len(rest)} tensors")


def count(bench: Bench) -> Verdict:
    """The tuner's parameters are as many as its formula says."""
    learner = bench.start[0]
    found = sum(p.numel() for params in tuner_groups(learner).values() for p in params)
    # A tuner that is asked again after `build` may look at a changed network, so a fresh pair is asked first.
    fresh = bench.bare
    expected = bench.new_tuner().expected_parameters(fresh.backbone, learner.context)
    if expected is None:
        return not_claimed(f"no formula; {found:,} parameters")
    again = learner.tuner.expected_parameters(learner.backbone, learner.context)
    if found != expected:
        return failed(f"{found:,} parameters, {expected:,} by expected_parameters")
    if again != expected:
        return failed(f"expected_parameters says {expected:,} before `build` and {again} after it")
    return passed(f"{found:,}")


def identity(bench: Bench) -> Verdict:
    """Before the first step the outputs are those that `identity_at_start` names."""
    learner = bench.learner().eval()
    claim = learner.tuner.identity_at_start
    if claim is None:
        return not_claimed("identity_at_start is None")
    other = bench.bare if claim == "base" else bench.learner(prompt_tuning_like(learner.tuner.cfg))
    items = learner.encode(bench.task.train)[:BATCH]
    gap, where = difference(one_by_one(learner, items), one_by_one(other.eval(), items))
    words = "the bare backbone" if claim == "base" else "prompt tuning with the same prompt"
    if gap > CLOSE:
        return failed(f"logits differ from those of {words} by {gap:.1e} on item {where}")
    return passed(f"{words}, up to {gap:.0e}")


def prompt_tuning_like(cfg: Any) -> PromptTuningTuner:
    """Prompt tuning whose keys have the values that `cfg` has under the same names."""
    names = {f.name for f in fields(PromptTuningOptions)} & {f.name for f in fields(cfg)} - {"name"}
    return PromptTuningTuner(PromptTuningOptions(name="prompt_tuning", **{n: getattr(cfg, n) for n in names}))


def padding(bench: Bench) -> Verdict:
    """An item's logits depend neither on the padding of its batch nor on what else is in it."""
    learner = bench.trained
    items = learner.encode(bench.task.train)[:BATCH]  # the shortest and the longest among them
    alone = one_by_one(learner, items)
    together = logits(learner, items)
    gap, where = difference(together, alone)
    if gap > CLOSE:
        longest = max(item.length for item in items)
        return failed(
            f"item {where} ({items[where].length} tokens) has other logits in a batch padded to {longest} than alone: "
            f"they differ by {gap:.1e}"
        )
    reverse, _ = difference(logits(learner, items[::-1])[::-1], alone)
    if reverse > CLOSE:
        return failed(f"the order of the batch changes logits by {reverse:.1e}")
    return passed(f"up to {max(gap, reverse):.0e}")


def disabling(bench: Bench) -> Verdict:
    """Switched off after training, the model computes what the bare backbone does."""
    learner = bench.trained
    switch = learner.tuner.disabled(learner.model)
    if switch is None:
        return not_claimed("no switch (`disabled` returns None)")
    items = learner.encode(bench.task.train)[: BATCH // 2]
    base = one_by_one(learner, items, model=bench.bare.model, virtual_tokens=0)
    with switch:
        off = one_by_one(learner, items, virtual_tokens=0)
    gap, where = difference(off, base)
    if gap > EQUAL:
        return failed(f"logits differ from the bare backbone's by {gap:.1e} on item {where}")
    if bench.has_tuner_parameters and isinstance(switch, nullcontext):
        return failed("`disabled` returns a context that does nothing")
    return passed(f"up to {gap:.0e}")


def generation(bench: Bench) -> Verdict:
    """What greedy generation with a cache writes is what teacher forcing finds most likely, padding included."""
    learner = bench.trained
    formulation = learner.formulation
    if not isinstance(formulation, GenerateFormulation):
        return not_claimed("the task is posed with a head here")
    items = learner.encode(bench.task.train)[:BATCH]
    written = greedy(learner, items)
    teacher = formulation.teacher_batch([item.data["prompt"] for item in items], written)
    with torch.no_grad():
        found, labels = formulation.answer_logits(learner.model, teacher)
    for where, (row, ids) in enumerate(zip(found.float(), labels, strict=True)):
        row, ids = row[ids != IGNORE], ids[ids != IGNORE]
        short = row.max(1).values - row.gather(1, ids.unsqueeze(1)).squeeze(1)
        if float(short.max()) > CLOSE * max(1.0, float(row.abs().max())):
            return failed(
                f"item {where}, new token {int(short.argmax())}: the logit of another token is higher by "
                f"{float(short.max()):.1e} under teacher forcing"
            )
    return passed(f"{sum(map(len, written))} tokens")


def label_scoring(bench: Bench) -> Verdict:
    """Answers scored all at once behind a cached prompt have the log-likelihoods that they have one by one."""
    learner = bench.trained
    formulation = learner.formulation
    if not isinstance(formulation, GenerateFormulation):
        return not_claimed("the task is posed with a head here")
    if not learner.tuner.takes_cache:
        return not_claimed("takes_cache is False: answers are scored one by one")
    own = [item.data["prompt"] for item in learner.encode(bench.task.train)[:BATCH]]
    begin = (own[0] * LEAST)[:LEAST]
    alike = [[*begin, *prompt[-1 - n :]] for n, prompt in enumerate(own)]
    gaps = [scoring_gap(learner, formulation, prompts) for prompts in (own, alike)]
    if None in gaps:
        return not_claimed("the network keeps no cache")
    for said, (gap, where) in zip(("", ", of prompts with one beginning,"), gaps, strict=True):  # type: ignore[misc]
        if gap > CLOSE:
            return failed(f"log-likelihoods{said} differ by {gap:.1e} on item {where}")
    return passed(f"up to {max(gap for gap, _ in gaps):.0e}")  # type: ignore[misc]


@torch.no_grad()
def scoring_gap(
    learner: Learner, formulation: TextFormulation, prompts: Sequence[list[int]]
) -> tuple[float, int] | None:
    """The largest difference of a log-likelihood scored at once and one by one, and where; None without a cache."""
    answers, model = list(formulation.label_ids.values()), learner.model
    start = formulation.decoder_start(model) if formulation.encoder_decoder else None
    batch = pad_inputs(prompts, formulation.tokenizer, "right" if formulation.encoder_decoder else "left")
    found = log_likelihoods(model, batch, Trie(answers), start, share=not learner.tuner.needs_answer_starts)
    if found is None:
        return None
    teachers = [formulation.teacher_batch(prompts, [answer] * len(prompts)) for answer in answers]
    wanted = torch.stack([-formulation.token_losses(model, t).sum(1) for t in teachers], dim=1)
    return difference(list(found), list(wanted))


@torch.no_grad()
def greedy(learner: Learner, items: Sequence[Encoded], limit: int = 6) -> list[list[int]]:
    """At most `limit` new token ids for each item, generated in one padded batch, up to end-of-sequence."""
    formulation = learner.formulation
    assert isinstance(formulation, GenerateFormulation)
    batch = formulation.collate(items)
    ids = learner.model.generate(  # type: ignore[operator]
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        pad_token_id=formulation.tokenizer.pad_token_id,
        eos_token_id=formulation.eos,
    )
    new = ids[:, 1:] if formulation.encoder_decoder else new_tokens(ids, batch["input_ids"])
    rows = [row.tolist() for row in new]
    return [row[: row.index(formulation.eos) + 1] if formulation.eos in row else row for row in rows]


def reloading(bench: Bench) -> Verdict:
    """Saved and loaded into a fresh build, logits are equal; trained on from there, they stay equal."""
    learner = bench.trained
    items = learner.encode(bench.task.train)
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder))
        fresh = bench.learner().eval()
        fresh.load(Path(folder))
    gap, where = difference(logits(fresh, items), logits(learner, items))
    if gap > EQUAL:
        return failed(f"logits differ by {gap:.1e} on item {where} after loading; {furthest(fresh, learner)}")
    if lost := sorted(trainable(learner).keys() - trainable(fresh).keys()):
        return failed(f"cannot be trained on after loading: {first(lost)}")
    for one in (learner, fresh):
        bench.train(one, steps=3)
        one.eval()
    gap, where = difference(logits(fresh, items), logits(learner, items))
    if gap > CLOSE:
        return failed(f"3 steps after loading, logits differ by {gap:.1e} on item {where}; {furthest(fresh, learner)}")
    return passed(f"up to {gap:.0e} after 3 more steps")


def accumulation(bench: Bench) -> Verdict:
    """Steps whose batch is cut into micro-batches are steps of the whole batch."""
    whole, cut = bench.learner(), bench.learner()
    items = whole.encode(bench.task.train)
    if is_random(whole, items):
        return not_claimed("the forward pass draws random numbers in training")
    losses = [bench.train(one, steps=5, micro_batch=size).curves["loss"] for one, size in ((whole, None), (cut, 3))]
    outcomes = [logits(one.eval(), items) for one in (whole, cut)]
    return same_training(losses[1], losses[0], outcomes[1], outcomes[0], "micro-batches of 3")


def same_training(
    losses: Sequence[float], wanted_losses: Sequence[float], found: Sequence[Tensor], wanted: Sequence[Tensor], how: str
) -> Verdict:
    """Compare two trainings by the losses of their steps and by the logits that they led to."""
    gap = max(abs(a - b) for a, b in zip(losses, wanted_losses, strict=True))
    if not gap <= CLOSE * max(1.0, *map(abs, wanted_losses)):
        return failed(f"with {how} the losses of the steps differ by up to {gap:.1e}")
    apart, where = difference(found, wanted)
    # AdamW makes a step of some size from a rounding error where a gradient is nearly zero, hence the wider margin.
    if apart > 10 * CLOSE:
        return failed(f"with {how} logits differ by {apart:.1e} on item {where} after {len(losses)} steps")
    return passed(f"losses up to {gap:.0e}, logits up to {apart:.0e}")


def half_precision(bench: Bench) -> Verdict:
    """On a bf16 backbone the tuner's own parameters are fp32, and the loss falls under autocast."""
    if not bench.has_tuner_parameters:
        return not_claimed("nothing but the head is trained")
    learner = bench.under_fixed_head(torch.bfloat16)
    low = [name for name, p in learner.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    if low and len(low) == sum(p.requires_grad for p in learner.parameters()):
        return not_claimed("it trains weights of the backbone itself, in the backbone's precision")
    if low:
        return failed(f"trained in bf16, where small steps are lost: {first(low)}")
    tried = []
    for factor in FACTORS:
        learner = bench.under_fixed_head(torch.bfloat16)
        before = mean_loss(learner, bench, "bf16")
        bench.train(learner, factor, batch_size=2 * BATCH, precision="bf16")
        after = mean_loss(learner, bench, "bf16")
        if after < LEARNT * before:
            return passed(f"{before:.2f} to {after:.2f} nats an item")
        tried.append(f"{after:.3f} at {factor:g} x")
    return failed(
        f"the loss was {before:.3f} nats an item, and after {STEPS} steps {', '.join(tried)} its learning rates"
    )


def fitting(bench: Bench) -> Verdict:
    """The tuner alone, under a head that stays as it is, learns to tell the sixteen texts apart: `FIT_LOSS` nats an
    item. Where a random language model writes the answer, its loss must fall to `FALL` of the first one, or the choice
    between the two answers cost no more than `FIT_LOSS`."""
    if not bench.has_tuner_parameters:
        return not_claimed("nothing but the head is trained")
    learners = {factor: bench.under_fixed_head() for factor in FACTORS}
    in_words = bench.case.formulation != "head"
    bound = FIT_LOSS
    if in_words:
        bound = max(bound, FALL[bench.case.family] * mean_loss(learners[1.0], bench))
    done = 0
    for steps in FIT_STEPS:
        done += steps
        losses = {}
        for factor, learner in learners.items():
            bench.train(learner, factor, steps=steps, batch_size=2 * BATCH)
            losses[factor] = mean_loss(learner, bench)
            when = f"after {done} steps at {factor:g} x its learning rates"
            if losses[factor] <= bound:
                return passed(f"{losses[factor]:.2f} nats an item {when}")
            if in_words and (nats := choice_loss(learner, bench)) <= FIT_LOSS:
                return passed(f"{nats:.2f} nats an item for the choice between the answers {when}")
    tried = ", ".join(f"{loss:.2f} at {factor:g} x" for factor, loss in losses.items())
    return failed(f"nats an item after {done} steps: {tried} its learning rates; wanted: {bound:.2f}")


def cost(bench: Bench) -> Verdict:
    """What a step costs beside one of full fine-tuning; measured, not judged."""
    mine, full = (one_step(bench, learner) for learner in (bench.learner(), bench.full()))
    return passed(
        f"{mine.step_flops / full.step_flops:.0%} of the FLOPs and {mine.saved_bytes / full.saved_bytes:.0%} of the "
        "bytes saved for backward of full fine-tuning"
    )


def one_step(bench: Bench, learner: Learner) -> Probe:
    """Cost of a forward and backward pass on all items."""
    batch = learner.collate(learner.encode(bench.task.train))
    learner.train()
    return probe_step(lambda: learner(batch), exclude=[*learner.parameters(), *learner.buffers()])


CHECKS: dict[str, Check] = {
    "only declared parameters train": declared,
    "the frozen base stays bit-identical": frozen_base,
    "as many parameters as the formula says": count,
    "the promised start": identity,
    "padding and company change no item": padding,
    "generation equals teacher forcing": generation,
    "labels scored at once equal one by one": label_scoring,
    "switched off, it is the base": disabling,
    "saved, loaded and trained on": reloading,
    "accumulation equals one batch": accumulation,
    "a bf16 base with fp32 parameters learns": half_precision,
    "it can fit sixteen texts": fitting,
    "cost of a step": cost,
}
"""In the order in which they run: `reloading` trains the shared learner on, so what looks at that stands before it."""
SLOW = ("a bf16 base with fp32 parameters learns", "it can fit sixteen texts", "cost of a step")
"""Left out by `--quick`."""


def mean_loss(learner: Learner, bench: Bench, precision: str = "fp32") -> float:
    """Nats an item, in eval mode."""
    learner.eval()
    with torch.no_grad(), autocast(precision, torch.device("cpu")):
        return float(learner(learner.collate(learner.encode(bench.task.train)))) / len(bench.task.train)


def choice_loss(learner: Learner, bench: Bench) -> float:
    """Nats an item of the right label, were there no answers but the two of the task; in eval mode."""
    first, second = bench.task.labels
    other = {first: second, second: first}
    right = bench.task.train
    wrong = [replace(row, target=other[str(row.target)]) for row in right]
    learner.eval()
    with torch.no_grad():
        nats = [[float(learner(learner.collate([item]))) for item in learner.encode(rows)] for rows in (right, wrong)]
    return float(nn.functional.softplus(torch.tensor(nats[0]) - torch.tensor(nats[1])).mean())


def is_random(learner: Learner, items: Sequence[Encoded]) -> bool:
    """Whether two forward passes in training mode differ."""
    batch = learner.collate(items)
    learner.train()
    losses = []
    with torch.no_grad():
        for seed in (0, 1):
            torch.manual_seed(seed)
            losses.append(float(learner(batch)))
    return losses[0] != losses[1]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal shape, type and values; two NaNs are equal."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def trainable(learner: Learner) -> dict[str, nn.Parameter]:
    """Name -> trainable parameter."""
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}


def furthest(found: Learner, wanted: Learner) -> str:
    """The tensor in which two learners differ most, in words."""
    theirs = dict(named_tensors(wanted))
    gaps = {name: gap_of(t, theirs[name]) for name, t in named_tensors(found) if name in theirs and t.numel()}
    name = max(gaps, key=gaps.__getitem__)
    return f"the tensor furthest off is {name}, by {gaps[name]:.1e}" if gaps[name] else "no tensor differs"


def first(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
