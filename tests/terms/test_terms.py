"""`peftbench terms`: the rules of retrieval on vectors written here, and the command on tiny models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from made_up_configs import compose
from transformers import BertConfig, BertForSequenceClassification

from peftbench import tasks
from peftbench.cli import main
from peftbench.errors import UsageError
from peftbench.formulations.bi_encoder import BiEncoder
from peftbench.formulations.label_words import read_words
from peftbench.models import load_backbone
from peftbench.terms.encoders import CrossEncoder
from peftbench.terms.retrieve import WRAPPER, read_terms, retrieve

NAMES = {"ph": "physics", "bio": "biology"}
COSINES = {  # with physics, with biology
    "physics": (1.0, 0.1), "biology": (0.1, 1.0), "force": (0.9, 0.2), "energy": (0.8, 0.7), "cell": (0.55, 0.95),
    "science": (0.6, 0.6), "plant": (0.2, 0.51), "sport": (0.4, 0.4), "Physics": (0.99, 0.1),
}  # fmt: skip


def embed(texts: Sequence[str]) -> np.ndarray:
    """Vectors whose products with those of the names are `COSINES`."""
    words = [text.removeprefix(WRAPPER.format("")) for text in texts]
    assert all(text == WRAPPER.format(word) for text, word in zip(texts, words, strict=True)), "compared in the wrapper"
    if words == list(NAMES.values()):
        return np.eye(2)
    return np.array([COSINES[word] for word in words])


TERMS = [word for word in COSINES if word not in NAMES.values()]


def test_threshold_order_and_first_come():
    words = retrieve(NAMES, TERMS, embed, top=10, threshold=0.5)
    assert words == {
        "ph": {"physics": 1.0, "force": 0.9, "energy": 0.8, "science": 0.6, "cell": 0.55},
        "bio": {"biology": 1.0, "plant": 0.51},
    }
    assert list(words["ph"]) == ["physics", "force", "energy", "science", "cell"], "name first, then by cosine"


def test_top_limits_what_is_looked_at():
    words = retrieve(NAMES, TERMS, embed, top=3, threshold=0.5)
    assert list(words["ph"]) == ["physics", "force", "energy"], "`Physics`, the label's own name, took a place"
    assert list(words["bio"]) == ["biology", "cell", "science"], "`energy` was looked at and is taken"


def test_the_order_of_labels_decides_who_takes_a_term():
    def turned(texts: Sequence[str]) -> np.ndarray:
        return np.eye(2)[::-1] if texts[0] == WRAPPER.format("biology") else embed(texts)

    words = retrieve({"bio": "biology", "ph": "physics"}, TERMS, turned, top=10, threshold=0.5)
    assert "cell" in words["bio"]
    assert "cell" not in words["ph"]


def test_a_cross_encoder_drops_contradictions_and_orders_what_is_left():
    scores = {"force": 0.8, "energy": 0.1, "science": 0.95, "cell": 0.5, "plant": 0.0}

    def contrast(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.array([scores[term.removeprefix(WRAPPER.format(""))] for _, term in pairs])

    words = retrieve(NAMES, TERMS, embed, top=10, threshold=0.5, contrast=contrast, contrast_threshold=0.9)
    assert list(words["ph"]) == ["physics", "energy", "cell", "force"]
    assert list(words["bio"]) == ["biology", "plant", "science"][:2], "science is a contradiction here too"


def test_scores_are_at_most_one():
    words = retrieve({"a": "abc"}, ["xyz"], lambda texts: np.ones((len(texts), 1)) * 1.01, top=1, threshold=0.5)
    assert words == {"a": {"abc": 1.0, "xyz": 1.0}}


def test_terms_are_read_once_each_without_short_ones(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("force\n\n  two   words \nab\nForce\nabc\n", encoding="utf-8")
    assert read_terms(path) == ["Force", "two words", "abc"]
    path.write_text("a\nb\n")
    with pytest.raises(UsageError, match="no term of 3 characters"):
        read_terms(path)
    with pytest.raises(UsageError, match=r"terms\.tx: cannot be read"):
        read_terms(tmp_path / "terms.tx")


def test_the_bi_encoder_does_not_depend_on_the_company():
    encoder = BiEncoder(load_backbone(compose(["model=tiny-bert"]).model, "features", 0.0), torch.device("cpu"))
    texts = ["force", "a much longer term of several words", "energy"] * 30
    together = encoder(texts)
    assert together.shape == (90, 64)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    for i in (0, 1, 2, 88):
        np.testing.assert_allclose(encoder([texts[i]])[0], together[i], atol=1e-5)


def cross_encoder(folder: Path, labels: Sequence[str]) -> Path:
    """A tiny cross-encoder saved in `folder`."""
    torch.manual_seed(0)
    tokenizer = load_backbone(compose(["model=tiny-bert"]).model, "features", 0.0).tokenizer
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label=dict(enumerate(labels)), initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PAIRS = [("one text", "another"), ("one text", "a third one"), ("x", "y")]


def test_a_cross_encoder_of_one_output_or_with_a_contradiction(tmp_path):
    device = torch.device("cpu")
    one = CrossEncoder(str(cross_encoder(tmp_path / "one", ["score"])), device)
    values = one(PAIRS)
    assert values.shape == (3,)
    assert ((values > 0) & (values < 1)).all()
    three = CrossEncoder(str(cross_encoder(tmp_path / "three", ["entailment", "neutral", "Contrasting"])), device)
    inputs = three.tokenizer([PAIRS[0][0]], [PAIRS[0][1]], return_tensors="pt")
    with torch.no_grad():
        want = three.model(**inputs).logits.softmax(-1)[0, 2]
    assert three(PAIRS)[0] == pytest.approx(want.item(), abs=1e-5)
    with pytest.raises(UsageError, match=r"none of its labels \(yes, no\) says contradiction"):
        CrossEncoder(str(cross_encoder(tmp_path / "two", ["yes", "no"])), device)
    with pytest.raises(UsageError, match=r"--cross-encoder .*nowhere: cannot be loaded"):
        CrossEncoder(str(tmp_path / "nowhere"), device)


def command(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["terms", *args])
    return ended.value.code


@pytest.mark.parametrize("name", ["words.yaml", "words.json"])
def test_the_command_writes_a_file_that_a_run_reads(tmp_path, capsys, name):
    terms, out = tmp_path / "terms.txt", tmp_path / name
    terms.write_text("football\nelection\nhospital\nclimate\nprocessor\nab\n", encoding="utf-8")
    args = ["model=tiny-bert", "task=demo_news", "--from", str(terms), "--out", str(out), "--threshold", "-1"]
    assert command(*args) == 0
    assert "words for" in capsys.readouterr().out
    content = json.loads(out.read_text()) if name.endswith("json") else yaml.safe_load(out.read_text())
    words = read_words(out, list(content))
    assert all(own[0] == (label, 1.0) for label, own in words.items()), "the label's name comes first, with score 1"
    given = [word for own in words.values() for word, _ in own[1:]]
    assert sorted(given) == ["climate", "election", "football", "hospital", "processor"]
    assert all(0 < score <= 1 for own in words.values() for _, score in own)
    cfg = compose(["model=tiny-bert", "method=sciprompt", f"method.formulation.words={out}"])
    assert cfg.method.formulation.words == str(out)
    assert command(*args) == 2
    assert "is there already" in capsys.readouterr().err


def test_mistakes_of_the_command(tmp_path, capsys):
    terms = tmp_path / "terms.txt"
    terms.write_text("football\n")
    for args, message in (
        (["--from", str(terms), "--out", str(tmp_path / "words.txt")], "has to end in .yaml or .json"),
        (["--from", str(tmp_path / "no.txt"), "--out", str(tmp_path / "w.yaml"), "model=tiny-bert"], "cannot be read"),
        (["--from", str(terms), "--out", str(tmp_path / "w.yaml"), "tsk=ag_news"], "tsk: no such key"),
        (["--from", str(terms)], "--out"),
    ):
        assert command(*args) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "w.yaml").exists()


def test_a_task_without_labels_has_no_label_words(tmp_path, capsys, monkeypatch):
    terms, real = tmp_path / "terms.txt", tasks.load_task
    terms.write_text("football\n")
    monkeypatch.setattr(tasks, "load_task", lambda *args: replace(real(*args), problem="regression"))
    assert command("model=tiny-bert", "--from", str(terms), "--out", str(tmp_path / "w.yaml")) == 2
    assert "label words are for tasks with labels" in capsys.readouterr().err
