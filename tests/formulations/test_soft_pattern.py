"""The soft pattern: at first it is the hard one, then its words are trained and nothing else takes their place."""

from __future__ import annotations

import pytest
import torch
from made_up_configs import compose
from safetensors.torch import load_file
from tiers import rest_slow

from peftbench.build import build_learner
from peftbench.errors import UsageError
from peftbench.formulations.soft_pattern import HARD, embedding_layer, in_place_of_words
from peftbench.measure.clock import PhaseClock
from peftbench.runner import run
from peftbench.tasks.base import DataSource, PatternSet, Row, TaskData

ROWS = [
    Row("train:0", "The team won the cup", "sports"),
    Row("train:1", "Parliament passed a long and much debated law on the price of water and of bread", "politics"),
    Row("train:2", "Doctors!", "health"),
]
WORDS = {"health": ("health", "the body"), "politics": ("politics",), "sports": ("sports",)}
TASK = TaskData(
    name="toy", subset="", train=ROWS, dev=[], test=ROWS, labels=tuple(WORDS), label_words={}, fields=("text", "pair"),
    problem="classification", main_metric="accuracy", metrics=("accuracy",), source=DataSource("packaged", "test"),
    cloze={"toy": PatternSet("toy", ("News: {text} It was {mask}.", "{text}s {mask}"), WORDS)},
)  # fmt: skip
MODELS = ("tiny-bert", "tiny-roberta")


def learner(*overrides: str, soft: bool = True):
    given = ["shots=4", "trainer.max_length=24", "method=lora", "method/formulation=cloze", *overrides]
    cfg = compose([*given, f"method.formulation.soft_pattern={str(soft).lower()}"])
    return build_learner(cfg, TASK, PhaseClock())[0].eval()


def logits(net) -> torch.Tensor:
    with torch.no_grad():
        return net.formulation.logits(net.model, net.collate(net.encode(ROWS)))


METHODS = ["lora", "full", "prompt_tuning", "dept", "prefix_tuning", "trainable_tokens", "iapt"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", rest_slow(METHODS, ["lora", "dept", "trainable_tokens"]))
def test_untrained_it_answers_as_the_hard_pattern(model, method):
    soft, hard = (learner(f"model={model}", f"method={method}", soft=soft) for soft in (True, False))
    torch.testing.assert_close(logits(soft), logits(hard), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        soft.formulation.vectors.add_(torch.randn_like(soft.formulation.vectors))
    assert not torch.allclose(logits(soft), logits(hard), atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_it_adds_a_row_for_each_word_of_the_pattern_and_each_label(model):
    hard, soft = (learner(f"model={model}", "method=full", soft=soft) for soft in (False, True))
    tokenizer = soft.formulation.tokenizer
    whole = tokenizer(f"News: cup It was {tokenizer.mask_token}.", add_special_tokens=False)["input_ids"]
    tokens = len(whole) - 1 - len(tokenizer(" cup", add_special_tokens=False)["input_ids"])
    extra = (tokens + 3) * 64 + 3
    assert soft.counts()["total"] - hard.counts()["total"] == extra
    assert soft.counts()["head"] == extra


@pytest.mark.parametrize("model", MODELS)
def test_the_vectors_stand_where_the_patterns_words_stood(model):
    net = learner(f"model={model}")
    batch = net.collate(net.encode(ROWS))
    numbers = batch["vectors"]
    plain = embedding_layer(net.model)(batch["input_ids"])
    with in_place_of_words(net.model, net.formulation.vectors + 100, numbers):
        moved = embedding_layer(net.model)(batch["input_ids"])
    torch.testing.assert_close(moved - plain, 100.0 * (numbers != HARD)[..., None].expand_as(plain))
    torch.testing.assert_close(embedding_layer(net.model)(batch["input_ids"]), plain)
    tokens = [net.formulation.tokenizer.convert_ids_to_tokens(ids) for ids in batch["input_ids"].tolist()]
    for row, own in zip(numbers.tolist(), tokens, strict=True):
        soft = "".join(token.strip("\u0120#").lower() for token, number in zip(own, row, strict=True) if number != HARD)
        assert soft == "news:itwas."
        assert [n for n in row if n != HARD] == list(range(len(net.formulation.vectors)))


def test_only_the_soft_words_change_the_answer():
    net = learner("model=tiny-bert")
    before = logits(net)
    with torch.no_grad():
        net.formulation.vectors.add_(torch.randn_like(net.formulation.vectors))
    assert not torch.allclose(before, logits(net), atol=1e-3)
    net.formulation.attach(net.model)
    torch.testing.assert_close(before, logits(net))
    with torch.no_grad():
        net.formulation.labels.bias[1] += 2
    torch.testing.assert_close(logits(net) - before, torch.tensor([[0.0, 2.0, 0.0]]).expand(3, 3))


@pytest.mark.parametrize("model", MODELS)
def test_a_word_that_is_joined_with_the_text_stays_hard(model):
    nets = [learner(f"model={model}", "method.formulation.pattern=1", soft=soft) for soft in (True, False)]
    items = nets[0].encode(ROWS)
    assert any(set(item.data["vectors"]) == {HARD} for item in items)
    torch.testing.assert_close(logits(nets[0]), logits(nets[1]), rtol=1e-4, atol=1e-4)


def test_it_is_trained_saved_and_loaded(tmp_path):
    net = learner("model=tiny-bert")
    net(net.collate(net.encode(ROWS))).backward()
    own = net.formulation.own_parameters(net.model)
    assert set(own) == {"vectors", "labels.weight", "labels.bias"}
    assert all(p.grad.abs().sum() > 0 for p in own.values())
    with torch.no_grad():
        for parameter in own.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    net.save(tmp_path)
    other = learner("model=tiny-bert")
    assert not torch.allclose(logits(net), logits(other), atol=1e-3)
    other.load(tmp_path)
    torch.testing.assert_close(logits(net), logits(other))


def test_after_continued_pretraining_it_starts_from_the_new_vectors(tmp_path):
    given = [
        "model=tiny-bert", "task=demo_news", "trainer=debug", "shots=0", "method=tapt", "trainer.save=all",
        "method.stages=[continued_pretraining]", "method.formulation.soft_pattern=true", f"out_dir={tmp_path}",
        "method.continued_pretraining.steps=3", "method.continued_pretraining.texts=20",
        "method.continued_pretraining.lr.default=1e-2",
    ]  # fmt: skip
    record, _ = run(compose(given))
    assert record.status == "done", record.reason
    folder = tmp_path / "runs" / record.run_id / "adapter"
    saved = {}
    for path in folder.glob("*.safetensors"):
        saved |= load_file(path)
    words = next(t for name, t in saved.items() if name.endswith("word_embeddings.weight"))
    assert (saved["vectors"][:, None] == words).all(-1).any(-1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method.formulation.verbalizer=soft"], "trains the label words itself"),
        (["method.formulation.demonstrations=2"], "Set one of the two"),
        (["model=tiny-t5"], "needs a masked LM"),
    ],
)
def test_options_that_do_not_go_with_it(options, message):
    with pytest.raises(UsageError, match=message):
        learner("model=tiny-bert", *options)
