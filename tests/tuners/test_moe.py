"""Experts by domain: equal to the dense network at the start, and a domain's batch changes its expert alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from peftbench.config import compose
from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.embed.formulation import EmbedFormulation, Pair
from peftbench.formulations.head.formulation import HeadFormulation
from peftbench.learner import Learner
from peftbench.models import load_backbone
from peftbench.models.base import Backbone
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.moe.tuner import EXPERTS, SHARED, Routed

DOMAINS = ("medicine", "law", "music")
TASK = TaskData("t", "s", (), (), (), (), {}, ("text", "pair"), "similarity", "roc_auc", ("roc_auc",),
                DataSource("packaged", ""), domains=DOMAINS)  # fmt: skip
CONTEXT = TunerContext(32, (), 1, domains=DOMAINS)
TEXTS = ("a nurse and a vaccine", "the court has ruled", "a song", "another longer text about the court and the song")


@pytest.fixture
def backbone() -> Backbone:
    return load_backbone(compose(["model=tiny-bert"]).model, "features", dropout=0.0)


def learner(backbone: Backbone, method: str, context: TunerContext = CONTEXT) -> Learner:
    torch.manual_seed(0)
    cfg = compose([f"method={method}", "task=demo_news"]).method
    return Learner(backbone, build_tuner(cfg.tuner), EmbedFormulation(backbone, TASK, 32, cfg.formulation), context)


def rows(*domains: str) -> list[Row]:
    return [
        Row(str(i), text, None, domain=domain) for i, (text, domain) in enumerate(zip(TEXTS, domains, strict=False))
    ]


def vectors(made: Learner, items: list[Row]) -> torch.Tensor:
    with torch.no_grad():
        return made.formulation.vectors(made.model.eval(), made.collate(made.formulation._items(items)))


@pytest.mark.parametrize("method", ["moe", "moe_lora"])
def test_after_conversion_the_output_is_the_dense_networks(backbone: Backbone, method: str) -> None:
    """Bit for bit for a batch of one domain, whichever; to rounding for a mixed one, whose products are smaller."""
    dense = learner(copy.deepcopy(backbone), "zero_shot_cosine", TunerContext(32, (), 1))
    wanted = vectors(dense, rows(*DOMAINS, "law"))
    made = learner(backbone, method)
    for domain in DOMAINS:
        assert torch.equal(vectors(made, rows(*[domain] * 4)), wanted)
    assert torch.allclose(vectors(made, rows(*DOMAINS, "law")), wanted, atol=1e-6)


@pytest.mark.parametrize("method", ["moe", "moe_lora"])
def test_a_batch_of_one_domain_changes_its_expert_alone(backbone: Backbone, method: str) -> None:
    made = learner(backbone, method)
    groups = made.param_groups()
    optimizer = torch.optim.AdamW([p for group in groups.values() for p in group], lr=0.1, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    for _ in range(2):  # the second step moves what was zero in the first
        items = made.formulation.pair_items(rows(*["law"] * 4), [Pair(0, 1, 1.0), Pair(2, 3, 0.0)])
        made(made.collate(items)).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, p in made.named_parameters() if not torch.equal(before[name], p)}
    experts = {name for name in before if ".experts." in name}
    assert changed & experts == {name for name in experts if ".experts.1." in name}
    assert (SHARED in groups) == (method == "moe")
    assert bool(changed - experts - {n for n in changed if n.endswith(".domains")}) == (method == "moe")
    tokens = next(p for name, p in made.named_parameters() if name.endswith(".domains"))
    old = next(p for name, p in before.items() if name.endswith(".domains"))
    assert [bool((tokens[i] != old[i]).any()) for i in range(3)][1]


@pytest.mark.parametrize("method", ["moe", "moe_lora"])
def test_counts_are_the_formulas_and_what_is_saved_answers_as_it_did(
    backbone: Backbone, method: str, tmp_path: Path
) -> None:
    fresh = copy.deepcopy(backbone)
    wanted = build_tuner(compose([f"method={method}", "task=demo_news"]).method.tuner).expected_parameters(
        copy.deepcopy(backbone), CONTEXT
    )
    made = learner(backbone, method)
    assert sum(p.numel() for group in made.param_groups().values() for p in group) == wanted
    with torch.no_grad():
        for group in made.param_groups().values():
            for p in group:
                p.add_(0.01 * torch.randn_like(p))
    made.tuner.save(made.model, tmp_path)
    again = learner(fresh, method)
    again.tuner.load(again.model, tmp_path)
    assert torch.equal(vectors(made, rows(*DOMAINS, "law")), vectors(again, rows(*DOMAINS, "law")))


def test_without_domains_there_is_one_expert_and_it_is_said(backbone: Backbone) -> None:
    made = learner(backbone, "moe", TunerContext(32, (), 1))
    assert {len(m.experts) for m in made.model.modules() if isinstance(m, Routed)} == {1}
    assert made.tuner.notes == ["moe: the task's rows have no domains to tell apart, so there is one expert"]
    assert set(made.param_groups()) == {EXPERTS, SHARED}


def test_unknown_domains_and_formulations_without_domains_are_refused(backbone: Backbone) -> None:
    made = learner(backbone, "moe")
    with pytest.raises(UsageError, match=r"its domain is art, and the method has experts for medicine, law, music"):
        made.formulation._items(rows("art"))
    backbone = load_backbone(compose(["model=tiny-bert"]).model, "features", dropout=0.0)
    tuner = build_tuner(compose(["method=moe", "task=demo_news"]).method.tuner)
    with pytest.raises(UsageError, match="method/formulation=embed alone tells apart"):
        Learner(backbone, tuner, HeadFormulation(backbone, TASK, 32, FormulationConfig(name="head")), CONTEXT)
