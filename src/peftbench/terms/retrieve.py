"""Which terms of a collection stand for which label: SciPrompt's retrieval and filter (arXiv 2410.01946), offline.

The paper asks two web services for words related to a label's name. Here the `top` terms of a collection that a
bi-encoder places nearest to the name take their place; what follows is the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from peftbench.errors import UsageError
from peftbench.tasks.readers import read_text

WRAPPER = "The field of this study is related to {}"
"""The text in which names and terms are compared."""
SHORTEST = 3
"""Characters that a term has at least."""

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts -> (texts, d) vectors of length 1."""
Contrast = Callable[[Sequence[tuple[str, str]]], np.ndarray]
"""Pairs of texts -> how far each pair contradicts itself, 0 to 1."""


def read_terms(path: Path) -> list[str]:
    """The terms of a text file, one a line, each once; those of fewer than three characters are left out.

    Raises:
        UsageError: the file cannot be read or has no terms.
    """
    lines = (" ".join(line.split()) for line in read_text(path).splitlines())
    terms = {line.casefold(): line for line in lines if len(line) >= SHORTEST}
    if not terms:
        raise UsageError(f"--from {path}: no term of {SHORTEST} characters or more; a line is a term.")
    return list(terms.values())


def retrieve(
    names: Mapping[str, str],
    terms: Sequence[str],
    embed: Embed,
    *,
    top: int,
    threshold: float,
    contrast: Contrast | None = None,
    contrast_threshold: float = 0.9,
) -> dict[str, dict[str, float]]:
    """The words of each label with their scores.

    A label's own name comes first, with score 1. Of the `top` terms nearest to it those stay whose cosine with it is
    above `threshold` and, with a cross-encoder, whose contrast is below `contrast_threshold`. A term goes to the first
    label that takes it, in label order; the name of another label is nobody's term (ours). Kept terms stand in
    descending order of cosine, or, with a cross-encoder, in ascending order of contrast, as in the paper.

    Args:
        names: label -> its name in plain words, in label order.
        terms: the collection.
    """
    vectors = embed([WRAPPER.format(term) for term in terms])
    queries = embed([WRAPPER.format(name) for name in names.values()])
    taken = {name.casefold() for name in names.values()}
    words: dict[str, dict[str, float]] = {}
    for (label, name), query in zip(names.items(), queries, strict=True):
        cosines = vectors @ query
        nearest = np.argsort(-cosines, kind="stable")[:top]
        kept = [int(i) for i in nearest if cosines[i] > threshold and terms[i].casefold() not in taken]
        if contrast is not None and kept:
            against = contrast([(WRAPPER.format(name), WRAPPER.format(terms[i])) for i in kept])
            order = np.argsort(against, kind="stable")
            kept = [kept[place] for place in order if against[place] < contrast_threshold]
        taken |= {terms[i].casefold() for i in kept}
        words[label] = {name: 1.0} | {terms[i]: min(1.0, round(float(cosines[i]), 4)) for i in kept}
    return words
