"""The draw: a named, versioned, hashed choice of train, dev and test rows.

The steps are the same for every protocol: hold out a test split, leave out rows that are too short, count and bar
the rows whose text stands in test, let the sampler rank the train rows, take them until each class has its share; give
some of them a wrong label, if the protocol asks for it.
No step reads a test label.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from peftbench.config.schema import ProtocolConfig
from peftbench.errors import UsageError
from peftbench.tasks.base import TaskData
from peftbench.tasks.problems import kind
from peftbench.tasks.protocols.noise import check_noise, with_wrong_labels
from peftbench.tasks.protocols.samplers import SAMPLERS, walk
from peftbench.tasks.protocols.splits import (
    Key,
    Rows,
    Splits,
    bounded,
    count_overlap,
    hold_out,
    tenth,
    without,
    without_short,
)

ANY = "(any)"
"""The one class of a draw that does not look at classes."""
TENTH = "dev is a tenth of the train rows: the task has no dev split"


@dataclass(frozen=True)
class Draw:
    """The rows of one run.

    Attributes:
        unit: what k counts: rows "per_class", rows in "total"; "all" if all train rows were taken.
        shots: k or "full".
        select: "best" (the checkpoint with the best dev score) or "last" (there is no dev, or it is not looked at).
        unlabeled: the task's unlabelled rows and the train rows that were not drawn; all without a target.
        overlap: on the full splits, by normalised text: `train_test` train rows that stand in a test set, `train_dev`
            train rows that stand in dev, `dev_test` dev rows that stand in a test set; and `dropped`, the train and
            dev rows that the draw had to pass over for it.
        notes: what a reader of the result must know about the draw.
        problem: kind of the rows' targets.
        noise: of a draw with wrong labels (`noise.with_wrong_labels`), which train rows have one.
        tasks: of a sequence, the draw of each task.
    """

    protocol: str
    version: int
    unit: str
    shots: int | str
    data_seed: int
    select: str
    train: Rows
    dev: Rows
    test: Rows
    extra_tests: Mapping[str, Rows]
    unlabeled: Rows
    overlap: Mapping[str, int]
    notes: tuple[str, ...]
    problem: str = "classification"
    noise: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Draw] = field(default_factory=dict)

    def sha256(self) -> str:
        """Hash of protocol, version and the sorted row ids of train, dev and test: equal hashes, equal rows."""
        ids = [sorted(row.id for row in rows) for rows in (self.train, self.dev, self.test)]
        text = json.dumps([self.protocol, self.version, *ids], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `draw.json`."""
        splits = {"train": self.train, "dev": self.dev, "test": self.test, **self.extra_tests}
        labels_of = kind(self.problem).labels_of
        known = {name: [row.target for row in rows if row.target is not None] for name, rows in splits.items()}
        return {
            "protocol": self.protocol,
            "version": self.version,
            "unit": self.unit,
            "shots": self.shots,
            "data_seed": self.data_seed,
            "select": self.select,
            "sha256": self.sha256(),
            "rows": {name: len(rows) for name, rows in splits.items()},
            "counts": {
                name: dict(sorted(Counter(label for t in targets for label in labels_of(t)).items()))
                for name, targets in known.items()
            },
            "overlap": dict(self.overlap),
            **({"noise": dict(self.noise)} if self.noise else {}),
            "notes": list(self.notes),
            "ids": {name: [row.id for row in rows] for name, rows in splits.items()},
            **({"tasks": {name: _of_a_task(own) for name, own in self.tasks.items()}} if self.tasks else {}),
        }


OF_A_TASK = ("unit", "select", "sha256", "rows", "counts", "noise")


def _of_a_task(own: Draw) -> dict[str, Any]:
    """What is said of the draw of a task beside that of the sequence."""
    return {key: value for key, value in own.to_dict().items() if key in OF_A_TASK}


