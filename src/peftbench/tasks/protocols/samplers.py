"""The orders in which samplers walk the rows of a pool.

A sampler does not pick rows, it ranks them: it returns one order for train and one for dev, and `walk` takes rows
along an order until every class has its quota. A row that may not be taken (its text stands in test) is stepped over,
so the next row of the same order replaces it and all other rows stay those that the paper's sampler gives.

Only streams that NumPy freezes are used (RandomState, PCG64's raw output), never the global generator. `dept` is the
exception: the original shuffles with `Generator.permutation`, and a test pins what that returns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Orders = tuple[list[int], list[int]]
"""Positions in the pool, best first: for train and for dev."""


def walk(
    order: Sequence[int], classes: Sequence[str], quota: Mapping[str, int], free: Callable[[int], bool]
) -> list[int]:
    """The first `quota[c]` positions of every class `c` along `order` for which `free` is true."""
    left, missing, taken = dict(quota), sum(quota.values()), []
    for i in order:
        if missing == 0:
            break
        if left.get(classes[i], 0) > 0 and free(i):
            left[classes[i]] -= 1
            missing -= 1
            taken.append(i)
    return taken


def seeded(classes: Sequence[str], k: int, dev: int, seed: int) -> Orders:
    """Our own: each class permuted by a stream of its own, so draws are nested in k and blind to other classes.

    Dev is taken from the far end of the same permutation and so does not change with k.
    """
    orders = [[rows[j] for j in hashed_permutation(len(rows), seed, name)] for name, rows in _sorted_buckets(classes)]
    return _both_ends(orders)


def pandas_42(classes: Sequence[str], k: int, dev: int, seed: int) -> Orders:
    """MasakhaNEWS' released subsets: `DataFrame.sample(k, random_state=seed)` within each label, labels sorted.

    pandas draws without replacement by permuting, so the first k of the permutation are its sample. A frame sampled
    with an integer state restarts the stream for every class.
    """
    orders = [[rows[j] for j in _permutation(len(rows), seed)] for _, rows in _sorted_buckets(classes)]
    return _both_ends(orders)


def lm_bff(classes: Sequence[str], k: int, dev: int, seed: int) -> Orders:
    """LM-BFF: shuffle the train lines, bucket by label in order of appearance, [0, k) train, [k, k + dev) dev."""
    shuffled = _permutation(len(classes), seed)
    buckets = _buckets([classes[i] for i in shuffled])
    train, held = [], []
    for places in buckets.values():
        rows = [shuffled[p] for p in places]
        first, second, rest = rows[:k], rows[k : k + dev], rows[k + dev :]
        train += first + rest
        held += second + rest
    return train, held


def sciprompt(classes: Sequence[str], k: int, dev: int, seed: int) -> Orders:
    """SciPrompt's few-shot sampler (from OpenPrompt): one RandomState shuffles class after class, in order of
    appearance, then the k * C drawn rows, then class after class what remains, for dev."""
    state = np.random.RandomState(seed)
    shuffled = {name: state.permutation(rows).tolist() for name, rows in _buckets(classes).items()}
    drawn = [i for rows in shuffled.values() for i in rows[:k]]
    state.permutation(drawn)  # its result is only the row order, but it moves the stream on
    remain = sorted(set(range(len(classes))) - set(drawn))
    held = [
        [remain[j] for j in state.permutation(places).tolist()]
        for places in _buckets([classes[i] for i in remain]).values()
    ]
    planned = {i for rows in held for i in rows[:dev]}
    train = [i for rows in shuffled.values() for i in rows[:k] + [r for r in rows[k:] if r not in planned]]
    return train, [i for rows in held for i in rows]


def dept(classes: Sequence[str], k: int, dev: int, seed: int) -> Orders:
    """DePT: one shuffle of the train set, as `datasets.Dataset.shuffle(seed)` does it."""
    order = np.random.default_rng(seed).permutation(len(classes)).tolist()
    return order, order[::-1]


SAMPLERS: dict[str, Callable[[Sequence[str], int, int, int], Orders]] = {
    "seeded": seeded,
    "pandas_42": pandas_42,
    "lm_bff": lm_bff,
    "sciprompt": sciprompt,
    "dept": dept,
}


def torch_randperm(n: int, seed: int) -> list[int]:
    """What `torch.randperm` on a seeded CPU generator returns, without torch: both run the same Mersenne twister."""
    words = np.random.RandomState(seed).randint(0, 2**32, size=max(n - 1, 0), dtype=np.uint32).tolist()
    order = list(range(n))
    for i, word in enumerate(words):
        j = i + word % (n - i)
        order[i], order[j] = order[j], order[i]
    return order


def hashed_permutation(n: int, seed: int, name: str) -> list[int]:
    """A permutation of `range(n)` from a PCG64 stream of its own for (seed, name)."""
    word = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big")
    # argsort of the raw stream: unlike Generator.permutation, raw words are the same in every NumPy release
    raw = np.random.PCG64(np.random.SeedSequence([seed, word])).random_raw(n)
    return np.argsort(raw, kind="stable").tolist()


def _permutation(n: int, seed: int) -> list[int]:
    return np.random.RandomState(seed).permutation(n).tolist()


def _buckets(classes: Sequence[str]) -> dict[str, list[int]]:
    """Class -> its positions, classes in order of appearance."""
    buckets: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        buckets.setdefault(name, []).append(i)
    return buckets


def _sorted_buckets(classes: Sequence[str]) -> list[tuple[str, list[int]]]:
    return sorted(_buckets(classes).items())


def _both_ends(orders: list[list[int]]) -> Orders:
    return [i for order in orders for i in order], [i for order in orders for i in order[::-1]]
