"""The cloze formulation on tiny masked LMs: what it reads at the mask, and that nothing else changes it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml
from made_up_configs import compose

from peftbench.build import build_learner
from peftbench.errors import UsageError
from peftbench.formulations.cloze.formulation import ClozeFormulation
from peftbench.formulations.label_words import read_words
from peftbench.formulations.verbalizers import KnowledgeableVerbalizer, SoftVerbalizer
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.tasks.base import DataSource, PatternSet, Row, TaskData

LABELS = ("health", "politics", "sports")
ROWS = [
    Row("train:0", "The team won the cup", "sports"),
    Row("train:1", "Parliament passed a long and much debated law on the price of water and of bread", "politics"),
    Row("train:2", "Doctors", "health"),
]
TERMS = {
    "health": (("health", 1.0), ("water", 0.9), ("the body", 0.6)),
    "politics": (("politics", 1.0), ("law", 0.75)),
    "sports": (("sports", 1.0), ("won the cup", 0.8), ("bad", 0.55), ("news", 0.7)),
}
MODELS = ("tiny-bert", "tiny-roberta")


def task(**changes) -> TaskData:
    words = {label: (label,) for label in LABELS}
    sets = {"toy": PatternSet("toy", ("{text} Topic: {mask}.", "{mask} news: {text}"), words)}
    facts = {
        "name": "toy", "subset": "", "train": ROWS, "dev": [], "test": ROWS, "labels": LABELS, "label_words": {},
        "fields": ("text", "pair"), "problem": "classification", "main_metric": "accuracy", "metrics": ("accuracy",),
        "source": DataSource("packaged", "test"), "cloze": sets, "terms": TERMS,
    }  # fmt: skip
    return TaskData(**{**facts, **changes})


def learner(*overrides: str, data: TaskData | None = None) -> Learner:
    cfg = compose(["shots=4", "trainer.max_length=32", "method=lora", "method/formulation=cloze", *overrides])
    built, _ = build_learner(cfg, data or task(), PhaseClock())
    return built.eval()


def cloze(net: Learner) -> ClozeFormulation:
    assert isinstance(net.formulation, ClozeFormulation)
    return net.formulation


def disturb(net: Learner) -> None:
    """Move what is trained away from its start, so that it shows in the outputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "full"])
def test_scores_are_the_full_logits_at_the_mask(model, method):
    """The head runs at the masked places alone; a whole pass of the masked LM must say the same."""
    net = learner(f"model={model}", f"method={method}")
    if method != "full":
        disturb(net)
    batch = net.collate(net.encode(ROWS))
    formulation = cloze(net)
    with torch.no_grad():
        scores = formulation.word_scores(net.model, batch)
        whole = net.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    whole = whole[:, formulation.virtual_tokens :]
    assert (formulation.virtual_tokens > 0) == (method == "prompt_tuning")
    assert whole.shape[:2] == batch["input_ids"].shape
    for row, place in enumerate(batch["places"].int().argmax(1)):
        assert batch["input_ids"][row, place] == net.formulation.tokenizer.mask_token_id
        torch.testing.assert_close(scores[row], whole[row, place], rtol=1e-4, atol=1e-4)


def test_class_scores_are_those_of_the_label_words():
    net = learner("model=tiny-bert")
    batch = net.collate(net.encode(ROWS))
    scores = cloze(net).word_scores(net.model, batch)
    tokenizer = net.formulation.tokenizer
    for column, label in enumerate(LABELS):
        (token,) = tokenizer(f" {label}", add_special_tokens=False)["input_ids"]
        torch.testing.assert_close(cloze(net).logits(net.model, batch)[:, column], scores[:, token])
    prediction = net.predict(batch)[1]
    assert prediction.label == max(prediction.scores, key=prediction.scores.__getitem__)


VARIANTS = {
    "manual": [],
    "weighted": ["method.formulation.verbalizer=weighted", "method.formulation.words=terms"],
    "soft": ["method.formulation.verbalizer=soft", "method.formulation.words=terms"],
}


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", MODELS)
def test_batches_and_padding_change_nothing(model, variant, method):
    net = learner(f"model={model}", f"method={method}", *VARIANTS[variant])
    disturb(net)
    items = net.encode(ROWS)
    whole = net(net.collate(items))
    torch.testing.assert_close(whole, sum(net(net.collate([item])) for item in items), rtol=1e-4, atol=1e-4)
    for item, together in zip(items, net.predict(net.collate(items)), strict=True):
        (alone,) = net.predict(net.collate([item]))
        assert alone.scores == pytest.approx(together.scores, abs=1e-3)


def test_the_loss_is_over_the_classes_and_not_over_the_vocabulary():
    net = learner("model=tiny-bert")
    batch = net.collate(net.encode(ROWS))
    logits = cloze(net).logits(net.model, batch)
    want = -logits.log_softmax(-1)[torch.arange(3), batch["targets"]].sum()
    torch.testing.assert_close(net(batch), want)


