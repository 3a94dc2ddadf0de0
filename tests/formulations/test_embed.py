"""`embed`: losses against their definitions, what is compared, and heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.formulations.embed import losses
from peftbench.formulations.embed.formulation import EmbedFormulation
from peftbench.models import load_backbone
from peftbench.tasks.base import DataSource, Row, TaskData


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    a, b = F.normalize(torch.randn(6, 5), dim=-1), F.normalize(torch.randn(6, 5), dim=-1)
    return a, b, torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5, 1.0])


def test_cosine_loss_is_the_summed_squared_error(pairs) -> None:
    a, b, y = (t.numpy() for t in pairs)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert float(losses.cosine(*pairs)) == pytest.approx(((cosines - y) ** 2).sum(), rel=1e-5)
    assert float(losses.cosine(3 * pairs[0], pairs[1], pairs[2])) == pytest.approx(((cosines - y) ** 2).sum(), rel=1e-5)


def test_ranking_losses_are_their_formulas(pairs) -> None:
    a, b, _ = (t.numpy() for t in pairs)
    there = -np.log(np.diag(softmax(20 * a @ b.T))).sum()
    back = -np.log(np.diag(softmax(20 * b @ a.T))).sum()
    assert float(losses.mnr(20.0)(*pairs)) == pytest.approx(there, rel=1e-5)
    likeness = softmax(20 * (a @ a.T + b @ b.T) / 2)
    assert (likeness.argmax(1) == np.arange(6)).all()  # of unit rows each is the most like itself
    assert float(losses.mnr_plus(20.0)(*pairs)) == pytest.approx((there + back) / 2, rel=1e-5)


def test_ranking_loss_of_orthonormal_pairs_by_hand() -> None:
    """A = B = I: each row's softmax has e / (e + n - 1) on the diagonal."""
    eye = torch.eye(4)
    assert float(losses.mnr(1.0)(eye, eye, torch.ones(4))) == pytest.approx(4 * -np.log(np.e / (np.e + 3)))


def test_a_near_duplicate_may_win_in_mnr_plus() -> None:
    """The longer of two rows of one direction is the answer to both."""
    a = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    likeness = softmax(((a @ a.T + a @ a.T) / 2).numpy())
    assert likeness.argmax(1).tolist() == [1, 1, 2]
    scores = (a @ a.T).numpy()
    columns = likeness.T.argmax(1)
    rows = likeness.argmax(1)
    wanted = -np.log(softmax(scores)[range(3), rows]).sum() - np.log(softmax(scores.T)[range(3), columns]).sum()
    assert float(losses.mnr_plus(1.0)(a, a, torch.ones(3))) == pytest.approx(wanted / 2, rel=1e-5)


def embed(problem: str, labels: tuple[str, ...] = (), span: tuple[float, float] | None = None) -> EmbedFormulation:
    backbone = load_backbone(compose(["model=tiny-bert"]).model, "features", dropout=0.0)
    backbone.model.eval().requires_grad_(False)
    metrics = {"classification": "accuracy", "regression": "pearson"}.get(problem, "roc_auc")
    task = TaskData("t", "s", (), (), (), labels, {}, ("text", "pair"), problem, metrics, (metrics,),
                    DataSource("packaged", ""), score_range=span)  # fmt: skip
    made = EmbedFormulation(backbone, task, 32, compose(["method=zero_shot_cosine"]).method.formulation)
    made.__dict__["network"] = backbone.model  # beside it, not a part of it
    return made


def asked(made: EmbedFormulation, rows: list[Row]) -> list:
    with torch.no_grad():
        return made.answers(rows, made.predict(made.network, made.collate(made.encode(rows))))


def test_two_texts_are_answered_by_their_cosine_on_the_tasks_scale() -> None:
    """Each text is embedded once, however many rows it stands in."""
    made = embed("regression", span=(0.0, 5.0))
    rows = [
        Row("0", "a plane", None, pair="a jet"),
        Row("1", "a jet", None, pair="a plane"),
        Row("2", "x", None, pair="x"),
    ]
    assert len(made.encode(rows)) == 3
    found = asked(made, rows)
    assert [p.id for p in found] == ["0", "1", "2"]
    vectors = [p.vector for p in made.predict(made.network, made.collate(made.encode(rows)))]
    assert found[0].label == pytest.approx(5 * float(vectors[0] @ vectors[1]), rel=1e-5)
    assert found[1].label == found[0].label
    assert found[2].label == pytest.approx(5.0)
    with pytest.raises(UsageError, match="has scores of single texts"):
        made.encode([Row("0", "alone", None)])


def test_without_a_head_the_nearest_label_text_is_the_answer() -> None:
    made = embed("classification", ("sport", "money"))
    texts = ["This text is about money.", "This text is about sport."]
    found = asked(made, [Row(str(i), text, None) for i, text in enumerate(texts)])
    assert [p.label for p in found] == ["money", "sport"]
    assert found[0].scores["money"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.peers
def test_losses_are_those_of_sentence_transformers(pairs) -> None:
    library = pytest.importorskip("sentence_transformers.losses")
    cosine = library.CosineSimilarityLoss(torch.nn.Identity())
    ranking = library.MultipleNegativesRankingLoss(torch.nn.Identity())
    a, b, y = pairs
    assert float(losses.cosine(*pairs)) / 6 == pytest.approx(float(cosine.compute_loss_from_embeddings([a, b], y)))
    assert float(losses.mnr(20.0)(*pairs)) / 6 == pytest.approx(float(ranking.compute_loss_from_embeddings([a, b], y)))
