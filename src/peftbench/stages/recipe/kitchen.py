"""The stage `recipe`: data are made, looked through, written down and trained on, in arms of equal tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.config.registry import imported
from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.formulations.base import Encoded
from peftbench.formulations.in_words import TextFormulation
from peftbench.learner import Learner
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import LearnerPredictor, fresh, train_on
from peftbench.stages.ledger import once
from peftbench.stages.recipe import PairsConfig, recipe_of
from peftbench.stages.recipe.base import Made
from peftbench.stages.recipe.pairs import PairsFormulation
from peftbench.stages.recipe.screening import counted, evaluation_rows, pair_of, screened, text_of
from peftbench.tasks.base import Mixture, Row

if TYPE_CHECKING:
    from peftbench.config.schema import RecipeConfig

NAME = "recipe"
FILE = "made.jsonl"
"""In the run's folder: each made row with what it was made of, and why it was dropped, if it was."""
ORDER = 0x0DE2


def check(context: Context) -> None:
    """Raises UsageError if there is nothing to make pairs of."""
    options = context.cfg.recipe
    assert options is not None
    if recipe_of(context.cfg).makes == "pairs" and options.arm != "repeats" and not documents(context, options):
        raise UsageError(
            f"recipe={options.name}: task {context.data.name} has no unlabelled texts under "
            f"protocol={context.cfg.protocol.name} shots={context.cfg.shots}, and no drawn ones."
        )


def recipe(context: Context, incoming: Predictor | None) -> Predictor | None:
    """Do what the recipe says, in front of the method's stages.

    Rows join the drawn ones: the stages that follow see them in `context.draw`. With `tokens` these train as long as
    takes so many tokens. On pairs a fresh learner is trained here, and handed on.
    """
    options, report = context.cfg.recipe, StageReport(NAME)
    assert options is not None
    rows: list[Row] = []
    if options.arm == "made":
        rows = made_rows(context, options, report)
    if recipe_of(context.cfg).makes == "rows":
        context.draw = replace(context.draw, train=(*context.draw.train, *rows))
        predictor = None if options.tokens is None else fresh(context)
        if predictor is not None:
            of_tokens(context, predictor, int(options.tokens or 0))
        context.reports.append(report)
        return predictor
    predictor = fresh(context)
    context.reports.append(
        once(context, predictor.learner, lambda folder: study(context, predictor, rows, folder, report))
    )
    return predictor


def made_rows(context: Context, options: RecipeConfig, report: StageReport) -> list[Row]:
    """What the recipe makes, without what must not be trained on; all of it is written down.

    Raises:
        UsageError: nothing is left.
    """
    recipe = recipe_of(context.cfg)
    made = _kept(context) or _make(context, options)
    says = text_of if recipe.makes == "rows" else pair_of
    kept, why = screened(made.rows, evaluation_rows(context.data, context.draw), context.draw.train, says)
    lines = [{**_plain(row), "from": made.origin.get(row.id), "dropped": why.get(row.id)} for row in made.rows]
    write_atomic(context.folder / FILE, "".join(f"{json.dumps(x, ensure_ascii=False)}\n" for x in lines).encode())
    report.facts |= {**made.facts, "made": float(len(made.rows)), "kept": float(len(kept)), **counted(why)}
    report.notes.append(f"{options.name}: {len(kept)} of {len(made.rows)} made rows kept ({FILE} has all)")
    if not kept:
        reasons = ", ".join(sorted(set(why.values()))) or "none was made"
        raise UsageError(f"recipe={options.name}: nothing is left of {len(made.rows)} made rows ({reasons}).")
    return kept


def _make(context: Context, options: RecipeConfig) -> Made:
    with context.clock("train"), context.meter.phase("train"):
        made: Made = imported(recipe_of(context.cfg).make)(context, options)
    plain = {"rows": [_plain(row) for row in made.rows], "origin": made.origin, "facts": made.facts}
    path = context.stage_folder() / "made.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(plain, ensure_ascii=False).encode())
    return made


def _kept(context: Context) -> Made | None:
    """What an earlier attempt at the run has made."""
    path = context.stage_folder() / "made.json"
    if not path.is_file():
        return None
    plain = json.loads(path.read_text("utf-8"))
    return Made([Row(**row) for row in plain["rows"]], plain["origin"], plain["facts"])


