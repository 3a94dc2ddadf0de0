"""What happens before a draw: which rows are test, which texts stand in two splits, which rows are too short."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftbench.config.schema import ProtocolConfig
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.protocols.samplers import hashed_permutation, torch_randperm

HELDOUT_SEED = 42
"""Seed of held-out splits that no paper varies: DePT's, and our tenth of train."""
SMALL_TRAIN = 10_000
"""DePT: below this many train rows the dev split is halved, from it on 1000 train rows become dev."""
BIG_DEV = 1000
TEST_SEED = 13
"""Of the test rows that are kept where they are bounded: the same for every draw."""

Rows = tuple[Row, ...]
Key = bytes
"""See `peftbench.tasks.base.text_key`."""


@dataclass(frozen=True)
class Splits:
    """The splits that a protocol draws from: its test split is already held out."""

    train: Rows
    dev: Rows
    test: Rows
    extra_tests: Mapping[str, Rows]

    def all_tests(self) -> Rows:
        """Rows of test and of the extra test sets."""
        return (*self.test, *(row for rows in self.extra_tests.values() for row in rows))


def count_tokens(row: Row, limit: int) -> int:
    """Words and punctuation marks, plus two, counted up to `limit`.

    That is what a BERT tokenizer yields at the least, special tokens included.
    """
    tokens = re.finditer(r"\w+|[^\w\s]", f"{row.text} {row.pair or ''}")
    return min(limit, 2 + sum(1 for _ in itertools.islice(tokens, limit)))


def without(rows: Iterable[Row], keys: Mapping[str, Key], texts: Collection[Key]) -> Rows:
    """The rows whose text is not among `texts`."""
    return tuple(row for row in rows if keys[row.id] not in texts)


def hold_out(data: TaskData, cfg: ProtocolConfig, notes: list[str]) -> Splits:
    """Say which rows are test.

    `official`: the task's test split. `dev_as_test`: the same, or the official dev where test has no labels.
    `halve_dev` (DePT): see `_as_dept`.
    """
    if cfg.heldout == "halve_dev":
        return _as_dept(data, notes)
    train, dev, test = tuple(data.train), tuple(data.dev), tuple(data.test)
    if not test and dev and cfg.heldout == "dev_as_test":
        dev, test = (), dev
        notes.append("test is the official dev split: the official test has no labels")
    if not test:
        raise UsageError(
            f"task `{data.name}`, subset `{data.subset}`: no labelled test rows under protocol.heldout={cfg.heldout}. "
            "Use protocol.heldout=dev_as_test, or a copy of the data with a labelled test or dev split."
        )
    return Splits(train, dev, test, {name: tuple(rows) for name, rows in data.extra_tests.items()})


def _as_dept(data: TaskData, notes: list[str]) -> Splits:
    """DePT's splits, which are those of ATTEMPT's code: from the official dev where the labels of test are hidden.

    A small task's dev is shuffled and halved by row, first half dev, second half test. Of a large one 1000 train rows
    are dev, and the official dev is test. MNLI's dev is the mismatched set. A task with three labelled splits keeps
    them. Which one a data set is, its YAML says (`held_out`), else the size of its train split.
    """
    train, dev, test = tuple(data.train), tuple(data.dev), tuple(data.test)
    extra = {name: tuple(rows) for name, rows in data.extra_tests.items()}
    hidden = data.test_is_dev or not test
    if not hidden and dev:
        return Splits(train, dev, test, extra)
    how = data.held_out or ("train" if len(train) >= SMALL_TRAIN else "halve")
    where = f"task `{data.name}`, subset `{data.subset}`"
    if not hidden and how != "train":
        raise UsageError(
            f"{where}: protocol.heldout=halve_dev is not defined for a task with a labelled test and no dev split, "
            f"unless train has {SMALL_TRAIN:,} rows. Use protocol=default or protocol.heldout=official."
        )
    official = test if test else dev
    if data.test_is_dev and dev:
        notes.append(f"{len(dev)} rows of a few-shot dev set are not used")
    why = "the official test has no labels" if hidden else "the task has no dev split"
    if how == "halve":
        order = torch_randperm(len(official), HELDOUT_SEED)
        half = len(order) // 2
        dev, test = tuple(official[i] for i in order[:half]), tuple(official[i] for i in order[half:])
        notes.append(f"dev and test are the halves of the official dev split: {why}")
    elif how == "train":
        order = torch_randperm(len(train), HELDOUT_SEED)
        dev, test = tuple(train[i] for i in order[:BIG_DEV]), official
        train = tuple(train[i] for i in order[BIG_DEV:])
        notes.append(f"dev is {BIG_DEV} train rows, test the official {'dev' if hidden else 'test'} split: {why}")
    elif how in extra:
        dev, test = extra.pop(how), official
        notes.append(f"dev is the {how} dev set, test the official dev split: {why}")
    else:
        raise UsageError(f"{where}: protocol.heldout=halve_dev takes its {how} set for dev, and that file is missing.")
    if not train or not test:
        raise UsageError(f"{where}: no {'test' if train else 'train'} rows are left by protocol.heldout=halve_dev.")
    return Splits(train, dev, test, extra)


