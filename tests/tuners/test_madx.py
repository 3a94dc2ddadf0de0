"""MAD-X against its formula written out in plain torch, its counts, and what a change of language does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import D, make_batch, tiny_backbone
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from peftbench.errors import UsageError
from peftbench.tuners import TunerContext
from peftbench.tuners.madx import MadxOptions
from peftbench.tuners.madx.tuner import (
    AdaptedNorm,
    LanguageTuner,
    MadxTuner,
    Nice,
    language_tensors,
    norms,
    switched_off,
    tensors_of,
)

CONTEXT = TunerContext(max_length=24, label_words=(), seed=3)


def options(**changes) -> MadxOptions:
    return MadxOptions(**{"name": "madx", "bottleneck": 3, "drop_last": False, **changes})


def language(kind: str = "bert", seed: int = 7, **changes) -> dict[str, Tensor]:
    """A language's adapters, as large as the network's own numbers."""
    tuner = LanguageTuner(options(**changes))
    tuner.language = "any"
    model = tuner.build(tiny_backbone(kind), CONTEXT)
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(t.shape, generator=generator) * 0.3 for n, t in language_tensors(model, "any").items()}


def spoken(kind: str = "bert", **changes) -> tuple[MadxTuner, nn.Module]:
    """A network with a task adapter of visible size, on two languages of which `swa` is spoken."""
    tuner = MadxTuner(options(**changes))
    model = tuner.build(tiny_backbone(kind), CONTEXT).eval()
    with torch.no_grad():
        for parameter in tuner.param_groups(model)["task"]:
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    tuner.put_language(model, "hau", language(kind, 8, **changes))
    tuner.put_language(model, "swa", language(kind, 9, **changes))
    return tuner, model


def states(model: nn.Module, kind: str = "bert") -> Tensor:
    return model(**make_batch(kind)).last_hidden_state


def nice(e: Tensor, tensors: dict[str, Tensor], prefix: str = "invertible.") -> Tensor:
    """o1 = F(e2) + e1; o2 = G(o1) + e2, written out."""
    t = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

    def mlp(x: Tensor, name: str) -> Tensor:
        hidden = torch.clamp(x @ t[f"{name}.0.weight"].T + t[f"{name}.0.bias"], min=0)
        return hidden @ t[f"{name}.2.weight"].T + t[f"{name}.2.bias"]

    e1, e2 = e[..., : D // 2], e[..., D // 2 :]
    o1 = mlp(e2, "f") + e1
    return torch.cat([o1, mlp(o1, "g") + e2], dim=-1)


def adapter(x: Tensor, t: dict[str, Tensor], number: int) -> Tensor:
    """U relu(D x + b_D) + b_U."""
    hidden = torch.clamp(x @ t[f"{number}.down.weight"].T + t[f"{number}.down.bias"], min=0)
    return hidden @ t[f"{number}.up.weight"].T + t[f"{number}.up.bias"]


def written_out(lang: dict[str, Tensor], task: dict[str, Tensor]) -> Tensor:
    """The paper's forward pass of the tiny BERT, on a network without any of our modules."""
    model = tiny_backbone("bert").model
    batch = make_batch("bert")
    x = nice(model.embeddings(batch["input_ids"]), lang)
    mask = (1.0 - batch["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
    for number, layer in enumerate(model.encoder.layer):
        self_attention = layer.attention.self
        q, k, v = (getattr(self_attention, n)(x).view(2, -1, 2, D // 2).transpose(1, 2)
                   for n in ("query", "key", "value"))  # fmt: skip
        scores = (q @ k.transpose(-1, -2) / (D // 2) ** 0.5 + mask).softmax(-1)
        mixed = (scores @ v).transpose(1, 2).reshape(2, -1, D)
        i = layer.attention.output.LayerNorm(layer.attention.output.dense(mixed) + x)
        h = layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(i)))
        norm = layer.output.LayerNorm
        a = adapter(norm(h + i), lang, number) + h  # the language's
        a = adapter(norm(a + i), task, number) + a  # the task's, whose H is the language's a
        x = norm(a + i)
    return x


def test_the_formula_in_plain_torch_has_our_output_and_gradient() -> None:
    _, model = spoken()
    lang = language("bert", 9)
    ours = states(model)
    real = make_batch("bert")["attention_mask"].bool()
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)) * real.unsqueeze(-1)
    (ours * weights).sum().backward()
    named = {f"{n}.{k}": p for n, norm in enumerate(norms(model)) for k, p in norm.task.named_parameters()}
    task = {name: p.detach().clone().requires_grad_() for name, p in named.items()}
    theirs = written_out(lang, task)
    (theirs * weights).sum().backward()
    assert torch.allclose(ours[real], theirs[real], atol=1e-5)
    for name, parameter in named.items():
        wanted = task[name].grad
        assert (parameter.grad - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


def test_the_inverse_is_exact() -> None:
    torch.manual_seed(0)
    made = Nice(D, 2)
    e = torch.randn(3, 5, D)
    for _ in range(2):  # as drawn, and with weights as large as training may make them
        assert torch.allclose(made.inverse(made(e)), e, atol=1e-5)
        assert torch.allclose(made(made.inverse(e)), e, atol=1e-5)
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    assert torch.allclose(made(e), nice(e, dict(made.state_dict()), ""), atol=1e-6)


def masked_lm() -> object:
    backbone = tiny_backbone("bert")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, hidden_size=D, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    backbone.purpose, backbone.model = "mlm", BertForMaskedLM(config).eval()
    return backbone


def test_in_front_of_the_output_embedding_stands_the_inverse() -> None:
    tuner = LanguageTuner(options())
    tuner.language = "hau"
    model = tuner.build(masked_lm(), CONTEXT).eval()
    tuner.put_language(model, "hau", language())
    read: list[Tensor] = []
    model.cls.predictions.transform.register_forward_hook(lambda module, inputs, output: read.append(output))
    with torch.no_grad():
        logits = model(**make_batch("bert")).logits
        found = model.base_model.invertible_adapters.languages["hau"].inverse(read[0])
        weight, bias = model.cls.predictions.decoder.weight, model.cls.predictions.decoder.bias
    assert torch.allclose(logits, found @ weight.T + bias, atol=1e-6)
    assert not torch.allclose(logits, read[0] @ weight.T + bias, atol=1e-3)


@pytest.mark.parametrize(
    ("d", "layers", "language_count", "invertible", "task"),
    [(768, 12, 7_091_712, 296_064, 894_528), (1024, 24, 25_202_688, 525_824, 3_171_840)],
)
def test_counts_are_those_of_the_paper_s_networks(
    d: int, layers: int, language_count: int, invertible: int, task: int
) -> None:
    """By formula at the sizes of XLM-R, and on a tiny network as they are there."""
    assert sum(p.numel() for p in Nice(d, 2).parameters()) == invertible
    made = MadxOptions(name="madx")
    assert layers * (2 * d * made.language_width(d) + made.language_width(d) + d) == language_count
    assert layers * (2 * d * made.task_width(d) + made.task_width(d) + d) == task


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_counts_of_a_network_and_the_last_block_of_mad_x_2(kind: str, drop_last: bool) -> None:
    layers, each = (1, 2)[not drop_last], 2 * D * 8 + 8 + D
    language_tuner = LanguageTuner(options(drop_last=drop_last))
    language_tuner.language = "x"
    for tuner, wanted in (
        (MadxTuner(options(drop_last=drop_last)), layers * (2 * D * 3 + 3 + D)),
        (language_tuner, layers * each + sum(p.numel() for p in Nice(D, 2).parameters())),
    ):
        backbone = tiny_backbone(kind)
        assert tuner.expected_parameters(backbone, CONTEXT) == wanted
        model = tuner.build(backbone, CONTEXT)
        assert sum(p.numel() for p in tuner.param_groups(model)[tuner.group]) == wanted
        wrapped = [isinstance(block.output.LayerNorm, AdaptedNorm) for block in model.encoder.layer]
        assert wrapped == [True, not drop_last]


def test_training_the_task_changes_neither_language_nor_backbone_by_a_bit() -> None:
    tuner, model = spoken()
    before = {name: t.detach().clone() for name, t in model.state_dict().items()}
    optimizer = torch.optim.AdamW(tuner.param_groups(model)["task"], lr=0.1, weight_decay=0.1)
    states(model).square().sum().backward()
    optimizer.step()
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    assert all(".task." in name for name in changed)


def test_a_change_of_language_changes_the_output_and_changing_back_restores_it() -> None:
    tuner, model = spoken()
    with torch.no_grad():
        swa = states(model)
        tuner.speak(model, "hau")
        hau = states(model)
        tuner.speak(model, None)
        none = states(model)
        tuner.speak(model, "swa")
        assert torch.equal(states(model), swa)
    assert not any(torch.allclose(a, b, atol=0.1) for a, b in ((swa, hau), (swa, none), (hau, none)))


def test_with_zeros_in_front_of_the_sums_it_is_the_backbone() -> None:
    _, model = spoken(invertible=False)
    plain = states(tiny_backbone("bert").model)
    with torch.no_grad():
        with switched_off(model):
            assert torch.equal(states(model), plain)
        for norm in norms(model):
            for block in (norm.task, *norm.languages.values()):
                nn.init.zeros_(block.up.weight)
                nn.init.zeros_(block.up.bias)
        assert torch.equal(states(model), plain)


def test_what_is_saved_speaks_again_and_does_not_fit_other_settings(tmp_path: Path) -> None:
    tuner, model = spoken()
    tuner.speak(model, "hau")
    tuner.save(model, tmp_path)
    again = MadxTuner(options())
    fresh = again.build(tiny_backbone("bert"), CONTEXT).eval()
    again.load(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(states(fresh), states(model))
    assert {n for n, p in fresh.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    other = MadxTuner(options(bottleneck=4))
    with pytest.raises(UsageError, match="made from another backbone or with other settings"):
        other.load(other.build(tiny_backbone("bert"), CONTEXT), tmp_path)


def test_initial_values_are_the_seed_s_and_none_is_the_identity() -> None:
    one, two = (tensors_of({"n": norms(MadxTuner(options()).build(tiny_backbone("bert"), CONTEXT))[0].task})
                for _ in range(2))  # fmt: skip
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["n.up.weight"].std() > 0.01


def test_networks_whose_norms_stand_elsewhere_are_refused() -> None:
    with pytest.raises(UsageError, match="no LayerNorm of its own behind the residual sum"):
        MadxTuner(options()).check(tiny_backbone("gpt2"), CONTEXT)
