import math

import pytest
import torch
from torch import nn
from toy_learner import LR, TinyBert, Toy, items, trainer

from peftbench.errors import UsageError
from peftbench.measure.clock import PhaseClock
from peftbench.training import checkpoint, loop
from peftbench.training.batching import plan_batches
from peftbench.training.distributed import Dist
from peftbench.training.loop import train

ALONE = Dist(torch.device("cpu"))


def run(learner, *, evaluate=None, select="best", folder=None, on_log=None, data=None, **changes):
    return train(
        learner,
        items() if data is None else data,
        cfg=trainer(**changes),
        lr=LR,
        weight_decay=0.1,
        seed=3,
        select=select,
        evaluate=evaluate,
        clock=PhaseClock(),
        dist=ALONE,
        folder=folder,
        on_log=on_log,
    )


def same_state(one, other):
    one, other = one.trainable_state(), other.trainable_state()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_losses_are_those_of_a_plain_loop_with_transformers_schedule():
    from transformers import get_linear_schedule_with_warmup

    data, ours, plain = items(), Toy(), Toy()
    losses = run(ours, warmup=0.25, steps=12).curves["loss"]

    matrices = [p for p in plain.parameters() if p.requires_grad and p.ndim > 1]
    head = {plain.head.weight, plain.head.bias}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in matrices if p not in head], "lr": LR["backbone"], "weight_decay": 0.1},
            {"params": [plain.mix.bias], "lr": LR["backbone"], "weight_decay": 0.0},
            {"params": [plain.head.weight], "lr": LR["head"], "weight_decay": 0.1},
            {"params": [plain.head.bias], "lr": LR["head"], "weight_decay": 0.0},
        ]
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 3, 12)
    expected = []
    for batch in plan_batches([i.length for i in data], 4, 12, seed=3):
        chosen = [data[i] for i in batch]
        loss = plain(plain.collate(chosen)) / sum(i.weight for i in chosen)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in plain.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, abs=1e-6)
    for name, tensor in plain.trainable_state().items():
        assert torch.allclose(ours.trainable_state()[name], tensor, atol=1e-6)


def test_expected_losses():
    losses = run(TinyBert(), steps=6).curves["loss"]
    assert losses == pytest.approx([1.43966, 1.45811, 1.22718, 2.37829, 0.89558, 1.59806], abs=2e-4)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_accumulation_equals_one_batch(micro_batch):
    whole, cut = Toy(), Toy()
    one, other = run(whole), run(cut, micro_batch=micro_batch)
    assert other.curves["loss"] == pytest.approx(one.curves["loss"], abs=1e-5)
    assert one.tokens == other.tokens
    for name, tensor in whole.trainable_state().items():
        assert torch.allclose(cut.trainable_state()[name], tensor, atol=1e-5)


def test_training_learns_and_reports():
    learner, logged = Toy(), []
    result = run(learner, steps=120, batch_size=8, on_log=logged.append)
    assert result.status == "done"
    assert result.steps == 120
    assert result.curves["loss"][-1] < 0.2 * result.curves["loss"][0]
    assert result.curves["step"] == list(range(1, 121))
    assert result.curves["lr/head"][0] == 0.0
    assert max(result.curves["lr/head"]) == LR["head"]
    assert max(result.curves["lr/backbone"]) == LR["backbone"]
    assert [entry["step"] for entry in logged] == list(range(1, 121))
    assert result.tokens == 120 / 3 * sum(item.length for item in items())
    assert torch.equal(learner.frozen, torch.ones(8))
    assert result.dev_score is None


def test_long_curves_are_thinned_to_means(monkeypatch):
    whole = run(Toy(), steps=21).curves["loss"]
    monkeypatch.setattr(loop, "CURVE_POINTS", 10)
    thin = run(Toy(), steps=21).curves
    assert thin["step"] == [3, 6, 9, 12, 15, 18, 21]
    assert thin["loss"] == pytest.approx([sum(whole[i : i + 3]) / 3 for i in range(0, 21, 3)])
    assert len(thin["lr/head"]) == 7


def scores(*values):
    """An evaluation that returns these scores in turn."""
    left = iter(values)
    return lambda: next(left)


def state_after(steps):
    """The state that an uninterrupted training passes at `steps`, seen from an evaluation."""
    learner, seen = Toy(), {}

    def look():
        seen[len(seen) + 1] = learner.trainable_state()
        return float(len(seen))

    run(learner, evaluate=look, eval_every=1)
    return seen[steps]


def test_best_state_is_restored_and_of_equals_the_later():
    learner = Toy()
    result = run(learner, evaluate=scores(0.1, 0.8, 0.3, 0.8, 0.5, math.nan), eval_every=2)
    assert (result.best_step, result.dev_score) == (8, 0.8)
    assert result.curves["dev_step"] == [2, 4, 6, 8, 10, 12]
    expected = state_after(8)
    assert all(torch.equal(t, expected[n]) for n, t in learner.trainable_state().items())


def test_last_ignores_dev_and_default_is_about_eight_evaluations():
    learner = Toy()
    result = run(learner, evaluate=pytest.fail, select="last")
    assert result.best_step is None
    expected = state_after(12)
    assert all(torch.equal(t, expected[n]) for n, t in learner.trainable_state().items())
    counted = run(Toy(), evaluate=lambda: 0.5, steps=160)
    assert counted.curves["dev_step"] == list(range(20, 161, 20))
    assert run(Toy(), evaluate=lambda: 0.5, eval_every=5).curves["dev_step"] == [5, 10, 12]


