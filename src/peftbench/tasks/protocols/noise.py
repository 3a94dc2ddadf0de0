"""Wrong labels, put into the drawn train rows on purpose (`protocol.noise`). Dev and test stay as they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from peftbench.config.schema import ProtocolConfig
from peftbench.errors import UsageError
from peftbench.tasks.base import TaskData
from peftbench.tasks.protocols.splits import Rows

NOISE = 0x4015E
"""In the seed, so that noise is not made of the random numbers of the draw."""


def check_noise(data: TaskData, cfg: ProtocolConfig, shots: int | str) -> None:
    """Raises UsageError where there is no label that could be made wrong."""
    if not cfg.noise:
        return
    if data.problem != "classification":
        raise UsageError(
            f"protocol.noise={cfg.noise:g}: makes labels wrong, and the {data.problem} targets of task {data.name} are "
            "no labels. Use protocol.noise=0."
        )
    if shots == 0 and not data.source_subset:
        raise UsageError(f"protocol.noise={cfg.noise:g}: shots=0 draws no labels. Use shots of 1 and more.")


def with_wrong_labels(
    train: Rows, data: TaskData, share: float, data_seed: int, notes: list[str]
) -> tuple[Rows, dict[str, Any]]:
    """The rows, that share of them (rounded) with another label, any of the others alike: symmetric label noise.

    Which rows and labels follows from the data seed and from the rows alone, so every method learns from the same.

    Args:
        notes: gets a remark.

    Returns:
        The rows in their order, and what was done: `share`, `flips` ("label -> label": how many), and `rows` with `id`,
        `label` and `wrong`; empty without noise.
    """
    count = round(share * len(train))
    if not share:
        return train, {}
    random = np.random.RandomState([data_seed % 2**32, NOISE])
    places = sorted(random.permutation(len(train))[:count].tolist())
    made, rows = list(train), []
    for i in places:
        right = str(train[i].target)
        others = [label for label in data.labels if label != right]
        wrong = others[random.randint(len(others))]
        made[i] = replace(train[i], target=wrong)
        rows.append({"id": train[i].id, "label": right, "wrong": wrong})
    flips = Counter(f"{row['label']} -> {row['wrong']}" for row in rows)
    notes.append(f"{count} of the {len(train)} train rows have a wrong label (protocol.noise={share:g})")
    return tuple(made), {"share": share, "flips": dict(sorted(flips.items())), "rows": rows}
