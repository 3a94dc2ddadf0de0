"""The papers' samplers, and the draws that the papers released."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_tasks import counts, ids, protocol, task

from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.protocols import draw
from peftbench.tasks.protocols.samplers import SAMPLERS, torch_randperm, walk

# the papers' samplers


def test_masakhanews_is_what_pandas_draws():
    pandas = pytest.importorskip("pandas")
    data = task()
    frame = pandas.DataFrame({"id": ids(data.train), "label": [row.target for row in data.train]})
    for k in (5, 10, 20, 50):
        expected = [i for _, group in frame.groupby("label") for i in group.sample(n=k, random_state=42)["id"]]
        assert ids(draw(data, protocol("masakhanews"), k).train) == expected
    dev = pandas.DataFrame({"id": ids(data.dev), "label": [row.target for row in data.dev]})
    expected = [i for _, group in dev.groupby("label") for i in group.sample(n=5, random_state=42)["id"]]
    assert ids(draw(data, protocol("masakhanews"), 5).dev) == expected


def test_masakhanews_notes_other_k_and_a_partial_train_split():
    data = task(notes=("train: 180 of the official 3309 rows",))
    notes = draw(data, protocol("masakhanews"), 7).notes
    assert any("shots=7" in note for note in notes)
    assert any("not the rows of the paper" in note for note in notes)


def test_lm_bff_shuffles_lines_and_buckets_them():
    lines = [f"{row.target}\t{row.id}" for row in task().train]
    np.random.RandomState(13).shuffle(lines)
    by_label: dict = {}
    for line in lines:
        by_label.setdefault(line.split("\t")[0], []).append(line.split("\t")[1])
    drawn = draw(task(), protocol("lm_bff"), 16, seed=13)
    assert ids(drawn.train) == [i for bucket in by_label.values() for i in bucket[:16]]
    assert ids(drawn.dev) == [i for bucket in by_label.values() for i in bucket[16:32]]


def test_dept_shares_k_evenly_over_the_shuffled_train_set():
    data = task()
    order = np.random.default_rng(3).permutation(len(data.train))
    drawn = draw(data, protocol("dept_total"), 16, seed=3)
    assert sorted(counts(drawn.train).values()) == [5, 5, 6]
    taken, left = [], dict.fromkeys("abc", 5)
    for i in order:  # five a class, then the very next row, whatever it is
        if left[data.train[i].target] > 0 or len(taken) == 15:
            left[data.train[i].target] -= 1
            taken.append(data.train[i].id)
        if len(taken) == 16:
            break
    assert ids(drawn.train) == taken


def test_dept_order_is_that_of_datasets_shuffle():
    datasets = pytest.importorskip("datasets")
    shuffled = datasets.Dataset.from_dict({"i": list(range(500))}).shuffle(seed=42)["i"]
    assert SAMPLERS["dept"](["a"] * 500, 4, 0, 42)[0] == list(shuffled)
    assert list(shuffled)[:5] == PINNED_DEPT


def test_randperm_is_that_of_torch():
    torch = pytest.importorskip("torch")
    for n, seed in [(0, 42), (1, 42), (2, 1), (277, 42), (1043, 2**31)]:
        generator = torch.Generator()
        generator.manual_seed(seed)
        assert torch_randperm(n, seed) == torch.randperm(n, generator=generator).tolist()


def test_sciprompt_moves_one_stream_through_train_and_dev():
    classes = [row.target for row in task().train]
    state = np.random.RandomState(144)
    train, dev, left = [], [], list(range(len(classes)))
    for part in (train, dev):
        picked = []
        for name in dict.fromkeys(classes[i] for i in left):
            bucket = np.array([i for i in left if classes[i] == name])
            state.shuffle(bucket)
            picked += bucket[:5].tolist()
        part += picked
        state.shuffle(np.array(picked))
        left = [i for i in left if i not in picked]
    drawn = draw(task(), protocol("sciprompt"), 5)
    assert sorted(ids(drawn.train)) == sorted(f"train:{i}" for i in train)
    assert sorted(ids(drawn.dev)) == sorted(f"train:{i}" for i in dev)


def test_clues_is_a_total_without_dev():
    drawn = draw(task(), protocol("clues_total"), 30, seed=1)
    assert (len(drawn.train), drawn.dev, drawn.select) == (30, (), "last")
    assert len({tuple(counts(draw(task(), protocol("clues_total"), 30, seed=s).train).items()) for s in range(5)}) > 1


@settings(max_examples=50, deadline=None)
@given(
    classes=st.lists(st.sampled_from("abc"), min_size=1, max_size=60),
    name=st.sampled_from(sorted(SAMPLERS)),
    k=st.integers(1, 10),
    dev=st.integers(0, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_sampler_ranks_every_row_and_keeps_train_and_dev_apart(classes, name, k, dev, seed):
    train_order, dev_order = SAMPLERS[name](classes, k, dev, seed)
    assert len(set(train_order)) == len(train_order)
    assert len(set(dev_order)) == len(dev_order)
    quota = dict.fromkeys("abc", k)
    taken = walk(train_order, classes, quota, lambda i: True)
    assert Counter(classes[i] for i in taken) == {c: min(k, n) for c, n in Counter(classes).items()}
    held = walk(dev_order, classes, dict.fromkeys("abc", dev), lambda i: i not in set(taken))
    assert Counter(classes[i] for i in held) == {
        c: min(dev, n - k) for c, n in Counter(classes).items() if n > k and dev
    }


# the papers' files


LM_BFF_SEEDS = (100, 13, 21, 42, 87)
KSHOT = {"rte": ("RTE", -3, -2), "stsb": ("STS-B", -3, -2), "cola": ("CoLA", 3, None), "mrpc": ("MRPC", 3, 4)}


def kshot(folder, subset: str, seed: int, split: str) -> list[tuple[str, str | None]]:
    """The texts of one of LM-BFF's shipped files, in file order."""
    name, first, second = KSHOT[subset]
    path = folder / "other/lmbff_kshot" / name / f"16-{seed}" / f"{split}.tsv"
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        table = [line.rstrip("\n").split("\t") for line in file][0 if subset == "cola" else 1 :]
    return [(line[first].strip(), None if second is None else line[second].strip()) for line in table]


