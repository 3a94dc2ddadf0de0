"""Cloze with demonstrations (LM-BFF) and with T5's sentinels."""

import json
import re
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from made_up_configs import compose
from scipy.special import rel_entr, softmax

from peftbench.build import build_learner
from peftbench.errors import UsageError
from peftbench.formulations.sentinel import decoder_starts
from peftbench.measure.clock import PhaseClock
from peftbench.models import load_backbone
from peftbench.runner import run
from peftbench.tasks.base import DataSource, PatternSet, Row, TaskData

SHOTS = [
    Row("train:0", "The team won the cup", "sports"),
    Row("train:1", "The striker scored twice", "sports"),
    Row("train:2", "Parliament passed a law", "politics"),
    Row("train:3", "The minister resigned", "politics"),
]
QUERIES = [Row("test:0", "A late goal", "sports"), Row("test:1", "A long debate on the price of water", "politics")]
TASK = TaskData(
    name="toy", subset="", train=SHOTS, dev=[], test=QUERIES, labels=("politics", "sports"), label_words={},
    fields=("text", "pair"), problem="classification", main_metric="accuracy", metrics=("accuracy",),
    source=DataSource("packaged", "test"),
)  # fmt: skip


def learner(*overrides, shots=SHOTS, template="{text} Topic: {mask}.", task=TASK):
    given = ["shots=2", "method=lora", "method/formulation=cloze", "trainer.max_length=96", *overrides]
    if template is not None:
        given.append(f"method.formulation.template='{template}'")
    built, _ = build_learner(compose(given), task, PhaseClock(), shots)
    return built.eval()


def texts(net, batch):
    tokenizer = net.formulation.tokenizer
    kept = (ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True))
    return [tokenizer.decode(ids[1:-1]) for ids in kept]


def demonstrated(sets, **changes):
    return learner("model=tiny-roberta", f"method.formulation.demonstrations={sets}", **changes)


