"""Data of the user's own: from records, whatever read them, to rows, splits and a task.

Nothing depends on the order of the records: rows are known, dealt to splits and sorted by a hash of their texts. What
is left out is counted and said. Nothing is left out of test but what cannot be scored.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from peftbench.config.schema import TaskConfig, number, one_of
from peftbench.config.tasks import ENDS, check_labels, listed, one_or_more, score, section, spelling, text
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import DataSource, Row, Target, TaskData, text_key
from peftbench.tasks.sources import assemble, resolve_subset

ALL = "all"
"""The split of records that are still to be dealt."""
SPLITS = ("train", "dev", "test")
DEFAULT_SPLIT = "80/10/10"
MANY_LABELS = 0.5
"""Share of the rows from which so many different labels are no classes."""

OWN_KEYS = {
    "path": text,
    "splits": section(**dict.fromkeys(SPLITS, text)),
    "text": one_or_more(text),
    "pair": text,
    "label": text,
    "labels": listed(spelling, least=2),
    "score_range": listed(score, least=2, most=2),
}
"""Checks of what the types of `OwnDataConfig` do not say."""


@dataclass
class OwnDataConfig(TaskConfig):
    """`conf/task/file.yaml`: a data file of the user's own. What `conf/task` says of other tasks has defaults here, so
    that a YAML of the user's needs `adapter: file` and what is peculiar to the data."""

    name: str = "file"
    subset: str = "auto"
    description: str = ""
    homepage: str = ""
    licence: str = "your own"
    main_metric: str = "auto"
    path: str | None = None
    splits: Any = None
    text: Any = "text"
    pair: str | None = None
    label: str = "label"
    labels: Any = None
    problem: str = one_of("classification", "regression", default="classification")
    score_range: list[float] | None = None
    quoting: str = one_of("csv", "none", default="csv")
    split: str | None = None
    split_seed: int = number(0, ge=0)


def named(task: dict[str, Any]) -> dict[str, Any]:
    """A plain `task` section with `subset=auto` filled in: as the file or folder is called, without what no file name
    should have."""
    if task.get("subset", "auto") != "auto":
        return task
    place = task.get("path") or next(iter((task.get("splits") or {}).values()), "") or "own"
    stem = str(place).rstrip("/").rsplit("/", 1)[-1].partition(".")[0]
    return {**task, "subset": re.sub(r"[^\w-]+", "_", stem).strip("_") or "own"}


class Record(NamedTuple):
    """One record of a file and its place there, for messages."""

    place: str
    values: Mapping[str, Any]


@dataclass
class Tally:
    """What was left out and why, with the place of the first case."""

    counts: Counter[str]
    first: dict[str, str]

    @classmethod
    def empty(cls) -> Tally:
        """With nothing left out."""
        return cls(Counter(), {})

    def add(self, what: str, place: str) -> None:
        """Count one case of `what`."""
        self.counts[what] += 1
        self.first.setdefault(what, place)

    def notes(self) -> list[str]:
        """A sentence for each reason."""
        return [f"{count} rows {what} (the first: {self.first[what]})" for what, count in self.counts.items()]


class Item(NamedTuple):
    """A row on its way into a split."""

    place: str
    text: str
    pair: str | None
    target: Target | None

    def key(self) -> bytes:
        """Hash of the texts."""
        return hashlib.blake2b(_encoded(self.text, self.pair), digest_size=16).digest()

    def unit(self) -> bytes:
        """Equal for items that count as the same text, and so stay in one split."""
        return text_key(Row("", self.text, None, self.pair))


def own_task(cfg: OwnDataConfig, tables: Mapping[str, Sequence[Record]], source: DataSource) -> TaskData:
    """The task of some records.

    Args:
        cfg: says which columns, labels and shares.
        tables: split -> its records; or `ALL` -> those that are to be dealt to splits.
        source: where they came from.

    Raises:
        UsageError: a column is missing, a value cannot be used, or there is nothing to learn.
    """
    tally = Tally.empty()
    items = {split: list(_items(cfg, records, tally)) for split, records in tables.items()}
    labels = () if cfg.problem == "regression" else _labels(cfg, [i for part in items.values() for i in part])
    notes: list[str] = []
    if ALL in items:
        labelled = _without_duplicates([i for i in items[ALL] if i.target is not None], tally)
        spare = [i for i in items[ALL] if i.target is None]
        splits = deal(labelled, cfg.split or DEFAULT_SPLIT, cfg.split_seed, stratify=bool(labels), notes=notes)
    else:
        if cfg.split:
            raise UsageError(f"task.split={cfg.split}: the data has splits of its own ({', '.join(items)}).")
        splits = {split: [i for i in part if i.target is not None] for split, part in items.items()}
        spare = [i for i in items.get("train", ()) if i.target is None]
        splits = _apart(splits, tally)
    rows = {split: _rows(split, part) for split, part in splits.items()}
    if not rows.get("train"):
        raise UsageError(f"{_where(cfg)}: no labelled row is left for train. " + " ".join(tally.notes()))
    return _assembled(cfg, labels, rows, _spare_rows(spare, rows), source, [*notes, *tally.notes()])


