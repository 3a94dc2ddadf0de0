"""Tuners against their papers' formulas, in output and in gradient to 1e-5, on a block loop of BERT written out here.

The references know nothing of our modules but the names of their trained tensors. They are written from the formulas
of the papers and of released code, not copied from it; docs/fidelity.md has the list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from made_up_configs import compose
from tiny_models import D, make_batch, tiny_backbone
from torch import Tensor, nn

from peftbench.tuners import TunerContext, build_tuner

CONTEXT = TunerContext(max_length=12, label_words=(), seed=3)
LENGTHS = (6, 9)
Change = Callable[[int, str, Tensor, Tensor], Tensor]
"""(layer, sub-layer, its input x, its output y) -> what takes the place of y before the residual sum."""


def build(method: str, *overrides: str, kind: str = "bert", spread: float = 0.3) -> tuple[nn.Module, dict[str, Tensor]]:
    """The tuned model with values with which every part matters, and its trained tensors by name."""
    model = (
        build_tuner(compose([f"method={method}", *overrides]).method.tuner).build(tiny_backbone(kind), CONTEXT).eval()
    )
    own = {n: p for n, p in model.named_parameters() if p.requires_grad}
    torch.manual_seed(5)
    with torch.no_grad():
        for p in own.values():
            p.add_(spread * torch.randn_like(p))
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
        assert float((one - other).abs().max()) <= 3e-5 * scale, name  # sums of hundreds of products, by CPU


def bert(
    change: Change = lambda layer, place, x, y: y,
    weights: dict[str, Tensor] | None = None,
    prefix: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    front: Callable[[Tensor], Tensor] | None = None,
    rows: Callable[[int, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """(batch, n, d): BERT's blocks, post-norm, two heads.

    Args:
        weights: stand in the place of the network's own, by name.
        prefix: layer -> keys and values (l, d) in front of those of the text.
        front: embedded tokens (batch, n, d) -> what is embedded in their place, m rows longer.
        rows: layer, its input (batch, n, d), the mask -> rows (batch, l, d) in front of it, for this layer alone.
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
        seen, more = mask, 0
        if rows is not None:
            soft = rows(layer, x, mask)
            more = soft.shape[1]
            x, seen = torch.cat([soft, x], 1), F.pad(mask, (more, 0), value=True)
        q, k, v = (linear(x, w, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        if prefix is not None:
            keys, values = prefix(layer)
            k, v = (torch.cat([own.expand(2, -1, -1), rest], 1) for own, rest in ((keys, k), (values, v)))
            seen = F.pad(mask, (len(keys), 0), value=True)
        if f"{at}.l_k" in w:
            k, v = k * w[f"{at}.l_k"], v * w[f"{at}.l_v"]
        heads = [t.view(2, -1, 2, D // 2).transpose(1, 2) for t in (q, k, v)]
        scores = heads[0] @ heads[1].mT / math.sqrt(D // 2)
        scores = scores.masked_fill(~seen[:, None, None], -math.inf)
        mixed = (scores.softmax(-1) @ heads[2]).transpose(1, 2).reshape(2, more + n, D)
        y = linear(mixed * w.get(f"{at}.l_o", torch.ones(())), w, f"{at}.attention.output.dense")
        x = norm(x + change(layer, "attention", x, y), w, f"{at}.attention.output.LayerNorm")
        inner = F.gelu(linear(x, w, f"{at}.intermediate.dense"))
        y = linear(inner * w.get(f"{at}.l_ff", torch.ones(())), w, f"{at}.output.dense")
        x = norm(x + change(layer, "ffn", x, y), w, f"{at}.output.LayerNorm")[:, more:]
    return x


def linear(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x: Tensor, w: Mapping[str, Tensor], name: str, eps: float = 1e-12) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def block(own: dict[str, Tensor], layer: int, place: str) -> Callable[[str], Tensor]:
    """Short name -> a tensor of the adapter's block there."""
    return tensors(own, layer, place).__getitem__


def tensors(own: dict[str, Tensor], layer: int, place: str) -> dict[str, Tensor]:
    middle = "attention.output" if place == "attention" else "output"
    at = f"encoder.layer.{layer}.{middle}.dense.adapter_block.default."
    return {name.partition(at)[2]: t for name, t in own.items() if at in name}


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


def gelu_new(z: Tensor) -> Tensor:
    return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def trained_norms(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's norms that are trained along, by their names there."""
    kept = ".modules_to_save.default"
    return {n.replace(kept, "").removeprefix("base_model.model."): t for n, t in own.items() if kept in n}


def test_houlsby_as_released() -> None:
    """GELU in its tanh form, and the norms trained along; both matrices are small at the start, the biases zero."""
    fresh = build_tuner(compose(["method=houlsby_paper"]).method.tuner).build(tiny_backbone("bert"), CONTEXT)
    matrices = [p.detach() for name, p in fresh.named_parameters() if "adapter_block" in name and p.dim() == 2]
    assert all(5e-4 < float(p.std()) < 1e-3 and float(p.abs().max()) <= 2e-3 for p in matrices)
    model, own = build("houlsby_paper", "method.tuner.bottleneck=3")
    assert len(trained_norms(own)) == 2 * 5

    def change(layer: int, place: str, x: Tensor, y: Tensor) -> Tensor:
        return y + bottleneck(y, block(own, layer, place), gelu_new)

    compare(model, own, bert(change, weights=trained_norms(own)))


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Sum over k of W[:, :, k] x[position + k - middle], with zeros where there is no text. `weight` is (out, in, k),
    of a depthwise convolution (channels, 1, k)."""
    wide = F.pad(x * make_batch("bert", LENGTHS, 9)["attention_mask"][..., None], (0, 0, 2, 2))
    shifts = [wide[:, i : i + x.shape[1]] for i in range(5)]
    if weight.shape[1] == 1:
        return torch.stack([s * weight[:, 0, i] for i, s in enumerate(shifts)]).sum(0) + bias
    return torch.stack([s @ weight[:, :, i].T for i, s in enumerate(shifts)]).sum(0) + bias


def conformer(x: Tensor, t: dict[str, Tensor]) -> Tensor:
    """The Conformer's convolution module; a LayerNorm where it has a BatchNorm."""
    half, gate = linear(norm(x, t, "norm_in", 1e-5), t, "expand").chunk(2, -1)
    mixed = convolved(half * torch.sigmoid(gate), t["depthwise.weight"], t["depthwise.bias"])
    mixed = norm(mixed, t, "norm_mid", 1e-5)
    return linear(mixed * torch.sigmoid(mixed), t, "project")


def convpass(x: Tensor, t: dict[str, Tensor]) -> Tensor:
    """down, QuickGELU, convolution, QuickGELU, up."""
    z = linear(x, t, "down")
    z = convolved(z * torch.sigmoid(1.702 * z), t["conv.weight"], t["conv.bias"])
    return linear(z * torch.sigmoid(1.702 * z), t, "up")


@pytest.mark.parametrize("formula", [conformer, convpass])
def test_convolutions_beside_the_feed_forward(formula: Callable[[Tensor, dict[str, Tensor]], Tensor]) -> None:
    model, own = build("conv_adapter", "method.tuner.bottleneck=4", f"method.tuner.block={formula.__name__}")

    def change(layer: int, place: str, x: Tensor, y: Tensor) -> Tensor:
        return y if place == "attention" else y + formula(x, tensors(own, layer, place))

    compare(model, own, bert(change))


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

    def change(layer: int, place: str, x: Tensor, y: Tensor) -> Tensor:
        t = block(own, layer, place)
        return y + gelu_new(y @ matrix(t, "down") + t("down.bias")) @ matrix(t, "up") + t("up.bias")

    compare(model, own, bert(change, weights=trained_norms(own)))


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


def test_iapt() -> None:
    """Each block's soft tokens: x W + b, mixed over the text by a softmax of its projection, a trained rational
    function, a projection up; they stand in front of what this block reads."""
    model, own = build("iapt", "method.tuner.bottleneck=3", spread=0.1)  # sixth powers: rounding grows with the values

    def rows(layer: int, x: Tensor, mask: Tensor) -> Tensor:
        at = f"encoder.layer.{layer}.iapt_"
        t = {n.partition(at)[2].removesuffix(".default"): p for n, p in own.items() if at in n}
        h = x @ t["down"] + t["down_bias"]
        a = (h @ t["pool"]).masked_fill(~mask[..., None], -math.inf).softmax(1)
        z = a.mT @ h
        above = sum(c * z**q for q, c in enumerate(t["numerator"]))
        below = 1 + sum(c * z ** (q + 1) for q, c in enumerate(t["denominator"])).abs()  # type: ignore[union-attr]
        return above / below @ t["up"] + t["up_bias"]

    compare(model, own, bert(rows=rows))


def test_adalora() -> None:
    """W + alpha / r B diag(E) A with r the rank at the start, before any of it is taken away."""
    model, own = build("adalora", "method.tuner.alpha=6")
    base, weights = dict(tiny_backbone("bert").model.named_parameters()), {}
    for name, a in own.items():
        if ".lora_A." in name:
            b, e = (own[name.replace("lora_A", other)] for other in ("lora_B", "lora_E"))
            target = name.removeprefix("base_model.model.").partition(".lora_A")[0]
            weights[f"{target}.weight"] = base[f"{target}.weight"].detach() + 6 / len(a) * b @ (e * a)
    compare(model, own, bert(weights=weights))


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


def test_adept() -> None:
    """ADePT: P in front, relu(e W1 + b1) W2 + b2 added to each token's embedding e."""
    model, own = build("adept", "method.tuner.num_virtual_tokens=4", "method.tuner.rank=3")
    w1, b1, w2, b2 = (next(t for n, t in own.items() if f"dept_{x}." in n) for x in ("W1", "b1", "W2", "b2"))

    def front(x: Tensor) -> Tensor:
        return torch.cat([prompt(own).expand(2, -1, -1), x + torch.relu(x @ w1 + b1) @ w2 + b2], 1)

    compare(model, own, bert(front=front)[:, 4:])


def lstm(x: Tensor, t: dict[str, Tensor], suffix: str) -> Tensor:
    """(l, width) -> (l, h): one direction of one layer, from the first row on."""
    h = c = x.new_zeros(t[f"weight_hh_{suffix}"].shape[1])
    states = []
    for row in x:
        gates = (
            t[f"weight_ih_{suffix}"] @ row
            + t[f"bias_ih_{suffix}"]
            + t[f"weight_hh_{suffix}"] @ h
            + t[f"bias_hh_{suffix}"]
        )
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return torch.stack(states)


def test_p_tunings_prompt_comes_out_of_its_encoder() -> None:
    """Two BiLSTM layers at the backbone's full width, then Linear, ReLU, Linear of the same."""
    overrides = ["method.tuner.num_virtual_tokens=4", "method.tuner.encoder=LSTM", "method.tuner.hidden=null"]
    model, own = build("p_tuning", *overrides)
    t = {name.partition("lstm_head.")[2]: p for name, p in own.items() if "lstm_head." in name}
    mlp = {name.partition("mlp_head.")[2]: p for name, p in own.items() if "mlp_head." in name}
    assert mlp["0.weight"].shape == mlp["2.weight"].shape == (D, D)
    x = prompt(own)
    for layer in ("l0", "l1"):
        x = torch.cat([lstm(x, t, layer), lstm(x.flip(0), t, f"{layer}_reverse").flip(0)], 1)
    rows = linear(torch.relu(linear(x, mlp, "0")), mlp, "2")
    compare(model, own, bert(front=lambda x: torch.cat([rows.expand(2, -1, -1), x], 1))[:, 4:])


def test_positions_of_roberta_begin_behind_its_padding_index() -> None:
    model, own = build("dept", "method.tuner.num_virtual_tokens=4", "method.tuner.rank=3", kind="roberta")
    base, batch = tiny_backbone("roberta").model, make_batch("roberta", LENGTHS, 9)
    embedded = base.get_input_embeddings()(batch["input_ids"]).detach() + offset(own, 9)
    expected = base(
        inputs_embeds=torch.cat([prompt(own).expand(2, -1, -1), embedded], 1),
        attention_mask=F.pad(batch["attention_mask"], (4, 0), value=1),
        position_ids=torch.arange(2, 15).expand(2, -1),
    ).last_hidden_state[:, 4:]
    compare(model, own, expected, kind="roberta")


def test_a_causal_text_is_read_as_without_its_padding() -> None:
    """Llama, padded on the left: each row alone, its last token with the last row of the offsets' table."""
    model, own = build("dept", "method.tuner.num_virtual_tokens=4", "method.tuner.rank=3", kind="llama")
    base, batch = tiny_backbone("llama").model, make_batch("llama", LENGTHS, 9)
    rows = []
    for ids, n in zip(batch["input_ids"], LENGTHS, strict=True):
        embedded = base.get_input_embeddings()(ids[-n:]).detach() + offset(own, 12)[-n:]
        logits = base(inputs_embeds=torch.cat([prompt(own), embedded])[None]).logits[0, 4:]
        rows.append(F.pad(logits, (0, 0, 9 - n, 0)))
    compare(model, own, torch.stack(rows), kind="llama")
