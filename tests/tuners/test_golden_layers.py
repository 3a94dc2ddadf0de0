"""Tuners against their papers' formulas, in output and in gradient to 1e-5, on a block loop of BERT written out here.

The references know nothing of our modules but the names of their trained tensors. They are written from the formulas
of the papers and of released code, not copied from it; docs/fidelity.md has the list.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_models import D, make_batch, tiny_backbone
from torch import Tensor, nn

from peftbench.config import compose
from peftbench.tuners import TunerContext, build_tuner

CONTEXT = TunerContext(max_length=12, label_words=(), seed=3)
LENGTHS = (6, 9)
Change = Callable[[int, str, Tensor, Tensor], Tensor]
"""(layer, sub-layer, its input x, its output y) -> what takes the place of y before the residual sum."""


def build(method: str, *overrides: str, kind: str = "bert") -> tuple[nn.Module, dict[str, Tensor]]:
    """The tuned model with values with which every part matters, and its trained tensors by name."""
    model = (
        build_tuner(compose([f"method={method}", *overrides]).method.tuner).build(tiny_backbone(kind), CONTEXT).eval()
    )
    own = {n: p for n, p in model.named_parameters() if p.requires_grad}
    torch.manual_seed(5)
    with torch.no_grad():
        for p in own.values():
            p.add_(0.3 * torch.randn_like(p))
    return model, own


def compare(model: nn.Module, own: dict[str, Tensor], expected: Tensor, kind: str = "bert", width: int = 9) -> None:
    """Outputs at real tokens, and the gradients of a weighted sum of them in every trained tensor."""
    batch = make_batch(kind, LENGTHS, width)
    out = model(**batch)
    got = out.logits if "logits" in out else out.last_hidden_state
    got = got[:, got.shape[1] - expected.shape[1] :]
    weight = torch.sin(torch.arange(expected.numel()).view(expected.shape).float())
    if kind != "t5":
        weight = weight * batch["attention_mask"][..., None]
    torch.testing.assert_close(got * (weight != 0), expected * (weight != 0), atol=1e-5, rtol=1e-5)
    tensors = list(own.values())
    ours = torch.autograd.grad((got * weight).sum(), tensors, retain_graph=True)
    theirs = torch.autograd.grad((expected * weight).sum(), tensors)
    for name, one, other in zip(own, ours, theirs, strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert float((one - other).abs().max()) <= 1e-5 * scale, name


def bert(
    change: Change = lambda layer, place, x, y: y,
    weights: dict[str, Tensor] | None = None,
    prefix: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    front: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(batch, n, d): BERT's blocks, post-norm, two heads.

    Args:
        weights: stand in the place of the network's own, by name.
        prefix: layer -> keys and values (l, d) in front of those of the text.
        front: embedded tokens (batch, n, d) -> what is embedded in their place, m rows longer.
    """
    w = dict(tiny_backbone("bert").model.named_parameters()) | (weights or {})
    batch = make_batch("bert", LENGTHS, 9)
    x = w["embeddings.word_embeddings.weight"][batch["input_ids"]]
    mask = batch["attention_mask"].bool()
    if front is not None:
        x = front(x)
        mask = F.pad(mask, (x.shape[1] - mask.shape[1], 0), value=True)
    n, begin = x.shape[1], 0 if prefix is None else len(prefix(0)[0])  # a prefix is counted as a past
    x = (
        x
        + w["embeddings.position_embeddings.weight"][begin : begin + n]
        + w["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm(x, w, "embeddings.LayerNorm")
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        q, k, v = (linear(x, w, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        seen = mask
        if prefix is not None:
            keys, values = prefix(layer)
            k, v = (torch.cat([own.expand(2, -1, -1), rest], 1) for own, rest in ((keys, k), (values, v)))
            seen = F.pad(mask, (len(keys), 0), value=True)
        if f"{at}.l_k" in w:
            k, v = k * w[f"{at}.l_k"], v * w[f"{at}.l_v"]
        heads = [t.view(2, -1, 2, D // 2).transpose(1, 2) for t in (q, k, v)]
        scores = heads[0] @ heads[1].mT / math.sqrt(D // 2)
        scores = scores.masked_fill(~seen[:, None, None], -math.inf)
        mixed = (scores.softmax(-1) @ heads[2]).transpose(1, 2).reshape(2, n, D)
        y = linear(mixed * w.get(f"{at}.l_o", torch.ones(())), w, f"{at}.attention.output.dense")
        x = norm(x + change(layer, "attention", x, y), w, f"{at}.attention.output.LayerNorm")
        inner = F.gelu(linear(x, w, f"{at}.intermediate.dense"))
        y = linear(inner * w.get(f"{at}.l_ff", torch.ones(())), w, f"{at}.output.dense")
        x = norm(x + change(layer, "ffn", x, y), w, f"{at}.output.LayerNorm")
    return x


def linear(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def block(own: dict[str, Tensor], layer: int, place: str) -> Callable[[str], Tensor]:
    """Short name -> a tensor of the adapter's block there."""
    middle = "attention.output" if place == "attention" else "output"
    at = f"encoder.layer.{layer}.{middle}.dense.adapter_block.default."
    found = {name.partition(at)[2]: t for name, t in own.items() if at in name}
    return found.__getitem__


def bottleneck(z: Tensor, t: Callable[[str], Tensor], act: Callable[[Tensor], Tensor]) -> Tensor:
    return act(z @ t("down.weight").T + t("down.bias")) @ t("up.weight").T + t("up.bias")


def test_the_loop_is_bert() -> None:
    plain = tiny_backbone("bert").model(**make_batch("bert", LENGTHS, 9)).last_hidden_state
    real = make_batch("bert", LENGTHS, 9)["attention_mask"][..., None].bool()
    torch.testing.assert_close(bert() * real, plain * real, atol=1e-5, rtol=1e-5)


def test_houlsby() -> None:
    model, own = build("houlsby", "method.tuner.bottleneck=3")
    silu = torch.nn.functional.silu
    compare(model, own, bert(lambda layer, place, x, y: y + bottleneck(y, block(own, layer, place), silu)))


def test_pfeiffer() -> None:
    model, own = build("pfeiffer", "method.tuner.bottleneck=3")

    def change(layer: int, place: str, x: Tensor, y: Tensor) -> Tensor:
        return y if place == "attention" else y + bottleneck(y, block(own, layer, place), torch.relu)

    compare(model, own, bert(change))


def beside(own: dict[str, Tensor]) -> Change:
    """The scaled parallel adapter: y + 4 block(x) beside the feed-forward."""

    def change(layer: int, place: str, x: Tensor, y: Tensor) -> Tensor:
        return y if place == "attention" else y + 4 * bottleneck(x, block(own, layer, place), torch.relu)

    return change


def test_parallel() -> None:
    model, own = build("parallel", "method.tuner.bottleneck=3")
    compare(model, own, bert(beside(own)))


def test_lite() -> None:
    """LiST: x + W_2 W_1 x behind attention and feed-forward, before dropout, residual sum and norm."""
    model, own = build("lite", "method.tuner.bottleneck=3")

    def change(layer: int, place: str, x: Tensor, y: Tensor) -> Tensor:
        t = block(own, layer, place)
        return y + y @ t("down.weight").T @ t("up.weight").T

    compare(model, own, bert(change))


def test_a_student_with_fresh_lite_adapters_is_the_pretrained_model() -> None:
    """At LiST's released start; with the 0.02 of its layer's own code the states move by a hundredth and more."""
    for std, least, most in (("2e-4", 0.0, 1e-4), ("0.02", 1e-2, 10.0)):
        tuner = build_tuner(compose(["method=lite", f"method.tuner.init_std={std}"]).method.tuner)
        model = tuner.build(tiny_backbone("bert"), CONTEXT).eval()
        moved = model(**make_batch("bert", LENGTHS, 9)).last_hidden_state[0, :6] - bert()[0, :6]
        assert least <= float(moved.detach().abs().max()) <= most, (std, float(moved.detach().abs().max()))


def test_compacter() -> None:
    """Sums of Kronecker products with one rule for down and up in every block; GELU in its tanh form; trained norms."""
    model, own = build("compacter", "method.tuner.bottleneck=8", "method.tuner.phm_rank=2")
    (rule,) = [t for name, t in own.items() if ".rule." in name]
    assert rule.shape == (4, 4, 4)

    def matrix(t: Callable[[str], Tensor], side: str) -> Tensor:
        return sum(torch.kron(rule[i], t(f"{side}.s")[i] @ t(f"{side}.t")[i]) for i in range(4))  # type: ignore[return-value]

    def gelu_new(z: Tensor) -> Tensor:
        return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    def change(layer: int, place: str, x: Tensor, y: Tensor) -> Tensor:
        t = block(own, layer, place)
        return y + gelu_new(y @ matrix(t, "down") + t("down.bias")) @ matrix(t, "up") + t("up.bias")

    kept = ".modules_to_save.default"
    norms = {n.replace(kept, "").removeprefix("base_model.model."): t for n, t in own.items() if kept in n}
    compare(model, own, bert(change, weights=norms))


def prefix_of(vectors: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
    """P-tuning v2's layout: a row of the (l, layers x 2 x d) table holds layer 0's key, its value, layer 1's key ..."""
    table = vectors.view(len(vectors), 2, 2, D)
    return lambda layer: (table[:, layer, 0], table[:, layer, 1])


def test_prefixes() -> None:
    model, own = build("p_tuning_v2", "method.tuner.num_virtual_tokens=5")
    (table,) = own.values()
    compare(model, own, bert(prefix=prefix_of(table)))


def test_mam() -> None:
    model, own = build("mam", "method.tuner.bottleneck=3", "method.tuner.num_virtual_tokens=5")
    table = next(t for name, t in own.items() if "embedding" in name)
    compare(model, own, bert(beside(own), prefix=prefix_of(table)))


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_low_rank_updates_are_merged_matrices(method: str) -> None:
    """W + s B A with s = alpha / r (rsLoRA: / sqrt(r)). DoRA: rows of that, at the trained lengths; the length divided
    by counts as a constant in the gradient (its section 4.3)."""
    model, own = build(method, "method.tuner.rank=4", "method.tuner.alpha=6")
    base, weights = dict(tiny_backbone("bert").model.named_parameters()), {}
    for name, a in own.items():
        if ".lora_A." not in name:
            continue
        target = name.removeprefix("base_model.model.").partition(".lora_A")[0]
        scale = 6 / math.sqrt(4) if method == "rslora" else 6 / 4
        merged = base[f"{target}.weight"].detach() + scale * own[name.replace("lora_A", "lora_B")] @ a
        if method == "dora":
            length = own[name.replace("lora_A", "lora_magnitude_vector")]
            merged = merged * (length / merged.detach().norm(dim=1))[:, None]
        weights[f"{target}.weight"] = merged
    compare(model, own, bert(weights=weights))


def test_ia3() -> None:
    """Keys and values are scaled as they are, and what the output matrices read."""
    model, own = build("ia3")
    names = {"attention.self.key": "l_k", "attention.self.value": "l_v", "attention.output.dense": "l_o"}
    weights = {}
    for name, scale in own.items():
        at = name.removeprefix("base_model.model.").partition(".ia3_l")[0]
        layer, module = at[: len("encoder.layer.0")], at[len("encoder.layer.0.") :]
        weights[f"{layer}.{names.get(module, 'l_ff')}"] = scale.flatten()
    compare(model, own, bert(weights=weights))


def test_bitfit_trains_the_biases_and_nothing_else() -> None:
    model, own = build("bitfit")
    assert set(own) == {n for n, _ in model.named_parameters() if n.endswith("bias")}
    compare(model, own, bert(weights=own))


def offset(own: dict[str, Tensor], n: int) -> Tensor:
    """DePT's alpha / sqrt(r) A B, the first n rows."""
    a, b = (next(t for name, t in own.items() if f"dept_{x}." in name) for x in "AB")
    return 8 / math.sqrt(a.shape[1]) * (a @ b)[:n]


def prompt(own: dict[str, Tensor]) -> Tensor:
    return next(t for name, t in own.items() if "dept_P." in name)


def ept_prompt(own: dict[str, Tensor]) -> Tensor:
    """Our reading of EPT: P, what it attends to in C = A B, and its projections into two spaces, gated by P's mean."""
    p, rest = prompt(own), {name.partition("ept_")[2].partition(".")[0]: t for name, t in own.items() if "ept_" in name}
    a, b = (next(t for name, t in own.items() if f"dept_{x}." in name) for x in "AB")
    c = a @ b
    fused = (p @ c.T / math.sqrt(D)).softmax(-1) @ c
    gate = (p @ rest["gate"]).mean(0).softmax(-1)
    spaces = sum(gate[i] * torch.relu(p @ rest["down"][i]) @ rest["up"][i] for i in range(2))
    return p + fused + spaces


@pytest.mark.parametrize(("method", "rows"), [("prompt_tuning", prompt), ("dept", prompt), ("ept", ept_prompt)])
def test_prompts_in_front_and_offsets(method: str, rows: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """[P; E + alpha / sqrt(r) A B] with positions from 0 for the prompt's first row, and a mask of ones in front."""
    overrides = ["method.tuner.num_virtual_tokens=4"] + ([] if method == "prompt_tuning" else ["method.tuner.rank=3"])
    model, own = build(method, *overrides)

    def front(x: Tensor) -> Tensor:
        moved = x if method == "prompt_tuning" else x + offset(own, x.shape[1])
        return torch.cat([rows(own).expand(2, -1, -1), moved], 1)

    compare(model, own, bert(front=front)[:, 4:])


@pytest.mark.parametrize(("method", "rows"), [("dept", prompt), ("ept", ept_prompt)])
def test_prompts_of_an_encoder_decoder(method: str, rows: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """T5: in front of the encoder's input alone; the decoder's embeddings are as they were."""
    model, own = build(method, "method.tuner.num_virtual_tokens=4", "method.tuner.rank=3", kind="t5")
    base, batch = tiny_backbone("t5").model, make_batch("t5", LENGTHS, 9)
    embedded = base.get_input_embeddings()(batch["input_ids"]).detach() + offset(own, 9)
    expected = base(
        inputs_embeds=torch.cat([rows(own).expand(2, -1, -1), embedded], 1),
        attention_mask=F.pad(batch["attention_mask"], (4, 0), value=1),
        decoder_input_ids=batch["decoder_input_ids"],
    ).logits
    compare(model, own, expected, kind="t5")