def test_patience_counts_from_the_last_rise():
    result = run(Toy(), evaluate=scores(0.1, 0.5, 0.5, 0.4, 0.9), eval_every=1, patience=2)
    assert (result.steps, result.best_step, result.status) == (4, 3, "done")


def test_evaluation_and_checkpoints_are_not_training_time(tmp_path):
    import time

    clock = PhaseClock()

    def slow():
        with clock("eval"):
            time.sleep(0.05)
        return 0.5

    cfg = trainer(eval_every=3, checkpoint_every=3)
    result = train(
        Toy(),
        items(),
        cfg=cfg,
        lr=LR,
        weight_decay=0.0,
        seed=1,
        select="best",
        evaluate=slow,
        clock=clock,
        dist=ALONE,
        folder=tmp_path,
    )
    assert clock.wall["eval"] >= 0.2
    assert clock.wall["save"] > 0
    assert result.seconds == pytest.approx(clock.wall["train"])
    assert clock.total() == pytest.approx(sum(clock.wall.values()))


class Stop(Exception):
    pass


def interrupted(at, folder):
    """Train with dropout and dev scores that rise and fall; stop in the middle of step `at`."""
    learner = Toy(dropout=0.3)
    if at:
        calls = []

        def hook(*_):
            calls.append(1)
            if len(calls) == at:
                raise Stop

        learner.mix.register_forward_hook(hook)
    evaluate = lambda: round(math.sin(learner.head.bias.sum().item() * 900), 6)  # noqa: E731
    return learner, run(learner, evaluate=evaluate, eval_every=2, steps=20, checkpoint_every=4, folder=folder)


@pytest.mark.parametrize("damaged", [False, True])
def test_resume_equals_uninterrupted_bit_for_bit(tmp_path, damaged):
    whole, expected = interrupted(None, tmp_path / "a")
    with pytest.raises(Stop):
        interrupted(15, tmp_path / "b")
    assert checkpoint.newest(tmp_path / "b") == "checkpoint-00000012"
    if damaged:
        path = tmp_path / "b" / "checkpoint-00000012" / "tensors.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    torch.manual_seed(99)
    again, result = interrupted(None, tmp_path / "b")
    assert result.curves == expected.curves
    assert (result.best_step, result.dev_score, result.tokens) == (
        expected.best_step,
        expected.dev_score,
        expected.tokens,
    )
    assert same_state(again, whole)
    finished, same = interrupted(1, tmp_path / "b")  # nothing left to do: no step is taken
    assert same.curves == expected.curves
    assert same_state(finished, whole)


def test_checkpoints_of_another_training_are_refused(tmp_path):
    interrupted(None, tmp_path)
    with pytest.raises(UsageError, match="another training"):
        run(Toy(), folder=tmp_path, checkpoint_every=4, steps=20, data=items(seed=1))


def test_divergence_names_the_step():
    class Breaks(Toy):
        calls = 0

        def forward(self, batch):
            self.calls += 1
            return super().forward(batch) * (math.inf if self.calls == 7 else 1.0)

    result = run(Breaks(), evaluate=lambda: 0.5, eval_every=3)
    assert (result.status, result.steps) == ("diverged", 7)
    assert "inf at step 7" in result.reason
    assert len(result.curves["loss"]) == 7


def test_a_last_step_that_breaks_the_parameters_is_divergence():
    learner = Toy()
    learner.head.bias.register_hook(lambda grad: grad * math.nan)
    result = run(learner, steps=1, clip=0.0, warmup=0.0)
    assert result.status == "diverged"
    assert "not finite after step 1" in result.reason


def test_dropout_acts_in_training_and_follows_the_seed():
    one, other = run(Toy(dropout=0.5)).curves["loss"], run(Toy(dropout=0.5)).curves["loss"]
    assert one == other
    assert one != run(Toy()).curves["loss"]


def test_gradient_checkpointing_changes_memory_not_results():
    plain, cheap = TinyBert(), TinyBert()
    saved = {}
    for learner, wanted in ((plain, False), (cheap, True)):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.nbytes) or t, lambda t: t):
            saved[wanted] = (run(learner, gradient_checkpointing=wanted, steps=3), sum(sizes))
    assert saved[True][0].curves["loss"] == pytest.approx(saved[False][0].curves["loss"], abs=1e-6)
    assert saved[True][1] < 0.6 * saved[False][1]
    assert not cheap.bert.is_gradient_checkpointing


def test_bf16_on_request_keeps_parameters_in_fp32():
    learner = TinyBert()
    result = run(learner, precision="bf16", steps=3)
    exact = run(TinyBert(), steps=3)
    assert {p.dtype for p in learner.parameters()} == {torch.float32}
    assert result.curves["loss"] != exact.curves["loss"]
    assert result.curves["loss"] == pytest.approx(exact.curves["loss"], abs=0.05)


def test_groups_and_weights_are_checked():
    class Forgets(Toy):
        def param_groups(self):
            return {"backbone": list(self.embed.parameters()), "head": list(self.head.parameters())}

    with pytest.raises(ValueError, match="every trainable parameter"):
        run(Forgets())
    from peftbench.formulations.base import Encoded

    with pytest.raises(ValueError, match="without weight"):
        run(Toy(), data=[*items(), Encoded("train:x", 3, 0.0, {"ids": [1, 2, 3], "label": 0})])


def test_ctrl_c_passes_through():
    def press():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Toy(), evaluate=press, eval_every=2, progress=True)


def test_plain_progress_lines(capsys):
    run(Toy(), evaluate=lambda: 0.25, steps=40, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert sum("loss" in line and "s left" in line for line in lines) == 10
    assert sum("dev 0.2500" in line for line in lines) == 8
