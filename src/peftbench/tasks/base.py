"""The one shape in which every task hands over its data. Nothing here knows a model.

An adapter reads the original files and returns `TaskData`: rows of `id, text, pair?, target`, the label set, the
metrics, and where it all came from. A few-shot protocol (`peftbench.tasks.protocols`) then draws from it.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from peftbench.config.tasks import ENDS
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.problems import Problem, kind
from peftbench.tasks.tuple_formats import TupleForm

Target = str | float | tuple[Any, ...]
"""What is asked for: a label name, a score, a tuple of tags, of tuples or of texts. `peftbench.tasks.problems` has the
kinds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One item of a task.

    Attributes:
        id: `"<split>:<0-based data row in the source file>"`, for example `"train:17"`; unique within a `TaskData`.
        text: the first (or only) text.
        target: label *name*, score, tags, tuples or reference texts; None for an unlabelled row. Never an integer id.
        pair: the second text of a pair task, else None.
        domain: where the row comes from (a subject area, a venue), for methods with experts by domain, else None.
        parts: what the row is made of, by name (`headline`, `article`; `question`, `answer`, `paragraph`), for cloze
            patterns and text-to-text inputs that place them apart, else None. One that the model is not given is empty.
        group: rows that must stay together in a split or be scored together (a sentence with several aspects in
            ABSA, a question with several answers in MultiRC, the two choices of one COPA item), else None.
    """

    id: str
    text: str
    target: Target | None
    pair: str | None = None
    group: str | None = None
    parts: Mapping[str, str] | None = None
    domain: str | None = None

    @property
    def whole(self) -> str:
        """All that the row says: both texts of a pair, a space between them."""
        return self.text if self.pair is None else f"{self.text} {self.pair}"


@dataclass(frozen=True)
class PatternSet:
    """The cloze patterns and label words of one paper for one task.

    Attributes:
        name: as in `method.formulation.patterns=NAME`.
        patterns: texts with the placeholders that `peftbench.formulations.patterns` explains, each with one `{mask}`.
        words: label name -> its words; of a regression task, `low` and `high` -> theirs.
        shorten: which part of a too long input loses tokens: the `last` that is not empty (PET), or the `longest`.
        source: where the set comes from.
    """

    name: str
    patterns: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    shorten: Literal["last", "longest"] = "longest"
    source: str = ""


def text_key(row: Row) -> bytes:
    """Equal for rows that count as the same text: NFC, lower case, runs of white space as one space; text and pair."""
    first, second = (" ".join(unicodedata.normalize("NFC", t).lower().split()) for t in (row.text, row.pair or ""))
    return hashlib.blake2b(f"{len(first)} {first}{second}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class DataSource:
    """Where rows came from: enough to fetch the same bytes again."""

    kind: Literal["local", "hub", "packaged"]
    where: str
    revision: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """File name -> SHA-256 of its bytes."""


@dataclass(frozen=True)
class Mixture:
    """What a task is made of whose rows belong to several tasks.

    Attributes:
        parts: name -> the task, without rows, of the rows that have this name for their `domain`.
        exponent: how often a part comes up in training: in proportion to its number of train rows to this power. 1 is
            as often as its rows are, 0 equally often (temperature-scaled mixing, whose T is 1 / exponent: Raffel et
            al., JMLR 2020, section 3.5.2).
    """

    parts: Mapping[str, TaskData]
    exponent: float = 1.0

    def shares(self, rows: Sequence[Row]) -> list[float]:
        """How often each of these train rows comes up in a pass, in the mean; as many in all as there are rows."""
        sizes = Counter(str(row.domain) for row in rows)
        powers = {name: count**self.exponent for name, count in sizes.items()}
        rate = len(rows) / sum(powers.values()) if rows else 0.0
        return [powers[name] * rate / sizes[name] for name in (str(row.domain) for row in rows)]


@dataclass(frozen=True)
class TaskData:
    """Everything that a task knows about one subset (a language, a GLUE task, an ABSA domain).

    Attributes:
        name: task name as in `task=NAME`.
        subset: language, GLUE task, domain ...
        train, dev, test: labelled official splits; a split without labels or not in the source is empty.
        unlabeled: extra rows without a target.
        extra_tests: further labelled test sets by name (MNLI: `{"mismatched": ...}`), scored beside `test`.
        extra_metrics: name of an extra test set -> its own metrics, where they are not the task's.
        labels: label names (of tags: entity types) in a fixed order; empty for regression. An id is a position in this
            tuple and never travels outside the process.
        label_words: label name -> the words a text-to-text or scoring model reads or writes for it.
        fields: what a text-to-text input names, in its order, as in "sentence1: ... sentence2: ...": names of the
            rows' `parts`, else of `text` and `pair`.
        problem: kind of target, by name.
        main_metric: the number that tables show, one of `metrics`.
        cloze: the pattern sets of the task by name, the default one first.
        terms: label name -> (term, score) pairs, the label's own name first: what knowledgeable and weighted
            verbalizers take for its words. Empty for a task without such lists.
        templates: instruction templates of the task's YAML, in their order (`peftbench.formulations.wordings`).
        domains: the domains of the rows, in a fixed order; empty where they have none.
        test_is_dev: whether `test` holds the official dev rows, because the labels of the official test are hidden.
        held_out: how `protocol.heldout=halve_dev` makes dev and test of this data set: `halve` the official dev, take
            dev from `train`, or an extra test set's name; empty: by the size of train.
        score_range: (low, high) of a regression target.
        source_subset: the language that train and dev are of, where it is not the one of test; see
            `peftbench.tasks.transfer`.
        lowercase: how the texts were put into lower case (`peftbench.tasks.lowercase`), so that new ones are too.
        instruction: what a model that answers in words is told in front of each row; empty: nothing.
        tuple_form: what the tuples of a task hold that asks for tuples.
        mixture: what it is made of whose rows belong to several tasks, else None.
        tasks: of a sequence (`peftbench.tasks.sequence`) its tasks by name, in their order. Its rows are theirs, with
            ids "<split>:<task>/<number>"; a row's `domain` names its task.
        shared_head: of a sequence, whether its tasks have one label set and one head.
        knowledge: neutral texts, the language-model loss on which says what a model still knows.
        notes: remarks a reader of the result must see (a train file shorter than the official one, ...).
    """

    name: str
    subset: str
    train: Sequence[Row]
    dev: Sequence[Row]
    test: Sequence[Row]
    labels: tuple[str, ...]
    label_words: Mapping[str, str]
    fields: tuple[str, ...]
    problem: str
    main_metric: str
    metrics: tuple[str, ...]
    source: DataSource
    languages: tuple[str, ...] = ()
    unlabeled: Sequence[Row] = ()
    extra_tests: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    extra_metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    test_is_dev: bool = False
    held_out: str = ""
    score_range: tuple[float, float] | None = None
    source_subset: str = ""
    lowercase: str | None = None
    cloze: Mapping[str, PatternSet] = field(default_factory=dict)
    terms: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    templates: tuple[Mapping[str, Any], ...] = ()
    domains: tuple[str, ...] = ()
    instruction: str = ""
    tuple_form: TupleForm = field(default_factory=TupleForm)
    mixture: Mixture | None = None
    tasks: Mapping[str, TaskData] = field(default_factory=dict)
    shared_head: bool = False
    knowledge: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Problem:
        """What the kind of the targets declares of itself."""
        return kind(self.problem)

    def part(self, domain: str | None) -> TaskData:
        """The task of the rows of a domain: of a mixture one of its parts, else this one.

        Raises:
            UsageError: the mixture has no such part.
        """
        if self.mixture is None:
            return self
        if domain not in self.mixture.parts:
            known = did_you_mean(str(domain or ""), self.mixture.parts)
            raise UsageError(f"domain={domain or ''}: says of no row of {self.name} which task it belongs to. {known}")
        return self.mixture.parts[str(domain)]

    @cached_property
    def text_keys(self) -> Mapping[str, bytes]:
        """Id of each labelled row -> its `text_key`; made once for all draws from this data."""
        splits = (self.train, self.dev, self.test, *self.extra_tests.values())
        return {row.id: text_key(row) for rows in splits for row in rows}

    @property
    def cloze_labels(self) -> tuple[str, ...]:
        """What has words of its own in a cloze: the labels, or the ends of a regression task's scores."""
        return ENDS if self.problem == "regression" else self.labels

    def sha256(self) -> str:
        """Hash of every labelled row and neutral text, so that two results can be checked to rest on the same data."""
        digest = hashlib.sha256()
        splits = {"train": self.train, "dev": self.dev, "test": self.test, **self.extra_tests}
        for name, rows in splits.items():
            for row in rows:
                line = json.dumps([name, row.id, row.text, row.pair, row.target], ensure_ascii=False)
                digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
        for text in self.knowledge:
            digest.update(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


def bare_task(data: TaskData) -> TaskData:
    """The task without its rows, patterns and terms: what a formulation reads of it that needs none of these."""
    none: dict[str, Any] = {"train": (), "dev": (), "test": (), "unlabeled": (), "extra_tests": {}, "knowledge": ()}
    tasks = {name: bare_task(task) for name, task in data.tasks.items()}
    return replace(data, **none, cloze={}, terms={}, templates=(), notes=(), tasks=tasks)


def text_fields(row: Row, task: TaskData) -> dict[str, str]:
    """Field name -> text, in the order in which a text-to-text input has them."""
    if row.parts and all(name in row.parts for name in task.fields):
        return {name: row.parts[name] for name in task.fields}
    texts = [row.text] if row.pair is None else [row.text, row.pair]
    return dict(zip(task.fields, texts, strict=False))
