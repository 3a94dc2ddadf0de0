"""Whether two short answers mean the same by WordNet, as ProtoQA's evaluator has it.

The extra `wordnet`: NLTK, with the corpus of that name in one of NLTK's folders. Nothing is ever fetched.

Both answers, without stop words, are cut into runs of words in every way. Two runs match if they are equal or have a
synset in common. Two ways to cut match as far as their runs do, one to one: the share of matched runs in those of the
longer one. The answers mean the same if the best two ways match by more than a half (the evaluator rounds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from peftbench.errors import UsageError
from peftbench.tasks.stop_words import STOP_WORDS

Synsets = Callable[[str], frozenset[str]]
"""A run of words, `_` between them -> names of its synsets."""
Cut = tuple[str, ...]
"""An answer as runs of words."""


class Matcher:
    """Whether two answers mean the same.

    Args:
        words: answer -> its words.
        synsets: looks a run of words up.
    """

    def __init__(self, words: Callable[[str], Sequence[str]], synsets: Synsets) -> None:
        self.words, self.synsets = words, cache(synsets)
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, first: str, second: str) -> bool:
        """Whether they do; each pair is worked out once."""
        key = (first, second)
        if key not in self._known:
            mine, others = (list(cuts([w for w in self.words(t) if w not in STOP_WORDS])) for t in key)
            self._known[key] = any(self._share(a, b) > 0.5 for a in mine for b in others)
        return self._known[key]

    def _share(self, first: Cut, second: Cut) -> float:
        """Of the longer one's runs, how many have a partner."""
        import numpy as np
        from scipy.optimize import linear_sum_assignment

        longer = max(len(first), len(second))
        if not min(len(first), len(second)) > longer / 2:
            return 0.0
        same = np.array([[a == b or bool(self.synsets(a) & self.synsets(b)) for b in second] for a in first])
        return float(same[linear_sum_assignment(same, maximize=True)].sum()) / longer


def cuts(words: Sequence[str]) -> Iterator[Cut]:
    """Every way to cut a text into runs of words; none for a text without words."""
    for places in range(1 << (len(words) - 1) if words else 0):
        runs = [words[0]]
        for place, word in enumerate(words[1:]):
            runs = [*runs, word] if places >> place & 1 else [*runs[:-1], f"{runs[-1]}_{word}"]
        yield tuple(runs)


@cache
def matcher() -> Matcher:
    """By NLTK's WordNet.

    Raises:
        UsageError: NLTK or its corpus is not there.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.tokenize import NLTKWordTokenizer

        wordnet.ensure_loaded()
    except (ImportError, LookupError, OSError) as error:
        lacks = "its package nltk (pip install 'peftbench[wordnet]')" if isinstance(error, ImportError) else (
            "its corpus: fetch it once with `python -m nltk.downloader wordnet`, or name its folder in NLTK_DATA"
        )  # fmt: skip
        raise UsageError(
            f"task.metrics: metrics that end in _wordnet need WordNet, and there is not {lacks}. Without it, the same "
            "metrics without that ending compare letter by letter."
        ) from None
    tokenizer = NLTKWordTokenizer()  # word_tokenize of a text that is one sentence
    return Matcher(tokenizer.tokenize, lambda run: frozenset(found.name() for found in wordnet.synsets(run)))
