"""Class-conditional texts by a causal model in context.

In the manner of in-context data generation (GPT3Mix, Yoo et al., Findings of EMNLP 2021, arXiv 2104.08826; its soft
labels are not taken: a text has the class whose examples it stands behind). The form of the prompt is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from peftbench.stages.recipe.base import Made
from peftbench.stages.recipe.writing import Author, first_line
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from peftbench.stages.base import Context
    from peftbench.stages.recipe.augmentation import AugmentationOptions

LONGEST = 400
"""Characters of a text that is shown."""


def made(context: Context, options: AugmentationOptions) -> Made:
    """`per_class` rows of each label that has drawn rows."""
    author, seed = Author(options.model, context.processes().device), context.cfg.seed
    asked: list[tuple[str, str, list[str], str]] = []
    for place, label in enumerate(context.data.labels):
        rows = [row for row in context.draw.train if row.target == label]
        for number in range(options.per_class if rows else 0):
            random = np.random.RandomState([seed % 2**32, place, number])
            shown = [rows[i] for i in random.permutation(len(rows))[: options.shown]]
            asked.append(
                (f"made:{label}/{number}", label, [row.id for row in shown], prompt(context, options, label, shown))
            )
    written = author(
        [id_ for id_, *_ in asked], [text for *_, text in asked], tokens=options.written_tokens,
        temperature=options.temperature, top_p=options.top_p, seed=seed,
    )  # fmt: skip
    found = [Row(id_, first_line(text), label) for (id_, label, _, _), text in zip(asked, written, strict=True)]
    return Made(found, {id_: {"shown": shown} for id_, _, shown, _ in asked}, author.cost.facts())


def prompt(context: Context, options: AugmentationOptions, label: str, shown: list[Row]) -> str:
    """The drawn rows of a class, numbered, and the number of the next."""
    word = context.data.label_words.get(label, label)
    lines = [f"{n}. {' '.join(row.whole.split())[:LONGEST]}" for n, row in enumerate(shown, 1)]
    return "\n".join([options.form.replace("{label}", word), *lines, f"{len(shown) + 1}."])