def draw_task(
    data: TaskData, cfg: ProtocolConfig, shots: int | str, data_seed: int | None = None, seed: int = 1
) -> Draw:
    """Draw the rows of one task.

    Args:
        data: the task.
        cfg: the protocol.
        shots: 0 (no training), k, or "full" (all train rows).
        data_seed: which draw; None takes the protocol's own, or the training seed where the protocol ties them.
        seed: the training seed.

    Raises:
        UsageError: impossible `shots`, a class with too few rows, or a task without a labelled test split.
    """
    check_shots(shots, cfg)
    check_data(data, cfg, shots)
    check_noise(data, cfg, shots)
    data_seed = data_seed_of(cfg, data_seed, seed)
    notes: list[str] = []
    splits = hold_out(data, cfg, notes)
    keys = data.text_keys
    overlap = count_overlap(splits, keys)
    splits = without_short(splits, cfg.min_tokens, notes)
    in_test = {keys[row.id] for row in splits.all_tests()} if cfg.drop_overlap else set()
    train: Rows = ()
    dev: Rows = ()
    if shots == "full" or data.source_subset:
        train, dev = _draw_full(splits, cfg, keys, in_test, notes)
    elif shots:
        train, dev = _FewShot(data, cfg, int(shots), data_seed, splits, keys, in_test, notes).rows()
    train, noise = with_wrong_labels(train, data, cfg.noise, data_seed, notes)
    notes += absent_labels(data, train)
    drawn = {row.id for row in (*train, *dev)}
    barred = in_test | ({keys[row.id] for row in dev} if cfg.drop_overlap else set())
    passed = [row for row in splits.train if row.id not in drawn and keys[row.id] in barred]
    overlap["dropped"] = len(passed) + sum(keys[row.id] in in_test for row in splits.dev)
    spare = without((row for row in splits.train if row.id not in drawn), keys, barred)
    if train and not dev and cfg.select == "best":
        notes.append("no dev rows: the last model is taken")
    return Draw(
        protocol=cfg.name,
        version=cfg.version,
        unit=unit_of(data, cfg, shots),
        shots=shots,
        data_seed=data_seed,
        select=cfg.select if dev else "last",
        train=train,
        dev=dev,
        test=bounded(splits.test, cfg.test_rows, notes),
        extra_tests=splits.extra_tests,
        unlabeled=(*data.unlabeled, *(replace(row, target=None) for row in spare)),
        overlap=overlap,
        notes=tuple(notes),
        problem=data.problem,
        noise=noise,
    )


def absent_labels(data: TaskData, train: Rows) -> list[str]:
    """A remark on the labels that no drawn row holds, where rows are not drawn by label."""
    if not train or data.kind.strata != "rows":
        return []
    there = {label for row in train for label in data.kind.labels_of(row.target)}
    absent = [label for label in data.labels if label not in there]
    return [f"train: none of the {len(train)} drawn rows holds {', '.join(absent)}"] if absent else []


def unit_of(data: TaskData, cfg: ProtocolConfig, shots: int | str) -> str:
    """What k counts: rows "per_class" or in "total"; "all" where all train rows are taken."""
    if shots == "full" or data.source_subset:
        return "all"
    return "total" if data.kind.strata == "rows" else cfg.unit


def data_seed_of(cfg: ProtocolConfig, data_seed: int | None, seed: int) -> int:
    """The seed of a draw: the run's own, else the protocol's, else (or where they are tied) the training seed."""
    if data_seed is not None:
        return data_seed
    return seed if cfg.tie_seeds or cfg.data_seed is None else cfg.data_seed


def check_shots(shots: int | str, cfg: ProtocolConfig) -> None:
    """Refuse what cannot be a number of shots for this protocol."""
    whole = isinstance(shots, int) and not isinstance(shots, bool) and shots >= 0
    if shots != "full" and not whole:
        raise UsageError(f"shots={shots}: must be 0, a positive whole number or `full`.")
    if cfg.unit == "all" and whole and shots != 0:
        raise UsageError(
            f"shots={shots}: protocol={cfg.name} takes all train rows. Use shots=full, or protocol=default to draw."
        )


def check_data(data: TaskData, cfg: ProtocolConfig, shots: int | str) -> None:
    """Refuse what the protocol or `shots` does not mean for these data."""
    if data.source_subset and shots != 0:
        raise UsageError(
            f"shots={shots}: with task.source_lang, shots counts labelled rows of the language that is tested, and all "
            "train rows are the source's. Use shots=0, or leave task.source_lang out."
        )
    if data.source_subset and cfg.heldout == "halve_dev":
        raise UsageError(
            f"protocol={cfg.name}: makes the test set out of dev, which is of another language with task.source_lang. "
            "Use protocol=default."
        )
    if shots != 0 and not data.train:
        raise UsageError(
            f"shots={shots}: task `{data.name}`, subset `{data.subset}`, has no train rows. Use shots=0, or train on "
            "another language with task.source_lang=LANGUAGE shots=0, where the task has languages."
        )
    if shots not in (0, "full") and data.kind.strata == "rows" and cfg.sampler not in ("seeded", "dept"):
        raise UsageError(
            f"protocol={cfg.name}: draws rows by class, and the rows of a {data.problem} task have no classes. "
            "Use protocol=default, where k counts rows, or shots=full."
        )


