"""What all prompts of a batch begin with is read once: against each prompt and each label alone."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from plain_writing import alone
from tiny_answers import ARCHITECTURES, disturbed, learner, task, texts

from peftbench.errors import UsageError
from peftbench.formulations.scoring import can_pack, network_of
from peftbench.formulations.shared_prefix import common_length, read_shared
from peftbench.inference.cost import CALLS, TOKENS, counted

METHODS = sorted(path.stem for path in Path("conf/method").glob("*.yaml"))
TOLD = "Read what the paper says and choose the one of its pages on which it would stand, be it long or short."


def told(*overrides, arch=None, **changes):
    given = ["trainer.max_length=160", *overrides]
    return disturbed(learner(*given, data=task(instruction=TOLD, **changes), arch=arch))


def plain(net, rows):
    """(texts, answers): every text and every answer alone."""
    return torch.cat([net.formulation.likelihoods_one_by_one(net.model, net.collate([i])) for i in net.encode(rows)])


@torch.no_grad()
def assert_shared(net, shared=True):
    """Scores of a batch are those of its texts alone, and its beginning was read once, if it can be `shared`."""
    items, seen = net.encode(texts()), Counter()
    batch = net.collate(items)
    length = common_length(batch["input_ids"], batch["attention_mask"])
    assert length >= 16
    with counted(net.model, seen):
        found = net.formulation.likelihoods(net.model, batch)
    expected = plain(net, texts())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert expected.std(1).min() > 1e-3, "the labels differ"
    if shared:
        assert seen[CALLS] == 1 + 2 * len(items), "the beginning, the rests, the answers"
        whole = int(batch["attention_mask"].sum())
        answers = len(items) * len(net.formulation.trie.tokens)
        assert seen[TOKENS] - net.tuner.virtual_tokens == whole - (len(items) - 1) * length + answers
    else:
        assert seen[CALLS] % len(items) == 0


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2"])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix_tuning"])
def test_scores_are_those_of_whole_prompts(method, model):
    net = told(f"model={model}", f"method={method}", "method/formulation=score")
    assert_shared(net)


def test_a_tuner_that_reads_answers_in_another_way_has_every_prompt_read_whole():
    net = told("model=tiny-llama", "method=dept", "method/formulation=score")
    assert net.tuner.needs_answer_starts
    assert_shared(net, shared=False)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_of_every_tuner(method, model):
    try:
        net = told(f"model={model}", f"method={method}", "method/formulation=score")
    except UsageError as error:
        pytest.skip(str(error))
    assert_shared(net, shared=net.tuner.takes_cache and not net.tuner.needs_answer_starts)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind not in ("t5", "bart")])
def test_of_every_kind_of_network(kind, attention):
    net = told("method=lora", "method/formulation=score", arch=ARCHITECTURES[kind])
    net.backbone.model.set_attn_implementation(attention)
    assert_shared(net, shared=can_pack(network_of(net.model), 100))


def test_the_same_demonstrations_in_front_of_each_text_are_read_once():
    shots = [row.__class__(f"train:{n}", f"{row.text} and all were there", row.target) for n, row in enumerate(texts())]
    net = disturbed(learner("model=tiny-llama", "method=icl", "shots=1", "method.k=3", data=task(), shots=tuple(shots)))
    assert_shared(net)


def test_what_prompts_have_in_common():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    ids = torch.tensor([[0, 0, 5, 6, 7, 8], [5, 6, 7, 9, 9, 9]])
    assert common_length(ids, mask) == 3
    assert common_length(ids[:1], mask[:1]) == 0, "one prompt shares with none"
    ids[1, 3] = 8
    assert common_length(ids, mask) == 3, "the last token of the shorter one is its own"
    ids[1, 0] = 4
    assert common_length(ids, mask) == 0


def test_nothing_is_shared_where_gradients_or_dropout_are_at_work():
    net = told("model=tiny-llama", "method=lora", "method/formulation=score")
    batch, network = net.collate(net.encode(texts())), network_of(net.model)
    assert read_shared(net.model, network, batch) is None
    with torch.no_grad():
        assert read_shared(net.model, network, batch) is not None
        assert read_shared(net.train().model, network, batch) is None


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2"])
@pytest.mark.parametrize(("method", "shared"), [("lora", True), ("prefix_tuning", False), ("prompt_tuning", False)])
@torch.no_grad()
def test_what_is_written_is_written_behind_whole_prompts(method, shared, model):
    net = told(f"model={model}", f"method={method}", "method/formulation=generate")
    items, seen = net.encode(texts()), Counter()
    batch = net.collate(items)
    with counted(net.model, seen):
        found = net.formulation.generated(net.model, batch)
    for item, ids in zip(items, found.tolist(), strict=True):
        expected = alone(net, item, len(ids))
        assert ids[: len(expected)] == expected
    assert (seen[TOKENS] < int(batch["attention_mask"].sum())) == shared
