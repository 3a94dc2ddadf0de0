"""Initialisers that look at the task's texts, and starts from another run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import WORDS, D, make_batch, read_out, tiny_backbone

from peftbench.cli import main
from peftbench.errors import UsageError
from peftbench.tasks.base import Row
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.bayesprompt import BayesPromptOptions
from peftbench.tuners.bayesprompt.particles import (
    Mixture,
    domain_prompt,
    features,
    fit_mixture,
    principal_components,
    rbf,
    svgd,
)
from peftbench.tuners.cones import concept_prompt, concept_scores, learn_concepts
from peftbench.tuners.dept import DeptOptions
from peftbench.tuners.lora import LoraOptions
from peftbench.tuners.prompt_init import stored_prompt
from peftbench.tuners.prompt_tuning import PromptTuningOptions
from peftbench.tuners.soft_prompt_model import adapter_of

# the mixture and the particles


def random_mixture(d: int = 4, k: int = 3, seed: int = 0) -> Mixture:
    generator = np.random.default_rng(seed)
    roots = generator.normal(size=(k, d, d))
    return Mixture(
        np.array([0.2, 0.5, 0.3]), generator.normal(size=(k, d)), roots @ roots.transpose(0, 2, 1) + np.eye(d)
    )


def test_the_score_is_the_gradient_of_the_log_density() -> None:
    mixture = random_mixture()
    x = torch.tensor(np.random.default_rng(1).normal(size=(20, 4)), requires_grad=True)
    components = torch.distributions.MultivariateNormal(
        torch.tensor(mixture.means), precision_matrix=torch.tensor(mixture.precisions)
    )
    density = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor(mixture.weights)), components
    )
    log_p = density.log_prob(x)
    log_p.sum().backward()
    np.testing.assert_allclose(mixture.log_density(x.detach().numpy()), log_p.detach().numpy(), rtol=1e-8)
    np.testing.assert_allclose(mixture.score(x.detach().numpy()), x.grad.numpy(), rtol=1e-4)


def test_the_score_does_not_underflow_far_from_everything() -> None:
    mixture = random_mixture()
    assert np.isfinite(mixture.score(np.full((1, 4), 1e4))).all()
    assert np.abs(mixture.score(np.full((1, 4), 1e4))).max() > 1


def test_particles_find_both_modes_and_the_mean() -> None:
    mixture = Mixture(np.array([0.5, 0.5]), np.array([[-2.0], [2.0]]), np.array([[[4.0]], [[4.0]]]))
    start = np.random.default_rng(0).normal(size=(200, 1)) * 2
    end = svgd(start, mixture.score)
    assert abs(end.mean()) < 0.1
    for mode in (-2, 2):
        near = end[np.abs(end - mode) < 1]
        assert 0.4 < len(near) / 200 < 0.6
        assert abs(near.mean() - mode) < 0.1
    assert mixture.log_density(end).mean() > mixture.log_density(start).mean()


def test_one_particle_climbs_to_the_top() -> None:
    end = svgd(np.array([[3.0, -3.0]]), lambda x: -x)
    assert np.abs(end).max() < 0.05


def test_the_kernels_repulsion_is_its_gradient() -> None:
    x = np.random.default_rng(2).normal(size=(5, 3))
    kernel, repulsion = rbf(x)
    distances = ((x[:, None] - x[None]) ** 2).sum(-1)
    width = 0.5 * np.median(distances) / np.log(6)
    np.testing.assert_allclose(kernel, np.exp(-distances / (2 * width)))
    moved = torch.tensor(x, requires_grad=True)  # x_j; x_i stays
    k = torch.exp(-((moved[:, None] - torch.tensor(x)[None]) ** 2).sum(-1) / (2 * width))
    for i in range(5):
        gradient = torch.autograd.grad(k[:, i].sum(), moved, retain_graph=True)[0].sum(0)
        np.testing.assert_allclose(repulsion[i], gradient.numpy(), rtol=1e-6, atol=1e-9)


def test_principal_components_go_there_and_back() -> None:
    x = np.random.default_rng(3).normal(size=(30, 8)) * np.arange(1, 9)
    down, up = principal_components(x)
    np.testing.assert_allclose(up(down(x)), x, atol=1e-9)
    assert down(x).var(axis=0).mean() == pytest.approx(1)
    assert fit_mixture(down(x), 50, 0).weights.shape == (30,)


# the prompt


def rows(count: int, seed: int = 0) -> list[Row]:
    generator = np.random.default_rng(seed)
    texts = [" ".join(generator.choice(WORDS, 4)) for _ in range(count)]
    return [Row(f"train:{i}", text, str(i % 2)) for i, text in enumerate(texts)]


def test_a_texts_vector_does_not_depend_on_padding() -> None:
    backbone = tiny_backbone("bert")
    short, both = (
        features(backbone, rows(1), 24),
        features(backbone, [rows(1)[0], Row("train:9", "news " * 20, None)], 24),
    )
    np.testing.assert_allclose(short[0], both[0])
    matrix = backbone.model.get_input_embeddings().weight.detach()
    ids = backbone.tokenizer(rows(1)[0].text)["input_ids"]
    np.testing.assert_allclose(short[0], matrix[ids].mean(0).numpy(), rtol=1e-6)


@pytest.mark.parametrize("init", ["bayesprompt", "bayesprompt_shots"])
def test_the_prompt_has_the_shape_and_norm_of_embeddings(init: str) -> None:
    cfg = PromptTuningOptions(name="prompt_tuning", num_virtual_tokens=6, init=init)
    context = TunerContext(24, (), 3, pool=rows(60), shots=rows(60)[:8])

    def built(context: TunerContext):
        tuner, backbone = build_tuner(cfg), tiny_backbone("bert")
        model = tuner.build(backbone, context)
        return tuner, adapter_of(model)[1]["P"].detach(), backbone.model.get_input_embeddings().weight

    tuner, prompt, matrix = built(context)
    assert prompt.shape == (6, D)
    assert prompt.norm(dim=1).max() <= matrix.norm(dim=1).max()
    assert not (prompt[:, None] == matrix[None]).all(-1).any()
    assert torch.equal(prompt, built(context)[1])
    assert not torch.equal(prompt, built(TunerContext(24, (), 4, pool=rows(60), shots=rows(60)[:8]))[1])
    other_pool = built(TunerContext(24, (), 3, pool=rows(60, seed=7), shots=rows(60)[:8]))[1]
    assert torch.equal(prompt, other_pool) is (init == "bayesprompt_shots")
    assert any("60 unlabelled texts" in note for note in tuner.notes) is (init == "bayesprompt")


def held(**changes: object):
    """A tuner on tiny BERT, its model, and the prompt as it is at the start."""
    tuner = build_tuner(BayesPromptOptions(name="bayesprompt", num_virtual_tokens=6, **changes))
    model = tuner.build(tiny_backbone("bert"), TunerContext(24, (), 3, pool=rows(60), shots=rows(60)[:8]))
    prompt = adapter_of(model)[1]["P"]
    return tuner, model, prompt, prompt.detach().clone()


def test_the_tuner_starts_where_prompt_tuning_from_the_same_samples_does() -> None:
    cfg = PromptTuningOptions(name="prompt_tuning", num_virtual_tokens=6, init="bayesprompt")
    context = TunerContext(24, (), 3, pool=rows(60), shots=rows(60)[:8])
    other = build_tuner(cfg).build(tiny_backbone("bert"), context)
    tuner, model, prompt, start = held()
    assert torch.equal(start, adapter_of(other)[1]["P"])
    assert any("60 unlabelled texts" in note for note in tuner.notes)
    tuner.before_step(model, 0, 100)
    tuner.after_step(model, 99, 100)
    assert prompt.grad is None
    assert torch.equal(prompt, start)


def test_a_pull_is_the_gradient_of_its_penalty() -> None:
    tuner, model, prompt, start = held(pull=0.3)
    with torch.no_grad():
        prompt.add_(torch.randn(prompt.shape, generator=torch.Generator().manual_seed(1)))
    loss = read_out(model(**make_batch("bert"))).square().mean()
    wanted = torch.autograd.grad(loss + 0.3 * (prompt - start).square().sum(), prompt)[0]
    read_out(model(**make_batch("bert"))).square().mean().backward()
    tuner.before_step(model, 7, 100)
    torch.testing.assert_close(prompt.grad, wanted)


def test_overwriting_puts_one_mean_of_particles_in_all_rows_after_the_first_epoch() -> None:
    tuner, model, prompt, start = held(overwrite=True)
    tuner.after_step(model, 0, 100)  # the first of 50 parts of 100 steps is 2 steps long
    assert torch.equal(prompt, start)
    seen = []
    for step in (1, 2):
        tuner.after_step(model, step, 100)
        assert torch.equal(prompt, prompt[:1].expand(6, -1))
        seen.append(prompt.detach().clone())
    points = torch.tensor(tuner.particles.points, dtype=torch.float32)
    pairs = torch.stack([(a + b) / 2 for i, a in enumerate(points) for b in points[:i]])  # two classes: pairs
    for drawn in seen:
        assert (pairs - drawn[0]).norm(dim=1).min() < 1e-5
    assert not torch.equal(seen[0], seen[1])
    again, other, other_prompt, _ = held(overwrite=True)
    again.after_step(other, 2, 100)  # a run that goes on after step 2 draws what it would have drawn
    assert torch.equal(other_prompt, seen[1])
    assert any("nothing in it is learned" in note for note in tuner.notes)


def test_a_prompt_is_pulled_or_overwritten_not_both() -> None:
    with pytest.raises(UsageError, match=r"overwrite=true leaves nothing for method\.tuner\.pull=0\.3"):
        held(overwrite=True, pull=0.3)


def test_without_texts_it_is_refused() -> None:
    with pytest.raises(UsageError, match=r"init=bayesprompt.*shots=0"):
        domain_prompt(tiny_backbone("bert"), TunerContext(24, (), 0, pool=rows(9)), 4, whole_pool=True)
    with pytest.raises(UsageError, match="only one"):
        domain_prompt(tiny_backbone("bert"), TunerContext(24, (), 0, shots=rows(1)), 4, whole_pool=False)


# class embeddings


def test_concept_scores_are_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    texts, concepts = torch.randn(5, 4, generator=generator), torch.randn(3, 2, 4, generator=generator)
    found = concept_scores(texts, concepts, torch.tensor(0.5))
    for n in range(5):
        for c in range(3):
            cosines = [torch.cosine_similarity(texts[n], concepts[c, q], dim=0) / 0.5 for q in range(2)]
            assert found[n, c].item() == pytest.approx(np.logaddexp(*(float(x) for x in cosines)), rel=1e-5)


def test_learned_class_embeddings_tell_the_classes_apart_where_the_names_do_not() -> None:
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(60) % 3
    texts = torch.randn(3, 8, generator=generator)[targets] * 2 + torch.randn(60, 8, generator=generator) + 5.0
    names = torch.randn(3, 8, generator=generator) + 5.0
    right = {}
    for name, concepts in (
        ("names", (names - texts.mean(0))[:, None]),
        ("learned", learn_concepts(texts, targets, names, 2, 0)),
    ):
        scores = concept_scores(texts - texts.mean(0), concepts, torch.tensor(0.1))
        right[name] = (scores.argmax(1) == targets).float().mean().item()
    assert right["learned"] > 0.9 > right["names"]


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_the_prompt_starts_from_class_embeddings(kind: str) -> None:
    backbone, context = tiny_backbone(kind), TunerContext(24, (), 3, shots=rows(8))
    calls = []
    stack = backbone.model.get_encoder() if kind == "t5" else backbone.model.base_model
    handle = stack.register_forward_hook(lambda *_: calls.append(1))
    prompt = concept_prompt(backbone, context, 5)
    handle.remove()
    assert len(calls) == 8 + 2  # each text and each class name once
    assert prompt.shape == (5, D)
    lengths = backbone.model.get_input_embeddings().weight.norm(dim=1).mean().expand(5)
    torch.testing.assert_close(prompt.norm(dim=1), lengths)
    assert torch.equal(prompt, concept_prompt(backbone, context, 5))
    tuner = build_tuner(PromptTuningOptions(name="prompt_tuning", num_virtual_tokens=5, init="cones"))
    model = tuner.build(tiny_backbone(kind), context)
    assert torch.allclose(adapter_of(model)[1]["P"], concept_prompt(tiny_backbone(kind), context, 5))


def test_class_embeddings_need_classes() -> None:
    with pytest.raises(UsageError, match=r"init=cones.*shots=0"):
        concept_prompt(tiny_backbone("bert"), TunerContext(24, (), 0), 4)
    with pytest.raises(UsageError, match="no class names"):
        concept_prompt(tiny_backbone("bert"), TunerContext(24, (), 0, shots=[Row("train:0", "news", 3.5)]), 4)


# another run's adapter

CONTEXT = TunerContext(24, (), 3)
PROMPT = PromptTuningOptions(name="prompt_tuning", num_virtual_tokens=3)
DEPT = DeptOptions(name="dept", num_virtual_tokens=5, rank=2, init="vocab")


def trained(cfg: object, folder) -> torch.nn.Module:
    tuner = build_tuner(cfg)
    model = tuner.build(tiny_backbone("bert"), CONTEXT).eval()
    with torch.no_grad():
        for tensor in adapter_of(model)[1].values():
            tensor.normal_(generator=torch.Generator().manual_seed(1))
    tuner.save(model, folder)
    return model


@pytest.mark.parametrize("cfg", [PROMPT, DEPT])
def test_the_same_tuner_starts_where_the_other_run_ended(cfg: object, tmp_path) -> None:
    source, tuner = trained(cfg, tmp_path), build_tuner(cfg)
    model = tuner.build(tiny_backbone("bert"), TunerContext(24, (), 9)).eval()
    tuner.warm_start(model, tmp_path)
    assert torch.equal(read_out(model(**make_batch("bert"))), read_out(source(**make_batch("bert"))))
    assert tuner.notes == []


@pytest.mark.parametrize(("source", "target"), [(PROMPT, DEPT), (DEPT, PROMPT)])
def test_another_soft_prompt_gives_its_rows(source: object, target: object, tmp_path) -> None:
    given = adapter_of(trained(source, tmp_path))[1]["P"].detach()
    tuner = build_tuner(target)
    model = tuner.build(tiny_backbone("bert"), CONTEXT)
    tuner.warm_start(model, tmp_path)
    prompt = adapter_of(model)[1]["P"]
    assert torch.equal(prompt, given[torch.arange(len(prompt)) % len(given)])
    assert "only" in tuner.notes[0]
    assert torch.equal(stored_prompt(tmp_path), given)


def test_an_adapter_without_a_prompt_is_refused(tmp_path) -> None:
    lora = build_tuner(LoraOptions(name="lora"))
    lora.save(lora.build(tiny_backbone("bert"), CONTEXT), tmp_path)
    tuner = build_tuner(PROMPT)
    with pytest.raises(UsageError, match="other settings"):
        tuner.warm_start(tuner.build(tiny_backbone("bert"), CONTEXT), tmp_path)


# whole runs


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["run", "model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2", *args])
    return caught.value.code


def records(folder) -> list[dict]:
    return [json.loads(p.read_text()) for p in (folder / "results" / "records").glob("*.json")]


def test_a_run_starts_from_another(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("method=prompt_tuning", "seed=1") == 0
    source = records(tmp_path)[0]["run_id"]
    assert call("method=dept", f"method.init_from={source}", "seed=2") == 0
    second = next(r for r in records(tmp_path) if r["method"] == "dept")
    assert any(f"started from run {source} (prompt_tuning on demo_news/" in note for note in second["notes"])
    capsys.readouterr()
    assert call("method=dept", "method.init_from=nothing") == 2
    assert "method.init_from=nothing: no such run" in capsys.readouterr().err
    assert call("method=dept", f"method.init_from={source}", "model=tiny-roberta") == 2
    assert "that run trained model=tiny-bert" in capsys.readouterr().err


@pytest.fixture
def leaky_data(tmp_path):
    """Two languages of MasakhaNEWS: rows of the first one's train stand, in other letters, in the other's test."""

    def write(language: str, splits: dict[str, list[str]]) -> None:
        folder = tmp_path / "data" / "masakhanews" / language
        folder.mkdir(parents=True)
        for split, texts in splits.items():
            lines = [f"{('sports', 'health')[i % 2]}\t{text}\t{text} body\thttp://x" for i, text in enumerate(texts)]
            (folder / f"{split}.tsv").write_text("\n".join(["category\theadline\ttext\turl", *lines]) + "\n")

    def texts(name: str, count: int) -> list[str]:
        return [f"{name} text {i}" for i in range(count)]

    write("eng", {"train": texts("train", 8), "dev": texts("dev", 8), "test": texts("test", 8)})
    write("swa", {"train": texts("own", 8), "dev": texts("watch", 8), "test": [*texts("TRAIN", 8), *texts("far", 2)]})
    return tmp_path / "data"


def masakhanews(data, language: str, *args: str) -> int:
    few = ["shots=4", "protocol.dev_per_class=2", "protocol.on_shortage=all", "method=prompt_tuning"]
    return call("task=masakhanews", f"task.lang={language}", f"data_dir={data}", *few, *args)


def test_a_start_from_a_run_on_texts_of_test_is_refused(leaky_data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert masakhanews(leaky_data, "eng") == 0
    source = records(tmp_path)[0]["run_id"]
    capsys.readouterr()
    start = f"method.init_from={source}"
    assert masakhanews(leaky_data, "swa", start) == 2
    error = capsys.readouterr().err
    assert f"{start}: 8 of the 12 train and dev rows" in error
    assert "protocol.drop_overlap=false" in error
    assert len(records(tmp_path)) == 1
    assert masakhanews(leaky_data, "swa", start, "protocol.drop_overlap=false") == 0
    second = next(r for r in records(tmp_path) if r["subset"] == "swa")
    assert any("8 of the 12 train and dev rows of run" in note for note in second["notes"])
    # Through a run between, whose own rows are clean, the first one's rows still count.
    assert masakhanews(leaky_data, "eng", f"method.init_from={second['run_id']}", "seed=5") == 0
    between = next(r for r in records(tmp_path) if r["subset"] == "eng" and r["seed"] == 5)
    assert sum(" 0 of the 12 " in note for note in between["notes"]) == 2
    assert masakhanews(leaky_data, "swa", f"method.init_from={between['run_id']}") == 2


def test_a_source_whose_data_has_changed_is_noted(leaky_data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert masakhanews(leaky_data, "eng") == 0
    source = records(tmp_path)[0]["run_id"]
    file = leaky_data / "masakhanews" / "eng" / "test.tsv"
    file.write_text(file.read_text().replace("test text 1", "another"))
    assert masakhanews(leaky_data, "swa", f"method.init_from={source}") == 0
    second = next(r for r in records(tmp_path) if r["subset"] == "swa")
    assert any("was not checked: the data of masakhanews/eng is not what" in note for note in second["notes"])


def test_a_run_starts_from_the_tasks_texts(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("method=bayesprompt_init") == 0
    assert any("unlabelled texts" in note for note in records(tmp_path)[0]["notes"])


@pytest.mark.parametrize("knob", ["pull=0.5", "overwrite=true"])
def test_a_run_is_held_to_the_tasks_texts(knob: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("method=bayesprompt_init", f"method.tuner.{knob}") == 0
    assert records(tmp_path)[0]["status"] == "done"