def _plain(row: Row) -> dict[str, Any]:
    return {"id": row.id, "text": row.text, "target": row.target, "domain": row.domain}


def documents(context: Context, options: RecipeConfig) -> list[Row]:
    """Texts without their labels: unlabelled rows and drawn train rows; at most `texts`, drawn with the data seed."""
    pool = [replace(row, target=None) for row in (*context.draw.unlabeled, *context.draw.train)]
    pool = [row for row in pool if row.whole.strip()]
    if options.texts is None or len(pool) <= options.texts:
        return pool
    chosen = np.random.RandomState(context.draw.data_seed).choice(len(pool), size=options.texts, replace=False)
    return [pool[place] for place in sorted(chosen)]


def of_tokens(context: Context, predictor: LearnerPredictor, tokens: int) -> None:
    """The trainer of what follows takes as many steps as read so many tokens, on average."""
    items = predictor.encode(context.draw.train)
    mean = sum(item.length for item in items) / len(items)
    batch = min(context.cfg.trainer.batch_size, len(items))
    trainer = replace(context.cfg.trainer, steps=max(1, round(tokens / (mean * batch))), epochs=None)
    context.cfg = replace(context.cfg, trainer=trainer)


def study(
    context: Context, predictor: LearnerPredictor, rows: Sequence[Row], folder: Path, report: StageReport
) -> StageReport:
    """Train on the arm's data for `tokens` tokens, each item as often as fits."""
    options = context.cfg.recipe
    assert isinstance(options, PairsConfig)
    learner, items = arm(context, predictor, rows, options, report)
    chosen = for_tokens(items, int(options.tokens or 0), context.cfg.seed)
    trainer = replace(
        context.cfg.trainer, steps=None, epochs=1.0, batch_size=options.batch_size, patience=None, probe=False
    )
    cfg = replace(context.cfg, trainer=trainer)
    report = train_on(context, learner, chosen, folder, report, cfg=cfg)
    report.facts["items"] = float(len(items))
    report.facts["passes"] = len(chosen) / len(items)
    return report


def arm(
    context: Context, predictor: LearnerPredictor, rows: Sequence[Row], options: PairsConfig, report: StageReport
) -> tuple[Learner, list[Encoded]]:
    """The learner as it is posed in this arm, and the items that it is trained on.

    Raises:
        UsageError: the method does not answer in words.
    """
    learner = predictor.learner
    if options.arm == "repeats":
        return learner, predictor.encode(context.draw.train)
    if learner.backbone.purpose != "lm":
        raise UsageError(
            f"recipe={options.name}: trains a language model, and this method reads features. Use "
            "method/formulation=generate, score, prompted or wordings."
        )
    like = next((m for m in learner.formulation.modules() if isinstance(m, TextFormulation)), None)
    assert like is not None, "a formulation with a language model answers in words"
    posed = PairsFormulation(
        learner.backbone, context.data, context.cfg.trainer.max_length, like, options.loss_on == "all"
    )
    own = learner.with_formulation(posed)
    if options.arm == "made":
        shares = dict(zip((row.id for row in rows), Mixture({}, options.exponent).shares(rows), strict=True))
        return own, [replace(item, share=shares[item.id]) for item in own.encode(rows)]
    pool = documents(context, options)
    texts = [Row(row.id, "", row.whole) for row in pool]
    kept, why = screened(texts, evaluation_rows(context.data, context.draw), (), pair_of)
    report.facts |= {"texts": float(len(kept)), **counted(why)}
    return own, own.encode(kept)


def for_tokens(items: Sequence[Encoded], tokens: int, seed: int) -> list[Encoded]:
    """Items in passes of shuffled order, each as often as its share says, up to the one with which they come nearest to
    so many tokens. The same item may stand there several times."""
    chosen: list[Encoded] = []
    read, number = 0, 0
    shares = np.array([item.share for item in items])
    while True:
        random = np.random.RandomState([seed % 2**32, ORDER, number])
        counts = np.floor(shares + random.random_sample(len(items))).astype(int)
        for place in random.permutation(np.repeat(np.arange(len(items)), counts)):
            length = items[place].length
            if chosen and read + length / 2 > tokens:
                return chosen
            chosen.append(replace(items[place], share=1.0))
            read += length
        number += 1