def deal(items: Sequence[Item], split: str, seed: int, stratify: bool, notes: list[str]) -> dict[str, list[Item]]:
    """Items to splits by shares, each class by itself; items with the same text stay together.

    A class of three texts or more is in every split, one of two in train and test, a single one in train.
    """
    shares = parse_split(split)
    groups: dict[str, dict[bytes, list[Item]]] = defaultdict(dict)
    units: dict[bytes, list[Item]] = defaultdict(list)
    for item in items:
        units[item.unit()].append(item)
    for key, unit in units.items():
        name = min(str(item.target) for item in unit) if stratify else ""
        groups[name][key] = unit
    dealt: dict[str, list[Item]] = {name: [] for name in shares}
    for name in sorted(groups):
        order = sorted(groups[name], key=lambda key: hashlib.blake2b(key, salt=str(seed).encode()[:16]).digest())
        parts = _counts(len(order), shares)
        if stratify and len(order) < 10:
            said = ", ".join(f"{count} {part}" for part, count in parts.items())
            notes.append(f"class `{name}` has {len(order)} rows: {said}")
        start = 0
        for part, count in parts.items():
            dealt[part] += [item for key in order[start : start + count] for item in groups[name][key]]
            start += count
    mixed = sum(len({item.target for item in unit}) > 1 for unit in units.values())
    if mixed and stratify:
        notes.append(f"{mixed} texts stand there with more than one label")
    how = "by label and a hash of the texts" if stratify else "by a hash of the texts"
    notes.insert(0, f"split {split} {how}, task.split_seed={seed}")
    return dealt


def parse_split(split: str) -> dict[str, float]:
    """Shares of train, dev and test, or of train and test.

    >>> parse_split("80/20")
    {'train': 80.0, 'test': 20.0}
    """
    try:
        shares = [float(part) for part in str(split).split("/")]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or not all(math.isfinite(s) and s > 0 for s in shares):
        raise UsageError(
            f"task.split={split}: give shares of train, dev and test (80/10/10), or of train and test (80/20)."
        )
    return dict(zip(SPLITS if len(shares) == 3 else ("train", "test"), shares, strict=True))


