"""States behind untouched blocks are read where they are known, and are those that would be made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_up_configs import compose

from peftbench.cache import Cache
from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.models import load_backbone
from peftbench.passes.frozen_blocks import FrozenBlocks, untouched
from peftbench.records.leaderboard import row
from peftbench.records.record import Record
from peftbench.runner import run

FAST = (
    "model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=4", "trainer.device=cpu",
    "trainer.probe=false", "trainer.steps=6", "trainer.max_length=24", "protocol.test_rows=20", "trainer.eval_every=3",
)  # fmt: skip
LAYERS = "method.tuner.layers=last_1"
METHODS = {
    "method=head_only": 2,
    f"method=lora {LAYERS}": 1,
    f"method=houlsby {LAYERS}": 1,
    "method=last_layer": 1,
    "method=lora": 0,
    "method=prompt_tuning": 0,
    "method=full": 0,
    "method=prefix_tuning": 0,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


def finish(folder: Path, *overrides: str, inputs: InputCache | None = None) -> Record:
    record, _ = run(compose([*FAST, f"out_dir={folder}", *overrides]), inputs)
    assert record is not None
    assert record.status == "done", record.reason
    return record


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_the_same_bit_for_bit(tmp_path: Path, method: str) -> None:
    words = [*method.split(), f"trainer.precision={'bf16' if 'lora' in method else 'fp32'}"]
    plain = finish(tmp_path / "plain", *words)
    inputs = InputCache()
    first = finish(tmp_path / "first", *words, "trainer.reuse_frozen=true", inputs=inputs)
    second = finish(tmp_path / "second", *words, "trainer.reuse_frozen=true", inputs=inputs)
    for record in (first, second):
        assert record.run_id == plain.run_id
        assert record.scores == plain.scores
        assert record.curves["loss"] == plain.curves["loss"]
        assert record.predictions["sha256"] == plain.predictions["sha256"]
        assert record.compute["frozen_blocks"] == METHODS[method]
    assert "frozen_blocks" not in plain.compute
    assert all((row(first)[name] is None) == (METHODS[method] > 0) for name in ("train_seconds", "total_seconds"))
    if METHODS[method]:
        assert first.compute["frozen_rows_made"] > 0
        assert second.compute["frozen_rows_read"] > 0
        assert second.compute["frozen_rows_made"] == 0


def test_what_cannot_be_exact_is_refused(tmp_path: Path) -> None:
    for dropout in ("0.1", "null"):
        with pytest.raises(UsageError, match=r"trainer\.reuse_frozen=true: with dropout"):
            compose([*FAST, "method=head_only", "trainer.reuse_frozen=true", f"trainer.dropout={dropout}"])


@pytest.fixture
def backbone():
    return load_backbone(ModelConfig(**compose([*FAST, "method=head_only"]).model.__dict__), "features", dropout=0.0)


def batch(rows: int = 3, length: int = 7) -> dict[str, torch.Tensor]:
    ids = torch.arange(10, 10 + rows * length).reshape(rows, length)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_rows_are_told_by_their_input_their_mask_and_the_weights(backbone) -> None:
    model, states = backbone.model.eval().requires_grad_(False), FrozenBlocks(backbone, "fp32", Cache("test"))

    def answer(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        before = states.read
        with states.used(), torch.no_grad():
            out = model(**inputs).last_hidden_state
        with torch.no_grad():
            assert torch.equal(out, model(**inputs).last_hidden_state)
        return out, states.read - before

    inputs = batch()
    assert answer(inputs)[1] == 0  # made
    assert answer(inputs)[1] == 0  # made again and compared
    assert answer(inputs)[1] == 3
    swapped = {name: tensor[[2, 0, 1]] for name, tensor in inputs.items()}
    assert answer(swapped)[1] == 3
    masked = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
    masked["attention_mask"][0, -2:] = 0
    assert answer(masked)[1] == 0
    assert answer(batch(rows=2))[1] == 0  # another shape
    with torch.no_grad():
        next(model.encoder.layer[0].parameters()).add_(0.5)
    assert answer(inputs)[1] == 0  # other weights
    assert "forward" not in vars(model.encoder.layer[0])


def test_a_trained_input_of_a_block_that_is_no_state_ends_it(backbone) -> None:
    states, block = FrozenBlocks(backbone, "fp32", Cache("test")), torch.zeros(2, 3, 4)
    assert states.keys((block,), {"scale": torch.tensor(2.0), "bias": torch.zeros(1, 3)}) is not None
    assert states.keys((block,), {"bias": torch.zeros(1, 3, requires_grad=True)}) is None
    assert "is trained" in states.off


def test_states_that_differ_when_made_again_end_it(backbone) -> None:
    model, states = backbone.model.eval().requires_grad_(False), FrozenBlocks(backbone, "fp32", Cache("test"))
    with states.used(), torch.no_grad():
        right = model(**batch()).last_hidden_state
        states._held = {key: row + 1 for key, row in states._held.items()}
        assert torch.equal(model(**batch()).last_hidden_state, right)
        assert torch.equal(model(**batch()).last_hidden_state, right)
    assert states.read == 0
    assert "differed" in states.off


def test_a_block_that_trains_or_holds_another_module_ends_what_is_untouched(backbone) -> None:
    backbone.model.requires_grad_(False)
    assert len(untouched(backbone)) == 2
    backbone.model.encoder.layer[1].attention.self.query.weight.requires_grad_(True)
    assert len(untouched(backbone)) == 1
    backbone.model.encoder.layer[0].register_forward_hook(lambda *_: None)
    assert untouched(backbone) == []
