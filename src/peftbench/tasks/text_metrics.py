"""Metrics of written texts as sums over sentences: GLEU (grammar) and SARI (simplification), which no kept library
ships as they are reported, and BLEU by sacrebleu.

Each has `..._counts(target, text)`, what a sentence adds to the sums, and `..._value(sums)`, [..., sums] -> [...] as a
fraction. An invalid answer (None) adds nothing that is right; GLEU and BLEU count it as an empty text.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from peftbench.tasks.problems.base import Sourced, Sums

ORDER = 4
"""Longest n-grams that count."""
ITERATIONS = 500
Ngrams = Counter[tuple[str, ...]]


def ngrams(tokens: Sequence[str], n: int) -> Ngrams:
    """How often each n-gram stands there."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) + 1 - n))


# GLEU


def gleu_counts(target: Sourced, text: str | None) -> Sequence[float]:
    """For each of the draws of references, the sums of the reference that this sentence gets in it: its length and the
    right n-grams; in front of them the sentence's own n-grams, which are the same for all."""
    tokens = (text or "").split()
    own = [max(len(tokens) + 1 - n, 0) for n in range(1, ORDER + 1)]
    by_reference = np.array([_right(target.source.split(), tokens, r.split()) for r in target.references])
    drawn = drawn_references(len(target.references), _covering(target.position))[:, target.position]
    return [*own, *by_reference[drawn].ravel().tolist()]


def gleu_value(sums: Sums) -> Sums:
    """GLEU as its released script computes it (Napoles et al. 2015, 2016 without tuning, arXiv 1605.02592;
    keisks/jfleg, `eval/gleu.py`): n-grams of the answer that the reference has, less those that only the source has, as
    a BLEU, with one reference a sentence drawn at random; the mean of 500 draws."""
    own, drawn = sums[..., None, :ORDER], sums[..., ORDER:].reshape(*sums.shape[:-1], ITERATIONS, 1 + ORDER)
    length, right = drawn[..., 0], drawn[..., 1:]
    there = (own > 0).all(-1) & (right > 0).all(-1) & (length > 0)
    shares = np.where(there[..., None], right, 1) / np.maximum(own, 1)
    brevity = np.minimum(0, 1 - length / np.maximum(own[..., 0], 1))
    return np.where(there, np.exp(brevity + np.log(shares).mean(-1)), 0).mean(-1)


def _right(source: Sequence[str], tokens: Sequence[str], reference: Sequence[str]) -> list[int]:
    """Length of the reference, then by n the n-grams that are right, less those that the source alone has."""
    found = [len(reference)]
    for n in range(1, ORDER + 1):
        own, right, old = ngrams(tokens, n), ngrams(reference, n), ngrams(source, n)
        only_old = Counter({gram: count for gram, count in old.items() if gram not in right})
        found.append(max(sum((own & right).values()) - sum((own & only_old).values()), 0))
    return found


@lru_cache(maxsize=8)
def drawn_references(references: int, rows: int) -> Any:
    """[500, rows] the reference of each sentence in each iteration, the same as the released script draws."""
    streams = [random.Random(101 * iteration) for iteration in range(ITERATIONS)]
    return np.array([[stream.randint(0, references - 1) for _ in range(rows)] for stream in streams])


def _covering(position: int) -> int:
    """A power of two above it, so that one table serves many rows."""
    return max(64, 1 << position.bit_length())


# SARI


def sari_counts(target: Sourced, text: str | None) -> Sequence[float]:
    """By n: right, given and asked for, of the n-grams that are added, kept and deleted."""
    source = _plain(target.source)
    references = [_plain(reference) for reference in target.references]
    tokens = _plain(text or "")
    sums: list[float] = []
    for n in range(1, ORDER + 1):
        sums += _operations(ngrams(source, n), ngrams(tokens, n), [ngrams(r, n) for r in references])
    if text is None:
        return [0.0 if place % 3 < 2 else count for place, count in enumerate(sums)]
    return sums


def _operations(old: Ngrams, own: Ngrams, each: Sequence[Ngrams]) -> list[float]:
    """Added n-grams count once; kept and deleted ones as often as the references on average have them."""
    every: Ngrams = sum(each, Counter())
    added, wanted = own.keys() - old.keys(), every.keys() - old.keys()
    old, own = (Counter({gram: count * len(each) for gram, count in some.items()}) for some in (old, own))
    kept, to_keep = old & own, old & every
    gone, to_delete = old - own, old - every
    found = [len(added & wanted), len(added), len(wanted)]
    for given, asked in ((kept, to_keep), (gone, to_delete)):
        found += [(given & asked).total(), given.total(), asked.total()]
    return list(map(float, found))


def sari_value(sums: Sums) -> Sums:
    """SARI (Xu et al. 2016) as EASSE computes it for a corpus, which is what ASSET's numbers are (Alva-Manchego et al.
    2019, 2020): the mean F1 of added, kept and deleted n-grams over n of 1 to 4, sums first."""
    right, given, asked = np.moveaxis(sums.reshape(*sums.shape[:-1], ORDER * 3, 3), -1, 0)
    both = given + asked  # F1 = 2 right / (given + asked), 0 where there is nothing
    return (2 * right / np.maximum(both, 1)).mean(-1)


def _plain(text: str) -> list[str]:
    """Lower case, in the tokens of mteval-v13a."""
    return _tokenizer()(text.lower()).split()


@cache
def _tokenizer() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


# BLEU


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)  # which decides no count


def bleu_counts(target: Sourced, text: str | None) -> Sequence[float]:
    """Length, length of the nearest reference, then by n the right n-grams, then all."""
    found = _bleu().sentence_score(text or "", list(target.references))
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def bleu_value(sums: Sums) -> Sums:
    """Corpus BLEU of sacrebleu at its defaults (13a tokens, exponential smoothing), all references."""
    from sacrebleu.metrics import BLEU

    def one(row: Sums) -> float:
        counts = [round(float(count)) for count in row]
        right, every = counts[2 : 2 + ORDER], counts[2 + ORDER :]
        return float(BLEU.compute_bleu(right, every, counts[0], counts[1], smooth_method="exp").score) / 100

    return np.apply_along_axis(one, -1, np.asarray(sums))
