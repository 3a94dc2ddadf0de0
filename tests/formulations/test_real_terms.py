"""Verbalizers of 7 to 53 classes from SciPrompt's released terms, and on rows that are written here."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_configs import compose

from peftbench.formulations.label_words import LabelWords, tokenise_words
from peftbench.formulations.verbalizers import KnowledgeableVerbalizer, SoftVerbalizer
from peftbench.models import load_backbone
from peftbench.tasks.sciprompt import label_terms


def build(folder: Path, subset: str) -> tuple[LabelWords, KnowledgeableVerbalizer, list, list, int]:
    tokenizer = load_backbone(compose(["model=tiny-bert"]).model, "mlm", 0.0).tokenizer
    pairs = {t.label: tuple(zip(t.words, t.scores, strict=True)) for t in label_terms(folder, subset)}
    words = LabelWords.of(pairs, "method.formulation.words=terms")
    tokens = tokenise_words(tokenizer, words, "mean")
    ids, scores = list(tokens.ids.values()), list(tokens.scores.values())
    return words, KnowledgeableVerbalizer(ids, scores, calibrated=True), ids, scores, len(tokenizer)


def check(folder: Path, subset: str, classes: int) -> None:
    words, verbalizer, ids, scores, size = build(folder, subset)
    assert len(words.words) == classes == len(ids)
    assert [len(own) for own in ids] == [len(own) for own in scores], "words and scores stay aligned"
    assert all(own[0] == 1.0 and min(own) > 0.5 and max(own) <= 1.0 for own in scores)
    draw = torch.Generator().manual_seed(classes)
    prior, logits = torch.randn(1, size, generator=draw), torch.randn(2, size, generator=draw)
    removed = verbalizer.calibrate(prior, drop=0.5)
    assert 0 < removed < sum(map(len, ids))
    p = (verbalizer.log_probabilities(logits).exp() - 1e-15) * verbalizer.words_kept
    torch.testing.assert_close(p.sum((1, 2)), torch.ones(2))
    # again, class by class, in numpy
    ranked = np.argsort(prior[0].numpy(), kind="stable")
    low = set(ranked[: size // 2].tolist())
    kept = [[w for w, pieces in enumerate(own) if not low & set(pieces)] or [0] for own in ids]
    raw = [np.array([logits[0, own[w]].double().mean() for w in k]) for own, k in zip(ids, kept, strict=True)]
    base = [np.array([prior[0, own[w]].double().mean() for w in k]) for own, k in zip(ids, kept, strict=True)]
    p1 = [np.exp(v) / np.exp(np.concatenate(raw)).sum() for v in raw]
    p0 = [np.exp(v) / np.exp(np.concatenate(base)).sum() for v in base]
    ratio = [a / (b + 1e-15) for a, b in zip(p1, p0, strict=True)]
    total = np.concatenate(ratio).sum()
    want = []
    for c, k in enumerate(kept):
        a = np.exp([scores[c][w] for w in k])
        want.append((np.log(ratio[c] / total + 1e-15) * a / a.sum()).sum())
    np.testing.assert_allclose(verbalizer(logits)[0].numpy(), want, rtol=1e-4, atol=1e-4)
    soft = SoftVerbalizer(ids, scores, 8)
    soft.start(torch.randn(size, 8, generator=draw), soft.words.likely(prior[0], 0.5))
    assert torch.isfinite(soft.classes.weight).all()


@pytest.mark.data
@pytest.mark.parametrize(("subset", "classes"), [("emerging_nlp", 21), ("arxiv", 53), ("sdpra2021", 7), ("s2orc", 19)])
def test_released_terms(subset, classes):
    folder = Path(os.environ.get("PEFTBENCH_DATA", "nowhere")) / "sciprompt"
    if not folder.is_dir():
        pytest.skip("PEFTBENCH_DATA names no folder with sciprompt in it")
    check(folder, subset, classes)


def test_terms_that_are_written_here(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "label_dict.txt").write_text("{'A': ['law'], 'B': ['water'], 'C': ['news']}")
    (folder / "output_words.txt").write_text("law,the law of the state,a\nwater\nnews,a paper,of,sports,politics")
    (folder / "output_scores.txt").write_text("1,0.8,0.6\n1\n1,0.51,0.9,0.99,0.7")
    check(tmp_path, "toy", 3)