def _draw_full(
    splits: Splits, cfg: ProtocolConfig, keys: Mapping[str, Key], in_test: Collection[Key], notes: list[str]
) -> tuple[Rows, Rows]:
    """`(train, dev)`: all train rows, and the official dev rows or, where there are none, a tenth of train."""
    train, dev = without(splits.train, keys, in_test), without(splits.dev, keys, in_test)
    if cfg.dev == "none":
        return train, ()
    if not dev:
        notes.append(TENTH)
        return tenth(train, keys)
    return without(train, keys, {keys[row.id] for row in dev} if cfg.drop_overlap else ()), dev


@dataclass
class _FewShot:
    """One k-shot draw in the making.

    Dev rows of a split of their own are chosen first, and train avoids their texts. Dev rows that come from train are
    chosen after the train rows and avoid their texts and groups.
    """

    data: TaskData
    cfg: ProtocolConfig
    k: int
    seed: int
    splits: Splits
    keys: Mapping[str, Key]
    in_test: Collection[Key]
    notes: list[str]

    def rows(self) -> tuple[Rows, Rows]:
        """`(train, dev)`."""
        cfg, pool = self.cfg, self.splits.train
        dev: Rows = ()
        if cfg.dev == "official":
            dev = without(self.splits.dev, self.keys, self.in_test)
            if not dev:
                pool, dev = tenth(without(pool, self.keys, self.in_test), self.keys)
                self.notes.append(TENTH)
        elif cfg.dev == "fixed" and self.splits.dev:
            dev = self.fixed_dev()
        dev_share = 0 if dev else {"same_k": self.k, "fixed": cfg.dev_per_class}.get(cfg.dev, 0)
        train_order, dev_order = self.orders(pool, self.k, dev_share)
        train, trained = self.train_rows(pool, train_order, dev)
        if dev_share:
            dev = self.dev_rows(pool, dev_order, dev_share, train, trained)
        self.note_published()
        return train, dev

    def train_rows(self, pool: Rows, order: Sequence[int], dev: Rows) -> tuple[Rows, Sequence[str]]:
        """The first k rows (of each class, or in total) along `order`, and the classes that got a share."""
        classes, names = self.classes(pool), self.names(pool)
        avoid = {*self.in_test, *(self.keys[row.id] for row in dev if self.cfg.drop_overlap)}
        free = [self.keys[row.id] not in avoid for row in pool]
        have = Counter(name for name, ok in zip(classes, free, strict=True) if ok)
        share, rest = divmod(self.k, len(names)) if self.cfg.unit == "total" else (self.k, 0)
        if rest:
            self.shortage("train", {ANY: sum(free)}, (ANY,), self.k)
        skipped = self.shortage("train", have, names, share)
        quota = {name: share for name in names if name not in skipped}

        def along(allowed: Callable[[int], bool]) -> list[int]:
            taken = walk(order, classes, quota, allowed)
            # DePT: what does not divide evenly goes to the rows that come next, whatever their class
            done, last = set(taken), order.index(taken[-1]) + 1 if taken else 0
            following = [i for i in (*order[last:], *order[:last]) if i not in done] if rest else []
            return taken + walk(following, [ANY] * len(pool), {ANY: rest}, allowed)

        taken, published = along(free.__getitem__), along(lambda i: True)
        self.note_replaced("train", published, taken)
        if not taken:
            raise UsageError(f"shots={self.k}: no class has that many usable train rows. Use fewer shots.")
        return tuple(pool[i] for i in taken), tuple(quota)

    def dev_rows(self, pool: Rows, order: Sequence[int], share: int, train: Rows, trained: Sequence[str]) -> Rows:
        """Dev rows from the train split, apart from the drawn train rows in text and group."""
        classes = self.classes(pool)
        ids, groups = {row.id for row in train}, {row.group for row in train} - {None}
        texts = {*self.in_test, *(self.keys[row.id] for row in train if self.cfg.drop_overlap)}

        def free(i: int) -> bool:
            row = pool[i]
            return row.id not in ids and row.group not in groups and self.keys[row.id] not in texts

        taken = walk(order, classes, dict.fromkeys(trained, share), free)
        self.shortage("the rest of train, for dev", Counter(classes[i] for i in taken), trained, share)
        return tuple(pool[i] for i in taken)

    def fixed_dev(self) -> Rows:
        """`dev_per_class` rows of each class from the dev split, whatever k is."""
        pool, share = self.splits.dev, self.cfg.dev_per_class
        classes = self.classes(pool)
        names = self.names(pool)
        order, _ = self.orders(pool, share, 0)
        quota = dict.fromkeys(names, share)
        taken = walk(order, classes, quota, lambda i: self.keys[pool[i].id] not in self.in_test)
        self.note_replaced("dev", walk(order, classes, quota, lambda i: True), taken)
        self.shortage("dev", Counter(classes[i] for i in taken), names, share)
        return tuple(pool[i] for i in taken)

    def orders(self, pool: Rows, k: int, dev: int) -> tuple[list[int], list[int]]:
        """The sampler's orders of a pool: for train and for dev."""
        return SAMPLERS[self.cfg.sampler](self.classes(pool), k, dev, self.seed)

    def shortage(self, where: str, have: Mapping[str, int], names: Sequence[str], need: int) -> set[str]:
        """What to do about classes with fewer rows than needed; returns the classes to leave out of training."""
        short = {name: have.get(name, 0) for name in names if have.get(name, 0) < need}
        if not short:
            return set()
        listed = ", ".join(
            f"{'it' if name == ANY else f'class `{name}`'} has {count} of the {need} rows needed"
            for name, count in list(short.items())[:5]
        ) + (f", ... ({len(short)} classes)" if len(short) > 5 else "")
        if self.cfg.on_shortage == "error":
            ways = [*self.ways_out(where, min(short.values()), need), "protocol.on_shortage=all (take what is there)"]
            if where == "train":
                ways.append("protocol.on_shortage=skip (leave the class out of training; its test rows still count)")
            raise UsageError(f"shots={self.k}: too few rows in {where}: {listed}. Use {' or '.join(ways)}.")
        leave_out = set(short) - {ANY} if self.cfg.on_shortage == "skip" and where == "train" else set()
        self.notes.append(f"{where}: {listed}; " + ("left out of training" if leave_out else "all taken"))
        return leave_out

    def ways_out(self, where: str, least: int, need: int) -> list[str]:
        """The nearest commands that would work; `least` is what the shortest class has."""
        no_dev = "protocol.dev=none (the last model is taken)"
        if where == "dev":
            return [f"protocol.dev_per_class={least}" if least else no_dev]
        if where == "train":
            most = least * (len(self.names(self.splits.train)) if self.cfg.unit == "total" else 1)
        else:
            most = (self.k + least) // 2 if self.cfg.dev == "same_k" else self.k + least - need
        shots = [f"shots={most} or fewer"] if most > 0 else []
        return shots if where == "train" else [*shots, no_dev]

    def note_replaced(self, split: str, published: Sequence[int], taken: Sequence[int]) -> None:
        """Say how many rows of the sampler's own choice were not taken because of their text."""
        if replaced := len(set(published) - set(taken)):
            self.notes.append(
                f"{split}: {replaced} of the sampler's {len(published)} rows have a text that also stands in test or "
                "dev and gave way to its next ones; protocol.drop_overlap=false keeps them"
            )

    def note_published(self) -> None:
        """Say where the draw is not the one that the protocol's paper made."""
        if self.cfg.allowed_shots and self.k not in self.cfg.allowed_shots:
            self.notes.append(f"shots={self.k} is not among the published ones, {self.cfg.allowed_shots}")
        if self.cfg.source and any(note.startswith("train:") for note in self.data.notes):
            self.notes.append("the train split is not the official one, so these are not the rows of the paper's draw")

    def names(self, pool: Rows) -> tuple[str, ...]:
        """The classes that get a share each; of domains those that `pool` has rows of."""
        if self.blind():
            return (ANY,)
        if self.data.kind.strata == "domain":
            return tuple(dict.fromkeys(str(row.domain) for row in pool))
        return self.data.labels if self.data.kind.strata == "label" else self.bins()[1:]

    def classes(self, rows: Rows) -> list[str]:
        """The class of each row: its label; the bin of its score; `ANY` where the draw does not look at classes."""
        if self.blind():
            return [ANY] * len(rows)
        if self.data.kind.strata == "label":
            return [str(row.target) for row in rows]
        if self.data.kind.strata == "domain":
            return [str(row.domain) for row in rows]
        cut, low, high = self.bins()
        scores = [float(row.target) for row in rows]  # type: ignore[arg-type]
        # LM-BFF puts a score on the cut into the upper bin, DePT into the lower
        return [low if s < cut or (s == cut and self.cfg.sampler == "dept") else high for s in scores]

    def bins(self) -> tuple[float, str, str]:
        """Where a regression task's scores are cut in two, the middle of their range, and the names of the bins."""
        scores = [float(row.target) for row in self.splits.train]  # type: ignore[arg-type]
        low, high = self.data.score_range or (min(scores), max(scores))
        cut = (low + high) / 2
        return cut, f"scores below {cut:g}", f"scores above {cut:g}"

    def blind(self) -> bool:
        """Whether k counts rows of any class."""
        return self.data.kind.strata == "rows" or (self.cfg.unit == "total" and self.cfg.sampler != "dept")
