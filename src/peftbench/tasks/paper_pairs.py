"""Pairs of papers that are cited together or not (ACM-CR; after Hallee et al., arXiv 2401.15713)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, flag, listed, text
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl
from peftbench.tasks.sources import Found, assemble, find_files, resolve_subset, text_of

FILES = {"pairs": "cocitation_pairs.jsonl", "papers": "docs.jsonl"}
PAIR_KEYS, PAPER_KEYS = ("a", "b", "label", "domain"), ("doi", "title", "abstract")
SPLIT_SEED, SHARES = 13, {"train": 0.6, "dev": 0.1, "test": 0.3}
"""Of the papers. The collection has no split of its own."""


@dataclass(frozen=True)
class Pair:
    """A line of the file of pairs."""

    line: int
    papers: frozenset[str]
    target: float
    domain: str


@adapter(subset={"domains": listed(text), "similarity": flag})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """One domain, or several together.

    Split by paper: a pair whose papers lie in two splits is dropped, so no paper of test was seen in training. Dev and
    test are balanced in each domain. Extra tests are the domains apart, and `retrieval`: every paper of test that has a
    partner there, against all papers of its domain in test.
    """
    subset = resolve_subset(cfg)
    domains = tuple(subset.options["domains"])
    found = find_files(cfg, subset, data_dir, FILES, required=tuple(FILES))
    papers = read_papers(found)
    pairs = [pair for pair in read_pairs(found, papers) if pair.domain in domains]
    where = split_of(papers)
    splits = {split: [p for p in pairs if {where[doi] for doi in p.papers} == {split}] for split in SHARES}
    dropped = len(pairs) - sum(map(len, splits.values()))
    test = balanced(splits["test"], domains)
    rows = {name: [as_row(name, pair, papers) for pair in part] for name, part in
            {"train": splits["train"], "dev": balanced(splits["dev"], domains), "test": test}.items()}  # fmt: skip
    extra = {"retrieval": retrieval(splits["test"], papers)}
    if len(domains) > 1:
        extra |= {domain: _renamed(domain, rows["test"]) for domain in domains}
    note = f"split by paper: {dropped:,} of {len(pairs):,} pairs have papers of two splits and are left out"
    return assemble(cfg, subset, found, rows, [note], domains=domains, extra_tests=extra,
                    extra_metrics={"retrieval": ("recall_at_10", "ndcg_at_10")})  # fmt: skip


def read_papers(found: Found) -> dict[str, str]:
    """DOI -> title and abstract."""
    papers = {}
    for path, line, record in found.records("papers", partial(read_jsonl, require=PAPER_KEYS), PAPER_KEYS):
        title, abstract = (text_of(record, key, path, line).strip() for key in ("title", "abstract"))
        papers[text_of(record, "doi", path, line)] = f"{title}. {abstract}"
    return papers


def read_pairs(found: Found, papers: Mapping[str, str]) -> Iterator[Pair]:
    """Each pair of two papers once in a domain.

    Raises:
        UsageError: a label that is neither 0 nor 1, or a paper without a text; with file and line.
    """
    seen = set()
    for path, line, record in found.records("pairs", partial(read_jsonl, require=PAIR_KEYS), PAIR_KEYS):
        dois = [text_of(record, key, path, line) for key in ("a", "b")]
        if record["label"] not in (0, 1):
            raise UsageError(f"{path}, line {line}: the label is {record['label']!r:.40}, not 0 or 1.")
        if unknown := [doi for doi in dois if doi not in papers]:
            raise UsageError(f"{path}, line {line}: the paper `{unknown[0]}` has no text in the file of papers.")
        pair = Pair(line, frozenset(dois), float(record["label"]), text_of(record, "domain", path, line))
        if len(pair.papers) == 2 and (pair.papers, pair.domain) not in seen:
            seen.add((pair.papers, pair.domain))
            yield pair


def split_of(papers: Mapping[str, str]) -> dict[str, str]:
    """DOI -> split."""
    names = sorted(papers)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(names))
    ends = np.round(np.cumsum(list(SHARES.values())) * len(names)).astype(int)
    return {names[i]: list(SHARES)[int(np.searchsorted(ends, place, "right"))] for place, i in enumerate(order)}


def balanced(pairs: Sequence[Pair], domains: Sequence[str]) -> list[Pair]:
    """As many of either kind in each domain; what is left out is drawn."""
    random = np.random.RandomState(SPLIT_SEED)
    kept: set[Any] = set()
    for domain in domains:
        kinds = [[p for p in pairs if p.domain == domain and p.target == target] for target in (0.0, 1.0)]
        for kind in kinds:
            kept.update(kind[i] for i in random.permutation(len(kind))[: min(map(len, kinds))])
    return [pair for pair in pairs if pair in kept]


def as_row(split: str, pair: Pair, papers: Mapping[str, str]) -> Row:
    """The paper that comes first in the order of DOIs is `text`."""
    first, second = sorted(pair.papers)
    return Row(f"{split}:{pair.line}", papers[first], pair.target, pair=papers[second], domain=pair.domain)


def retrieval(pairs: Sequence[Pair], papers: Mapping[str, str]) -> list[Row]:
    """Rows of each query (`group`): itself with every other paper of the domain; target 1 for those cited with it."""
    rows = []
    for domain in dict.fromkeys(pair.domain for pair in pairs):
        own = [pair for pair in pairs if pair.domain == domain]
        together = {pair.papers for pair in own if pair.target}
        dois = sorted(set().union(*(pair.papers for pair in own)))
        for query in (doi for doi in dois if any(doi in pair for pair in together)):
            rows += [
                Row(f"retrieval:{domain}/{query}/{doi}", papers[query], float(frozenset((query, doi)) in together),
                    pair=papers[doi], group=f"{domain}/{query}", domain=domain)
                for doi in dois if doi != query
            ]  # fmt: skip
    return rows


def _renamed(domain: str, rows: Sequence[Row]) -> list[Row]:
    return [replace(row, id=f"{domain}:{row.id}") for row in rows if row.domain == domain]