class TestDemonstrations:
    def test_one_of_each_class_in_label_order_follows_the_row(self):
        net = demonstrated(3)
        shown = texts(net, net.collate(net.encode(QUERIES)))
        assert len(shown) == 6
        for text in shown:
            query, first, second = list(text.split("Topic: ")[1:])
            assert query.startswith("<mask>")
            assert first.startswith("politics.")
            assert second.startswith("sports.")
            assert any(row.text in text for row in SHOTS if row.target == "sports")
        assert len(set(shown)) > 2  # the sets differ

    def test_the_mask_is_the_rows_own_and_there_is_one(self):
        net = demonstrated(4)
        poisoned = Row("test:2", "A text that says <mask> itself", None)
        batch = net.collate(net.encode([*QUERIES, poisoned]))
        mask = net.formulation.encoder.mask_id
        assert torch.equal(batch["input_ids"] == mask, batch["places"])
        assert (batch["places"].sum(1) == 1).all()

    def test_a_row_never_demonstrates_itself(self):
        net = demonstrated(1).train()
        for step in range(20):
            net.begin_step(step, 1, [])
            batch = net.collate(net.encode(SHOTS))
            for row, text in zip(SHOTS, texts(net, batch), strict=True):
                assert text.count(row.text) == 1

    def test_training_draws_anew_in_each_step_from_seed_step_and_item(self):
        net = demonstrated(16).train()
        items = net.encode(SHOTS)
        assert len(net.collate(items)["input_ids"]) == len(SHOTS)  # one set, whatever a prediction takes

        def shown(step, seed, order):
            net.begin_step(step, seed, items)
            batch = net.collate([items[i] for i in order])
            return dict(zip(batch["ids"], texts(net, batch), strict=True))

        steps = [shown(step, 1, [0, 1, 2, 3]) for step in range(8)]
        assert shown(3, 1, [2, 0, 3, 1]) == steps[3]
        assert shown(3, 1, [2])["train:2"] == steps[3]["train:2"]
        assert any(one != other for one, other in pairwise(steps))

    def test_one_fixed_set_is_a_single_forward_pass(self):
        one_each = [SHOTS[0], SHOTS[2]]
        net = demonstrated(1, shots=one_each)
        item = net.encode(QUERIES[:1])
        tokenizer = net.formulation.tokenizer
        parts = (
            "A late goal Topic: <mask>.",
            "Parliament passed a law Topic: politics.",
            "The team won the cup Topic: sports.",
        )
        # LM-BFF's template: a separator behind the row and behind each demonstration, no space before the next text
        pieces = [[*tokenizer(part, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id] for part in parts]
        ids = torch.tensor([[tokenizer.cls_token_id, *chain.from_iterable(pieces)]])
        assert net.collate(item)["input_ids"].tolist() == ids.tolist()
        with torch.no_grad():
            scores = net.model(input_ids=ids).logits[0, (ids[0] == net.formulation.encoder.mask_id).nonzero().item()]
            expected = net.formulation.verbalizer(scores[None])[0]
            got = net.formulation.logits(net.model, net.collate(item))[0]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    def test_a_prediction_is_the_mean_over_its_sets(self):
        net = demonstrated(5)
        items = net.encode(QUERIES)
        batch = net.collate(items)
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "places")}
        with torch.no_grad():
            parts = [{key: value[2 * k : 2 * k + 2] for key, value in inputs.items()} for k in range(5)]
            scores = [net.formulation.word_scores(net.model, part) for part in parts]
            apart = [net.formulation.verbalizer(each) for each in scores]
            together = net.formulation.logits(net.model, batch)
            predictions = net.predict(batch)
        torch.testing.assert_close(together, torch.stack(apart).mean(0), rtol=1e-4, atol=1e-5)
        assert [p.id for p in predictions] == ["test:0", "test:1"]
        assert list(predictions[0].scores.values()) == pytest.approx(together[0].tolist(), rel=1e-4)

    def test_ten_thousand_words_leave_mask_and_demonstrations_whole(self):
        net = demonstrated(2)
        (item,) = net.encode([Row("test:9", "word " * 10_000, None)])
        assert item.length <= 96
        assert item.cut
        for text in texts(net, net.collate([item])):
            assert text.count("<mask>") == 1
            assert "Topic: politics." in text
            assert text.endswith("Topic: sports.")

    def test_long_demonstrations_are_cut_to_their_share(self):
        long = [Row(row.id, "word " * 500, row.target) for row in SHOTS]
        net = demonstrated(1, shots=long)
        (text,) = texts(net, net.collate(net.encode(QUERIES[:1])))
        assert "A late goal Topic: <mask>" in text
        assert text.endswith("Topic: sports.")

    @pytest.mark.parametrize(("share", "shown"), [(0.5, 1), (0.51, 2), (0.9, 2)])
    def test_only_the_nearest_of_each_class_are_shown(self, share, shown):
        near = [
            "method.formulation.demonstrations_encoder=tiny-bert",
            f"method.formulation.demonstrations_nearest={share}",
        ]
        net = learner("model=tiny-roberta", "method.formulation.demonstrations=40", *near)
        seen = {text: set() for text in (row.text for row in QUERIES)}
        batch = net.collate(net.encode(QUERIES))
        for i, text in enumerate(texts(net, batch)):
            seen[QUERIES[i % 2].text] |= {row.id for row in SHOTS if row.text in text}
        backbone = load_backbone(compose(["model=tiny-bert"]).model, "features", 0.0)
        vectors = {}
        for row in (*SHOTS, *QUERIES):
            inputs = backbone.tokenizer(row.text, return_tensors="pt")
            with torch.no_grad():
                vectors[row.id] = backbone.model(**inputs).last_hidden_state[0].mean(0)
        for query in QUERIES:
            wanted = set()
            for label in TASK.labels:
                own = [row.id for row in SHOTS if row.target == label]
                cosines = {id_: torch.cosine_similarity(vectors[id_], vectors[query.id], dim=0).item() for id_ in own}
                wanted |= set(sorted(own, key=lambda id_: -cosines[id_])[:shown])
            assert seen[query.text] == wanted

    def test_a_training_row_is_shown_the_nearest_of_the_others(self):
        near = ["method.formulation.demonstrations_encoder=tiny-bert", "method.formulation.demonstrations_nearest=0.01"]
        net = learner("model=tiny-roberta", "method.formulation.demonstrations=2", *near).train()
        before = torch.get_rng_state()
        items = net.encode(SHOTS)
        assert torch.equal(torch.get_rng_state(), before)
        for step in range(6):
            net.begin_step(step, 1, items)
            for row, text in zip(SHOTS, texts(net, net.collate(items)), strict=True):
                other = next(r for r in SHOTS if r.target == row.target and r is not row)
                assert text.count(row.text) == text.count(other.text) == 1

    def test_nearest_of_nothing_and_an_encoder_that_is_none(self):
        with pytest.raises(UsageError, match="nothing is shown"):
            learner("model=tiny-bert", "method.formulation.demonstrations_nearest=0.5")
        wrong = ["method.formulation.demonstrations_nearest=0.5", "method.formulation.demonstrations_encoder=minlm"]
        net = learner("model=tiny-bert", "method.formulation.demonstrations=2", *wrong)
        with pytest.raises(UsageError, match="`minilm`"):
            net.encode(QUERIES)

    def test_without_labelled_rows_it_says_so(self):
        with pytest.raises(UsageError, match=r"demonstrations.*shots=0"):
            demonstrated(1, shots=()).encode(QUERIES)


