"""Which tuner runs on which architecture: the core of the suite on tiny networks of all of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from peftbench.conformance.architectures import architectures
from peftbench.conformance.bench import Bench, Case
from peftbench.conformance.checks import CHECKS
from peftbench.conformance.subject import Subject
from peftbench.conformance.suite import careful, in_words
from peftbench.errors import UsageError
from peftbench.models.architecture import Purpose
from peftbench.models.base import Backbone
from peftbench.models.outline import outline

METHODS = (
    "full", "head_only", "last_layer", "embed_head", "bitfit", "hft",
    "lora", "adalora", "ia3", "ln_tuning", "vera",
    "houlsby", "pfeiffer", "parallel", "lite", "compacter", "conv_adapter", "mam",
    "prefix_tuning", "p_tuning", "prompt_tuning", "dept", "ept", "bayesprompt_init", "iapt", "recurrence",
    "p_tuning_v2", "adept", "dora", "trainable_tokens", "fourierft", "boft", "oft", "loha", "road", "c3a",
)  # fmt: skip
"""Of every kind of tuner one or more; the first 26 are those that docs/architectures.md counts."""
FIRST_METHODS, FIRST_ARCHITECTURES = 26, 21
"""How many of each were tried when tuners still knew architectures by their names."""
CORE = (
    "only declared parameters train",
    "the frozen base stays bit-identical",
    "as many parameters as the formula says",
    "padding and company change no item",
    "switched off, it is the base",
    "saved, loaded and trained on",
)
STATUSES = ("runs", "refused", "fails", "crashes")
STEPS = 4
FORMULATIONS = {"encoder": "head", "seq2seq": "generate", "causal": "generate"}
HEAD_ALONE = ("head_only",)
"""Methods that train nothing where the answer is text."""


@dataclass(frozen=True)
class Pair:
    """A method on an architecture. `status` is one of `STATUSES`; a refusal is one from the config alone."""

    architecture: str
    method: str
    status: str
    detail: str
    seconds: float
    """Of the CPU."""


def pairs(subjects: Sequence[Subject], chosen: Iterable[str] = ()) -> Iterator[Pair]:
    """The outcome of every pair, an architecture after the other; `chosen`: some architectures only."""
    for architecture in chosen or architectures():
        for subject in subjects:
            began = time.process_time()
            status, detail = outcome(architecture, subject)
            yield Pair(architecture, subject.name, status, detail, round(time.process_time() - began, 2))


def case_of(architecture: str, method: str) -> Case:
    """The tiny network of an architecture, with the usual formulation of its family."""
    cfg = architectures()[architecture]
    formulation = "head" if method in HEAD_ALONE else FORMULATIONS[cfg.family]
    return Case(architecture, cfg.name, cfg.family, formulation, cfg)


def outcome(architecture: str, subject: Subject) -> tuple[str, str]:
    """Status and detail of one pair. A refusal counts as one only if it comes before there are weights."""
    case = case_of(architecture, subject.name)
    bench = Bench(subject.tuner, subject.lr, case, steps=STEPS)
    if reason := refusal(bench):
        return "refused", reason
    try:
        bench.start  # noqa: B018 - builds the learner
    except UsageError as error:
        return "crashes", f"refused late: {error}"
    except Exception as error:
        return "crashes", in_words(error)
    for name in CORE:
        verdict = careful(CHECKS[name], bench)
        if verdict.status == "fail":
            return "fails", f"{name}: {verdict.detail}"
    return "runs", ""


def refusal(bench: Bench) -> str:
    """Why the tuner cannot work on the network, from the config alone; empty if it can."""
    case, tuner = bench.case, bench.new_tuner()
    if case.family not in tuner.families:
        why = f": {tuner.why_families}" if tuner.why_families else ""
        return f"it is made for {' and '.join(sorted(tuner.families))} networks{why}"
    try:
        tuner.check(outlined(case, "features" if case.formulation == "head" else "lm"), bench.context)
    except UsageError as error:
        return str(error)
    return ""


@cache
def outlined(case: Case, purpose: Purpose) -> Backbone:
    """The network of a case without weights. No tuner's `check` changes it."""
    assert case.config is not None
    return outline(case.config, purpose)
