"""What can be asked of a text without knowing more than the text. Free of torch.

A rule is a function `(document, random) -> (input, answer) | None`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from peftbench.stages.recipe.instruction_data.templates import FILL, Document
from peftbench.tasks.stop_words import STOP_WORDS

Pair = tuple[str, str] | None
_WORD = re.compile(r"[^\W\d_]{4,}")
MOST = 5
"""Words, names or numbers of an answer."""


def keywords(document: Document, random: np.random.RandomState) -> Pair:
    """The most telling words, by frequency in the text and rarity in the others, in this order."""
    counts = Counter(word.lower() for word in _WORD.findall(document.text) if word.lower() not in STOP_WORDS)
    scores = {word: count * document.rarity.get(word, 0.0) for word, count in counts.items()}
    best = sorted((word for word in scores if scores[word] > 0), key=lambda word: (-scores[word], word))[:3]
    return (document.text, ", ".join(best)) if len(best) == 3 else None


def _listed(blank: str, document: Document, random: np.random.RandomState) -> Pair:
    found = dict.fromkeys(x for sentence in document.sentences if (x := FILL[blank](sentence, document)))
    return (document.text, ", ".join(list(found)[:MOST])) if found else None


def names(document: Document, random: np.random.RandomState) -> Pair:
    """The longest name of each sentence: a run of capitalised words that does not begin it."""
    return _listed("name", document, random)


def numbers(document: Document, random: np.random.RandomState) -> Pair:
    """The first number of each sentence, with the word behind it."""
    return _listed("number", document, random)


def next_sentence(document: Document, random: np.random.RandomState) -> Pair:
    """Two sentences, one behind the other (yes), or the wrong way round (no)."""
    if len(document.sentences) < 2:
        return None
    place, turned = random.randint(len(document.sentences) - 1), bool(random.randint(2))
    first, second = document.sentences[place], document.sentences[place + 1]
    return (f"1: {second}\n2: {first}", "no") if turned else (f"1: {first}\n2: {second}", "yes")


def order(document: Document, random: np.random.RandomState) -> Pair:
    """Two sentences A and B: which comes first."""
    if len(document.sentences) < 2:
        return None
    one, other = sorted(random.choice(len(document.sentences), 2, replace=False).tolist())
    first, second = document.sentences[one], document.sentences[other]
    return (f"A: {second}\nB: {first}", "B") if random.randint(2) else (f"A: {first}\nB: {second}", "A")


def gap(document: Document, random: np.random.RandomState) -> Pair:
    """A content word of a sentence that stands in it once, left out."""
    sentence = document.sentences[random.randint(len(document.sentences))]
    words = [w for w in _WORD.findall(sentence) if w.lower() not in STOP_WORDS and sentence.count(w) == 1]
    if not words:
        return None
    word = words[random.randint(len(words))]
    return sentence.replace(word, "___"), word


def opening(document: Document, random: np.random.RandomState) -> Pair:
    """The first sentence, from the others."""
    if len(document.sentences) < 3:
        return None
    return " ".join(document.sentences[1:]), document.sentences[0]


RULES: Mapping[str, Callable[[Document, np.random.RandomState], Pair]] = {
    rule.__name__: rule for rule in (keywords, names, numbers, next_sentence, order, gap, opening)
}
