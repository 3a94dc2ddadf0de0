"""Sub-tasks after AnyTaskTune (Cui et al., arXiv 2407.07094): a domain's texts as examples of explicit small tasks.

The authors' data and code were not found; their sub-tasks' answers are partly written by a stronger model, ours follow
from the text by rules. The sampling in proportion to a power of a sub-task's size is our reading.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.stages.recipe.base import Made
from peftbench.stages.recipe.instruction_data.templates import Document, rarities
from peftbench.stages.recipe.kitchen import documents
from peftbench.stages.recipe.subtasks.files import Subtask, definitions, subtasks
from peftbench.stages.recipe.subtasks.rules import RULES
from peftbench.tasks.base import Row
from peftbench.tasks.unlabelled import document

if TYPE_CHECKING:
    from peftbench.stages.base import Context
    from peftbench.stages.recipe.subtasks import SubtaskOptions


def made(context: Context, options: SubtaskOptions) -> Made:
    """`per_text` examples of each text, of sub-tasks that it can answer."""
    known = described(subtasks(options.subtasks), options)
    texts = [(row.id, found) for row in documents(context, options) if (found := document(row.whole))]
    rarity = rarities([found for _, found in texts])
    pairs, origin = [], {}
    for id_, found in texts:
        one = Document(id_, found, rarity)
        random = np.random.RandomState([context.cfg.seed % 2**32, zlib.crc32(id_.encode())])
        taken = 0
        for place in random.permutation(len(known)):
            subtask = known[place]
            if taken == options.per_text:
                break
            if (pair := RULES[subtask.rule](one, random)) is None:
                continue
            wording = subtask.instructions[random.randint(len(subtask.instructions))]
            name = f"made:{id_}/{subtask.name}"
            pairs.append(Row(name, f"{wording}\n{pair[0]}\n", pair[1], domain=subtask.name))
            origin[name] = {"document": id_, "subtask": subtask.name}
            taken += 1
    facts = {f"examples of {one.name}": float(sum(row.domain == one.name for row in pairs)) for one in known}
    return Made(pairs, origin, {"documents": float(len(texts)), **facts})


def described(known: list[Subtask], options: SubtaskOptions) -> list[Subtask]:
    """Each sub-task with the `wordings` nearest of the task descriptions as further wordings."""
    if options.descriptions is None or not options.wordings:
        return known
    from peftbench.formulations.bi_encoder import sentence_vectors

    told = definitions(Path(options.descriptions))
    vectors = sentence_vectors(options.encoder)
    of_told, of_known = vectors(told), vectors([one.instructions[0] for one in known])
    found = []
    for one, near in zip(known, of_known @ of_told.T, strict=True):
        more = [told[place] for place in np.argsort(-near, kind="stable")[: options.wordings]]
        found.append(Subtask(one.name, one.rule, (*one.instructions, *more)))
    return found
