"""What may be wrong with a run, from its record and its answers: facts, and warnings that name the knob to turn.

Everything here is a pure function. A warning is advice to a reader; no number of the run depends on it.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from peftbench.config import registry
from peftbench.config.tasks import other_word
from peftbench.records.record import Record
from peftbench.tasks.problems import kinds

COLLAPSED = 0.9
"""Share of the predictions in one class from which a run counts as collapsed ..."""
MORE_THAN_TRUE = 0.2
"""... if this is so much more than the share of test items in that class."""
MANY_CUT = 0.1
MANY_INVALID = 0.1
MANY_PIECES = 4
GAP_POINTS, GAP_ERRORS = 5.0, 2.6
"""Least dev-test gap worth a word, in points and in standard errors (2.6: one in a hundred by chance)."""
STILL, WILD = 1e-6, 0.3
"""Update of a step relative to the weights: below, nothing moves; above, nothing of the start is left."""
SETTLED = 3
"""The first step whose gradients say something: from a head of zeros (or an adapter half of zeros) none reaches
what lies below in the first step, nor in the second one if the first had a rate of 0 (warm-up)."""
OUTLIER = 3.5
"""Distance from the median in units of 1.4826 x the median absolute deviation (Iglewicz and Hoaglin, 1993)."""

SPLITS = ("train", "dev", "test")

Answers = Sequence[tuple[Any, Any]]
"""(target, prediction) of each test item; a prediction of None could not be read as an answer."""


def diagnose(record: Record, answers: Answers, tokenisation: dict[str, Any]) -> dict[str, Any]:
    """What goes into `record.diagnosis`.

    Args:
        record: as it will be filed.
        answers: target and prediction of every test item.
        tokenisation: `max_length`, `cut`, `emptied` and `label_tokens`, as `Predictor.tokenisation` gives them; may be
            empty.

    Returns:
        `majority` (the label predicted most: its share of predictions and of targets), `truncation` (share of rows
        cut, by split, and `max_length`; `emptied`: the share that lost one of their texts whole), `label_tokens`,
        `dev_test_gap` (points), `norms` (by parameter group: medians of gradient norm and of update / weight),
        and `warnings`. What could not be measured is left out.
    """
    facts: dict[str, Any] = {
        "majority": _majority(answers),
        "truncation": _truncation(tokenisation),
        "label_tokens": tokenisation.get("label_tokens"),
        "dev_test_gap": _gap(record),
        "norms": _norms(record.curves),
    }
    facts = {name: value for name, value in facts.items() if value not in (None, {})}
    return {**facts, "warnings": list(_warnings(record, facts))}


def seed_outliers(scores: Sequence[float]) -> list[int]:
    """Positions of scores that lie far from the others of their cell; none among fewer than four runs."""
    if len(scores) < 4:
        return []
    median = statistics.median(scores)
    spread = 1.4826 * statistics.median(abs(s - median) for s in scores)
    # Scores on a small test set come in steps; where most runs agree exactly, the spread is no measure of anything.
    return [i for i, s in enumerate(scores) if abs(s - median) > OUTLIER * max(spread, 0.5)]


def _majority(answers: Answers) -> dict[str, Any] | None:
    labels = [p for _, p in answers if isinstance(p, str)]
    if not labels:
        return None
    label, count = min(Counter(labels).items(), key=lambda item: (-item[1], item[0]))
    targets = sum(t == label for t, _ in answers)
    return {"label": label, "share": count / len(answers), "target_share": targets / len(answers)}


def _truncation(tokenisation: dict[str, Any]) -> dict[str, Any] | None:
    cut, emptied = (_shares(tokenisation.get(name) or {}) for name in ("cut", "emptied"))
    return {"max_length": tokenisation["max_length"], **cut, "emptied": emptied} if cut else None


def _shares(counts: dict[str, Sequence[int]]) -> dict[str, float]:
    return {split: found / rows for split, (found, rows) in counts.items()}


def _gap(record: Record) -> float | None:
    return None if record.dev_score is None or record.score is None else record.dev_score - record.score


def _norms(curves: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Group -> medians over the measured steps; steps with a number that is not finite are left out, and so is a run
    that ends before its gradients say anything."""
    found: dict[str, dict[str, float]] = {}
    if curves.get("norm_step") and max(curves["norm_step"]) < SETTLED:
        return found
    for name in curves:
        kind, _, group = name.partition("/")
        if kind != "gradient":
            continue
        pairs = zip(curves.get(f"update/{group}", []), curves.get(f"weight/{group}", []), strict=False)
        ratios = [u / w for u, w in pairs if _finite(u, w) and w > 0]
        gradients = [g for g in curves[name] if _finite(g)]
        if gradients and ratios:
            found[group] = {"gradient": statistics.median(gradients), "update_ratio": statistics.median(ratios)}
    return found


