"""SetFit: pairs as the library makes them, the stages on a tiny network, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import peftbench
from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.formulations.embed.formulation import EmbedFormulation, Pair
from peftbench.models import load_backbone
from peftbench.stages.contrastive.pairs import drawn, enumerated, labelled_pairs
from peftbench.tasks import load_task
from peftbench.tasks.base import Row

HOW = ("iterations", "oversampling", "undersampling", "unique")
FAST = ["task=demo_news", "model=tiny-bert", "trainer=debug", "trainer.probe=false", "tracking.wandb=disabled"]


def of(how: str, labels: list[str], iterations: int = 20, seed: int = 42):
    return labelled_pairs(labels, how, iterations, np.random.RandomState(seed))


def test_sixteen_rows_and_twenty_iterations_give_640_pairs() -> None:
    labels = ["a", "b"] * 8
    for how in ("iterations", "drawn"):
        found = of(how, labels)
        assert (len(found.positive), len(found.negative)) == (320, 320)
        assert all(labels[i] == labels[j] for i, j in found.positive)
        assert all(labels[i] != labels[j] for i, j in found.negative)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (8, 8, 8), (1, 4)])
def test_numbers_of_pairs_are_the_formulas(sizes) -> None:
    """A class of k has k (k + 1) / 2 positive pairs, a row with itself among them; all other pairs are negative."""
    labels = [str(c) for c, size in enumerate(sizes) for _ in range(size)]
    positive = sum(k * (k + 1) // 2 for k in sizes)
    negative = len(labels) * (len(labels) + 1) // 2 - positive
    counts = {how: tuple(map(len, of(how, labels, iterations=3))) for how in HOW}
    assert counts == {
        "iterations": (3 * len(labels),) * 2,
        "oversampling": (max(positive, negative),) * 2,
        "undersampling": (min(positive, negative),) * 2,
        "unique": (positive, negative),
    }


def test_pairs_are_taken_in_turn_so_that_none_comes_twice_before_all_have_come() -> None:
    found = of("iterations", ["a"] * 3 + ["b"] * 2, iterations=10)
    times = Counter(found.negative).values()
    assert set(enumerated(["a"] * 3 + ["b"] * 2, np.random.RandomState(0)).negative) == set(found.negative)
    assert max(times) - min(times) <= 1


def test_a_class_of_one_row_is_its_own_positive() -> None:
    found = drawn(["a", "b", "b"], 4, np.random.RandomState(0))
    assert {pair for pair in found.positive if pair[0] == 0} == {(0, 0)}


@pytest.mark.peers
@pytest.mark.parametrize("how", HOW)
def test_pairs_are_the_librarys_in_its_order(how: str) -> None:
    sampler = pytest.importorskip("setfit.sampler")
    labels = ["a", "b", "b", "c", "a", "c", "c"]
    strategy = {"num_iterations": 5} if how == "iterations" else {"sampling_strategy": how}
    theirs = sampler.ContrastiveDataset([str(i) for i in range(7)], labels, False, **strategy)
    ours = of(how, labels, iterations=5)
    for found, wanted in zip(ours, (theirs.get_positive_pairs(), theirs.get_negative_pairs()), strict=True):
        assert found == [(int(pair["sentence_1"]), int(pair["sentence_2"])) for pair in wanted]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> peftbench.Run:
    folder = tmp_path_factory.mktemp("results")
    return peftbench.run(*FAST, "method=setfit", "shots=2", "method.contrastive.iterations=1", "trainer.save=all",
                         f"out_dir={folder}")  # fmt: skip


def test_both_stages_are_told_and_the_head_is_counted(run) -> None:
    record = run.record
    assert [stage["name"] for stage in record.stages] == ["contrastive", "logistic_head"]
    assert record.stages[0]["notes"] == ["28 pairs of 14 texts"]
    assert record.stages[0]["steps"] == 2  # 28 pairs in batches of 16
    assert record.parameters["head"] == (64 + 1) * 7


@pytest.mark.parametrize("classes", [2, 7])
def test_a_head_answers_as_scikit_learns(classes: int) -> None:
    """Its probabilities, also of two classes, which scikit-learn tells apart by one row of weights."""
    backbone = load_backbone(compose(["model=tiny-bert"]).model, "features", dropout=0.0)
    cfg = compose(["method=setfit", "task=demo_news"])
    task = load_task(cfg.task, None)
    embed = EmbedFormulation(backbone, task, 32, cfg.method.formulation)
    vectors = np.random.RandomState(0).normal(size=(40, 64)).astype(np.float32)
    model = LogisticRegression().fit(vectors, [task.labels[i % classes] for i in range(40)])
    embed.put_head(model.classes_.tolist(), torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_))
    ours = torch.softmax(torch.from_numpy(vectors) @ embed.weight.T + embed.bias, -1)
    wanted = np.zeros((40, 7))
    wanted[:, [task.labels.index(name) for name in model.classes_]] = model.predict_proba(vectors)
    assert np.allclose(ours, wanted, atol=1e-5)


def test_a_shared_text_is_embedded_once_and_the_loss_is_the_same() -> None:
    backbone = load_backbone(compose(["model=tiny-bert"]).model, "features", dropout=0.0)
    cfg = compose(["method=setfit", "task=demo_news"])
    embed = EmbedFormulation(backbone, load_task(cfg.task, None), 32, cfg.method.formulation)
    rows = [Row(str(i), text, None) for i, text in enumerate(("a match", "a longer text about money", "rain"))]
    pairs = [Pair(0, 1, 0.0), Pair(1, 1, 1.0), Pair(2, 0, 1.0), Pair(1, 2, 0.0)]
    backbone.model.eval()
    batches, losses = [], []
    for embed.share_texts in (False, True):
        batches.append(embed.collate(embed.pair_items(rows, pairs)))
        losses.append(float(embed.loss(backbone.model, batches[-1]).detach()))
    assert [len(batch["input_ids"]) for batch in batches] == [8, 3]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.peers
def test_the_library_answers_on_the_same_draw(tmp_path) -> None:
    """Its own trainer, as many steps, a head of the same size; half a pass is half the steps."""
    pytest.importorskip("setfit")
    for epochs, steps in ((1, 2), (0.5, 1)):
        record = peftbench.run(*FAST, "method=setfit_library", "shots=2", "method.contrastive.iterations=1",
                               f"method.contrastive.epochs={epochs}", f"out_dir={tmp_path}").record  # fmt: skip
        assert record.status == "done"
        assert record.stages[0]["steps"] == steps
        assert record.parameters["head"] == (64 + 1) * 7
        assert len(record.draw["rows"]) >= 2


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method=setfit", "method/formulation=head"], "the stage contrastive needs vectors"),
        (["method=lora", "method/formulation=embed"], "trained by the stage contrastive, not by supervised"),
        (["method=setfit", "method.contrastive.loss=mnr", "method.contrastive.micro_batch=4"], "which cannot be cut"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, overrides, told) -> None:
    with pytest.raises(UsageError, match=told):
        peftbench.run(*FAST, "shots=2", f"out_dir={tmp_path}", *overrides)
