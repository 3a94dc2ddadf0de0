"""Cloze on every masked LM of transformers: the head is found by structure, and says what the whole network would."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_networks import BLOCKS, MASKED_LMS, write
from test_cloze import ROWS, cloze, disturb, learner
from transformers import AutoModelForMaskedLM

from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.formulations import mlm_head
from peftbench.models import load_backbone

THIN = ("distilbert", "deberta-v2, new head", "rembert")


READ_PADDING = ("convbert", "mobilebert")
"""Their convolutions and trigrams look at a text's neighbours, padding or not, in the released classes too."""


def thin(names: Iterable[str], kept: tuple[str, ...] = THIN) -> list:
    """All of them, those that are not `kept` for the slow tests."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]


def local(folder: Path) -> list[str]:
    return ["model=local", f"model.path={folder}", "model.family=encoder"]


@pytest.mark.parametrize("network", thin(MASKED_LMS))
def test_scores_are_those_of_the_released_class(tmp_path: Path, network: str) -> None:
    released = write(tmp_path, network, AutoModelForMaskedLM)
    net = learner(*local(tmp_path), "method=full", "method.formulation.train_head=true")
    batch = net.collate(net.encode(ROWS))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        wanted = released(**inputs).logits[batch["places"]]
        found = cloze(net).word_scores(net.model, batch)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", thin(name for name in MASKED_LMS if name != "mobilebert"))
def test_states_times_the_vocabulary_matrix_are_the_scores(tmp_path: Path, network: str) -> None:
    model = write(tmp_path, network, AutoModelForMaskedLM)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), mlm_head.at_places(model, ids == 6, 0), mlm_head.states_before_output(model) as states:
        scores = model(input_ids=ids).logits
    bias = mlm_head.output_bias(model)
    made = states[-1] @ mlm_head.output_matrix(model).T
    torch.testing.assert_close(made if bias is None else made + bias, scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", thin(MASKED_LMS, ("distilbert",)))
def test_the_whole_head_is_its_own_and_tied_embeddings_stay_tied(tmp_path: Path, network: str) -> None:
    model = write(tmp_path, network, AutoModelForMaskedLM)
    own = {id(p) for p in mlm_head.own_parameters(model).values()}
    encoder = {id(p) for p in model.base_model.parameters()}
    assert own
    assert not own & encoder
    assert own | encoder == {id(p) for p in model.parameters()}
    net = learner(*local(tmp_path), "method=full", "method.formulation.train_head=true")
    network_inside = mlm_head.masked_lm(net.model)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    loaded = network_inside.get_output_embeddings().weight is network_inside.get_input_embeddings().weight
    assert loaded == tied


@pytest.mark.slow
@pytest.mark.parametrize("variant", [["method.formulation.verbalizer=soft"], ["method.formulation.soft_pattern=true"]])
@pytest.mark.parametrize("network", [name for name in MASKED_LMS if name != "mobilebert"])
def test_label_words_of_their_own_start_as_the_vocabulary_has_them(
    tmp_path: Path, network: str, variant: list[str]
) -> None:
    write(tmp_path, network, AutoModelForMaskedLM)
    net = learner(*local(tmp_path), "method=full", *variant)
    batch = net.collate(net.encode(ROWS))
    plain = learner(*local(tmp_path), "method=full")
    with torch.no_grad():
        bias = mlm_head.output_bias(plain.model) if "verbalizer" in variant[0] else None
        scores = cloze(plain).word_scores(plain.model, batch)
        wanted = cloze(plain).verbalizer(scores if bias is None else scores - bias)
        found = cloze(net).logits(net.model, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prompt_tuning", "dept", "bitfit"])
@pytest.mark.parametrize("network", [name for name in MASKED_LMS if name not in READ_PADDING])
def test_padding_and_virtual_tokens_change_nothing(tmp_path: Path, network: str, method: str) -> None:
    write(tmp_path, network, AutoModelForMaskedLM)
    net = learner(*local(tmp_path), f"method={method}")
    disturb(net)
    items = net.encode(ROWS)
    with torch.no_grad():
        together = cloze(net).logits(net.model, net.collate(items))
        alone = torch.cat([cloze(net).logits(net.model, net.collate([item])) for item in items])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_network_whose_scores_are_no_product_takes_no_label_words_of_its_own(tmp_path: Path) -> None:
    """MobileBERT multiplies by two matrices side by side."""
    write(tmp_path, "mobilebert", AutoModelForMaskedLM)
    net = learner(*local(tmp_path), "method=full", "method.formulation.verbalizer=soft")
    with pytest.raises(UsageError, match=r"MobileBertForMaskedLM.*verbalizer=manual"):
        net(net.collate(net.encode(ROWS)))


def test_without_a_mask_or_a_head_one_line_says_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cloze does not fit a causal backbone.*generate, head"):
        learner("model=tiny-llama")
    splinter = replace(compose(["model=tiny-bert"]).model, arch={"model_type": "splinter", **BLOCKS})
    with pytest.raises(UsageError, match=r"no masked-LM head for a splinter network.*model=minilm-mlm"):
        load_backbone(splinter, "mlm")
    write(tmp_path, "bert", AutoModelForMaskedLM)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"mask_token": None}))
    with pytest.raises(UsageError, match=r"its tokenizer has no mask.*model=minilm-mlm"):
        learner(*local(tmp_path), "method=full")
