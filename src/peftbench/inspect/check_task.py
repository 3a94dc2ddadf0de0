"""`peftbench check-task NAME|FILE.yaml`: what is in a data set, before anything is trained on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftbench.config import compose
from peftbench.config.schema import ModelConfig, ProtocolConfig, RunConfig
from peftbench.config.user_files import VARIABLE
from peftbench.errors import UsageError
from peftbench.options import OptionParser
from peftbench.tasks import data_dir, load_task
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.problems import kind
from peftbench.tasks.protocols import draw
from peftbench.tasks.protocols.draw import unit_of

SHOWN = 3
"""Rows of train that are printed."""
CUT = 100
"""Characters of a text that are printed."""
Count = Callable[[str, str | None], int]


def check_task(args: list[str]) -> int:
    """The command; 0 for a task that can be used.

    Raises:
        UsageError: there is no such task, or its data cannot be one.
    """
    parser = OptionParser("check-task", "What is in a data set: rows, classes, lengths, duplicates, possible shots.")
    parser.add_argument("subject", metavar="NAME|FILE.yaml", help="a task (`peftbench ls tasks`), or your own YAML")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="task.path=..., protocol=..., model=...")
    options = parser.parse(args)
    with task_of(options.subject) as name:
        cfg = compose([f"task={name}", *options.overrides])
        found = examine(cfg)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found)
    return 0


@contextmanager
def task_of(subject: str) -> Iterator[str]:
    """The name by which a task is composed; a YAML file is made one of the user's own for as long as this lasts."""
    if not subject.endswith((".yaml", ".yml")):
        yield subject.removeprefix("task=")
        return
    path = Path(subject).expanduser()
    if not path.is_file():
        raise UsageError(
            f"{subject}: no such file. Give a task's name (`peftbench ls tasks`), or the path of its YAML."
        )
    name = "of_" + re.sub(r"\W", "_", path.stem)  # no name that the package has
    before = os.environ.get(VARIABLE)
    with tempfile.TemporaryDirectory(prefix="peftbench-") as folder:
        shutil.copytree(path.parent, Path(folder, "task"), ignore=_all_but_yaml)
        shutil.copyfile(path, Path(folder, "task", f"{name}.yaml"))
        os.environ[VARIABLE] = folder
        try:
            yield name
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before


def _all_but_yaml(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith((".yaml", ".yml"))]


def examine(cfg: RunConfig) -> dict[str, Any]:
    """What is to be said of a task, as plain data."""
    data = load_task(cfg.task, data_dir(cfg))
    splits = {"train": data.train, "dev": data.dev, "test": data.test, **data.extra_tests}
    splits = {name: rows for name, rows in splits.items() if rows}
    count, unit = token_counter(cfg.model)
    return {
        "task": data.name,
        "subset": data.subset,
        "problem": data.problem,
        "labels": list(data.labels),
        "main_metric": data.main_metric,
        "metrics": list(data.metrics),
        "source": asdict(data.source),
        "sha256": data.sha256(),
        "first_rows": [_shown(row) for row in list(data.train)[:SHOWN]],
        "rows": {**{name: len(rows) for name, rows in splits.items()}, "unlabeled": len(data.unlabeled)},
        "classes": _classes(data, splits),
        "length_unit": unit,
        "max_length": cfg.trainer.max_length,
        "lengths": {name: _lengths(rows, count, cfg.trainer.max_length) for name, rows in splits.items()},
        "duplicates": {name: _duplicates(data, rows) for name, rows in splits.items()},
        "overlap": _overlap(data, splits),
        "notes": list(data.notes),
        "shots": _shots(data, cfg.protocol),
    }


def _shown(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "target": row.target,
        "text": row.text,
        **({"pair": row.pair} if row.pair is not None else {}),
    }


def _classes(data: TaskData, splits: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, int]]:
    """Label -> split -> how often it is there: rows, or entities; empty where targets hold no labels."""
    labels_of = data.kind.labels_of
    counts = {name: Counter(label for row in rows for label in labels_of(row.target)) for name, rows in splits.items()}
    return {label: {name: count[label] for name, count in counts.items()} for label in data.labels}


