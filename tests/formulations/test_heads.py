"""Classification heads on every family: what is read off which hidden states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_up_networks import FAMILIES, MASKED_LMS, write
from test_formulations import ROWS, learner, task
from test_masked_lms import READ_PADDING, thin
from transformers import AutoModel, AutoModelForSequenceClassification

from peftbench.errors import UsageError

HEAD = ["method/formulation=head", "method.formulation.normalize=false"]


def local(folder: Path, network: str) -> list[str]:
    family = FAMILIES.get(network, "encoder")
    pooling = "last" if family == "causal" else "mean"
    return ["model=local", f"model.path={folder}", f"model.family={family}", f"model.pooling={pooling}"]


def shake(net: torch.nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.formulation.parameters():  # type: ignore[union-attr, operator]
            parameter.copy_(torch.randn_like(parameter))


@pytest.mark.parametrize(
    "network", thin((n for n in [*MASKED_LMS, *FAMILIES] if n not in READ_PADDING), ("albert", "opt", "bart"))
)
def test_heads_fit_what_comes_out_and_padding_changes_nothing(tmp_path: Path, network: str) -> None:
    """ALBERT's and ELECTRA's embeddings, and OPT-350m's outputs, are narrower than the states between the blocks."""
    bare = write(tmp_path, network, AutoModel)
    net = learner(*local(tmp_path, network), "method=head_only", *HEAD)
    shake(net)
    items = net.encode(ROWS)
    with torch.no_grad():
        ids = torch.tensor([[5, 6]])
        given = {"decoder_input_ids": ids} if bare.config.is_encoder_decoder else {}
        width = bare(input_ids=ids, **given).last_hidden_state.shape[-1]
        together = net.formulation.logits(net.model, net.collate(items))
        alone = torch.cat([net.formulation.logits(net.model, net.collate([item])) for item in items])
    assert net.formulation.classifier.in_features == width
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", thin(("bart", "mbart", "t5", "mt5"), ("bart",)))
def test_the_decoders_end_is_read_as_the_released_classes_do(tmp_path: Path, network: str) -> None:
    """With `dense` and the same weights: BartForSequenceClassification's and T5ForSequenceClassification's logits."""
    write(tmp_path, network, AutoModel)
    released = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3).eval()
    net = learner(*local(tmp_path, network), "method=head_only", *HEAD, "method.formulation.dense=true")
    ours, theirs = net.formulation, released.classification_head
    ours.dense.load_state_dict(theirs.dense.state_dict())
    ours.classifier.load_state_dict(theirs.out_proj.state_dict())
    batch = net.collate(net.encode(ROWS))
    with torch.no_grad():
        wanted = released(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        torch.testing.assert_close(ours.logits(net.model, batch), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", thin(("opt", "gpt2", "llama", "qwen2"), ("gpt2",)))
def test_causal_models_are_read_at_the_last_real_token(tmp_path: Path, network: str) -> None:
    """As LlamaForSequenceClassification and its like, whichever side the padding is on."""
    write(tmp_path, network, AutoModel)
    released = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3).eval()
    net = learner(*local(tmp_path, network), "method=head_only", *HEAD)
    shake(net)
    net.formulation.classifier.weight.data.copy_(released.score.weight)
    net.formulation.classifier.bias.data.zero_()
    for row in ROWS:
        batch = net.collate(net.encode([row]))
        with torch.no_grad():
            wanted = released(input_ids=batch["input_ids"]).logits
            torch.testing.assert_close(net.formulation.logits(net.model, batch), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", thin(["mean", "cls", "last"], ("mean",)))
def test_an_encoder_decoders_encoder_can_be_pooled(pooling: str) -> None:
    net = learner("model=tiny-t5", "method=prompt_tuning", *HEAD, f"method.formulation.pooling={pooling}")
    shake(net)
    batch = net.collate(net.encode(ROWS))
    with torch.no_grad():
        read = net.formulation.read(net.model, batch)
        start = torch.full((len(ROWS), 1), net.backbone.model.config.decoder_start_token_id)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        states = net.model(**inputs, decoder_input_ids=start).encoder_last_hidden_state
    virtual = states.shape[1] - batch["input_ids"].shape[1]
    assert virtual > 0
    for row, real in enumerate(batch["attention_mask"].sum(1)):
        own = states[row, virtual : virtual + real]
        wanted = own.mean(0) if pooling == "mean" else own[0 if pooling == "cls" else -1]
        torch.testing.assert_close(read[row], wanted, rtol=1e-5, atol=1e-5)


def test_only_a_decoder_has_a_decoders_end() -> None:
    with pytest.raises(UsageError, match=r"pooling=decoder_end: model=tiny-bert is no encoder-decoder"):
        learner("model=tiny-bert", "method=lora", *HEAD, "method.formulation.pooling=decoder_end")


def test_a_network_that_cannot_be_padded_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "fnet", AutoModel)
    with pytest.raises(UsageError, match=r"a FNetModel takes no attention mask"):
        learner(*local(tmp_path, "fnet"), "method=head_only", *HEAD)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "prompt_tuning", "dept", "p_tuning", "ept", "houlsby",
                                    "compacter", "ia3", "prefix_tuning", "p_tuning_v2", "mam", "hft"])  # fmt: skip
def test_tuners_train_with_a_head_on_an_encoder_decoder(method: str) -> None:
    net = learner("model=tiny-t5", f"method={method}", *HEAD, data=task())
    shake(net)
    items = net.encode(ROWS)
    net(net.collate(items)).backward()
    moved = [p for ps in net.param_groups().values() for p in ps if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(moved) > len(net.param_groups().get("head", ())), "what the tuner added has no say"
    with torch.no_grad():
        together = net.formulation.logits(net.model, net.collate(items))
        alone = torch.cat([net.formulation.logits(net.model, net.collate([item])) for item in items])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
