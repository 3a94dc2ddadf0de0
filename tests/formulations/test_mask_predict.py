"""A masked LM as encoder and decoder: the start of its cross-attention, its loss, and answers written in rounds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from made_up_configs import compose

import peftbench
from peftbench.build import build_learner
from peftbench.errors import UsageError
from peftbench.formulations.mask_predict.decoder import cross_attentions
from peftbench.measure.clock import PhaseClock
from peftbench.tasks import load_task
from peftbench.tasks.base import Row


def made(model: str = "tiny-bert", *overrides: str):
    cfg = compose([f"model={model}", "method=mask_predict", "task=demo_news", "trainer.max_length=32", *overrides])
    return build_learner(cfg, load_task(cfg.task, None), PhaseClock())[0].eval()


ROWS = [Row("train:0", "the team won the match", "sports"), Row("train:1", "a new law", "politics")]


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-roberta"])
def test_the_decoder_is_the_masked_lm_with_cross_attention_from_its_self_attention(model: str) -> None:
    learner = made(model)
    own, decoder = learner.model.state_dict(), learner.formulation.decoder
    copied = decoder.state_dict()
    assert all(torch.equal(copied[name], tensor) for name, tensor in own.items() if name in copied)
    assert own.keys() <= copied.keys()
    crosses, blocks = cross_attentions(decoder), [m for m in learner.model.modules() if hasattr(m, "attention")]
    for cross, block in zip(crosses, (b for b in blocks if hasattr(b, "intermediate")), strict=True):
        for name, tensor in block.attention.state_dict().items():
            assert torch.equal(cross.state_dict()[name], tensor)


def test_a_decoder_block_by_hand_and_every_token_sees_every_other() -> None:
    """BERT's block in plain torch, the same self-attention weights used a second time on the encoder's states."""
    learner = made()
    decoder = learner.formulation.decoder
    ids, states = torch.tensor([[5, 8, 9, 12]]), torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(1))
    bert = learner.model.base_model

    def attend(layer, h, other):
        inner, heads = layer.attention.self, bert.config.num_attention_heads
        q, k, v = (f(x).view(1, -1, heads, 64 // heads).transpose(1, 2)
                   for f, x in ((inner.query, h), (inner.key, other), (inner.value, other)))  # fmt: skip
        mixed = ((q @ k.transpose(-1, -2) / (64 // heads) ** 0.5).softmax(-1) @ v).transpose(1, 2).reshape(1, -1, 64)
        return layer.attention.output.LayerNorm(layer.attention.output.dense(mixed) + h)

    with torch.no_grad():
        h = bert.embeddings(ids)
        for layer in bert.encoder.layer:
            h = attend(layer, h, h)
            h = attend(layer, h, states)
            h = layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(h))) + h)
        by_hand = learner.model.cls(h)
        ones = torch.ones_like(ids)
        found = decoder(input_ids=ids, attention_mask=ones, encoder_hidden_states=states).logits
    torch.testing.assert_close(found, by_hand, atol=1e-4, rtol=0)


def test_the_loss_is_the_mean_over_masked_tokens_and_that_of_the_length() -> None:
    learner = made("tiny-bert", "task.label_words.sports=games and sports")
    formulation = learner.formulation
    items = learner.encode(ROWS)
    batch = learner.collate(items)
    with torch.no_grad():
        total = float(learner(batch))
        by_hand = 0.0
        for item in items:
            target, places = item.data["target"], formulation.masked_places(item)
            source = torch.tensor([item.data["source"]])
            states = learner.model.base_model(input_ids=source)[0]
            shown = [formulation.mask_id if i in places else t for i, t in enumerate(target)]
            ids = torch.tensor([[*formulation.front, *shown, *formulation.back]])
            logits = formulation.decoder(input_ids=ids, encoder_hidden_states=states).logits[0]
            logits[:, formulation.tokenizer.all_special_ids] = float("-inf")
            scores = logits.log_softmax(-1)
            by_hand -= sum(float(scores[len(formulation.front) + i, target[i]]) for i in places) / len(places)
            by_hand -= float(formulation.length_head(states[:, 0]).log_softmax(-1)[0, len(target) - 1])
    assert total == pytest.approx(by_hand, abs=1e-3)


def test_masks_are_drawn_anew_in_each_step_and_number_one_to_all() -> None:
    learner = made("tiny-bert", "task.label_words.sports=games and sports of all kinds")
    formulation = learner.formulation.train()
    (item,) = learner.encode(ROWS[:1])
    drawn = []
    for step in range(60):
        learner.begin_step(step, 1, [item])
        drawn.append(tuple(formulation.masked_places(item)))
    assert {len(places) for places in drawn} == set(range(1, len(item.data["target"]) + 1))
    learner.begin_step(7, 1, [item])
    assert tuple(formulation.masked_places(item)) == drawn[7]


def test_the_least_sure_tokens_are_written_again() -> None:
    """Ghazvininejad et al.: of 8 tokens in 4 rounds 8, 6, 4, 2 are masked."""
    formulation = made("tiny-bert", "method.formulation.rounds=4").formulation
    own = torch.tensor([[False] + [True] * 8 + [False]])
    sure = torch.tensor([[0.0, -3, -1, -2, -8, -7, -6, -5, -4, 0.0]])
    assert [int(formulation.least_sure(sure, own, done).sum()) for done in (1, 2, 3)] == [6, 4, 2]
    assert formulation.least_sure(sure, own, 3)[0].nonzero().flatten().tolist() == [4, 5]
    with torch.no_grad():
        states = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(2))
        answers, _ = formulation.written_in_rounds([3, 5], states, torch.ones(2, 5, dtype=torch.long))
        (alone,), _ = formulation.written_in_rounds([3], states[:1], torch.ones(1, 5, dtype=torch.long))
    assert [len(a) for a in answers] == [3, 5]
    assert answers[0] == alone, "the other answers of a batch change nothing"
    assert not {*answers[0], *answers[1]} & {*formulation.tokenizer.all_special_ids}


def test_a_run_learns_and_is_loaded_again(tmp_path) -> None:
    run = peftbench.run(**{
        "method": "mask_predict", "model": "tiny-bert", "task": "demo_news", "shots": 2, "trainer.steps": 4,
        "trainer.max_length": 24, "trainer.progress": False, "trainer.save": "all", "protocol.test_rows": 12,
        "protocol.dev": "none", "trainer.probe": False,
        "out_dir": str(tmp_path),
    })  # fmt: skip
    assert run.record.status == "done"
    texts = ["the team won the match", "a new law was passed"]
    first = [answer.label for answer in run.predict(texts)]
    assert [a.label for a in peftbench.load_run(run.record.run_id, tmp_path).predict(texts)] == first


def test_networks_without_a_place_for_cross_attention_are_refused() -> None:
    with pytest.raises(UsageError, match=r"an encoder|causal|does not fit|mask_predict"):
        made("tiny-llama")
