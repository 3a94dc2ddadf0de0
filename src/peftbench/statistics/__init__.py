"""How sure a number is, from the stored predictions: intervals, tests, ties, ranks, power. See docs/statistics.md.

cell = load_cell(store, records)           # runs that differ in their seeds alone
summarise(cell)                            # mean and interval over draws, seeds and test items
difference(cell, other)                    # A minus B, paired by draw and item, with p
permute_items(cell, other)                 # permutation test on items; flip_signs(...) on draws
ties({"dept": cell, "lora": other})        # letters and tied-best, Holm over all pairs
rank(names, scores)                        # average ranks over tasks, Friedman, who is tied
draws_needed(difference(cell, other))      # power
"""

from peftbench.statistics.intervals import LEVEL, Summary, difference, estimate, summarise
from peftbench.statistics.permutation import PermutationTest, flip_signs, holm, permute_items
from peftbench.statistics.power import Power, draws_needed, power_of
from peftbench.statistics.ranks import Ranking, Ties, average_ranks, letters, nemenyi_difference, rank, ties
from peftbench.statistics.samples import (
    Cell,
    Run,
    Sample,
    cell_of_scores,
    comparable,
    differences,
    load_cell,
    match,
)
from peftbench.statistics.scorers import Items, Scorer, scorer

__all__ = [
    "LEVEL",
    "Cell",
    "Items",
    "PermutationTest",
    "Power",
    "Ranking",
    "Run",
    "Sample",
    "Scorer",
    "Summary",
    "Ties",
    "average_ranks",
    "cell_of_scores",
    "comparable",
    "difference",
    "differences",
    "draws_needed",
    "estimate",
    "flip_signs",
    "holm",
    "letters",
    "load_cell",
    "match",
    "nemenyi_difference",
    "permute_items",
    "power_of",
    "rank",
    "scorer",
    "summarise",
    "ties",
]