def _finite(*values: float | None) -> bool:
    return all(v is not None and math.isfinite(v) for v in values)


def _warnings(record: Record, facts: dict[str, Any]) -> Iterator[str]:
    """One sentence a problem, the knob at its end."""
    if record.config.get("method", {}).get("needs_model", True):
        yield from _collapse_warnings(record, facts.get("majority"))
    yield from _invalid_warnings(record)
    yield from _length_warnings(facts.get("truncation"))
    yield from _word_warnings(record, facts.get("label_tokens") or {})
    yield from _gap_warnings(record, facts.get("dev_test_gap"))
    for group, norms in facts.get("norms", {}).items():
        yield from _norm_warnings(group, _rate_knob(record, group), norms, record.lr.get(group))


def _collapse_warnings(record: Record, majority: dict[str, Any] | None) -> Iterator[str]:
    if majority is None or majority["share"] < COLLAPSED:
        return
    if majority["share"] - majority["target_share"] < MORE_THAN_TRUE:
        return
    what = f"{_percent(majority['share'])} of the predictions are `{majority['label']}`"
    what += f", as are {_percent(majority['target_share'])} of the test items: "
    if _untrained(record):
        knob = "method.formulation.words" if _is_cloze(record) else "task.label_words"
        yield f"{what}without training the label words decide; change {knob} or use a method that trains"
        return
    knobs = dict.fromkeys(f"{_rate_knob(record, group)} ({rate:g})" for group, rate in record.lr.items())
    yield f"{what}raise {' or '.join([_steps_knob(record), *knobs])}, and compare with another seed"


def _untrained(record: Record) -> bool:
    """Whether nothing was learned: the answers are the backbone's own."""
    return not record.parameters.get("module") and not record.parameters.get("head")


def _steps_knob(record: Record) -> str:
    """What sets the length of the last training, and its steps."""
    last = record.stages[-1] if record.stages else {}
    name = last.get("name", "")
    given = {registry.title(stage): stage for stage in record.config.get("method", {}).get("stages") or [name]}
    knob = registry.get("stage", given.get(name, name)).steps_key if name else "trainer.steps"
    steps = last.get("steps") or record.compute.get("steps")
    return knob + (f" ({steps:g})" if steps else "")


def _rate_knob(record: Record, group: str) -> str:
    """The key of a parameter group's learning rate: `default` for a group without one of its own."""
    given = record.config.get("method", {}).get("lr") or {}
    return f"method.lr.{'default' if group not in given and 'default' in given else group}"


def _invalid_warnings(record: Record) -> Iterator[str]:
    invalid, count = record.predictions.get("invalid") or 0, record.predictions.get("count") or 0
    train = "use a method that trains" if _untrained(record) else "raise trainer.steps"
    if count and invalid / count > MANY_INVALID:
        kind = kinds().get(record.data.get("problem") or "")
        if kind is not None and kind.parse is not None:
            yield (
                f"{_percent(invalid / count)} of the answers are not in the form asked for and count as wrong: "
                f"{train}, show demonstrations (method=icl), or give more room (answer_tokens)"
            )
            return
        yield (
            f"{_percent(invalid / count)} of the answers are no label and count as wrong: {train}, or let "
            "the model rank the labels with method/formulation=score"
        )


