"""Training in one language and testing in another: the train and dev rows of one `TaskData`, the test rows of another.

Labels are matched by name. One that only the source has may be predicted, which is then wrong; one that only the target
has is never trained. Both are said and counted; no label is ever rewritten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from peftbench.config.schema import transfer_name
from peftbench.errors import UsageError
from peftbench.tasks.base import DataSource, PatternSet, Row, TaskData


def transferred(source: TaskData, target: TaskData) -> TaskData:
    """The task of training on `source` and being tested on `target`.

    Raises:
        UsageError: the source has no train rows, or the target no test rows.
    """
    _check(source, target)
    labels = tuple(dict.fromkeys((*source.labels, *target.labels)))
    return replace(
        target,
        subset=transfer_name(source.subset, target.subset),
        source_subset=source.subset,
        train=source.train,
        dev=source.dev,
        labels=labels,
        label_words={**source.label_words, **target.label_words},
        languages=(*source.languages, *target.languages),
        source=_both_sources(source, target),
        cloze={name: _with_words(found, source.cloze.get(name)) for name, found in target.cloze.items()},
        terms={**source.terms, **target.terms},
        notes=tuple(_notes(source, target)),
    )


def _check(source: TaskData, target: TaskData) -> None:
    if not source.train:
        raise UsageError(
            f"task.source_lang={source.subset}: task `{source.name}` has no train rows in that language. "
            "Choose another."
        )
    if not target.test:
        raise UsageError(f"task.lang={target.subset}: task `{target.name}` has no labelled test rows in that language.")


def _both_sources(source: TaskData, target: TaskData) -> DataSource:
    """Where both came from; files by the language that they are of."""
    files = {f"{data.subset}: {name}": sha for data in (source, target) for name, sha in data.source.files.items()}
    places = dict.fromkeys((source.source.where, target.source.where))
    return DataSource(target.source.kind, " and ".join(places), target.source.revision, files)


def _with_words(of_target: PatternSet, of_source: PatternSet | None) -> PatternSet:
    words = {**(of_source.words if of_source else {}), **of_target.words}
    return replace(of_target, words=words)


def _notes(source: TaskData, target: TaskData) -> Iterator[str]:
    """What both say of the splits that are used, and what of the labels does not meet."""
    if source.subset == target.subset:
        yield f"trained in {source.subset} itself: no transfer"
    yield from (f"{source.subset}: {note}" for note in source.notes if not note.startswith("test:"))
    yield from (f"{target.subset}: {note}" for note in target.notes if not note.startswith(("train:", "dev:")))
    unknown, unmet = _counts(source.train, source, target), _counts(target.test, target, source)
    if unknown:
        yield f"only {source.subset} has the labels {_listed(unknown)} (train); to predict one of them is wrong"
    if unmet:
        yield f"only {target.subset} has the labels {_listed(unmet)} (test); they are never trained"


def _counts(rows: Sequence[Row], mine: TaskData, other: TaskData) -> Mapping[str, int]:
    """Label that `other` lacks -> how often it is in `rows`."""
    counted = Counter(label for row in rows for label in mine.kind.labels_of(row.target))
    return {label: counted[label] for label in mine.labels if label not in other.labels}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} ({count})" for label, count in counts.items())
