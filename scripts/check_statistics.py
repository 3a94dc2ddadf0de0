"""Do the statistics keep what they promise? Simulated runs whose truth is known -> tables for docs/statistics.md.

    make check-statistics          about four CPU minutes; --quick for a tenth of it

A simulated run answers an item rightly with probability logistic(mean + item + draw + run + item x run); wrong answers
fall on any other class. Methods under comparison share the items' difficulty and half of the draws' effect.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from peftbench.statistics import (
    Cell,
    Items,
    Run,
    difference,
    draws_needed,
    flip_signs,
    permute_items,
    scorer,
    summarise,
)

LABELS = ("a", "b", "c", "d")
PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
METRIC = "f1_weighted"
DRAWS = (3, 5, 10)


@dataclass(frozen=True)
class World:
    """Standard deviations, in log odds, of what makes scores differ."""

    name: str
    mean: float
    item: float
    draw: float
    run: float
    item_by_run: float
    n_items: int


WORLDS = (
    World("few shots: draws matter most", 1.8, 1.0, 0.5, 0.3, 1.0, 400),
    World("many shots: items matter most", 1.8, 1.0, 0.1, 0.1, 1.0, 400),
    World("near the ceiling", 3.5, 1.0, 0.5, 0.3, 0.5, 400),
    World("small test set", 1.0, 1.5, 0.3, 0.2, 1.0, 100),
)


def truth(world: World) -> float:
    """Expected score over draws, runs and items, by Gauss-Hermite quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(60)
    w = w / w.sum()
    of_run, of_item = np.hypot(world.draw, world.run), np.hypot(world.item, world.item_by_run)
    right = (w / (1 + np.exp(-(world.mean + of_run * x[:, None] + of_item * x)))).sum(1)
    hits, misses = PRIOR * right[:, None], PRIOR * (1 - right[:, None]) / (len(PRIOR) - 1)
    answered = hits + misses.sum(1, keepdims=True) - misses
    return 100 * float((w * (2 * hits / (answered + PRIOR) * PRIOR).sum(1)).sum())


def cells(
    world: World, draws: int, rng: np.random.Generator, shift: float = 0.0, test_set: str = "one"
) -> tuple[Cell, Cell]:
    """Two methods on the same items and draws; the first is better by `shift` log odds."""
    n = world.n_items
    gold = rng.choice(len(LABELS), size=n, p=PRIOR)
    difficulty, common = rng.normal(0, world.item, n), rng.normal(0, world.draw * np.sqrt(0.5), draws)
    items = Items(tuple(LABELS[i] for i in gold), LABELS)
    made = []
    for extra in (shift, 0.0):
        of_run = common + rng.normal(0, world.draw * np.sqrt(0.5), draws) + rng.normal(0, world.run, draws)
        odds = world.mean + extra + difficulty + of_run[:, None] + rng.normal(0, world.item_by_run, (draws, n))
        right = rng.random((draws, n)) < 1 / (1 + np.exp(-odds))
        answers = np.where(right, gold, (gold + rng.integers(1, len(LABELS), (draws, n))) % len(LABELS))
        runs = []
        for d, row in enumerate(answers):
            scored = scorer(METRIC, items, [LABELS[i] for i in row])
            runs.append(Run(f"{extra}{d}", d, d, 1, scored.score(), scored))
        made.append(Cell(tuple(runs), METRIC, test_set, n))
    return made[0], made[1]


def percentile_interval(cell: Cell, rng: np.random.Generator) -> tuple[float, float]:
    """What is common: percentiles of a bootstrap over draws and items."""
    resampled = cell.sample.resampled
    assert resampled is not None
    draws = resampled.shape[1]
    weights = rng.multinomial(draws, [1 / draws] * draws, size=len(resampled)) / draws
    low, high = np.percentile((resampled * weights).sum(1), [2.5, 97.5])
    return float(low), float(high)


