"""Results as one small file: read by every view as if they lay there unpacked, and never written to."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from dataclasses import replace

import pytest
from made_up_runs import file_run

from peftbench import statistics
from peftbench.cli import main
from peftbench.errors import UsageError
from peftbench.records.leaderboard import current_rows
from peftbench.records.pack import pack
from peftbench.records.packed import PACKED, unpacked
from peftbench.records.store import Store

METHODS = {"lora": 0.8, "dept": 0.6}


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "results")
    experiment = store.out_dir / "conf" / "experiment" / "lora-chosen.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("trainer: {steps: 8}\n")
    for method, accuracy in METHODS.items():
        for draw in (1, 2, 3):
            more = {"seconds": {"train": 1.23456789, "total": 2.0}, "tuning": {"experiment": "lora-chosen"}}
            file_run(store, [f"method={method}", "model=tiny-bert", "task=demo_news"], accuracy, draw, **more)
    return store


def packed(store: Store, name: str = "packed"):
    folder = store.out_dir.parent / name
    pack(store, store.all(), folder)
    return folder


def of(store: Store, method: str) -> statistics.Cell:
    return statistics.load_cell(store, [r for r in store.all() if r.method == method])


def test_every_number_is_the_same(store):
    again = Store(packed(store))
    for before, after in zip(store.all(), again.all(), strict=True):
        assert replace(after, predictions={}, seconds={}, curves={}) == replace(
            before, predictions={}, seconds={}, curves={}
        )
        assert after.seconds["train"] == 1.235
        assert after.curves["loss"][-1] == before.curves["loss"][-1]  # `reproduce` compares it
        assert after.predictions["shortened"]
    one, other = current_rows(store), current_rows(again)
    same = ("run_id", "variant", "score", "outdated", "draw_sha")
    assert [[r[k] for k in same] for r in one] == [[r[k] for k in same] for r in other]
    assert statistics.summarise(of(again, "lora")) == statistics.summarise(of(store, "lora"))
    assert statistics.permute_items(of(again, "lora"), of(again, "dept")) == statistics.permute_items(
        of(store, "lora"), of(store, "dept")
    )


def test_it_is_small_and_the_same_each_time(store):
    first, second = packed(store) / PACKED, packed(store, "again") / PACKED
    assert first.read_bytes() == second.read_bytes()
    whole = sum(path.stat().st_size for path in store.out_dir.rglob("*") if path.is_file())
    assert first.stat().st_size < whole / 8
    with tarfile.open(first) as archive:
        names = archive.getnames()
    assert "conf/experiment/lora-chosen.yaml" in names
    assert len(names) == 6 + 6 + 1


def test_tar_gives_a_folder_of_results(store, tmp_path):
    with tarfile.open(packed(store) / PACKED) as archive:
        archive.extractall(tmp_path / "mine", filter="data")
    mine = Store(tmp_path / "mine")
    assert mine.packed is None
    assert [r.run_id for r in mine.all()] == [r.run_id for r in store.all()]
    file_run(mine, ["method=ia3", "model=tiny-bert", "task=demo_news"])
    assert len(mine.all()) == 7


def test_it_is_not_written_to(store, capsys):
    folder = packed(store)
    again = Store(folder)
    with pytest.raises(UsageError, match="packed and only read"), again.claim("0123456789abcdef"):
        pass
    with pytest.raises(UsageError, match=r"tar -xf .*packed.tar.xz -C FOLDER"):
        again.save(again.all()[0])
    with pytest.raises(SystemExit) as ended:
        main(["method=majority", "task=demo_news", "tracking.wandb=disabled", f"out_dir={folder}"])
    assert ended.value.code == 2
    assert "packed and only read" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [PACKED]


def test_other_answers_than_the_records_are_not_packed(store):
    run = store.all()[0]
    path = store.folder(run.run_id) / run.predictions["file"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["prediction"] = "sports"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UsageError, match="not what the run wrote"):
        packed(store)


def a_file(folder, *members: tarfile.TarInfo):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for member in members:
            member.size = 1 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"x"))
    folder.mkdir()
    (folder / PACKED).write_bytes(lzma.compress(content.getvalue()))
    return folder / PACKED


def test_what_is_no_packed_file_is_one_message(store, tmp_path):
    outside = a_file(tmp_path / "a", tarfile.TarInfo("records/../../evil.json"))
    with pytest.raises(UsageError, match=r"`records/\.\./\.\./evil.json` does not belong"):
        unpacked(outside)
    link = tarfile.TarInfo("records/0123456789abcdef.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(UsageError, match="does not belong"):
        Store(a_file(tmp_path / "b", link).parent)
    assert not list((tmp_path / "cache").rglob("*.json"))

    path = packed(store) / PACKED
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UsageError, match=r"damaged or no packed file of records .* Fetch it again"):
        Store(path.parent)


def test_one_record_that_is_damaged_costs_no_other(store, tmp_path, caplog):
    records = store.all()
    content = io.BytesIO()
    with tarfile.open(packed(store) / PACKED) as archive, tarfile.open(fileobj=content, mode="w") as changed:
        for member in archive:
            data = archive.extractfile(member).read()
            if member.name == f"records/{records[0].run_id}.json":
                data = data.replace(b'"done"', b'"DONE"')
            changed.addfile(member, io.BytesIO(data))
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / PACKED).write_bytes(lzma.compress(content.getvalue()))
    assert len(Store(folder).all()) == len(records) - 1
    assert "is damaged" in caplog.text


def test_the_command(store, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["pack", "--out-dir", str(store.out_dir), "--method", "lora", "--to", str(tmp_path / "shipped")])
    assert ended.value.code == 0
    assert "3 runs" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["pack", "--out-dir", str(store.out_dir), "--to", str(store.out_dir)])
    assert ended.value.code == 2
    assert "need a folder for themselves" in capsys.readouterr().err


@pytest.mark.slow
def test_real_runs_are_compared_and_reported_from_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results"
    tiny = ["task=demo_news", "model=tiny-bert", "trainer=debug", "shots=2", "tracking.wandb=disabled"]
    with pytest.raises(SystemExit) as ended:
        main(["-m", "method=head_only,bitfit", "data_seed=1,2", *tiny, f"out_dir={results}"])
    assert ended.value.code == 0
    folder = packed(Store(results))
    capsys.readouterr()
    told = []
    for out_dir in (results, folder):
        with pytest.raises(SystemExit) as ended:
            main(["compare", "head_only", "bitfit", "--json", "--out-dir", str(out_dir)])
        assert ended.value.code == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", Store(folder).all()[0].run_id, "--out-dir", str(folder)])
    assert ended.value.code == 0  # equal in every number
    with pytest.raises(SystemExit) as ended:
        main(["report", "--out-dir", str(folder), "--out", str(tmp_path / "report.html")])
    assert ended.value.code == 0
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_a_place_that_is_no_folder_is_refused_before_anything_is_read(store, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for argv, words in (
        (["--to", str(tmp_path / "file")], "--to"),
        (["--to", "x", "--out-dir", str(tmp_path / "absent")], "there is no folder"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["pack", *argv, *([] if "--out-dir" in argv else ["--out-dir", str(tmp_path)])])
        assert caught.value.code == 2
        assert words in capsys.readouterr().err
