"""Pairs after FineInstructions (Patel, Raffel and Callison-Burch, arXiv 2601.22146), made by rules.

Templates are matched to parts of a document by vectors, the blank is filled from the document, and an answer stays if
it is quoted from there. The paper's templates, its matching model and the model that fills blanks were not at hand: the
templates are ours, an encoder of sentences matches, and rules fill. A part of a document is seen by the mean of its
sentences' vectors, weighted by a Gaussian around its middle, added to the mean of all (the paper's pooling as we read
it). Whole texts look much alike in their parts, so a template is taken once a document at most (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftbench.formulations.bi_encoder import sentence_vectors
from peftbench.stages.recipe.base import Made
from peftbench.stages.recipe.instruction_data.templates import (
    Document,
    Template,
    filled,
    quoted_share,
    rarities,
    templates,
)
from peftbench.stages.recipe.kitchen import documents
from peftbench.tasks.base import Row
from peftbench.tasks.unlabelled import document

if TYPE_CHECKING:
    from peftbench.stages.base import Context
    from peftbench.stages.recipe.instruction_data import InstructionOptions

Vectors = Callable[[Sequence[str]], np.ndarray]


def made(context: Context, options: InstructionOptions) -> Made:
    """Pairs of every part of every document, `per_view` each, of templates that fit and that it has not had."""
    known, vectors = templates(options.templates), sentence_vectors(options.encoder)
    rows = [(row.id, found) for row in documents(context, options) if (found := document(row.whole))]
    rarity = rarities([found for _, found in rows])
    every = [Document(id_, found, rarity) for id_, found in rows]
    wanted = vectors([template.about for template in known])
    pairs, origin, asked, unquoted = [], {}, 0, 0
    for one in every:
        of_sentences, taken = vectors(one.sentences), set[int]()
        for view, weights in enumerate(views(len(one.sentences), options.views, options.width)):
            near = pooled(of_sentences, weights) @ wanted.T
            for number in best(known, near, one, weights, options.per_view, taken):
                taken.add(number)
                asked += 1
                pair = first_filled(known[number], one, weights)
                assert pair is not None
                place, instruction, answer = pair
                if quoted_share(answer, one.text) < options.quoted:
                    unquoted += 1
                    continue
                id_ = f"made:{one.id}/{view}/{number}"
                pairs.append(Row(id_, instruction, answer, domain=str(number)))
                origin[id_] = {"document": one.id, "sentence": place, "template": known[number].ask}
    facts = {"documents": float(len(every)), "filled": float(asked), "not quoted": float(unquoted)}
    return Made(pairs, origin, facts)


def views(sentences: int, parts: int, width: float) -> list[np.ndarray]:
    """Weights (sentences,) of each part: a Gaussian around its middle, `width` x sentences wide; they add up to 1."""
    places = np.arange(sentences) + 0.5
    found = []
    for part in range(min(parts, sentences)):
        middle = (part + 0.5) / min(parts, sentences) * sentences
        weights = np.exp(-0.5 * ((places - middle) / (width * sentences)) ** 2)
        found.append(weights / weights.sum())
    return found


def pooled(of_sentences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(d,) the mean of a text's sentence vectors (sentences, d) plus that of a part, of length 1."""
    vector = of_sentences.mean(0) + weights @ of_sentences
    return np.asarray(vector / np.linalg.norm(vector))


def best(
    known: Sequence[Template], near: np.ndarray, one: Document, weights: np.ndarray, count: int, taken: Container[int]
) -> list[int]:
    """The nearest templates that the document can fill, the nearest first; without those that are `taken`."""
    found: list[int] = []
    for number in np.argsort(-near, kind="stable").tolist():
        if len(found) == count:
            break
        if number not in taken and first_filled(known[number], one, weights) is not None:
            found.append(number)
    return found


def first_filled(template: Template, one: Document, weights: np.ndarray) -> tuple[int, str, str] | None:
    """Place of the sentence, instruction and answer: of those that fit, the one that counts most in the part."""
    for place in np.argsort(-weights, kind="stable").tolist():
        if (pair := filled(template, one, place)) is not None:
            return (place, *pair)
    return None