def test_train_head_frees_the_head_but_not_the_shared_embeddings():
    frozen, free = learner("model=tiny-bert"), learner("model=tiny-bert", "method.formulation.train_head=true")
    assert frozen.counts()["head"] == 0
    embeddings = next(p for n, p in free.named_parameters() if n.endswith("word_embeddings.weight"))
    assert not embeddings.requires_grad
    head = free.formulation.own_parameters(free.model)
    d, vocabulary = 64, 2000
    assert sum(p.numel() for p in head.values()) == d * d + d + 2 * d + vocabulary  # dense, LayerNorm, biases
    free(free.collate(free.encode(ROWS))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"health": ("health",), "politics": ("politics",), "sports": ("\U00012000",)}, None),
        (
            {"health": ("health",), "politics": ("politics",), "sports": ("politics",)},
            "`politics` and `sports` have the",
        ),
    ],
)
def test_words_that_classes_share(words, message):
    sets = {"toy": PatternSet("toy", ("{text} {mask}",), words)}
    if message is None:
        assert learner("model=tiny-bert", data=task(cloze=sets)).formulation.notes  # byte-level: split, never unknown
        return
    with pytest.raises(UsageError, match=message):
        learner("model=tiny-bert", data=task(cloze=sets))


def test_a_split_word_is_named_before_training():
    sets = {"toy": PatternSet("toy", ("{text} {mask}",), {**{x: (x,) for x in LABELS}, "sports": ("basketball",)})}
    net = learner("model=tiny-bert", data=task(cloze=sets))
    assert any("`basketball` of `sports` is split into" in note for note in net.formulation.notes)
    with pytest.raises(UsageError, match=r"`basketball` of `sports` is split into .*split_words=mean"):
        learner("model=tiny-bert", "method.formulation.split_words=error", data=task(cloze=sets))


def test_an_unknown_word_is_named_before_training(monkeypatch):
    net = learner("model=tiny-bert")
    monkeypatch.setattr("peftbench.formulations.label_words.word_pieces", lambda tokenizer, word: [
        tokenizer.unk_token_id if word == "sports" else 20 + len(word)])  # fmt: skip
    with pytest.raises(UsageError, match=r"does not know the label word `sports` of `sports` \(<unk>\)"):
        learner("model=tiny-bert")
    lists = learner("model=tiny-bert", "method.formulation.words=terms")
    assert [len(own) for own in cloze(lists).word_ids.values()] == [3, 2, 3], "a long list goes without the word"
    assert any("1 of 9 label words are unknown" in note for note in lists.formulation.notes)
    assert not net.formulation.notes


def test_terms_carry_their_scores():
    net = learner("model=tiny-bert", *VARIANTS["weighted"])
    verbalizer = cloze(net).verbalizer
    assert isinstance(verbalizer, KnowledgeableVerbalizer)
    want = torch.tensor([[1.0, 0.9, 0.6, 0.0], [1.0, 0.75, 0.0, 0.0], [1.0, 0.8, 0.55, 0.7]])
    torch.testing.assert_close(verbalizer.scores, want)
    assert net.counts()["head"] == 0, "weights that are not learned are no parameters"
    assert net.formulation.label_tokens() == {}


def test_learned_weights_are_trained_saved_and_loaded(tmp_path):
    options = [*VARIANTS["weighted"], "method.formulation.learn_weights=true"]
    net = learner("model=tiny-bert", *options)
    assert net.counts()["head"] == 12
    disturb(net)
    net.save(tmp_path)
    again = learner("model=tiny-bert", *options)
    again.load(tmp_path)
    batch = net.collate(net.encode(ROWS))
    torch.testing.assert_close(net(batch), again(batch))


def test_the_soft_variant_replaces_the_last_layer(tmp_path):
    net = learner("model=tiny-bert", *VARIANTS["soft"])
    formulation, matrix = cloze(net), net.model.get_output_embeddings().weight
    assert isinstance(formulation.verbalizer, SoftVerbalizer)
    assert net.counts()["head"] == 3 * matrix.shape[1]
    (first, second) = formulation.word_ids["politics"]
    row = (1.0 * matrix[first].mean(0) + 0.75 * matrix[second].mean(0)) / 2
    torch.testing.assert_close(formulation.verbalizer.classes.weight[1], row)
    disturb(net)
    net.save(tmp_path)
    again = learner("model=tiny-bert", *VARIANTS["soft"])
    again.load(tmp_path)
    batch = net.collate(net.encode(ROWS))
    torch.testing.assert_close(net(batch), again(batch))


def test_a_prior_is_saved_and_loaded_with_the_adapter(tmp_path):
    options = [
        *VARIANTS["weighted"], "method.formulation.calibration=prior", "method.formulation.drop_unlikely=0.3",
        "method.stages=[calibration,supervised]",
    ]  # fmt: skip
    net = learner("model=tiny-bert", *options)
    cloze(net).calibrate(net.model, torch.randn(1, 2000, generator=torch.Generator().manual_seed(3)))
    again = learner("model=tiny-bert", *options)
    batch = net.collate(net.encode(ROWS))
    with pytest.raises(UsageError, match="no prior yet"):
        again(batch)
    net.save(tmp_path)
    again.load(tmp_path)
    torch.testing.assert_close(net(batch), again(batch))
    other = learner("model=tiny-bert", *options)
    other.load_training_state(net.training_state())
    torch.testing.assert_close(net(batch), other(batch))


