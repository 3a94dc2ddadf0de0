"""Soft-prompt alignment: its loss in numpy, its teacher, and what of it stands in a record."""

import json
from dataclasses import asdict
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up_configs import compose
from tiers import rest_slow
from tiny_answers import disturbed, learner, task, texts

import peftbench
from peftbench.config.command import overrides_of
from peftbench.errors import UsageError
from peftbench.formulations.robustness import summary
from peftbench.formulations.wordings.formulation import TEACHER
from peftbench.stages.tricks import check_run
from peftbench.stages.tricks.alignment import AlignmentOptions
from peftbench.stages.tricks.alignment.agreement import aligned, said_of

FORMS = ("{text}?", "Topic of {text}:", "{text} is")
METHOD = ("model=tiny-llama", "method=soft_prompt_alignment")


def made(*overrides, method=METHOD):
    data = task(
        ("health", "politics", "water sports"),
        templates=tuple({"example": f"{text} {{answer}}"} for text in FORMS),
        train=(rows := [texts()[1], texts()[2]]),
    )
    given = [*method, "method.formulation.observed=3", "method.formulation.words=task", *overrides]
    net = disturbed(learner(*given, data=data, shots=rows))
    net.formulation.step = 3
    return net, net.encode(rows)


def options(**changes):
    values = {"weight": 0.7, "form": "labels", "direction": "forward", "teacher": "tuned", **changes}
    return AlignmentOptions("alignment", **values)


def loss_of(net, batch, own):
    passes = SimpleNamespace(
        formulation=net.formulation, batch=batch, model=net.model, weights=torch.ones(len(batch["ids"]))
    )
    return aligned(passes, own, lambda: pytest.fail("another pass"))


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def kl(p, q, direction):
    there, back = (np.exp(p) * (p - q)).sum(-1), (np.exp(q) * (q - p)).sum(-1)
    return {"forward": there, "reverse": back, "both": (there + back) / 2}[direction]


def log_p_of(net, text, answer):
    """(answer tokens, vocabulary) log-probabilities by one pass over prompt and answer, and the tokens."""
    form = net.formulation.forms[0]
    prompt = form.tokenizer(text)["input_ids"]
    ids = [*form.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"], form.eos]
    with torch.no_grad():
        logits = net.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].double().numpy()
    logits = logits[len(logits) - len(ids) - 1 : -1]
    return log_softmax(logits), ids


def said(net, text, answer):
    log_p, ids = log_p_of(net, text, answer)
    return [log_p[place, token] for place, token in enumerate(ids)]


@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
def test_the_loss_over_the_labels_is_that_of_the_formula(direction):
    net, items = made()
    batch, own = net.collate(items), options(direction=direction)
    assert batch["way"] != 0
    wanted = 0.0
    for row in (texts()[1], texts()[2]):
        scores = []
        for form in (FORMS[0], FORMS[batch["way"]]):
            text = form.replace("{text}", row.text)
            scores.append(np.array([np.mean(said(net, text, label)) for label in net.formulation.task.labels]))
        entropy = -np.mean(said(net, text, row.target))
        wanted += 0.3 * entropy + 0.7 * kl(*map(log_softmax, scores), direction)
    assert loss_of(net, batch, own).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
def test_the_loss_over_the_vocabulary_is_that_of_the_formula(direction):
    net, items = made()
    batch, own = net.collate(items), options(form="vocabulary", direction=direction)
    wanted = 0.0
    for row in (texts()[1], texts()[2]):
        teacher, student = (
            log_p_of(net, form.replace("{text}", row.text), row.target)[0] for form in (FORMS[0], FORMS[batch["way"]])
        )
        entropy = -np.mean(said(net, FORMS[batch["way"]].replace("{text}", row.text), row.target))
        wanted += 0.3 * entropy + 0.7 * kl(teacher, student, direction).mean()
    assert loss_of(net, batch, own).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("form", ["labels", "vocabulary"])
def test_the_same_words_without_a_tuner_do_not_differ_and_a_teacher_has_no_gradient(form):
    net, items = made()
    net.formulation.way_of_step = lambda: 0
    batch = net.collate(items)
    assert loss_of(net, batch, options(form=form, weight=1.0)).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        batch[TEACHER] = list(said_of(net.formulation, net.model, batch, form))
    net, items = made()
    given, asked = net.collate(items), net.collate(items)
    with torch.no_grad():
        given[TEACHER] = list(said_of(net.formulation, net.model, given, form))
    gradients = []
    for one in (given, asked):  # a teacher that was asked before has no graph
        net.zero_grad()
        loss_of(net, one, options(form=form)).backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.requires_grad])
    for before, within in zip(*gradients, strict=True):
        torch.testing.assert_close(before, within, rtol=1e-4, atol=1e-7)
        assert before.abs().sum() > 0


