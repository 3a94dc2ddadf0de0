"""Wrong labels in the drawn train rows: how many, which, and nowhere else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from peftbench.config.schema import ProtocolConfig, packaged_values
from peftbench.errors import UsageError
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.protocols import draw

LABELS = ("a", "b", "c")


def made(problem: str = "classification") -> TaskData:
    splits = {
        name: tuple(Row(f"{name}:{i}", f"{name} text number {i}", LABELS[i % 3]) for i in range(60))
        for name in ("train", "dev", "test")
    }
    source = DataSource("packaged", "made up")
    return TaskData(
        "t", "", splits["train"], splits["dev"], splits["test"], LABELS, {}, ("text",), problem, "accuracy", (), source
    )


def protocol(noise: float) -> ProtocolConfig:
    return replace(ProtocolConfig(**packaged_values("protocol/default")), noise=noise)


def test_a_share_of_the_train_rows_and_no_other_row_gets_another_label() -> None:
    clean, noisy = (draw(made(), protocol(noise), 10, data_seed=1) for noise in (0.0, 0.2))
    assert [row.id for row in noisy.train] == [row.id for row in clean.train]
    assert (noisy.dev, noisy.test, noisy.unlabeled) == (clean.dev, clean.test, clean.unlabeled)
    assert noisy.sha256() == clean.sha256()
    changed = [(own, other) for own, other in zip(clean.train, noisy.train, strict=True) if own != other]
    assert len(changed) == 6
    assert all(own.target != other.target and other.target in LABELS for own, other in changed)
    facts = noisy.to_dict()["noise"]
    assert facts["share"] == 0.2
    assert facts["rows"] == [{"id": o.id, "label": o.target, "wrong": n.target} for o, n in changed]
    assert facts["flips"] == dict(Counter(f"{own.target} -> {other.target}" for own, other in changed))
    assert noisy.notes == (*clean.notes, "6 of the 30 train rows have a wrong label (protocol.noise=0.2)")
    assert noisy.to_dict()["counts"]["train"] == dict(sorted(Counter(row.target for row in noisy.train).items()))
    assert "noise" not in clean.to_dict()


def test_which_ones_follows_from_the_data_seed() -> None:
    def wrong(data_seed: int, seed: int = 1) -> list[str]:
        return [row["id"] for row in draw(made(), protocol(0.2), 10, data_seed, seed).noise["rows"]]

    assert wrong(1) == wrong(1, seed=2)
    places = [
        [i for i, row in enumerate(d.train) if row.id in {r["id"] for r in d.noise["rows"]}]
        for d in (draw(made(), protocol(0.2), 10, s) for s in (1, 2))
    ]
    assert places[0] != places[1]


def test_all_labels_may_be_wrong() -> None:
    noisy = draw(made(), protocol(1.0), 4, data_seed=1)
    right = {row.id: row.target for row in made().train}
    assert all(row.target != right[row.id] for row in noisy.train)


def test_where_there_are_no_labels_there_is_no_noise() -> None:
    with pytest.raises(UsageError, match=r"protocol\.noise=0\.2: shots=0 draws no labels"):
        draw(made(), protocol(0.2), 0)
    with pytest.raises(UsageError, match="regression targets of task t are no labels"):
        draw(made("regression"), protocol(0.2), 4)
