"""Scientific topics with the label words of SciPrompt (You et al. 2024, arXiv 2410.01946).

emerging_nlp comes with its abstracts. For sdpra2021, arxiv and s2orc only the label files are published; their texts
are read from `train.csv` and `test.csv` in the same folder once somebody puts them there. mag (paper titles) and
arxiv5 (abstracts) stand in for s2orc and arxiv; they have no label files.

Label names are kept as they are, with their parentheses, spaces and dots.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, flag, listed, mapping, text
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_csv, read_jsonl, read_text
from peftbench.tasks.sources import Found, Subset, assemble, file_sha256, find_files, resolve_subset

COLUMNS = ("text", "label")
WORDS_FILE, SCORES_FILE = "output_words.txt", "output_scores.txt"
"""A line a label: its terms, and a score for each."""
HINT = (
    "The texts of sdpra2021, arxiv and s2orc are not published with their label files. train.csv and test.csv are read "
    "beside label_dict.txt: no header line, two columns, the abstract and its label as label_dict.txt spells it."
)


@dataclass(frozen=True)
class LabelTerms:
    """What stands for a label at the mask: its terms, the label's own name first, and a score above 0 for each."""

    label: str
    words: tuple[str, ...]
    scores: tuple[float, ...]


@adapter(subset={"junk": mapping(text), "header": flag, "notes": listed(text)})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """One data set."""
    subset = resolve_subset(cfg)
    try:
        found = find_files(cfg, subset, data_dir)
    except UsageError as error:
        raise UsageError(f"{error}\n  {HINT}" if not subset.labels else str(error)) from error
    if not subset.labels:
        names = label_names(Path(found.source.where))
        subset = replace(subset, labels={label: label for label in names}, label_words=names)
    splits = {}
    notes = list(subset.options.get("notes", ()))
    for split in found.files:
        splits[split], dropped = _rows(subset, found, split)
        if dropped:
            notes.append(f"{split}: {dropped} junk row dropped ({subset.options['junk']})")
    terms, found = _terms(found)
    return assemble(cfg, subset, found, splits, notes, terms=terms)


def _terms(found: Found) -> tuple[dict[str, tuple[tuple[str, float], ...]], Found]:
    """Label -> its terms with their scores, empty without the files; and `found` with the files' hashes."""
    folder = Path(found.source.where)
    if not (folder / WORDS_FILE).is_file():
        return {}, found
    terms = {t.label: tuple(zip(t.words, t.scores, strict=True)) for t in label_terms(folder.parent, folder.name)}
    hashes = {name: file_sha256(folder / name) for name in (WORDS_FILE, SCORES_FILE)}
    return terms, replace(found, source=replace(found.source, files={**found.source.files, **hashes}))


def label_names(folder: Path) -> dict[str, str]:
    """Label -> its name in plain words, in the order of `label_dict.txt` (which is the order of all label files).

    The file is a Python literal, not JSON: label -> list of seed words, of which the first is the name.
    """
    path = folder / "label_dict.txt"
    try:
        seeds = ast.literal_eval(read_text(path).strip())
        names = {label: words[0] for label, words in seeds.items()}
        if not all(isinstance(text, str) for pair in names.items() for text in pair):
            raise TypeError("a label or a seed word is not a string")
    except (ValueError, SyntaxError, TypeError, AttributeError, LookupError, MemoryError, RecursionError) as error:
        raise UsageError(f"{path}: not a Python dict of label -> list of seed words ({error}).") from error
    return names


def label_terms(folder: Path, subset: str) -> list[LabelTerms]:
    """The retrieved and filtered terms of each label of one data set, in label order.

    The three label files are paired by line: the first term of a line is often spelled unlike the seed word.

    Args:
        folder: the `sciprompt` folder.
        subset: data set, that is the folder's folder with the label files.

    Raises:
        UsageError: a file is missing, the files do not have one line a label, or a line of `output_words.txt` and
            its line of `output_scores.txt` do not have equally many entries.
    """
    names = label_names(folder / subset)
    words, scores = (_lines_of_labels(folder / subset / file, len(names)) for file in (WORDS_FILE, SCORES_FILE))
    path = folder / subset / SCORES_FILE
    terms = []
    for line, label in enumerate(names, start=1):
        own_words, cells = words[line - 1].split(","), scores[line - 1].split(",")
        if len(own_words) != len(cells):
            raise UsageError(f"{path}, line {line}: {len(cells)} scores for the {len(own_words)} terms of `{label}`.")
        try:
            own_scores = tuple(float(cell) for cell in cells)
        except ValueError as error:
            raise UsageError(f"{path}, line {line}: {error}.") from error
        terms.append(LabelTerms(label, tuple(word.strip() for word in own_words), own_scores))
    return terms


def _lines_of_labels(path: Path, count: int) -> list[str]:
    lines = read_text(path).split("\n")
    if len(lines) != count:
        raise UsageError(f"{path}: {len(lines)} lines where label_dict.txt has {count} labels; a line is a label.")
    return lines


def _rows(subset: Subset, found: Found, split: str) -> tuple[list[Row], int]:
    """The rows of a split, and how many rows were dropped because they are the subset's known junk."""
    rows, dropped = [], 0
    junk = subset.options.get("junk")
    for index, (path, line, record) in enumerate(found.records(split, _reader(subset, found.files[split][0]))):
        if junk is not None and _is(record, junk):
            dropped += 1
            continue
        rows.append(Row(f"{split}:{index}", str(record["text"]).strip(), subset.label(record["label"], path, line)))
    return rows, dropped


def _is(record: Mapping[str, Any], junk: Mapping[str, str]) -> bool:
    return all(record.get(key) == value for key, value in junk.items())


def _reader(subset: Subset, path: Path) -> Callable[[Path], Any]:
    if path.suffix != ".csv":
        return lambda file: read_jsonl(file, require=COLUMNS)
    if subset.options.get("header"):
        return lambda file: read_csv(file, require=COLUMNS)
    return lambda file: read_csv(file, names=COLUMNS)
