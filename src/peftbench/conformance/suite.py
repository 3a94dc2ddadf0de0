"""All checks of a tuner on every family that it claims, and what is made of them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftbench.conformance.bench import CASES, Bench, Case
from peftbench.conformance.checks import CHECKS, SLOW, Check, Verdict, failed
from peftbench.conformance.processes import two_processes
from peftbench.conformance.subject import FAMILIES, Subject
from peftbench.errors import UsageError, did_you_mean

FITS = "it fits the family"
PROCESSES = "two processes equal one"
NO_HEAD = "the model answers in words, so there is no head, and the tuner adds nothing to train"


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
    if ddp:
        checks[PROCESSES] = lambda bench: two_processes(bench, subject)
    refused: dict[str, list[str]] = {}
    for case in cases:
        bench = Bench(subject.tuner, subject.lr, case)
        try:
            if not bench.learner().param_groups():
                yield Finding(case.name, case.family, FITS, "not claimed", f"refuses this network: {NO_HEAD}")
                continue
        except UsageError as error:
            refused.setdefault(case.family, []).append(str(error))
            yield Finding(case.name, case.family, FITS, "not claimed", f"refuses this network: {error}")
            continue
        except Exception as error:
            yield Finding(case.name, case.family, FITS, "fail", in_words(error))
            continue
        yield Finding(case.name, case.family, FITS, "pass", "")
        for name, check in checks.items():
            verdict = careful(check, bench)
            yield Finding(case.name, case.family, name, verdict.status, verdict.detail)
    for family, reasons in refused.items():
        if len(reasons) == sum(case.family == family for case in cases):
            words = f"claims the family, but refuses every network of it: {reasons[0]}"
            yield Finding(family, family, FITS, "fail", words)


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
