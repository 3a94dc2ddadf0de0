"""ProtoQA (Boratko et al., EMNLP 2020, arXiv 2005.00771): questions with many right answers, and how many people gave
each.

Train is the text that the authors fine-tuned GPT-2 on: a question as the beginning of a sentence and one answer a line,
without counts. Dev is the crowdsourced dev set, the test set of a run: the answers of the official test are hidden. Its
questions are put into the form of train, by the rules of the authors' script (`as_statement`); the question itself is a
part of the row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, choice, flag, text
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl, read_text
from peftbench.tasks.sources import Found, assemble, find_files, resolve_subset, text_of

_FORMS = (
    (r"\b(?:name|tell me) something\b(.*)", r"one thing\1 is"),
    (r"\b(?:name|tell me|give me) an? (.*)", r"one \1 is"),
    (r"\b(?:name|tell me)\b ?(.*)", r"\1 is"),
    (r"\b(?:what|which)\b(.*)", r"one\1 is"),
    (r"how can you tell(.*)", r"one way to tell\1 is"),
)
_PEOPLE = {"someone": "one person", "someplace": "one place"}


@adapter(subset={"clusters": flag, "rows": choice("questions", "answers"), "instruction": text})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """A row of train is a question with all its answers, or (`rows: answers`) with one of them."""
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, data_dir, required=("train", "dev"))
    rows = {"train": _train(found, subset.options["rows"]), "dev": list(_crowdsourced(found))}
    return assemble(cfg, subset, found, rows, label_words={}, instruction=subset.options["instruction"])


def as_statement(question: str) -> str:
    """A question as the beginning of a sentence that an answer ends.

    >>> as_statement("Name something that keeps children safe.")
    'one thing that keeps children safe is'
    """
    said = re.sub(r"[.:?]", "", question.lower())
    for word, two in _PEOPLE.items():
        said = said.replace(word, two)
    for pattern, form in _FORMS:
        if found := re.search(pattern, said):
            return (said[: found.start()] + found.expand(form)).strip()
    return f"q: {said}? a:"


def _train(found: Found, rows: str) -> list[Row]:
    """Questions in the order of the file; one that comes back later is the same, an answer too."""
    answers: dict[str, dict[str, None]] = {}
    for path, line, record in found.records("train", _read_lines):
        statement, answer = record["statement"].strip(), record["answer"].strip().rstrip(". ")
        if not statement or not answer:
            raise UsageError(f"{path}, line {line}: a question and an answer are expected, and one is empty.")
        answers.setdefault(statement, {})[answer] = None
    if rows == "questions":
        return [Row(f"train:{n}", q, tuple((1, (a,)) for a in given)) for n, (q, given) in enumerate(answers.items())]
    return [
        Row(f"train:{n}/{m}", question, ((1, (answer,)),), group=f"train:{n}")
        for n, (question, given) in enumerate(answers.items())
        for m, answer in enumerate(given)
    ]


def _read_lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """A question and an answer a line, with a tab between."""
    records = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        fields = line.split("\t")
        if len(fields) != 2:
            raise UsageError(
                f"{path}, line {number}: a question, a tab and an answer are expected; found {len(fields)} fields."
            )
        records.append((number, {"statement": fields[0], "answer": fields[1]}))
    return records


def _crowdsourced(found: Found) -> Iterator[Row]:
    for position, (path, line, record) in enumerate(found.records("dev", read_jsonl)):
        try:
            said = {form: text_of(record["question"], form, path, line) for form in ("original", "normalized")}
            clusters = [_cluster(value) for value in record["answers"]["clusters"].values()]
            if not clusters:
                raise ValueError("no cluster")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                f"{path}, line {line}: not a question of ProtoQA with clusters of answers "
                f"({type(error).__name__}: {error})."
            ) from error
        ranked = tuple(sorted(clusters, key=lambda cluster: -cluster[0]))
        yield Row(
            f"dev:{position}", as_statement(said["normalized"]), ranked, parts={"asked": said["original"].strip()}
        )


def _cluster(value: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    count, answers = value["count"], value["answers"]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"a cluster's count is {count!r:.20}, not a number of people")
    if not isinstance(answers, Sequence) or not answers or not all(isinstance(a, str) for a in answers):
        raise ValueError("a cluster has no list of answers")
    return count, tuple(answers)
