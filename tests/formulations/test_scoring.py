"""Labels scored all at once against the plain way, one label and one text at a time; and generation likewise."""

from pathlib import Path

import pytest
import torch
from plain_writing import alone
from tiny_answers import ARCHITECTURES, disturbed, learner, many_labels, task, texts

from peftbench.errors import UsageError
from peftbench.formulations.trie import ROOT, Trie

METHODS = sorted(path.stem for path in Path("conf/method").glob("*.yaml"))


def test_a_trie_stores_common_beginnings_once_and_knows_what_may_follow():
    trie = Trie([[5, 6, 2], [5, 7, 2], [5, 6, 8, 2], [9, 2], [2]])
    assert trie.tokens == [5, 6, 7, 8, 9]
    assert trie.parents == [ROOT, 0, 0, 1, ROOT]
    assert trie.depths == [0, 1, 1, 2, 0]
    assert trie.height == 3
    assert sorted(trie.paths()) == [[0, 1, 3], [0, 2], [4]]
    assert trie.following([]) == [2, 5, 9]
    assert trie.following([5, 6]) == [2, 8]
    assert trie.following([5, 6, 2]) == [] == trie.following([1])


def plain(net, rows):
    """(texts, answers): every text and every answer alone."""
    with torch.no_grad():
        found = [net.formulation.likelihoods_one_by_one(net.model, net.collate([item])) for item in net.encode(rows)]
    return torch.cat(found)


def at_once(net, rows):
    with torch.no_grad():
        return net.formulation.likelihoods(net.model, net.collate(net.encode(rows)))


def assert_equal(net, rows):
    expected = plain(net, rows)
    torch.testing.assert_close(at_once(net, rows), expected, rtol=0, atol=1e-4)
    assert expected.std(1).min() > 1e-3, "the labels differ"


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2", "tiny-t5"])
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_labels_at_once_are_as_one_by_one(model, method):
    assert_equal(disturbed(learner(f"model={model}", f"method={method}", "method/formulation=score")), texts())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2", "tiny-t5"])
@pytest.mark.parametrize("method", METHODS)
def test_of_every_tuner(method, model):
    try:
        net = learner(f"model={model}", f"method={method}", "method/formulation=score")
    except UsageError as error:
        pytest.skip(str(error))
    assert_equal(disturbed(net), texts())


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_of_every_kind_of_network(kind, attention):
    net = disturbed(learner("method=lora", "method/formulation=score", arch=ARCHITECTURES[kind]))
    net.backbone.model.set_attn_implementation(attention)
    assert_equal(net, texts())


def test_losses_over_a_large_vocabulary_keep_their_digits(monkeypatch):
    formulation = learner("model=tiny-llama", "method=lora", "method/formulation=score").formulation
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(1, 5, 50_000), torch.tensor([[-100, 7, 49_999, 0, -100]])
    monkeypatch.setattr(formulation, "answer_logits", lambda *_: (logits, labels))
    expected = torch.nn.functional.cross_entropy(logits[0, 1:4].double(), labels[0, 1:4], reduction="none")
    found = formulation.token_losses(None, {})
    assert found[0, [0, 4]].tolist() == [0, 0]
    torch.testing.assert_close(found[0, 1:4].double(), expected, rtol=0, atol=5e-6)


def test_many_labels_are_scored_in_parts_that_fit():
    data = many_labels(20)
    net = disturbed(learner("model=tiny-gpt2", "method=lora", "method/formulation=score", data=data))
    assert_equal(net, texts())
    assert_equal(disturbed(learner("model=tiny-t5", "method=lora", "method/formulation=score", data=data)), texts())


def test_a_tuner_without_a_cache_is_scored_one_by_one():
    net = disturbed(learner("model=tiny-llama", "method=lora", "method/formulation=score"))
    net.formulation.takes_cache = False
    calls = []
    net.model.register_forward_pre_hook(lambda *_: calls.append(1))
    at_once(net, texts())
    assert len(calls) == len(task().labels)


def assert_generation_is_plain(net):
    """Batched, padded and cached, token by token."""
    items = net.encode(texts())
    with torch.no_grad():
        together = net.formulation.generated(net.model, net.collate(items))
        for item, ids in zip(items, together.tolist(), strict=True):
            expected = alone(net, item, len(ids))
            assert ids[: len(expected)] == expected


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-t5"])
@pytest.mark.parametrize("method", ["dept", "prefix_tuning"])
def test_generation_is_that_of_single_texts_without_a_cache(model, method):
    assert_generation_is_plain(disturbed(learner(f"model={model}", f"method={method}", "method/formulation=generate")))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2", "tiny-t5"])
@pytest.mark.parametrize("method", METHODS)
def test_generation_of_every_tuner(method, model):
    try:
        net = learner(f"model={model}", f"method={method}", "method/formulation=generate")
    except UsageError as error:
        pytest.skip(str(error))
    assert_generation_is_plain(disturbed(net))


def generating(*overrides, model="tiny-llama", data=None):
    return disturbed(learner(f"model={model}", "method=lora", "method/formulation=generate", *overrides, data=data))


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-t5"])
def test_constrained_to_the_labels_every_answer_is_one(model):
    data = many_labels(6)
    free = generating(model=model, data=data)
    bound = generating("method.formulation.constrain=labels", model=model, data=data)
    batch = bound.collate(bound.encode(texts()))
    assert all(p.label is None for p in free.predict(batch)), "random weights write no label of their own accord"
    assert all(p.label in data.labels and p.answer.strip() == p.label for p in bound.predict(batch))
    assert any("constrained" in note for note in bound.formulation.notes)
    soft = disturbed(learner("model=tiny-llama", "method=prompt_tuning", "method/formulation=generate",
                             "method.formulation.constrain=labels", data=data))  # fmt: skip
    assert all(p.label in data.labels for p in soft.predict(soft.collate(soft.encode(texts()))))


def test_sampling_follows_its_seed_and_the_text_and_nothing_else():
    sampling = ["method.formulation.sample=true", "method.formulation.temperature=1.5"]
    net, same, other = (generating(*sampling, f"method.formulation.sample_seed={seed}") for seed in (1, 1, 2))
    items = net.encode(texts())
    together = [p.answer for p in net.predict(net.collate(items))]
    assert [net.predict(net.collate([item]))[0].answer for item in items] == together
    assert [p.answer for p in same.predict(same.collate(items))] == together
    assert [p.answer for p in other.predict(other.collate(items))] != together


def test_what_is_drawn_is_distributed_as_the_softmax():
    from peftbench.formulations.generate.decoding import Draw

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    picks = [int(Draw([f"row {n}"], seed=3, temperature=2.0)(torch.zeros(1, 0), logits).argmax()) for n in range(1500)]
    shares = torch.bincount(torch.tensor(picks), minlength=4) / len(picks)
    torch.testing.assert_close(shares, (logits[0] / 2).softmax(0), rtol=0, atol=0.05)