def count_overlap(splits: Splits, keys: Mapping[str, Key]) -> dict[str, int]:
    """How many rows of the first-named split have a text that also stands in the second."""

    def shared(rows: Rows, others: Rows) -> int:
        texts = {keys[row.id] for row in others}
        return sum(keys[row.id] in texts for row in rows)

    tests = splits.all_tests()
    return {
        "train_test": shared(splits.train, tests),
        "train_dev": shared(splits.train, splits.dev),
        "dev_test": shared(splits.dev, tests),
    }


def without_short(splits: Splits, min_tokens: int, notes: list[str]) -> Splits:
    """Leave out rows of fewer than `min_tokens` tokens from every split, test included, as SciPrompt does."""
    if min_tokens == 0:
        return splits

    def long_enough(name: str, rows: Rows) -> Rows:
        kept = tuple(row for row in rows if count_tokens(row, min_tokens) >= min_tokens)
        if len(kept) < len(rows):
            notes.append(f"{name}: {len(rows) - len(kept)} of {len(rows)} rows left out, under {min_tokens} tokens")
        return kept

    kept = Splits(
        long_enough("train", splits.train),
        long_enough("dev", splits.dev),
        long_enough("test", splits.test),
        {name: long_enough(name, rows) for name, rows in splits.extra_tests.items()},
    )
    if not kept.train or 2 * len(kept.test) < len(splits.test):
        short = f"{len(splits.test) - len(kept.test)} of {len(splits.test)} test rows are" if kept.train else "train is"
        raise UsageError(
            f"protocol.min_tokens={min_tokens}: {short} shorter than that: this is no set of abstracts. "
            "Use protocol.min_tokens=0 to keep every row."
        )
    return kept


def tenth(rows: Sequence[Row], keys: Mapping[str, Key]) -> tuple[Rows, Rows]:
    """`(the rest, a tenth)`; rows of one group, and rows with one text, stay on the same side.

    Rows that hang together as more than a fifth of all stay in the rest.
    """
    units = _linked(rows, keys)
    chosen: set[int] = set()
    for unit in hashed_permutation(len(units), HELDOUT_SEED, "a tenth of train"):
        if len(chosen) * 10 >= len(rows):
            break
        if (len(chosen) + len(units[unit])) * 5 <= len(rows):
            chosen.update(units[unit])
    rest = tuple(row for i, row in enumerate(rows) if i not in chosen)
    return rest, tuple(row for i, row in enumerate(rows) if i in chosen)


def _units(names: Sequence[Hashable]) -> list[list[int]]:
    """Positions that share a name, in order of appearance."""
    units: dict[Hashable, list[int]] = {}
    for i, name in enumerate(names):
        units.setdefault(name, []).append(i)
    return list(units.values())


def _linked(rows: Sequence[Row], keys: Mapping[str, Key]) -> list[list[int]]:
    """Positions of rows that are linked by a group or a text, directly or through others."""
    first: dict[Hashable, int] = {}
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, row in enumerate(rows):
        for name in (keys[row.id], row.group):
            if name is not None:
                parent[root(i)] = root(first.setdefault(name, i))
    return _units([root(i) for i in range(len(rows))])


def bounded(rows: Rows, most: int | None, notes: list[str]) -> Rows:
    """At most so many test rows, or the few more that complete a group; chosen without a look at their targets."""
    if most is None or len(rows) <= most:
        return rows
    units, kept = _units([row.group or row.id for row in rows]), list[int]()
    for number in np.random.RandomState(TEST_SEED).permutation(len(units)):
        if len(kept) >= most:
            break
        kept += units[number]
    notes.append(f"test: {len(kept)} of {len(rows)} rows, always the same ones (protocol.test_rows)")
    return tuple(rows[place] for place in sorted(kept))
