"""PSCP: a score that pays for parameters, inference and memory (PEFT-Bench, arXiv 2511.21285).

    PSCP = score x (1 + P / C_p)^-b_p x (1 + I / C_i)^-b_i x (1 + M / C_m)^-b_m

P are trainable parameters, I is what inference costs beyond the bare backbone, M is peak training memory. The formula
and C_p = 5e8 parameters, C_m = 94 GB (an H100 NVL) and C_i = 10 TFLOP are the released script's. Ours is:

- exponents of 1: the script prints tables for several, each a change of (1, 1, 1) or (2, 2, 2);
- I as a share of the bare backbone's inference, so that a time can stand for FLOPs. The paper's backbone takes
  8.38 TFLOP, so its 10 TFLOP are a share of 1.19.

The constants are those of an 8-billion-parameter backbone. With a small one every factor is near 1 and PSCP is nearly
the score; choose others then, and show them: two PSCPs compare only under the same constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from peftbench.errors import UsageError, did_you_mean

MIB = 2**20 / 1e9
"""GB in a MiB."""


@dataclass(frozen=True)
class Constants:
    """At a cost of C the factor is 2^-beta.

    Attributes:
        params: C_p, trainable parameters.
        inference: C_i, extra inference as a share of the bare backbone's.
        memory: C_m, GB (10^9 bytes).
    """

    params: float = 5e8
    inference: float = 10 / 8.38
    memory: float = 94.0
    beta_params: float = 1.0
    beta_inference: float = 1.0
    beta_memory: float = 1.0

    def describe(self, timed: bool = True) -> str:
        """For the line at a table. `timed`: whether inference was counted."""
        betas = (self.beta_params, self.beta_inference, self.beta_memory)
        shown = f"{betas[0]:g}" if len(set(betas)) == 1 else ", ".join(f"{b:g}" for b in betas)
        inference = f"C_i {self.inference:.3g} x the fastest method's inference" if timed else "inference not counted"
        return f"PSCP with C_p {self.params:.3g} parameters, C_m {self.memory:.3g} GB, {inference}, beta {shown}"


PAPER = Constants()


@dataclass(frozen=True)
class Pscp:
    """The score and its factors, each in (0, 1]; a factor is None, and counts as 1, where its cost was not measured."""

    value: float
    params: float | None
    inference: float | None
    memory: float | None


def pscp(
    score: float,
    params: float | None,
    memory: float | None,
    inference: float | None = None,
    constants: Constants = PAPER,
) -> Pscp:
    """PSCP of measured values.

    Args:
        score: percent (or any unit; PSCP has the same).
        params: trainable parameters.
        memory: peak of training, GB.
        inference: extra inference cost as a share of the bare backbone's; 0.2 is a fifth more.

    Raises:
        ValueError: a cost is negative.
    """
    costs = {"params": params, "inference": inference, "memory": memory}
    factors = {name: _factor(name, cost, constants) for name, cost in costs.items()}
    value = score
    for factor in factors.values():
        value *= 1.0 if factor is None else factor
    return Pscp(value, **factors)


def _factor(name: str, cost: float | None, constants: Constants) -> float | None:
    if cost is None:
        return None
    if cost < 0:
        raise ValueError(f"{name}: a cost of {cost} is negative")
    return (1 + cost / getattr(constants, name)) ** -getattr(constants, f"beta_{name}")


def of_rows(rows: Sequence[Mapping[str, Any]], constants: Constants = PAPER, timed: bool = False) -> list[Pscp | None]:
    """PSCP of leaderboard rows (of runs or of groups); None for a row without a score.

    Memory is `train_peak_mib`: on a GPU all that was allocated, on a CPU the growth in training.

    Args:
        timed: count inference too, as `eval_seconds` beyond those of the fastest method on the same backbone, data and
            device. Off unless asked for: the paper counts FLOPs, and times on a busy machine vary more than methods do.
    """
    times: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if timed and row.get("eval_seconds") and row.get("model") != "none":
            times.setdefault(_place(row), []).append(row["eval_seconds"])
    return [_of_row(row, times.get(_place(row), []), constants) for row in rows]


def _of_row(row: Mapping[str, Any], times: Sequence[float], constants: Constants) -> Pscp | None:
    if row.get("score") is None:
        return None
    memory = row.get("train_peak_mib")
    inference = row["eval_seconds"] / min(times) - 1 if len(times) > 1 and row.get("eval_seconds") else None
    return pscp(
        row["score"], row.get("trainable_params"), None if memory is None else memory * MIB, inference, constants
    )


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("model", "task", "subset", "protocol", "shots", "device", "precision"))


def read_constants(text: str) -> Constants:
    """Constants from the command line: `params=22e6,memory=2,beta=1`; what is not named stays the paper's.

    `beta` sets all three exponents.

    Raises:
        UsageError: an unknown name, or a value that is not a positive number.
    """
    constants = PAPER
    names = [f.name for f in fields(Constants)]
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        if name not in (*names, "beta"):
            raise UsageError(f"PSCP constant `{name}`: no such constant. {did_you_mean(name, [*names, 'beta'])}")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf"):
            raise UsageError(f"PSCP constant {part}: `{value}` is not a number above 0.")
        wanted = [n for n in names if n.startswith("beta_")] if name == "beta" else [name]
        constants = replace(constants, **dict.fromkeys(wanted, number))
    return constants