def test_half_precision_is_close():
    for variant in VARIANTS.values():
        net = learner("model=tiny-bert", *variant)
        batch = net.collate(net.encode(ROWS))
        full = cloze(net).logits(net.model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            half = cloze(net).logits(net.model, batch)
            net(batch).backward()
        assert half.dtype == torch.float32
        assert (half - full).abs().max() < 0.05 * full.abs().max() + 0.1


def test_calibration_needs_its_stage():
    with pytest.raises(UsageError, match=r"no stage measures the prior.*method.stages=\[calibration,supervised\]"):
        learner("model=tiny-bert", "method.formulation.calibration=prior")


def test_choices_of_words():
    plain = learner("model=tiny-bert", data=task(terms={}))
    auto = learner("model=tiny-bert", "method.formulation.words=auto", data=task(terms={}))
    assert cloze(plain).word_ids == cloze(auto).word_ids
    assert len(cloze(learner("model=tiny-bert", "method.formulation.words=auto")).word_ids["sports"]) == 4
    renamed = task(label_words={"sports": "law"})
    names = learner("model=tiny-bert", "method.formulation.words=names", data=renamed)
    tokenizer = names.formulation.tokenizer
    assert cloze(names).word_ids["sports"] == [tokenizer(" law", add_special_tokens=False)["input_ids"]]
    with pytest.raises(UsageError, match=r"has no retrieved terms.*peftbench terms"):
        learner("model=tiny-bert", "method.formulation.words=terms", data=task(terms={}))


@pytest.mark.parametrize("name", ["words.yaml", "words.json"])
def test_words_from_a_file(tmp_path, name):
    content = {"health": {"health": 1.0, "water": 0.9}, "politics": "politics", "sports": ["sports", "news"]}
    path = tmp_path / name
    path.write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content))
    net = learner("model=tiny-bert", f"method.formulation.words={path}", "method.formulation.verbalizer=weighted")
    verbalizer = cloze(net).verbalizer
    assert isinstance(verbalizer, KnowledgeableVerbalizer)
    assert verbalizer.scores.tolist() == [[1.0, pytest.approx(0.9)], [1.0, 0.0], [1.0, 1.0]]
    assert len(cloze(net).cfg.words_sha256 or "") == 64, "the record says which words it were"


BOMB = "a: &a [x]\n" + "\n".join(f"{k}: &{k} [{', '.join(['*' + chr(ord(k) - 1)] * 10)}]" for k in "bcdefg")
"""A million words in seven lines."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{health: a, politics: b, sport: c}", "no label `sport`. Did you mean `sports`"),
        ("{health: a, politics: b}", "no words for the label `sports`"),
        ("{health: a, politics: b, sports: []}", "label `sports`: no words"),
        ("{health: a, politics: {b: 0}, sports: c}", "label `politics`: the score of `b` has to be above 0"),
        ("{health: a, politics: {b: much}, sports: c}", "score of `b` has to be above 0, found 'much'"),
        ("{health: [no], politics: b, sports: c}", "label `health`: a word has to be text, found False"),
        ("[health]", "is a mapping, lines of `key: value`"),
        ("{health: [}", "words.yaml:1:11: not valid YAML"),
        ("{health: a, health: b, politics: b, sports: c}", "health: stands here twice"),
        (BOMB, "more than 200,000 values"),
    ],
)
def test_files_of_words_that_are_wrong(tmp_path, content, message):
    path = tmp_path / "words.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_words(path, LABELS)
    assert str(path) in str(caught.value)


def test_a_file_of_words_that_is_not_there_or_was_edited(tmp_path):
    with pytest.raises(UsageError, match=r"words=term: neither a file nor a choice. Did you mean `terms`"):
        compose(["method=lora", "method/formulation=cloze", "method.formulation.words=term"])
    path = tmp_path / "words.yaml"
    path.write_text("{health: a, politics: b, sports: c}")
    cfg = compose(["method=lora", "method/formulation=cloze", f"method.formulation.words={path}"])
    sha = cfg.method.formulation.words_sha256
    path.write_text("{health: a, politics: b, sports: d}")
    with pytest.raises(UsageError, match="was edited since this run began"):
        compose(["method=lora", "method/formulation=cloze", f"method.formulation.words={path}",
                 f"method.formulation.words_sha256={sha}"])  # fmt: skip


def test_an_unlabelled_row_gets_a_prediction_and_no_target():
    net = learner("model=tiny-bert")
    batch = net.collate(net.encode([replace(row, target=None) for row in ROWS]))
    assert "targets" not in batch
    assert [p.id for p in net.predict(batch)] == [row.id for row in ROWS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["drop_unlikely=0.5"], "without calibration nothing says what is unlikely"),
        (["verbalizer=soft", "learn_weights=true"], "has a trained map and no weights of words"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        learner("model=tiny-bert", *(f"method.formulation.{option}" for option in options))
