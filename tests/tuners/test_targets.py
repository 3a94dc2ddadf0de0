"""Which modules a tuner takes on a network whose names nobody types: by role, by layer, and as peft would."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_INWARD,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING as NORMS

import peftbench
from peftbench.config import compose
from peftbench.conformance.architectures import architectures
from peftbench.errors import UsageError
from peftbench.models.anatomy import known
from peftbench.models.anatomy.choose import is_matrix, names_of_roles
from peftbench.models.base import Backbone
from peftbench.models.outline import outline
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.matrices import Choice, matched, matrix_names

NETWORKS = architectures()
CONTEXT = TunerContext(max_length=16, label_words=(), seed=0)


@cache
def outlined(name: str) -> Backbone:
    """Without weights; for tests that only look."""
    return backbone(name)


def backbone(name: str) -> Backbone:
    """The same, to be changed."""
    cfg = NETWORKS[name]
    return outline(cfg, "lm" if cfg.family == "seq2seq" else "features")


@cache
def options(method: str) -> Any:
    """The tuner's section of a method."""
    return compose([f"method={method}"]).method.tuner


def modules(of: Backbone, names: object, matrices: bool = True) -> set[str]:
    """What peft would adapt, by its own function."""
    config = peft.LoraConfig(target_modules=names)
    found = {n: m for n, m in of.model.named_modules() if check_target_module_exists(config, n)}
    return {n for n, m in found.items() if is_matrix(m) or not matrices}


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() & LORA.keys()))
def test_queries_and_values_are_what_peft_adapts_by_default(name: str) -> None:
    of = outlined(name)
    assert modules(of, names_of_roles(of.model, "attention.qv")) == modules(of, LORA[name])
    assert matrix_names(of, Choice()) == LORA[name]


@pytest.mark.parametrize("kind", ["ia3", "ln_tuning", "vera"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_where_peft_has_a_default_it_is_ours(kind: str, name: str) -> None:
    usual = {"ia3": IA3, "ln_tuning": NORMS, "vera": LORA}[kind]
    of = outlined(name)
    config = build_tuner(options(kind)).peft_config(of, CONTEXT)
    if name in usual:
        assert config.target_modules is None or set(config.target_modules) == set(usual[name])  # None: peft fills it in
        assert (
            config.target_modules is None or kind != "ia3" or set(config.feedforward_modules) == set(IA3_INWARD[name])
        )
        return
    kin = next((k for k in usual if known().get(k, {}).get("stacks") == known()[name]["stacks"]), None)
    if kin is not None and all(any(n.endswith(f".{end}") for n, _ in of.model.named_modules()) for end in usual[kin]):
        assert set(config.target_modules) == set(usual[kin])
        assert kind != "ia3" or set(config.feedforward_modules) == set(IA3_INWARD[kin])
    assert modules(of, config.target_modules, matrices=kind != "ln_tuning")


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("target", ["attention.qv", "attention.all", "ffn", "all_linear"])
def test_a_role_stands_for_exactly_its_matrices(name: str, target: str) -> None:
    of = outlined(name)
    roles = {"attention.qv": ("query", "value"), "attention.all": ("query", "key", "value", "output")}
    wanted = {
        projection.name
        for place, role, projection in of.anatomy.projections()
        if (role in roles[target] if target in roles else target == "all_linear" or place == "ffn")
    }
    if not wanted:
        assert name == "mixtral"
        with pytest.raises(UsageError, match=r"no matrix of that role.*attention\.all"):
            names_of_roles(of.model, target)
        return
    names = names_of_roles(of.model, target)
    assert set(matched(of, names)) == modules(of, names) == wanted


def test_names_are_short_where_they_are_unmistakable() -> None:
    gpt2, bert = backbone("gpt2"), backbone("bert")
    assert names_of_roles(gpt2.model, "attention.all") == ["attn.c_attn", "attn.c_proj"]
    # output.dense is also the end of attention.output.dense
    first = [f"encoder.layer.0.{name}.dense" for name in ("intermediate", "output")]
    assert names_of_roles(bert.model, "ffn")[:2] == first


@pytest.mark.parametrize(("layers", "blocks"), [("upper_half", {1}), ("last_2", {0, 1})])
@pytest.mark.parametrize(
    ("method", "name"),
    [("lora", "mpnet"), ("lora", "phi3"), ("houlsby", "bart"), ("vera", "bert"), ("adalora", "bert")],
)
def test_upper_layers_alone_are_adapted(layers: str, blocks: set[int], name: str, method: str) -> None:
    of = backbone(name)
    tuner = build_tuner(compose([f"method={method}", f"method.tuner.layers={layers}"]).method.tuner)
    whole = build_tuner(compose([f"method={method}"]).method.tuner).expected_parameters(of, CONTEXT)
    share = tuner.expected_parameters(of, CONTEXT) / whole
    assert share == len(blocks) / 2
    model = tuner.build(of, CONTEXT)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {int(re.search(r"\.layers?\.(\d+)\.", n)[1]) for n in trained if ".layer" in n} == blocks


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(UsageError, match=r"method\.tuner\.target=attention\.vq: not a valid choice.*attention\.qv"):
        compose(["method=lora", "method.tuner.target=attention.vq"])
    with pytest.raises(UsageError, match=r"method\.tuner\.layers=upper: use all, upper_half or last_N"):
        compose(["method=houlsby", "method.tuner.layers=upper"])
    both = compose(["method=lora", "method.tuner.target=ffn", "method.tuner.target_modules=[query]"]).method.tuner
    with pytest.raises(UsageError, match=r"target=ffn and method\.tuner\.target_modules are both set"):
        build_tuner(both).build(backbone("bert"), CONTEXT)
    many = compose(["method=lora", "method.tuner.layers=last_3"]).method.tuner
    with pytest.raises(UsageError, match=r"layers=last_3: the encoder has 2 blocks.*last_2"):
        build_tuner(many).build(backbone("bert"), CONTEXT)


def test_no_architecture_is_named_among_the_tuners() -> None:
    """Code only: comments and docstrings may say which network they speak of."""
    import ast

    names = {n.replace("-", "_") for n in known()} | set(known())
    found = []
    for path in (Path(peftbench.__file__).parent / "tuners").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in docs and node.value in names:
                found.append(f"{path.name}:{node.lineno}: {node.value}")
            if isinstance(node, ast.Attribute) and node.attr == "model_type" and "peft" not in path.parts[-2:][0]:
                found += [] if path.name == "matrices.py" else [f"{path.name}:{node.lineno}: model_type"]
    assert not found


def test_a_fused_matrix_is_one_target_and_learns() -> None:
    from peftbench.models import load_backbone

    of = load_backbone(NETWORKS["phi3"], "features")
    model = build_tuner(compose(["method=lora"]).method.tuner).build(of, CONTEXT)
    model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state.square().sum().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert all("qkv_proj" in n for n in trained)