LONG_WORDS = {"politics": "law and government", "sports": "law"}


def t5(*overrides):
    """With a label word of several tokens, and one of which it begins with."""
    return learner("model=tiny-t5", *overrides, task=replace(TASK, label_words=LONG_WORDS))


class TestSentinels:
    @pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix_tuning", "full"])
    def test_a_score_is_the_mean_log_likelihood_behind_the_sentinel(self, method):
        net = t5(f"method={method}")
        sentinel = net.formulation.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        start = net.backbone.model.config.decoder_start_token_id
        (item,) = net.encode(QUERIES[:1])
        assert item.data["input_ids"].count(sentinel) == 1
        batch = net.collate([item])
        with torch.no_grad():
            got = net.formulation.logits(net.model, batch)[0]
            for label, score in zip(TASK.labels, got, strict=True):
                (pieces,) = net.formulation.word_ids[label]
                total = 0.0
                for k, piece in enumerate(pieces):  # one pass a token, nothing shared
                    ids = torch.tensor([[start, sentinel, *pieces[:k]]])
                    logits = net.model(
                        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=ids
                    ).logits
                    total += logits[0, -1].log_softmax(-1)[piece].item()
                assert score.item() == pytest.approx(total / len(pieces), rel=1e-4)

    def test_the_encoder_runs_once_and_learns_from_every_word(self):
        net = t5("method=full")
        assert len(net.formulation.word_ids["politics"][0]) > 1
        encoder, runs = net.backbone.model.get_encoder(), []
        handle = encoder.block[0].register_forward_hook(lambda *_: runs.append(1))
        net(net.collate(net.encode(QUERIES))).backward()
        handle.remove()
        assert len(runs) == 1
        assert encoder.block[0].layer[0].SelfAttention.q.weight.grad.abs().sum() > 0
        net.predict(net.collate(net.encode(QUERIES)))  # and the encoder is as it was

    def test_a_batch_is_its_items(self):
        net = t5()
        items = net.encode(QUERIES)
        with torch.no_grad():
            whole = net(net.collate(items))
            alone = sum(net(net.collate([item])) for item in items)
        torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)

    def test_it_learns(self):
        net = t5("method=full").train()
        optimizer = torch.optim.Adam(net.param_groups()["backbone"], lr=1e-3)
        batch = net.collate(net.encode(SHOTS))
        losses = []
        for _ in range(30):
            loss = net(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.2 * losses[0]

    def test_a_tokenizer_without_sentinels_is_refused(self, monkeypatch):
        from peftbench.models import random_init

        monkeypatch.setattr(random_init, "SENTINEL", "<mask>")
        with pytest.raises(UsageError, match=r"no <extra_id_0>.*score"):
            t5()

    @pytest.mark.parametrize(
        "override", ["verbalizer=soft", "calibration=prior", "train_head=true", "demonstrations=2"]
    )  # fmt: skip
    def test_what_needs_a_masked_lm_says_so(self, override):
        key = override.partition("=")[0]
        with pytest.raises(UsageError, match=rf"{key}.*needs a masked LM"):
            t5(f"method.formulation.{override}", "method.stages=[calibration,supervised]")


def test_words_share_the_longest_beginnings():
    assert decoder_starts([[1], [2], [3]]) == [()]
    assert sorted(decoder_starts([[1], [2, 3], [2, 4, 5], [7, 8]])) == [(2, 4), (7,)]


def test_recurrence_has_no_masked_lm():
    with pytest.raises(UsageError, match=r"recurrence.*cloze"):
        learner("model=tiny-bert", "method=recurrence", "trainer.max_length=32")


@pytest.mark.parametrize("model", ["tiny-roberta", "tiny-t5"])
def test_a_run_without_labelled_rows_answers_untrained(model, tmp_path):
    from peftbench.runner import run

    args = [f"model={model}", "method=lora", "method/formulation=cloze", "task=demo_news", "shots=0", "trainer=debug"]
    record, _ = run(compose([*args, "tracking.wandb=disabled", f"out_dir={tmp_path}"]))
    assert (record.status, record.compute["steps"]) == ("done", 0)
    assert record.model_info["formulation"] == "cloze"
    answers = [json.loads(line) for line in next(tmp_path.rglob("predictions.jsonl")).read_text().splitlines()]
    assert len(answers) == 105
    labels = set(record.data["labels"])
    assert all(set(answer["scores"]) == labels for answer in answers)


SCORED = TaskData(
    name="toy", subset="", dev=[],
    train=[Row("train:0", "A plane flies", 4.0, "A jet flies"), Row("train:1", "A dog", 0.5, "Law")],
    test=[Row("test:0", "A cat", 2.5, "A cat sleeps")], labels=(), label_words={}, fields=("text", "pair"),
    problem="regression", main_metric="pearson", metrics=("pearson",), source=DataSource("packaged", "test"),
    score_range=(0.0, 5.0),
    cloze={"toy": PatternSet("toy", ("{text} {mask}, {pair:lower}",), {"low": ("no",), "high": ("yes",)})},
)  # fmt: skip


class TestScores:
    @pytest.mark.parametrize("model", ["tiny-bert", "tiny-t5"])
    def test_an_answer_stands_between_the_two_words(self, model):
        net = learner(f"model={model}", template=None, task=SCORED, shots=SCORED.train)
        rows = [*SCORED.train, *SCORED.test]
        batch = net.collate(net.encode(rows))
        low, high = softmax(net.formulation.logits(net.model, batch).detach().numpy(), axis=1).T
        answers = [prediction.label for prediction in net.predict(batch)]
        assert answers == pytest.approx(5 * high, rel=1e-5)
        wanted = np.array([row.target for row in rows]) / 5
        divergence = rel_entr(wanted, high) + rel_entr(1 - wanted, low)
        assert net(batch).item() == pytest.approx(divergence.sum(), rel=1e-4)

    @pytest.mark.parametrize(("score", "end"), [(0.0, "low"), (2.4, "low"), (2.5, "high"), (5.0, "high")])
    def test_a_score_is_written_as_the_word_of_the_nearer_end(self, score, end):
        net = learner("model=tiny-bert", template=None, task=SCORED, shots=SCORED.train)
        assert net.formulation.first_word(score) == {"low": "no", "high": "yes"}[end]

    def test_the_ends_of_the_range_are_told_apart_by_training(self):
        net = learner("model=tiny-bert", "method=full", template=None, task=SCORED, shots=SCORED.train)
        batch = net.collate(net.encode(SCORED.train))
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(60):
            optimizer.zero_grad()
            net(batch).backward()
            optimizer.step()
        assert [p.label for p in net.predict(batch)] == pytest.approx([4.0, 0.5], abs=0.2)

    def test_an_example_of_each_end_follows_the_row(self):
        net = demonstrated(1, template=None, task=SCORED, shots=SCORED.train)
        (shown,) = texts(net, net.collate(net.encode(SCORED.test)))
        assert shown.index("no, law") < shown.index("yes, a jet flies")

    def test_nobody_votes_on_scores(self, tmp_path):
        folder = tmp_path / "glue" / "STS-B"
        folder.mkdir(parents=True)
        for split in ("train", "dev"):
            lines = [f"{split} {i}\tTwo {i}\t{i % 6}" for i in range(24)]
            (folder / f"{split}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n")
        given = [
            "model=tiny-bert",
            "task=stsb",
            "trainer=debug",
            "shots=2",
            f"data_dir={tmp_path}",
            f"out_dir={tmp_path}",
        ]
        with pytest.raises(UsageError, match="the models vote on classes, and task glue is a regression task"):
            run(compose([*given, "method=pet"]))
        record, _ = run(compose([*given, "method=pcp", "method.continued_pretraining.steps=2", "trainer.steps=2"]))
        assert record.status == "done", record.reason
        corpus = (tmp_path / "runs" / record.run_id / "corpus.txt").read_text().splitlines()
        assert all(re.fullmatch(r"train (\d+) (No|Yes) , Two \1", line) for line in corpus)
