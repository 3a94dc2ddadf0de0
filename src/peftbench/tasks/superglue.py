"""SuperGLUE (Wang et al. 2019, arXiv 1905.00537) in the few-shot files of FewGLUE, or whole from the hub.

FewGLUE has 32 labelled rows in `train.jsonl` and in `dev32.jsonl`; `val.jsonl` is SuperGLUE's dev set and serves as
the test set, as in the papers that use it. The hub has no dev split.

How each task becomes one text or a pair (a choice, as every cast of these tasks to plain classification is):

| task    | text                                              | pair                                | labels           |
| ------- | ------------------------------------------------- | ----------------------------------- | ---------------- |
| boolq   | question                                          | passage                             | false, true      |
| cb, rte | premise                                           | hypothesis                          | entailment, ...  |
| copa    | premise, then "What was the cause?" or            | "choice1: ... choice2: ..."         | choice1, choice2 |
|         | "What was the effect?"                            |                                     |                  |
| multirc | passage                                           | question and one answer to it       | false, true      |
| wic     | "word: first sentence"                            | second sentence                     | false, true      |
| wsc     | the text, *noun phrase* and #pronoun# marked      | -                                   | false, true      |

MultiRC has a row for each answer; the rows of a question share a `group`, over which `exact_match_group` is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl
from peftbench.tasks.sources import Found, Subset, assemble, find_files, resolve_subset

FILES = {"train": "train.jsonl", "dev": "dev32.jsonl", "test": "val.jsonl", "unlabeled": "unlabeled.jsonl"}


@adapter(subset={})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """One SuperGLUE task."""
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, data_dir, FILES)
    splits = {split: _rows(subset, found, split) for split in found.files}
    unlabeled = splits.pop("unlabeled", [])
    notes = _note_missing_labels(subset, splits["train"])
    return assemble(cfg, subset, found, splits, notes, unlabeled=unlabeled, test_is_dev=True)


def _rows(subset: Subset, found: Found, split: str) -> list[Row]:
    items = _answers if subset.name == "multirc" else _whole
    rows = []
    for index, (path, line, record) in enumerate(found.records(split, read_jsonl)):
        try:
            for number, group, item in items(index, record):
                text, pair = FORMS[subset.name](item)
                parts = PARTS[subset.name](item) if subset.name in PARTS else None
                target = None if split == "unlabeled" else subset.label(item["label"], path, line)
                rows.append(Row(f"{split}:{number}", text, target, pair, f"{split}:{group}" if group else None, parts))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"{path}, line {line}: not a row of `{subset.name}` ({what}).") from error
    return rows


Item = tuple[str, str | None, Mapping[str, Any]]
"""Row number, group (None for a row of its own) and record of one item to be labelled."""


def _whole(index: int, record: Mapping[str, Any]) -> Iterator[Item]:
    yield str(index), None, record


def _answers(index: int, record: Mapping[str, Any]) -> Iterator[Item]:
    """The answers of a MultiRC passage with all its questions (the original files) or of one row (the hub's)."""
    if "passage" not in record:
        yield str(index), f"{record['idx']['paragraph']}/{record['idx']['question']}", record
        return
    passage = record["passage"]
    for q, question in enumerate(passage["questions"]):
        for a, answer in enumerate(question["answers"]):
            item = {"paragraph": passage["text"], "question": question["question"], "answer": answer["text"]}
            yield f"{index}/{q}/{a}", f"{index}/{q}", {**item, "label": answer.get("label")}


def _note_missing_labels(subset: Subset, train: Sequence[Row]) -> list[str]:
    """FewGLUE's WSC train has positive rows only: nothing can be learned from it by classification."""
    present = {row.target for row in train}
    missing = [label for label in subset.label_names if label not in present]
    return [f"train: no row with the label {', '.join(missing)}"] if missing else []


def _copa(record: Mapping[str, Any]) -> tuple[str, str]:
    if record["question"] not in ("cause", "effect"):
        raise ValueError(f"the question is `{record['question']}`, where `cause` or `effect` is expected")
    text = f"{record['premise'].strip()} What was the {record['question']}?"
    return text, f"choice1: {record['choice1'].strip()} choice2: {record['choice2'].strip()}"


def _wsc(record: Mapping[str, Any]) -> tuple[str, None]:
    spans = record.get("target", record)  # the hub has the span columns at the top
    text = record["text"].strip()
    phrase = _span(text, spans["span1_text"], spans["span1_index"])
    pronoun = _span(text, spans["span2_text"], spans["span2_index"])
    for (start, end), mark in sorted([(phrase, "*"), (pronoun, "#")], reverse=True):
        text = f"{text[:start]}{mark}{text[start:end]}{mark}{text[end:]}"
    return text, None


def _span(text: str, span: str, index: int) -> tuple[int, int]:
    """Character offsets of `span`, at its occurrence nearest to the word number `index`.

    Nearest, because the official index is off by a few words in one row of the dev set; everywhere else the nearest
    occurrence is the one at the index.
    """
    words = list(re.finditer(r"\S+", text))
    pattern = r"\s+".join(map(re.escape, span.split()))
    found = list(re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE))
    if not found or not 0 <= index < len(words):
        raise ValueError(f"`{span}` is not at word {index} of the text")
    at = words[index].start()
    return min(found, key=lambda match: abs(match.start() - at)).span()


FORMS: dict[str, Callable[[Mapping[str, Any]], tuple[str, str | None]]] = {
    "boolq": lambda record: (record["question"].strip(), record["passage"].strip()),
    "cb": lambda record: (record["premise"].strip(), record["hypothesis"].strip()),
    "copa": _copa,
    "multirc": lambda record: (record["paragraph"].strip(), f"{record['question'].strip()} {record['answer'].strip()}"),
    "rte": lambda record: (record["premise"].strip(), record["hypothesis"].strip()),
    "wic": lambda record: (f"{record['word']}: {record['sentence1'].strip()}", record["sentence2"].strip()),
    "wsc": _wsc,
}
"""Subset -> the text and the pair of one item (table above)."""
PARTS: dict[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {
    "copa": lambda record: {
        "premise": f"{record['premise'].strip()} What was the {record['question']}?",
        "choice1": record["choice1"].strip(),
        "choice2": record["choice2"].strip(),
    },
    "multirc": lambda record: {name: record[name].strip() for name in ("question", "answer", "paragraph")},
    "wic": lambda record: {name: record[name].strip() for name in ("sentence1", "sentence2", "word")},
}
"""Subset -> what an item is made of, where that is more than a text and a pair: the fields of a text-to-text input."""
