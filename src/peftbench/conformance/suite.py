"""All checks of a tuner on every family that it claims, and what is made of them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftbench.conformance.bench import CASES, Bench, Case
from peftbench.conformance.checks import CHECKS, SLOW, Check, Verdict, failed, not_claimed, passed
from peftbench.conformance.company import claims_together, together
from peftbench.conformance.processes import two_processes
from peftbench.conformance.subject import FAMILIES, Subject
from peftbench.errors import UsageError, did_you_mean

FITS = "it fits the family"
PROCESSES = "two processes equal one"
TOGETHER = "together equals alone"
EVERYWHERE = "every network"


@dataclass(frozen=True)
class Finding:
    """The verdict of one check on one case."""

    case: str
    family: str
    check: str
    status: str
    detail: str


def judge(subject: Subject, cases: Sequence[Case], quick: bool = False, ddp: bool = False) -> Iterator[Finding]:
    """Findings as they come, those of one case after those of another."""
    checks: dict[str, Check] = {name: check for name, check in CHECKS.items() if not (quick and name in SLOW)}
    if claims_together(subject.tuner()):
        checks = {TOGETHER: together, **checks}
    if ddp:
        checks[PROCESSES] = lambda bench: two_processes(bench, subject)
    refusals = []
    for case in cases:
        bench = Bench(subject.tuner, subject.lr, case)
        verdict = fits(bench)
        yield Finding(case.name, case.family, FITS, verdict.status, verdict.detail)
        if verdict.status == "not claimed":
            refusals.append(verdict.detail)
        if verdict.status != "pass":
            continue
        for name, check in checks.items():
            verdict = careful(check, bench)
            yield Finding(case.name, case.family, name, verdict.status, verdict.detail)
    if len(refusals) == len(cases):
        yield Finding(EVERYWHERE, "", FITS, "fail", f"no network that was tried: {refusals[0]}")


def fits(bench: Bench) -> Verdict:
    """Whether the learner can be built. A tuner may refuse a network with a reason, as BitFit one without biases."""
    try:
        learner, _ = bench.start
        if not learner.param_groups():
            return not_claimed("the model answers in words, so there is no head, and the tuner adds nothing to train")
    except UsageError as error:
        return not_claimed(f"refused: {error}")
    except Exception as error:
        return failed(in_words(error))
    return passed()


def careful(check: Check, bench: Bench) -> Verdict:
    """A check that raises has found something too."""
    try:
        return check(bench)
    except UsageError as error:
        return failed(str(error))
    except Exception as error:
        return failed(in_words(error))


def in_words(error: Exception) -> str:
    """Kind and text of an error, and the last line of code on the way to it that is not a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if "site-packages" not in f.filename and "conformance" not in f.filename]
    place = f" ({Path(mine[-1].filename).name}, line {mine[-1].lineno})" if mine else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def cases_of(subject: Subject, family: str | None = None) -> list[Case]:
    """The cases of the families that a tuner claims, or of one of them.

    Raises:
        UsageError: there is no such family, or the tuner does not claim it.
    """
    claimed = subject.families()
    if family is not None and family not in FAMILIES:
        raise UsageError(f"--family {family}: no such family. {did_you_mean(family, FAMILIES)}")
    if family is not None and family not in claimed:
        raise UsageError(f"--family {family}: {subject.name} does not claim it. It claims: {', '.join(claimed)}.")
    return [case for case in CASES if case.family in claimed and family in (None, case.family)]


def as_json(subject: Subject, findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "name": subject.name,
        "passed": not any(f.status == "fail" for f in findings),
        "findings": [asdict(f) for f in findings],
    }