NETWORKS = [*product(["tiny-t5", "tiny-gpt2"], ["labels", "vocabulary"], ["prompt_tuning", "prefix_tuning"])]
EACH_ONCE = [("tiny-t5", "vocabulary", "prefix_tuning"), ("tiny-gpt2", "labels", "prompt_tuning")]


@pytest.mark.parametrize(("model", "form", "tuner"), rest_slow(NETWORKS, EACH_ONCE))
def test_without_the_divergence_it_is_the_plain_loss(model, form, tuner):
    """Also of encoder-decoders, and of a tuner that fills the cache."""
    net, items = made(f"method/tuner={tuner}", method=(f"model={model}", "method=soft_prompt_alignment"))
    batch = net.collate(items)
    with torch.no_grad():
        assert float(loss_of(net, batch, options(form=form, weight=0.0))) == pytest.approx(float(net(batch)), rel=1e-4)


def test_without_weight_there_is_no_trick_and_without_wordings_none_is_possible():
    assert "alignment" in compose(METHOD).method.trick
    assert compose([*METHOD, "method.trick.alignment.weight=0"]).method.trick == {}
    with pytest.raises(UsageError, match=r"method/formulation=score has one\. Use method/formulation=wordings"):
        compose(["model=tiny-llama", "method=lora", "method/formulation=score", "+method/trick=alignment"])
    own = tuple(
        {"example": "{text} {answer}", "words": dict(zip("abc", words, strict=True))} for words in ("xyz", "xyv")
    )
    chosen = compose([*METHOD, "method.trick.alignment.form=vocabulary", "method.formulation.observed=2"])
    context = SimpleNamespace(cfg=chosen, data=task("abc", templates=own))
    with pytest.raises(UsageError, match=r"form=vocabulary: .*words=task, or form=labels"):
        check_run(context)
    chosen.method.formulation.words = "task"
    check_run(context)
    with pytest.raises(UsageError, match=r"makes the loss, and so does method\.trick\.adversarial"):
        compose([*METHOD, "method/trick=[alignment,freelb]"])


@pytest.mark.parametrize("more", [[], ["method.trick.alignment.weight=0"], ["method/trick=[alignment,ema]"]])
def test_the_command_of_a_run_is_told_from_its_config(more):
    cfg = compose([*METHOD, *more])
    assert compose(overrides_of(asdict(cfg))) == cfg


def test_mean_spread_and_worst_of_both_kinds():
    facts = [{"observed": o, "score": s} for o, s in ((True, 60.0), (True, 80.0), (False, 50.0), (False, 50.0))]
    assert summary(facts) == {
        "observed_mean": 70.0, "observed_spread": 10.0, "observed_worst": 60.0,
        "unobserved_mean": 50.0, "unobserved_spread": 0.0, "unobserved_worst": 50.0,
    }  # fmt: skip
    assert summary(facts[:1]).keys() == {"observed_mean", "observed_spread", "observed_worst"}


def test_a_run_is_asked_in_every_wording_and_can_be_asked_again(tmp_path):
    file = tmp_path / "templates.yaml"
    file.write_text("prompts:\n" + "".join(f'  - example: "{form} {{answer}}"\n' for form in FORMS))
    run = peftbench.run(
        model="tiny-llama", method="soft_prompt_alignment", task="demo_news", shots=2, out_dir=str(tmp_path),
        **{"method.formulation.templates": str(file), "method.formulation.observed": 2, "trainer.steps": 2,
           "trainer.probe": False, "trainer.progress": False, "protocol.test_rows": 14, "protocol.dev": "none"},
    )  # fmt: skip
    record = run.record
    assert [(one["name"], one["observed"]) for one in record.wordings] == [("0", True), ("1", True), ("2", False)]
    assert record.wordings[0]["kl"] == 0
    assert record.wordings[2]["kl"] > 0
    assert record.wordings[0]["score"] == record.score
    assert record.scores["unobserved_worst"] == record.wordings[2]["score"]
    assert [part["name"] for part in record.stages[0]["parts"]] == ["teacher", "training"]
    lines = (tmp_path / "runs" / record.run_id / "wording-2.jsonl").read_text().splitlines()
    assert len(lines) == record.predictions["count"]
    file.unlink()
    first = json.loads((tmp_path / "runs" / record.run_id / "predictions.jsonl").read_text().splitlines()[0])
    from peftbench.inputs import InputCache

    rows = {row.id: row for row in InputCache().load(compose(["task=demo_news", "shots=2"])).data.test}
    (again,) = run.predict([rows[first["id"]].text])
    assert again.label == first["prediction"]
