"""The anatomy of networks: the table of known architectures, the structure, and a user's own description."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from peftbench.conformance.architectures import architectures
from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of, describe, known
from peftbench.models.anatomy.names import Misfit, Reader
from peftbench.models.anatomy.parts import Anatomy, Projection
from peftbench.models.anatomy.structure import names_from_structure
from peftbench.models.outline import outline

NETWORKS = architectures()
LOOKS_AT_VALUES = {"bart", "mbart", "marian", "gpt2", "mixtral", "rembert", "roformer"}
"""Cannot be traced on the meta device, where tensors have no values."""


@cache
def seen(name: str) -> PreTrainedModel:
    """Without weights; for tests that only look."""
    return network(name)


def network(name: str) -> PreTrainedModel:
    """The same, to be described anew."""
    cfg = NETWORKS[name]
    return outline(cfg, "lm" if cfg.family == "seq2seq" else "features").model


def without_rows(anatomy: Anatomy) -> Anatomy:
    """Structure does not tell where in a fused matrix the queries are."""

    def whole(projection: Projection) -> Projection:
        return Projection(projection.name)

    stacks = []
    for stack in anatomy.stacks:
        blocks = []
        for block in stack.blocks:
            a = block.attention
            a = replace(a, query=whole(a.query), key=whole(a.key), value=whole(a.value))
            blocks.append(replace(block, attention=a))
        stacks.append(replace(stack, blocks=tuple(blocks)))
    return replace(anatomy, stacks=tuple(stacks), source="")


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_architecture_is_known_and_its_parts_are_modules_of_the_network(name: str) -> None:
    model = seen(name)
    found = anatomy_of(model)
    modules = dict(model.named_modules())
    assert found.source == "table of known architectures"
    assert found.last.depth == (3 if name == "modernbert" else 2)
    assert all(p.name in modules for _, _, p in found.projections())
    assert all(s.inlet in modules and s.outlet in modules for s in found.sublayers())
    for _, _, projection in found.projections():
        assert all(stop <= max(modules[projection.name].weight.shape) for _, stop in projection.rows)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - LOOKS_AT_VALUES))
def test_structure_tells_what_the_table_says(name: str) -> None:
    model = seen(name)
    by_structure = Reader(model, "").anatomy(names_from_structure(model))
    by_table = anatomy_of(model)
    if name == "gptj":  # rotates in its attention's own code; no module shows it
        by_structure = replace(by_structure, positions="rotary")
    assert without_rows(by_structure) == without_rows(by_table)


def test_queries_keys_and_values_are_slices_of_one_matrix() -> None:
    neox = anatomy_of(network("gpt_neox")).blocks()[0].attention
    assert neox.query.rows == ((0, 16), (48, 64), (96, 112), (144, 160))  # heads one after the other, each q, k, v
    phi = anatomy_of(network("phi3")).blocks()[0]
    assert [p.rows for p in (phi.attention.query, phi.attention.key, phi.attention.value)] == [
        ((0, 64),),
        ((64, 96),),
        ((96, 128),),
    ]
    assert phi.feed_forward.gate == Projection("layers.0.mlp.gate_up_proj", ((0, 128),))


def test_slices_are_what_the_attention_takes() -> None:
    """A fused network computes what one with separate matrices cut from it by the anatomy's rows does."""
    from peftbench.models import load_backbone

    model = load_backbone(NETWORKS["gpt_neox"], "features").model
    attention = anatomy_of(model).blocks()[0].attention
    module = model.get_submodule(attention.module)
    seen = {}

    def look(inner: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        seen["fused"] = output

    handle = model.get_submodule(attention.query.name).register_forward_hook(look)
    model(input_ids=torch.tensor([[5, 6, 7]]))
    handle.remove()
    rows = [i for a, b in attention.value.rows for i in range(a, b)]
    by_module = seen["fused"].view(1, 3, -1, 3 * module.head_size)[..., 2 * module.head_size :]
    assert torch.equal(seen["fused"][..., rows].view_as(by_module), by_module)


def test_albert_has_one_block_that_runs_twice() -> None:
    (stack,) = anatomy_of(network("albert")).stacks
    assert (len(stack.blocks), stack.depth) == (1, 2)


def test_a_users_description_goes_first(tmp_path: Path) -> None:
    model = network("llama")
    (tmp_path / "anatomy.yaml").write_text(
        "stacks:\n- blocks: layers\n  attention: {query: self_attn.k_proj, key: self_attn.q_proj, "
        "value: self_attn.v_proj, output: self_attn.o_proj}\n  ffn: {in: mlp.up_proj, out: mlp.down_proj}\n"
    )
    describe(model, tmp_path)
    block = anatomy_of(model).blocks()[0]
    assert anatomy_of(model).source == "anatomy.yaml"
    assert block.attention.query.name == "layers.0.self_attn.k_proj"
    assert block.feed_forward.gate is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stacks: [{blocks: layer}]", "no list of modules is called `layer`"),
        ("stack: []", "stack: no such key. Did you mean `stacks`?"),
        ("positions: rotary", "'stacks' is missing"),
        ("- 1", "it holds no keys and values"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_description_that_fits_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "anatomy.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"anatomy\.yaml: ") as refusal:
        describe(network("llama"), tmp_path)
    assert said in str(refusal.value)


def test_a_soft_prompt_asks_nothing_of_what_stands_behind_the_embeddings() -> None:
    from transformers import FNetConfig, FNetModel

    from peftbench.tuners.peft_types import OWN  # noqa: F401 - registers DEPT
    from peftbench.tuners.soft_prompt_layer import DeptConfig
    from peftbench.tuners.soft_prompt_model import SoftPromptModel

    config = FNetConfig(hidden_size=16, num_hidden_layers=1, intermediate_size=16, vocab_size=20)
    model = FNetModel(config)  # Fourier transforms in the place of attention
    with pytest.raises(UsageError, match=r"cannot be read off it.*prompt_tuning"):
        anatomy_of(model)
    prompted = SoftPromptModel(
        model, DeptConfig(task_type="FEATURE_EXTRACTION", rank=0, num_virtual_tokens=3), "default"
    )
    assert prompted(torch.tensor([[5, 6]])).last_hidden_state.shape == (1, 5, 16)


def test_what_is_no_transformer_is_refused_with_the_way_out() -> None:
    from transformers import MambaConfig, MambaModel

    assert "mamba" not in known()
    with torch.device("meta"):
        model = MambaModel(MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=20, state_size=4))
    with pytest.raises(Misfit, match="no list of blocks"):
        names_from_structure(model)
    with pytest.raises(UsageError, match=r"Describe them in an anatomy\.yaml"):
        anatomy_of(model)
