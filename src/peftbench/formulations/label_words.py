"""Which words stand for a label at the mask, how much each counts, and which tokens they are.

`method.formulation.words` chooses: the words of the pattern set, the labels' names, the task's retrieved terms, or a
file of the user's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from peftbench.config.user_files import read_yaml
from peftbench.errors import UsageError, did_you_mean
from peftbench.formulations.cloze import ClozeConfig
from peftbench.tasks.base import PatternSet, TaskData
from peftbench.tasks.readers import parse_json, read_text

SHOWN = 5
"""Split or unknown words that a remark names; a list of terms may have thousands."""


@dataclass(frozen=True)
class LabelWords:
    """The words of each label, in label order.

    Attributes:
        words: label name -> its words, the most typical first.
        scores: label name -> a score above 0 for each of them; only a weighted verbalizer looks at it.
        setting: where they come from, for messages.
        lenient: whether a word that the tokenizer does not know is left out (a long list) or an error.
    """

    words: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, tuple[float, ...]]
    setting: str
    lenient: bool = False

    def without_shared(self) -> LabelWords:
        """Without the words that stand in several classes, as KPT's released code has it; a class that would lose all
        of its words keeps its first, its name (ours)."""
        classes = Counter(word for own in self.words.values() for word in set(own))
        kept = {
            label: [i for i, word in enumerate(own) if classes[word] == 1] or [0] for label, own in self.words.items()
        }
        words = {label: tuple(own[i] for i in kept[label]) for label, own in self.words.items()}
        scores = {label: tuple(own[i] for i in kept[label]) for label, own in self.scores.items()}
        return replace(self, words=words, scores=scores)

    @classmethod
    def of(cls, pairs: Mapping[str, Sequence[tuple[str, float]]], setting: str) -> LabelWords:
        """From (word, score) pairs, as long lists come."""
        words = {label: tuple(word for word, _ in own) for label, own in pairs.items()}
        scores = {label: tuple(score for _, score in own) for label, own in pairs.items()}
        return cls(words, scores, setting, lenient=True)

    @classmethod
    def plain(cls, words: Mapping[str, Sequence[str]], setting: str) -> LabelWords:
        """Words that count alike."""
        return cls({k: tuple(v) for k, v in words.items()}, {k: (1.0,) * len(v) for k, v in words.items()}, setting)


def choose_words(task: TaskData, patterns: PatternSet, cfg: ClozeConfig) -> LabelWords:
    """The words that the config asks for, for every label of the task.

    Raises:
        UsageError: the task has no terms, or the file cannot be used.
    """
    words = _chosen(task, patterns, cfg)
    return words if cfg.shared_words == "keep" else words.without_shared()


def _chosen(task: TaskData, patterns: PatternSet, cfg: ClozeConfig) -> LabelWords:
    choice = cfg.words
    if choice == "auto":
        choice = "terms" if task.terms else "task"
    if choice == "task":
        own = {label: patterns.words[label] for label in task.cloze_labels}
        return LabelWords.plain(own, f"method.formulation.patterns={patterns.name}")
    if choice == "names":
        return LabelWords.plain(
            {x: (task.label_words.get(x, x),) for x in task.cloze_labels}, "method.formulation.words=names"
        )
    if choice == "terms":
        if not task.terms:
            raise UsageError(
                f"method.formulation.words=terms: task {task.name}, subset {task.subset}, has no retrieved terms. Use "
                "words=task, or make a file of your own terms: peftbench terms --help."
            )
        return LabelWords.of(
            {label: task.terms[label] for label in task.cloze_labels}, "method.formulation.words=terms"
        )
    return LabelWords.of(read_words(Path(choice).expanduser(), task.cloze_labels), f"method.formulation.words={choice}")


def read_words(path: Path, labels: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """A user's label words, from YAML or JSON: label -> a word, a list of words, or a mapping of words to scores.

    Returns:
        For each of `labels`, in that order, its (word, score) pairs; the score of a word without one is 1.

    Raises:
        UsageError: naming the file and the label whose entry is missing, unknown or malformed.
    """
    try:
        content = parse_json(read_text(path), str(path)) if path.suffix == ".json" else read_yaml(path)
    except UsageError as error:
        raise UsageError(f"method.formulation.words={path}: cannot be used. {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"method.formulation.words={path}: not a mapping of labels to words.")
    given = {str(label): entry for label, entry in content.items()}
    for label in given:
        if label not in labels:
            raise UsageError(f"{path}: the task has no label `{label}`. {did_you_mean(label, labels)}")
    if missing := [label for label in labels if label not in given]:
        raise UsageError(f"{path}: no words for the label `{missing[0]}`. Add a line `{missing[0]}: [word, ...]`.")
    return {label: _entry(path, label, given[label]) for label in labels}


def _entry(path: Path, label: str, entry: Any) -> list[tuple[str, float]]:
    """The words of one label of a file, with their scores."""
    pairs = entry.items() if isinstance(entry, dict) else [(word, 1.0) for word in _as_list(entry)]
    own = []
    for word, score in pairs:
        if not isinstance(word, str) or not word.strip():
            raise UsageError(f"{path}, label `{label}`: a word has to be text, found {word!r}. Put it in quotes.")
        if not isinstance(score, Real) or isinstance(score, bool) or not 0 < float(score) < float("inf"):
            raise UsageError(f"{path}, label `{label}`: the score of `{word}` has to be above 0, found {score!r}.")
        own.append((word.strip(), float(score)))
    if not own:
        raise UsageError(f"{path}, label `{label}`: no words.")
    return own


def _as_list(entry: Any) -> list[Any]:
    return list(entry) if isinstance(entry, list | tuple) else [] if entry is None else [entry]


def word_pieces(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """Ids of a label word as it stands inside a sentence, with a space in front (LM-BFF's rule)."""
    text = word if _is_wordpiece(tokenizer) else f" {word}"
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _is_wordpiece(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a leading space changes nothing."""
    plain, spaced = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("word", " word"))
    return plain == spaced


@dataclass(frozen=True)
class TokenisedWords:
    """Label words that the tokenizer knows.

    Attributes:
        ids: label name -> for each of its words, the ids of the word's tokens.
        scores: label name -> a score for each of them.
        notes: remarks on split words and on those left out.
    """

    ids: dict[str, list[list[int]]]
    scores: dict[str, list[float]]
    notes: list[str]


def tokenise_words(
    tokenizer: PreTrainedTokenizerBase, words: LabelWords, split_words: Literal["mean", "error"] | str
) -> TokenisedWords:
    """Ids of every label word. Words that the tokenizer does not know are left out of a lenient list, with its scores.

    Args:
        split_words: what to do about a word of several tokens: "error" refuses it, "mean" and "first" note it.

    Raises:
        UsageError: a word is unknown to the tokenizer (of a lenient list: all words of a label); one is split and
            `split_words` is "error"; two classes share all their words.
    """
    ids: dict[str, list[list[int]]] = {}
    scores: dict[str, list[float]] = {}
    split, unknown = [], []
    for label, own in words.words.items():
        ids[label], scores[label] = [], []
        for word, score in zip(own, words.scores[label], strict=True):
            pieces = word_pieces(tokenizer, word)
            shown = " ".join(tokenizer.convert_ids_to_tokens(pieces))
            if not pieces or tokenizer.unk_token_id in pieces:
                unknown.append(f"`{word}` of `{label}` ({shown or 'nothing'})")
                continue
            if len(pieces) > 1:
                split.append(f"label word `{word}` of `{label}` is split into {shown}")
            ids[label].append(pieces)
            scores[label].append(score)
        if unknown and (not words.lenient or not ids[label]):
            raise UsageError(
                f"{words.setting}: the tokenizer does not know the label word {unknown[-1]}. Choose another word, or a "
                "model of the word's language."
            )
    if split and split_words == "error":
        raise UsageError(
            f"{words.setting}: {split[0]}, and there is one mask. Choose a word of one token, or "
            "method.formulation.split_words=mean, which takes the mean of its tokens' scores at the mask."
        )
    _refuse_equal(ids, words.setting, first=split_words == "first")
    total = sum(map(len, words.words.values()))
    notes = split if len(split) <= SHOWN else [f"{len(split)} of {total} label words are split into several tokens"]
    if unknown:
        notes.append(f"{len(unknown)} of {total} label words are unknown to the tokenizer and left out: "
                     f"{', '.join(unknown[:SHOWN])}")  # fmt: skip
    return TokenisedWords(ids, scores, notes)


def _refuse_equal(ids: Mapping[str, Sequence[Sequence[int]]], setting: str, first: bool) -> None:
    seen: dict[frozenset[tuple[int, ...]], str] = {}
    for label, own in ids.items():
        key = frozenset(tuple(pieces[:1] if first else pieces) for pieces in own)
        if key in seen:
            raise UsageError(f"{setting}: `{seen[key]}` and `{label}` have the same words for this tokenizer.")
        seen[key] = label
