"""Every kind of tuner on tiny networks of many architectures; the fast tests hold a slice, the slow ones all."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch

from peftbench import cli
from peftbench.config import compose
from peftbench.config.catalogue import names
from peftbench.conformance.architectures import architectures
from peftbench.conformance.bench import Bench
from peftbench.conformance.matrix import FIRST_ARCHITECTURES, FIRST_METHODS, METHODS, case_of, pairs, refusal
from peftbench.conformance.subject import Subject, find_subject
from peftbench.models import load_backbone
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.head_only import HeadOnlyOptions

CONTEXT = TunerContext(max_length=16, label_words=(), seed=0)

SLICE = (
    ("mpnet", "prefix_tuning"), ("albert", "houlsby"), ("deberta-v2", "iapt"), ("distilbert", "recurrence"),
    ("opt", "mam"), ("phi3", "lora"), ("mixtral", "parallel"),
    ("marian", "trainable_tokens"), ("roformer", "full"),
)  # fmt: skip
CANNOT = {
    "bitfit": "no bias to train",
    "conv_adapter": "made for encoder and seq2seq networks",
    "iapt": "made for causal and encoder networks|ALiBi",
    "recurrence": "made for causal and encoder networks|ALiBi|another width",
    **dict.fromkeys(("boft", "c3a", "loha", "oft", "road"), "stored transposed"),
}
"""Method -> the reason that it may give."""


def exit_code(args: list[str]) -> int:
    """Of the command."""
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    return int(stop.value.code or 0)


@pytest.mark.parametrize(("architecture", "method"), SLICE)
def test_a_tuner_keeps_its_promises_on_an_architecture(architecture: str, method: str) -> None:
    (pair,) = pairs([find_subject(method)], [architecture])
    assert (pair.status, pair.detail) == ("runs", "")


def test_the_command_says_what_is_refused_before_weights(monkeypatch, capsys) -> None:
    from peftbench.conformance import matrix

    chosen = {name: architectures()[name] for name in ("gpt2", "llama")}
    monkeypatch.setattr(matrix, "architectures", lambda: chosen)
    assert exit_code(["check-method", "bitfit", "--architectures", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"runs": 1, "refused": 1, "fails": 0, "crashes": 0}
    assert found["pairs"][1]["architecture"] == "llama"
    assert "has no bias to train" in found["pairs"][1]["detail"]


def test_a_subject_is_needed_without_the_matrix(capsys) -> None:
    assert exit_code(["check-method"]) == 2
    assert "which one?" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("architecture", architectures())
def test_every_tuner_runs_or_says_why_not(architecture: str) -> None:
    import re

    found = list(pairs([find_subject(method) for method in METHODS], [architecture]))
    assert not [p for p in found if p.status in ("fails", "crashes")]
    assert not [p for p in found if p.status == "refused" and not re.search(CANNOT.get(p.method, "^$"), p.detail)]
    if architecture in [*architectures()][:FIRST_ARCHITECTURES]:
        assert sum(p.status == "runs" for p in found[:FIRST_METHODS]) >= 22


@cache
def other_tuners() -> list[Subject]:
    """Those of methods that are not in `METHODS`, each tuner with the same options once."""
    found = {repr(find_subject(method).cfg): None for method in METHODS}
    for method in sorted({*names("method")} - {*METHODS, "peft", "file"}):
        if compose([f"method={method}"]).method.needs_model:
            subject = find_subject(method)
            found.setdefault(repr(subject.cfg), subject)
    return [subject for subject in found.values() if subject is not None]


@pytest.mark.parametrize(
    ("architecture", "methods"),
    [
        ("gpt2", ("hra", "lokr", "miss")),
        ("albert", ("moe", "moe_lora")),
        ("mixtral", ("pissa",)),
        *(pytest.param(name, (), marks=pytest.mark.slow) for name in architectures()),
    ],
)
def test_what_the_config_does_not_refuse_can_be_built(architecture: str, methods: tuple[str, ...]) -> None:
    """Those methods; every other tuner, where none is named."""
    for subject in map(find_subject, methods) if methods else other_tuners():
        bench = Bench(subject.tuner, subject.lr, case_of(architecture, subject.name))
        assert refusal(bench) or bench.start


AT_THE_EMBEDDINGS = ("marian", "gemma3_text", "opt", "albert", "modernbert")
"""Scaled when they are looked up, inside and outside of the table; narrower than the states; rotated."""


@pytest.mark.parametrize(
    "name", [n if n in AT_THE_EMBEDDINGS else pytest.param(n, marks=pytest.mark.slow) for n in architectures()]
)
def test_an_offset_of_nothing_changes_nothing(name: str) -> None:
    """A network that is given embeddings in place of ids must do to them all that it does to those of ids."""
    cfg = architectures()[name]
    backbone = load_backbone(cfg, "lm" if cfg.family == "seq2seq" else "features")
    ids = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask.flip(1) if cfg.family == "causal" else mask}
    if cfg.family == "seq2seq":
        inputs["decoder_input_ids"] = ids
    options = compose(["method=dept", "method.tuner.num_virtual_tokens=0", "method.tuner.rank=2"]).method.tuner
    bare = build_tuner(HeadOnlyOptions(name="head_only")).build(backbone, CONTEXT)
    wanted = bare(**inputs)[0]
    found = build_tuner(options).build(backbone, CONTEXT).eval()(**inputs)[0]
    seen = inputs["attention_mask"].bool() if cfg.family != "seq2seq" else slice(None)
    assert torch.allclose(found[seen], wanted[seen], atol=1e-5)