def _counts(n: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many of `n` each split gets: rounded, at least one where there are enough, train what is left."""
    total = sum(shares.values())
    counts: dict[str, int] = {}
    for name in [name for name in ("test", "dev") if name in shares]:  # of two rows one is test
        left = n - sum(counts.values()) - 1
        counts[name] = min(max(round(n * shares[name] / total), 1), max(left, 0))
    return {"train": n - sum(counts.values()), **{name: counts[name] for name in shares if name != "train"}}


def _items(cfg: OwnDataConfig, records: Iterable[Record], tally: Tally) -> Iterable[Item]:
    columns = [cfg.text] if isinstance(cfg.text, str) else list(cfg.text)
    for place, values in records:
        for key, column in [*(("text", c) for c in columns), ("pair", cfg.pair), ("label", cfg.label)]:
            if column is not None and column not in values:
                raise UsageError(
                    f"{place}: task.{key}={column}: no such column. {did_you_mean(column, map(str, values))}"
                )
        texts = [_text(values[column], f"{place}: `{column}`") for column in columns]
        text = " ".join(t for t in texts if t.strip())
        pair = None if cfg.pair is None else _text(values[cfg.pair], f"{place}: `{cfg.pair}`")
        if not text.strip() or (pair is not None and not pair.strip()):
            tally.add("without text left out", place)
            continue
        target = _target(cfg, values[cfg.label], place)
        if target is None:
            tally.add("without a label not used for train, dev or test", place)
        yield Item(place, text, pair, target)


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{where} has to be text, found {value!r:.60}.")
    if "\0" in value or (not value.isascii() and _is_broken(value)):
        raise UsageError(f"{where} holds a NUL byte or half of a character: {value!r:.60}.")
    return value


def _is_broken(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def _target(cfg: OwnDataConfig, raw: Any, place: str) -> Target | None:
    """The label's name, or the score; None if there is none."""
    if isinstance(raw, (list, dict)):
        raise UsageError(f"{place}: `{cfg.label}` has to be a label, found {raw!r:.60}.")
    if raw is None or (isinstance(raw, float) and math.isnan(raw)) or not str(raw).strip():
        return None
    if cfg.problem == "classification":
        return _text(str(raw).lower() if isinstance(raw, bool) else str(raw).strip(), f"{place}: `{cfg.label}`")
    try:
        score = math.nan if isinstance(raw, bool) else float(raw)
    except (ValueError, OverflowError):
        score = math.nan
    low, high = cfg.score_range or (-math.inf, math.inf)
    if not math.isfinite(score) or not low <= score <= high:
        raise UsageError(f"{place}: `{cfg.label}` has to be a number from {low:g} to {high:g}, found {raw!r:.60}.")
    return score


def _labels(cfg: OwnDataConfig, items: Sequence[Item]) -> tuple[str, ...]:
    """The label names: those of the config, else those that occur, sorted."""
    if cfg.labels:
        named = tuple(str(name).lower() if isinstance(name, bool) else str(name) for name in cfg.labels)
        for item in items:
            if item.target is not None and item.target not in named:
                near = did_you_mean(str(item.target), named)
                raise UsageError(f"{item.place}: the label `{item.target}` is not among task.labels. {near}")
        return named
    counts = Counter(str(item.target) for item in items if item.target is not None)
    rows = sum(counts.values())
    if len(counts) < 2:
        found = f"every row has the label `{next(iter(counts))}`" if counts else "no row has a label"
        raise UsageError(f"{_where(cfg)}: task.label={cfg.label}: {found}, so there is nothing to learn.")
    if rows >= 20 and len(counts) > MANY_LABELS * rows:
        raise UsageError(
            f"{_where(cfg)}: task.label={cfg.label}: {len(counts)} different labels in {rows} rows are no classes. "
            "Name another column, or set task.problem=regression if they are numbers."
        )
    return tuple(sorted(counts))


def _without_duplicates(items: Sequence[Item], tally: Tally) -> list[Item]:
    """Each text with each label once."""
    seen: set[tuple] = set()
    kept = []
    for item in items:
        if (item.text, item.pair, item.target) in seen:
            tally.add("left out, exact duplicates of another", item.place)
        else:
            seen.add((item.text, item.pair, item.target))
            kept.append(item)
    return kept


def _apart(splits: Mapping[str, list[Item]], tally: Tally) -> dict[str, list[Item]]:
    """Train without the texts of dev and test, dev without those of test; test stays whole."""
    taken: set[tuple] = set()
    kept: dict[str, list[Item]] = {}
    for split in ("test", "dev", "train"):
        part = []
        for item in splits.get(split, ()):
            if (item.text, item.pair) in taken:
                tally.add(f"of {split} left out, exact duplicates of rows of another split", item.place)
            else:
                part.append(item)
        taken |= {(item.text, item.pair) for item in part}
        kept[split] = part
    return {split: kept[split] for split in SPLITS if split in splits}


def _rows(split: str, items: Sequence[Item]) -> list[Row]:
    """Rows in the order of their hashes, which are also their ids; a text that is there again has a number too."""
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    for item in sorted(items, key=lambda item: (item.key(), str(item.target))):
        name = item.key().hex()[:12]
        again = f"-{seen[name]}" if seen[name] else ""
        seen[name] += 1
        rows.append(Row(f"{split}:{name}{again}", item.text, item.target, item.pair))
    return rows


def _spare_rows(items: Sequence[Item], rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Unlabelled rows whose text does not stand in a labelled split, each once."""
    taken = {text_key(row) for part in rows.values() for row in part}
    return _rows(
        "unlabeled", list({i.unit(): i for i in sorted(items, key=Item.key) if i.unit() not in taken}.values())
    )


def _assembled(
    cfg: OwnDataConfig,
    labels: tuple[str, ...],
    rows: Mapping[str, Sequence[Row]],
    spare: Sequence[Row],
    source: DataSource,
    notes: Sequence[str],
) -> TaskData:
    names = labels or ENDS
    check_labels(cfg.label_words, names, "task.label_words")
    for name, values in cfg.cloze.items():
        check_labels(values.get("words") or {}, names, f"task.cloze.{name}.words")
    more: dict[str, Any] = {"unlabeled": spare}
    own: dict[str, Any] = {"labels": list(labels)}
    if cfg.problem == "regression":
        scores = [float(row.target) for row in rows["train"]]  # type: ignore[arg-type]
        low, high = cfg.score_range or (min(scores), max(scores))
        if low >= high:
            raise UsageError(f"{_where(cfg)}: task.label={cfg.label}: all scores are {low:g}: nothing to learn.")
        own["score_range"] = [low, high]
        more["score_range"] = (float(low), float(high))
    cfg = replace(cfg, subsets={cfg.subset: own})
    return assemble(cfg, resolve_subset(cfg), source, rows, notes, **more)


def _where(cfg: OwnDataConfig) -> str:
    return f"task={cfg.name} {cfg.path or cfg.splits}"


def _encoded(*texts: str | None) -> bytes:
    return json.dumps(texts).encode()