def coverage_and_false_alarms(repeats: int) -> None:
    """How often an interval holds the truth, and how often two equal methods are called different."""
    print("\n| world | draws | interval holds the truth | width | percentile bootstrap | p <= 0.05 | p <= 0.01 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for world in WORLDS:
        expected, rng = truth(world), np.random.default_rng(11)
        for draws in DRAWS:
            ours, common, widths, p = [], [], [], []
            for _ in range(repeats):
                a, b = cells(world, draws, rng)
                s, (low, high) = summarise(a), percentile_interval(a, rng)
                assert s.low is not None
                assert s.high is not None
                ours.append(s.low <= expected <= s.high)
                widths.append(s.high - s.low)
                common.append(low <= expected <= high)
                p.append(difference(a, b).p)
            rates = [f"{100 * np.mean(np.array(p) <= level):.1f} %" for level in (0.05, 0.01)]
            held = [f"{100 * np.mean(x):.1f} %" for x in (ours, common)]
            print(f"| {world.name} | {draws} | {held[0]} | {np.mean(widths):.1f} | {held[1]} | {' | '.join(rates)} |")


def averages(repeats: int, tasks: int = 4) -> None:
    """The same for a plain mean over several tasks (languages)."""
    print("\n| mean over tasks, each as | draws | interval holds the truth | p <= 0.05 |")
    print("| --- | --- | --- | --- |")
    for world in WORLDS[:2]:
        expected, rng = truth(world), np.random.default_rng(14)
        held, p = [], []
        for _ in range(repeats):
            pairs = [cells(world, 3, rng, test_set=str(i)) for i in range(tasks)]
            mine, others = [a for a, _ in pairs], [b for _, b in pairs]
            s = summarise(mine)
            assert s.low is not None
            assert s.high is not None
            held.append(s.low <= expected <= s.high)
            p.append(difference(mine, others).p)
        print(f"| {world.name} | 3 | {100 * np.mean(held):.1f} % | {100 * np.mean(np.array(p) <= 0.05):.1f} % |")


def permutation_tests(repeats: int) -> None:
    """False alarms of the two permutation tests, for models that are alike and for methods that are alike."""
    print("\n| null hypothesis | draws | test on items, p <= 0.05 | test on draws, p <= 0.05 | its smallest p |")
    print("| --- | --- | --- | --- | --- |")
    alike = World("these models are alike", 1.8, 1.5, 0.0, 0.0, 0.0, 400)
    for world, name in ((alike, alike.name), (WORLDS[0], "the methods are alike, each draw's models are not")):
        rng = np.random.default_rng(12)
        for draws in (3, 6, 10):
            items, signs, smallest = [], [], 1.0
            for _ in range(repeats):
                a, b = cells(world, draws, rng)
                on_items = permute_items(a, b, permutations=499)
                on_draws = flip_signs(a.sample.replications - b.sample.replications)
                assert on_items is not None
                items.append(on_items.p <= 0.05)
                signs.append(on_draws.p <= 0.05)
                smallest = on_draws.smallest_p
            shown = [f"{100 * np.mean(x):.1f} %" for x in (items, signs)]
            print(f"| {name} | {draws} | {shown[0]} | {shown[1]} | {smallest:.3g} |")


def power(repeats: int) -> None:
    """Is the number of draws that `draws_needed` names, from a pilot of 10, enough?"""
    print("\n| world | true difference | draws named from pilots (quartiles) | power simulated with the median |")
    print("| --- | --- | --- | --- |")
    for world, shift in ((WORLDS[0], 0.5), (WORLDS[2], 0.7)):
        rng = np.random.default_rng(13)
        sizes = [difference(*cells(world, 10, rng, shift)).mean for _ in range(repeats)]
        size, named = float(np.mean(sizes)), []
        for _ in range(repeats // 4):
            found = draws_needed(difference(*cells(world, 10, rng, shift)), size)
            named.append(np.inf if found is None or found.draws is None else found.draws)
        quartiles = np.quantile(named, [0.25, 0.5, 0.75], method="higher")
        p = [difference(*cells(world, int(quartiles[1]), rng, shift)).p for _ in range(repeats)]
        shown = ", ".join(f"{q:.0f}" for q in quartiles)
        print(f"| {world.name} | {size:.1f} | {shown} | {100 * np.mean(np.array(p) <= 0.05):.0f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    repeats = 100 if parser.parse_args().quick else 1000
    start = time.process_time()
    coverage_and_false_alarms(repeats)
    averages(repeats // 2)
    permutation_tests(repeats // 2)
    power(repeats // 4)
    print(f"\n{repeats} repetitions, {time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