def glue(task_config, folder, subset: str) -> TaskData:
    from peftbench.tasks import load_task

    return load_task(task_config("glue", f"task.subset={subset}"), folder)


def texts(split) -> list[tuple[str, str | None]]:
    return [(row.text, row.pair) for row in split]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("subset", ["rte", "stsb"])
def test_lm_bff_draws_the_shipped_rows(task_config, real_data, subset):
    data = glue(task_config, real_data, subset)
    for seed in LM_BFF_SEEDS:
        drawn = draw(data, protocol("lm_bff", drop_overlap=False), 16, seed=seed)
        assert texts(drawn.train) == kshot(real_data, subset, seed, "train")
        assert texts(drawn.dev) == kshot(real_data, subset, seed, "dev")


@pytest.mark.data
@pytest.mark.slow
def test_lm_bff_cola_was_shuffled_again_and_again(task_config, real_data):
    """CoLA's file has no header, so the released script shuffles its one list in place, seed after seed."""
    data = glue(task_config, real_data, "cola")
    for seed in LM_BFF_SEEDS:
        drawn = draw(data, protocol("lm_bff", drop_overlap=False), 16, seed=seed)
        assert texts(drawn.train) == kshot(real_data, "cola", seed, "train")
        assert texts(drawn.dev) == kshot(real_data, "cola", seed, "dev")
        order = np.random.RandomState(seed).permutation(len(data.train))
        data = replace(data, train=[data.train[i] for i in order])


@pytest.mark.data
@pytest.mark.slow
def test_lm_bff_mrpc_lacks_one_row(task_config, real_data):
    """Our copy has 3667 of MRPC's 3668 train rows; with any row in the gap the shipped draws come out."""
    data = glue(task_config, real_data, "mrpc")
    assert len(data.train) == 3667
    gap = Row("train:missing", "missing", data.train[0].target, pair="missing")
    data = replace(data, train=[*data.train[:90], gap, *data.train[90:]])
    for seed in LM_BFF_SEEDS:
        drawn = draw(data, protocol("lm_bff", drop_overlap=False), 16, seed=seed)
        assert texts(drawn.train) == kshot(real_data, "mrpc", seed, "train")
        assert texts(drawn.dev) == kshot(real_data, "mrpc", seed, "dev")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("lang", ["ibo", "lin", "orm", "pcm", "run", "sna", "xho", "yor"])
def test_masakhanews_draws_are_the_released_ones(real_data, lang):
    """The hashes are those of draws that were compared, row by row, with the released few-shot files."""
    folder = real_data / "masakhanews" / lang
    splits = {}
    for split in ("train", "dev", "test"):
        with (folder / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t")
            splits[split] = [
                Row(f"{split}:{i}", f"{r['headline']} {r['text']}", r["category"]) for i, r in enumerate(table)
            ]
    data = task(**splits, labels=tuple((folder / "labels.txt").read_text("utf-8").split()))
    hashes = [draw(data, protocol("masakhanews", drop_overlap=False), k).sha256()[:12] for k in (5, 10, 20, 50)]
    assert hashes == RELEASED[lang]
    drawn = draw(data, protocol("masakhanews"), 10)
    if lang == "ibo":
        assert drawn.notes[0].startswith("dev: 1 of the sampler's 30 rows")
        assert dict(drawn.overlap) == {"train_test": 21, "train_dev": 18, "dev_test": 3, "dropped": 28}
    else:
        assert drawn.sha256()[:12] == hashes[1]  # nothing that overlaps was drawn


PINNED_DEPT = [473, 132, 472, 46, 40]

RELEASED = {
    "ibo": ["3d41e7efb3f4", "71e1d223b510", "55b98a466667", "abd31e3d41fc"],
    "lin": ["7d7a15175575", "9247968e467d", "f73089e566bf", "0f7811767cb5"],
    "orm": ["21c492b427ed", "e5bf8e25bc5c", "dbd918757971", "35784e560a95"],
    "pcm": ["72e78e9ba802", "6310e138aa8d", "3852b6325a9b", "b8aa3db11195"],
    "run": ["ed6fb67a8354", "1ebfc5d68cbd", "1be2aa295c3e", "f5ddf1b05a17"],
    "sna": ["5da2c72a942f", "3a8ca1a07503", "9bf33541f539", "45ee2caffab8"],
    "xho": ["35ed2212d540", "a4ca4e03aeaa", "17fc55e7dbbd", "f9eaa4821b74"],
    "yor": ["563d4cc42498", "592e71550003", "9cbf6b62f282", "62f0846572ad"],
}
