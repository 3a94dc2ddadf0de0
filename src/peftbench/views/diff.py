"""`peftbench diff RUN RUN`: what differs between two runs, from the records alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peftbench.errors import UsageError
from peftbench.records.find import existing_store, find_run
from peftbench.records.ids import EXCLUDED, SEEDS, content
from peftbench.records.naming import flat
from peftbench.records.predictions import Item, read_predictions
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.views.filters import ViewParser

PARTS = (
    "settings",
    "seeds",
    "other config",
    "draw",
    "data",
    "model content",
    "versions",
    "environment",
    "scores",
    "costs",
)
"""What is looked at, in the order in which it is told: what decides a result comes first."""


@dataclass(frozen=True)
class Difference:
    """One value that two runs do not share; None where a run has none."""

    part: str
    key: str
    a: Any
    b: Any


def diff_command(argv: Sequence[str]) -> int:
    """Run `peftbench diff ARGV`; returns the exit code. Raises UsageError for a run that is not there."""
    parser = ViewParser(
        "diff",
        "What differs between two runs: config, draw, data, model, versions, environment, scores, costs, answers.",
        "Example: peftbench diff 3c272b 91ab",
        filters=(),
    )
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run's id, or its beginning")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse(argv)
    store = existing_store(options.out_dir)
    a, b = (find_run(store, given, "diff") for given in options.runs)
    found, answers = differences(a, b), compare_answers(store, a, b)
    if options.json:
        told = {"a": a.run_id, "b": b.run_id, "differences": [asdict(d) for d in found], "answers": answers}
        print(json.dumps(told, indent=1, default=str))
    else:
        _show(a, b, found, answers)
    return 0


def differences(a: Record, b: Record) -> list[Difference]:
    """All values in which the two records differ, by `PARTS`; scores and costs that are equal are left out too."""
    mine, others = _facts(a), _facts(b)
    return [
        Difference(part, key, mine[part].get(key), others[part].get(key))
        for part in PARTS
        for key in dict.fromkeys([*mine[part], *others[part]])
        if mine[part].get(key) != others[part].get(key)
    ]


def _facts(record: Record) -> dict[str, dict[str, Any]]:
    whole, used = dict(flat(record.config)), dict(flat(content(record.config, EXCLUDED + SEEDS)))
    environment = dict(record.environment)
    draw = {k: v for k, v in record.draw.items() if k not in ("ids", "notes")}
    costs = {
        "seconds": record.seconds,
        "memory": record.memory,
        "compute": record.compute,
        "parameters": record.parameters,
    }
    return {
        "settings": used,
        "seeds": {key: whole.get(key) for key in SEEDS if key in whole},
        "other config": {key: value for key, value in whole.items() if key not in used and key not in SEEDS},
        "draw": dict(flat(draw)),
        "data": {key: value for key, value in flat(record.data) if key != "notes"},
        "model content": dict(flat(record.identity)),
        "versions": environment.pop("versions", None) or {},
        "environment": dict(flat(environment)),
        "scores": {"status": record.status, **record.scores, "dev_score": record.dev_score},
        "costs": dict(flat(costs)),
    }


def compare_answers(store: Store, a: Record, b: Record) -> dict[str, Any]:
    """How the two runs answered the test items that both have.

    Returns `items` in common, `different` answers, `only_a` and `only_b` (right in one alone) and McNemar's exact
    `p` for that; or `problem`, why the answers cannot be compared.
    """
    try:
        mine, others = ({item.id: item for item in _items(store, record)} for record in (a, b))
    except UsageError as error:
        return {"problem": str(error)}
    common = [name for name in mine if name in others and mine[name].target == others[name].target]
    if not common:
        return {"problem": "the two runs have no test item in common"}
    right = [(mine[n].prediction == mine[n].target, others[n].prediction == others[n].target) for n in common]
    only_a, only_b = right.count((True, False)), right.count((False, True))
    different = sum(mine[n].prediction != others[n].prediction for n in common)
    p = mcnemar(only_a, only_b)
    return {"items": len(common), "different": different, "only_a": only_a, "only_b": only_b, "p": p}


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test: how likely so uneven a split of the disagreements is by chance."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _items(store: Store, record: Record) -> list[Item]:
    name = record.predictions.get("file")
    if not name:
        raise UsageError(f"{record.run_id} has no predictions ({record.status})")
    return read_predictions(store.folder(record.run_id) / name, record.predictions.get("sha256"))


def _show(a: Record, b: Record, found: Sequence[Difference], answers: Mapping[str, Any]) -> None:
    from peftbench.views.display import print_table, say

    if a.run_id == b.run_id:
        say(f"{a.run_id} twice: nothing differs.")
        return
    rows = [
        ["" if i and found[i - 1].part == d.part else d.part, d.key, _text(d.a), _text(d.b)]
        for i, d in enumerate(found)
    ]
    print_table(["", "", *(f"{r.run_id} {r.method}" for r in (a, b))], rows)
    same = [part for part in PARTS if part not in {d.part for d in found}]
    if same:
        say(f"the same: {', '.join(same)}")
    for line in _words(answers):
        say(line)


def _words(answers: Mapping[str, Any]) -> Iterator[str]:
    if "problem" in answers:
        yield f"answers not compared: {answers['problem']}"
        return
    if not answers["different"]:
        yield f"answers: the same to all {answers['items']:,} test items"
        return
    apart = f"right in the first alone {answers['only_a']:,}, in the second alone {answers['only_b']:,}"
    of = f"answers: {answers['different']:,} of {answers['items']:,} differ"
    yield f"{of}; {apart} (McNemar p = {answers['p']:.2g})"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    text = (
        f"{value:.6g}"
        if isinstance(value, float)
        else value
        if isinstance(value, str)
        else json.dumps(value, default=str)
    )
    return text if len(text) <= 60 else text[:59] + "…"