def token_counter(cfg: ModelConfig) -> tuple[Count, str]:
    """How long a row is, and in what: the model's tokens if its tokenizer is at hand and needs no torch, else words."""
    try:
        from tokenizers import Tokenizer

        from peftbench.models.sources import locate

        if cfg.source not in ("package", "local"):  # anything else would have to be fetched or decoded
            raise LookupError(cfg.source)
        tokenizer = Tokenizer.from_file(str(locate(cfg).fetch() / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except Exception:  # whatever is missing (package, file, network): a length in words says nearly as much
        return lambda text, pair: len(text.split()) + len((pair or "").split()), "words"
    return lambda text, pair: len(tokenizer.encode(text, pair).ids), f"tokens of model={cfg.name}"


def _lengths(rows: Sequence[Row], count: Count, limit: int) -> dict[str, float]:
    lengths = sorted(count(row.text, row.pair) for row in rows)
    return {
        "median": statistics.median(lengths),
        "p95": lengths[(95 * len(lengths) - 1) // 100],
        "longest": lengths[-1],
        "cut": sum(length > limit for length in lengths),
    }


def _duplicates(data: TaskData, rows: Sequence[Row]) -> int:
    """Rows whose text stands in an earlier row of the same split."""
    return len(rows) - len({data.text_keys[row.id] for row in rows})


def _overlap(data: TaskData, splits: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """`a_b` -> rows of split a whose text stands in split b."""
    texts = {name: {data.text_keys[row.id] for row in rows} for name, rows in splits.items()}
    pairs = [(a, b) for i, a in enumerate(splits) for b in list(splits)[i + 1 :]]
    return {f"{a}_{b}": sum(data.text_keys[row.id] in texts[b] for row in splits[a]) for a, b in pairs}


def _shots(data: TaskData, protocol: ProtocolConfig) -> dict[str, Any]:
    """The largest k that the protocol draws, and what stops a larger one; k = 0 if there is none."""

    def stopped(k: int | str) -> str:
        try:
            draw(data, protocol, k)
        except UsageError as error:
            return str(error)
        return ""

    unit = unit_of(data, protocol, 1)
    found: dict[str, Any] = {"protocol": protocol.name, "unit": unit, "full": not (full := stopped("full"))}
    if full:
        found["full_reason"] = full
    if protocol.unit == "all":
        return found
    low, high = 0, len(data.train) + 1  # k = low can be drawn (or is 0), k = high cannot
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if stopped(middle) else (middle, high)
    return {**found, "largest": low, "reason": stopped(low + 1)}


def show(found: Mapping[str, Any]) -> None:
    """On a terminal tables, in a pipe a line an entry."""
    from peftbench.views.display import new_console, print_table, say

    lines, tables = _lines(found), _tables(found)
    if not new_console().is_terminal:
        for title, columns, rows in tables:
            for row in rows:
                values = ", ".join(f"{column} {value}" for column, value in zip(columns[1:], row[1:], strict=True))
                lines.append(f"{title:<10} {row[0]}: {values}")
        for line in lines:
            say(line)
        return
    for line in lines:
        say(line)
    for _, columns, rows in tables:
        print_table([c if i == 0 else f">{c}" for i, c in enumerate(columns)], rows)


def _lines(found: Mapping[str, Any]) -> list[str]:
    shots, source, show_target = found["shots"], found["source"], kind(found["problem"]).show
    files = ", ".join(source["files"]) or source["revision"] or ""
    lines = [
        f"task       {found['task']} {found['subset']}: {found['problem']}, {found['main_metric']}",
        f"source     {source['kind']} {source['where']} ({files})",
    ]
    for row in found["first_rows"]:
        texts = [row["text"], *([row["pair"]] if "pair" in row else [])]
        text = " | ".join(" ".join(t.split())[:CUT] for t in texts)
        lines.append(f"row        {row['id']}  {show_target(row['target'])}: {text}")
    for (first, _, second), count in ((pair.partition("_"), n) for pair, n in found["overlap"].items()):
        lines += [f"overlap    {count} rows of {first} stand in {second}"] if count else []
    lines += [f"note       {note}" for note in found["notes"]]
    if "largest" in shots:
        unit = "rows a class" if shots["unit"] == "per_class" else "rows in all"
        most = f"shots=1 to {shots['largest']} ({unit})" if shots["largest"] else "no shots"
        then = f"; then: {shots['reason']}" if shots["reason"] else ""
        lines.append(f"shots      protocol={shots['protocol']}: {most}{then}")
    if not shots["full"]:
        lines.append(f"shots      full: {shots['full_reason']}")
    return lines


def _tables(found: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    splits = list(found["lengths"])
    classes = [[label, *(str(counts[s]) for s in splits)] for label, counts in found["classes"].items()]
    classes.append(["(all)", *(str(found["rows"][s]) for s in splits)])
    unit = found["length_unit"]
    lengths = [
        [split, *(f"{of[k]:g}" for k in ("median", "p95", "longest", "cut")), str(found["duplicates"][split])]
        for split, of in found["lengths"].items()
    ]
    columns = ["split", f"median {unit}", "95 % at most", "longest", f"over {found['max_length']}", "duplicates"]
    return [("class", ["class", *splits], classes), ("length", columns, lengths)]