def _length_warnings(truncation: dict[str, Any] | None) -> Iterator[str]:
    if truncation is None:
        return
    length = truncation["max_length"]
    split, share = _worst({s: v for s, v in truncation.items() if s in SPLITS})
    if share > MANY_CUT:
        yield (
            f"{_percent(share)} of the {split} inputs were cut at {length} tokens: trainer.max_length={2 * length} "
            "keeps more of them, for more time and memory"
        )
    split, share = _worst(truncation.get("emptied") or {})
    if share > 0:
        yield (
            f"{_percent(share)} of the {split} inputs lost one of their texts whole at {length} tokens, and the label "
            f"may depend on it: raise trainer.max_length to {2 * length}"
        )


def _worst(shares: dict[str, float]) -> tuple[str, float]:
    return max(shares.items(), key=lambda item: item[1], default=("", 0.0))


def _is_cloze(record: Record) -> bool:
    return ((record.config.get("method") or {}).get("formulation") or {}).get("name") == "cloze"


def _word_warnings(record: Record, tokens: dict[str, list[str]]) -> Iterator[str]:
    cloze = _is_cloze(record)
    words = {} if cloze else record.config.get("task", {}).get("label_words") or {}

    def knob(label: str) -> str:
        return f"method.formulation.words=FILE, label `{label}`" if cloze else other_word(label)

    unknown = [label for label, pieces in tokens.items() if any(p in ("<unk>", "[UNK]") for p in pieces)]
    split = {label: len(pieces) for label, pieces in tokens.items() if len(pieces) >= MANY_PIECES}
    for label in unknown:
        yield (
            f"the tokenizer does not know the label word `{words.get(label, label)}`: choose another with {knob(label)}"
        )
    if split:
        longest = max(split, key=lambda label: (split[label], label))
        word = " ".join(tokens[longest]) if cloze else words.get(longest, longest)
        yield (
            f"the tokenizer splits the words of {len(split)} of {len(tokens)} labels into {MANY_PIECES} pieces or more "
            f"(`{word}`: {split[longest]}): choose shorter ones with {knob(longest)}"
        )


def _gap_warnings(record: Record, gap: float | None) -> Iterator[str]:
    """As if the metric were a share of right answers; for an F1 this is near enough to tell noise from overfitting."""
    rows = record.draw.get("rows") or {}
    if (record.config.get("task") or {}).get("source_lang"):
        return  # dev is of another language: a gap is what is asked for
    if gap is None or record.score is None or not rows.get("dev") or not rows.get("test") or gap < GAP_POINTS:
        return
    right = record.score * rows["test"] + (record.score + gap) * rows["dev"]
    p = min(max(right / 100 / (rows["test"] + rows["dev"]), 0.0), 1.0)
    error = 100 * math.sqrt(p * (1 - p) * (1 / rows["dev"] + 1 / rows["test"]))
    if gap > GAP_ERRORS * error:
        yield (
            f"dev ({record.dev_score:.1f}) is {gap:.1f} points above test, more than chance on {rows['dev']} dev rows: "
            "fewer looks at dev (trainer.eval_every) or a protocol with more dev rows gives an honest choice"
        )


def _norm_warnings(group: str, knob: str, norms: dict[str, float], rate: float | None) -> Iterator[str]:
    knob += f" ({rate:g})" if rate else ""
    if norms["gradient"] == 0:
        yield f"the parameters of `{group}` get no gradient: the loss does not reach them, so check the tuner"
    elif norms["update_ratio"] < STILL:
        size = f"{norms['update_ratio']:.1g}"
        yield f"the parameters of `{group}` hardly move ({size} of their size a step): raise {knob}"
    elif norms["update_ratio"] > WILD:
        share = _percent(norms["update_ratio"])
        yield f"the parameters of `{group}` move by {share} of their size a step: lower {knob}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
