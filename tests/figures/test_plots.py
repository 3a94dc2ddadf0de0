"""Plots: their data are right, no label lies on another, and the same records give the same bytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_board import METHODS, fill
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from tiers import rest_slow

from peftbench.errors import UsageError
from peftbench.figures import pareto, plot, style
from peftbench.figures.command import plot_command
from peftbench.figures.labels import place, spread
from peftbench.records import leaderboard
from peftbench.records.store import Store
from peftbench.tables.standings import Standings, by_block, complete


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("standings") / "results")
    fill(store, items=40)
    fill_more(store)
    return store


def fill_more(store: Store) -> None:
    """A floor without a backbone, and a method that has not run everywhere."""
    for record in fill(Store(store.out_dir / "other"), ["majority"], shots=(10,), items=40):
        record.run_id = "f" + record.run_id[1:]
        record.model = "none"
        store.save(record)
    for record in fill(Store(store.out_dir / "other"), ["bitfit"], ["eng"], (5,), items=40):
        record.run_id = "e" + record.run_id[1:]
        store.save(record)


@pytest.fixture(scope="module")
def standings(store: Store) -> Standings:
    return standings_of(store)


def standings_of(store: Store, **wanted: Any) -> Standings:
    rows = [r for r in leaderboard.current_rows(store) if all(r[k] in v for k, v in wanted.items())]
    standings = Standings(store, rows)
    standings.with_items = False  # scores alone are enough here, and quick
    return standings


# --- data


def test_shots_has_a_line_a_method_in_the_order_of_shots(standings: Standings, store: Store) -> None:
    made = plot.make("shots", standings, store)
    assert [p["title"] for p in made["panels"]] == ["masakhanews/eng, minilm", "masakhanews/swa, minilm"]
    eng = made["panels"][0]
    assert eng["shots"] == ["5", "10", "20"]
    assert [line["method"] for line in eng["lines"]] == ["bitfit", *sorted(METHODS[:4]), "majority", "prompt_tuning"]
    lora = next(line for line in eng["lines"] if line["method"] == "lora")
    rows = [r["score"] for r in standings.rows if (r["method"], r["subset"], r["shots"]) == ("lora", "eng", 10)]
    point = lora["points"][1]
    assert point["score"] == pytest.approx(np.mean(rows))
    assert point["low"] < point["score"] < point["high"]
    assert point["runs"] == 3


def test_a_floor_stands_in_the_blocks_of_every_backbone(standings: Standings) -> None:
    blocks = by_block(standings.cells)
    assert {b.model for b in blocks} == {"minilm"}
    assert [c.label for b, cells in blocks.items() if b.shots == 10 and b.subset == "eng" for c in cells].count(
        "majority"
    ) == 1


def test_complete_takes_the_largest_table_without_gaps(standings: Standings) -> None:
    chosen, methods, notes = complete(by_block(standings.cells))
    assert (len(chosen), methods) == (6, sorted(METHODS))
    assert notes == ["left out for missing cells: bitfit, majority"]


def test_pareto_means_are_over_the_same_blocks(standings: Standings, store: Store) -> None:
    made = plot.make("pareto", standings, store)
    lora = next(p for p in made["points"] if p["method"] == "lora")
    means: dict[tuple, list[float]] = {}
    for r in standings.rows:
        if r["method"] == "lora":
            means.setdefault((r["subset"], r["shots"]), []).append(r["score"])
    assert lora["score"] == pytest.approx(np.mean([np.mean(v) for v in means.values()]))
    assert lora["trainable_params"] == [147_456] * 3
    low, high = lora["train_seconds"][1:]
    assert low < lora["train_seconds"][0] < high


def test_a_sequence_has_the_mean_over_what_was_learned_so_far(tmp_path: Path, make_record, store: Store) -> None:
    own = Store(tmp_path)
    for seed, fall in ((1, 20.0), (2, 40.0)):
        matrix = [[None, None], [90.0, 10.0], [90.0 - fall, 80.0]]
        facts = {"task": "sequence", "subset": "a+b", "metric": "op", "score": 80.0, "scores": {"op": 80.0}}
        sequence = {"tasks": ["a", "b"], "metrics": ["accuracy"] * 2, "heads": "own", "matrix": matrix}
        own.save(make_record(run_id=f"{seed:016x}", seed=seed, **facts, sequence=sequence))
    (panel,) = plot.make("sequence", standings_of(own), own)["panels"]
    assert panel["tasks"] == ["a", "b"]
    assert [(line["runs"], line["scores"]) for line in panel["lines"]] == [(2, [90.0, (75 + 65) / 2])]
    with pytest.raises(UsageError, match="none of these runs is of a sequence of tasks"):
        plot.make("sequence", standings_of(store), store)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(values: list[tuple[int, int]]) -> None:
    points = [{"method": str(i), "score": s, "c": [float(c), c, c]} for i, (c, s) in enumerate(values)]
    kept = {int(name) for name in pareto.front(points, "c")}
    for i, (cost, score) in enumerate(values):
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in values)
        assert (i in kept) == (not beaten)


def test_ranks_are_those_of_scipy(standings: Standings, store: Store) -> None:
    from scipy.stats import rankdata

    made = plot.make("ranks", standings, store)
    scores: dict[tuple, dict[str, list[float]]] = {}
    for r in standings.rows:
        if r["method"] in METHODS:
            scores.setdefault((r["subset"], r["shots"]), {}).setdefault(r["method"], []).append(r["score"])
    table = [[-np.mean(by[m]) for m in METHODS] for by in scores.values()]
    expected = dict(zip(METHODS, np.mean([rankdata(row) for row in table], axis=0), strict=True))
    assert {r["method"]: r["rank"] for r in made["ranks"]} == pytest.approx(expected)
    assert made["blocks"] == 6


def test_the_heat_map_leaves_gaps_open(standings: Standings, store: Store) -> None:
    panel = next(p for p in plot.make("languages", standings, store)["panels"] if "5 shots" in p["title"])
    assert panel["subsets"] == ["eng", "swa"]
    assert panel["scores"][panel["methods"].index("bitfit")][1] is None


def test_cost_bars_add_up_to_the_mean_total_without_imports(standings: Standings, store: Store) -> None:
    made = plot.make("cost", standings, store)
    bars = {b["method"]: b for b in made["bars"]}
    totals = [r["total_seconds"] - r["phases"]["import"] for r in standings.rows if r["method"] == "full"]
    assert sum(bars["full"]["seconds"].values()) == pytest.approx(np.mean(totals), abs=0.01)
    assert "import" not in made["phases"]
    assert any("without the seconds of imports" in note for note in made["notes"])
    assert bars["full"]["runs"] == len(totals) == 18


def test_training_holds_the_curves_of_the_record(store: Store) -> None:
    made = plot.make("training", standings_of(store, subset=["eng"], shots=[10], method=["lora"]), store)
    assert len(made["runs"]) == 3
    record = store.load(made["runs"][0]["run_id"])
    assert record is not None
    assert made["runs"][0]["loss"] == record.curves["loss"]


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("training", {}, "--method"),
        ("training", {"method": ["majority"], "subset": ["nothing"]}, "nothing to draw"),
        ("ranks", {"method": ["lora"]}, "at least two methods"),
        ("shoots", {}, "Did you mean `shots`"),
    ],
)
def test_what_cannot_be_shown_is_said(store: Store, kind: str, wanted: dict, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        plot.make(kind, standings_of(store, **wanted), store)


# --- pictures


def text_boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Every text that can be seen, with its box in pixels."""
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    hidden = set(_hidden_ticks(figure))
    seen = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in seen]


def _hidden_ticks(figure: Figure) -> Iterator[int]:
    """Tick labels that exist but are not drawn: those beyond the limits of their axis, and spare ones."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            drawn = {id(label) for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
            every = {id(label) for tick in [*axis.majorTicks, *axis.minorTicks] for label in (tick.label1, tick.label2)}
            yield from every - drawn if axes.axison else every


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a hair (a pixel), and texts that leave the figure."""
    texts, boxes = zip(*text_boxes(figure), strict=True)
    left, low, right, high = np.array([b.extents for b in boxes]).T
    across = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    up = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    found = [(texts[i], texts[j]) for i, j in np.argwhere((across > 1) & (up > 1)) if i < j]
    page = figure.bbox
    outside = (left < -1) | (low < -1) | (right > page.x1 + 1) | (high > page.y1 + 1)
    return found + [(texts[i], "the edge") for i in np.flatnonzero(outside)]


def picture(made: plot.Data) -> Figure:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style.RC)
        return plot.figure(made)


def made_up(kind: str, count: int) -> plot.Data:
    """The data of a plot of so many methods, many of them close together, with names of many lengths."""
    rng = np.random.default_rng(count)
    names = [f"{['prompt_tuning', 'lora', 'ia3', 'bitfit'][i % 4]}_{i}" for i in range(count)]
    score = (70 + 3 * rng.standard_normal(count)).round(3).tolist()
    head: plot.Data = {
        "kind": kind,
        "title": "A title of some length: masakhanews, 16 subsets, minilm",
        "notes": ["a note"],
        "looks": style.looks({name: name for name in names}, ()),
    }
    if kind == "shots":
        lines = [
            {
                "method": n,
                "points": [
                    {"shots": k, "score": s + d, "low": s - 7, "high": s + 7} for k, d in (("5", -5), ("10", 0))
                ],
            }
            for n, s in zip(names, score, strict=True)
        ]
        panel = {"title": "masakhanews/eng, minilm", "metric": "f1_weighted", "shots": ["5", "10"], "lines": lines}
        return {**head, "panels": [panel, {**panel, "title": "masakhanews/swa, e5-small-q4, protocol of the paper"}]}
    if kind == "pareto":
        points = [{"method": n, "score": s, "low": s - 2, "high": s + 2, "trainable_params": [c, c, c],
                   "train_peak_mib": [100 + c / 1e5] * 3, "train_seconds": [c / 1e4, c / 2e4, c / 5e3]}
                  for n, s, c in zip(names, score, (10 ** rng.uniform(4, 5, count)).tolist(), strict=True)]  # fmt: skip
        fronts = {cost: pareto.front(points, cost) for cost in pareto.COSTS}
        return {**head, "metric": "accuracy", "costs": pareto.COSTS, "points": points, "fronts": fronts}
    if kind == "ranks":
        ranked = [{"method": n, "rank": 1 + (count - 1) * i / count} for i, n in enumerate(names)]
        groups = [names[i : i + 4] for i in range(0, max(1, count - 3), 2)]
        return {**head, "blocks": 6, "p": 0.0012, "test": "Wilcoxon signed-rank tests of all pairs", "ranks": ranked,
                "groups": groups}  # fmt: skip
    if kind == "languages":
        panel = {"title": "masakhanews, minilm, 10 shots", "metric": "f1_weighted", "methods": names,
                 "subsets": [f"language_{i}" for i in range(max(2, count // 3))]}  # fmt: skip
        panel["scores"] = [[s for _ in panel["subsets"]] for s in score]
        return {**head, "panels": [panel, {**panel, "title": "masakhanews, minilm, 20 shots"}]}
    if kind == "cost":
        phases = ["import", "data", "model", "method", "train", "eval", "save", "other"]
        bars = [{"method": n, "runs": 3, "seconds": dict.fromkeys(phases, 1 + i)} for i, n in enumerate(names)]
        return {**head, "phases": phases, "bars": bars}
    if kind == "sequence":
        lines = [{"method": n, "runs": 3, "scores": [s + 8, s + 4, s]} for n, s in zip(names, score, strict=True)]
        panel = {"title": "sst2+ag_news+rte, minilm", "metric": "op", "tasks": ["sst2", "ag_news", "rte"]}
        return {**head, "panels": [{**panel, "lines": lines}, {**panel, "title": "rte+ag_news+sst2", "lines": lines}]}
    if kind == "budget":
        lines = [{"method": n, "points": [{"score": s + d, "low": s - 7, "high": s + 7} for d in (0, 1, 0.5)]}
                 for n, s in zip(names, score, strict=True)]  # fmt: skip
        panel = {"title": "", "metric": "f1_weighted", "budgets": [0, 4, 8], "lines": lines}
        return {**head, "panels": [panel], "colours": head["looks"]}
    curve = {"step": [1, 2, 3], "dev_step": [2, 3], "seed": 1, "data_seed": 2}
    runs = [{**curve, "method": n, "loss": [2, 1, 0.1], "dev": [s, s]} for n, s in zip(names, score, strict=True)]
    return {**head, "runs": runs}


@pytest.mark.parametrize("count", rest_slow([3, 12, 45], [45]))
@pytest.mark.parametrize("kind", plot.names())
def test_no_label_lies_on_another(kind: str, count: int) -> None:
    assert overlaps(picture(made_up(kind, count))) == []


def test_the_check_sees_an_overlap() -> None:
    figure = style.new_figure(3, 3)
    for x in (0.5, 0.52, 0.98):
        figure.text(x, 0.5, "a label")
    assert overlaps(figure) == [("a label", "a label"), ("a label", "the edge")]


def test_real_boards_have_no_overlap(standings: Standings, store: Store) -> None:
    for kind in {*plot.names()} - {"sequence", "budget"}:
        chosen = standings_of(store, subset=["eng"], shots=[10]) if kind == "training" else standings
        assert overlaps(picture(plot.make(kind, chosen, store))) == [], kind


def test_colours_differ_in_grey_or_by_marker_and_dash() -> None:
    names = [f"m{i:02}" for i in range(45)]
    looks = list(style.looks({name: name for name in names}, ()).values())
    assert len({(look["colour"], look["marker"]) for look in looks}) == 45
    for one, other in combinations(looks[:12], 2):
        assert one["marker"] != other["marker"]
    assert len({look["colour"] for look in looks[:7]}) == 7
    for colour in style.COLOURS:
        red, green, blue = to_rgb(colour)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.7  # seen on white
    assert len(set(style.FILLS)) == len(style.FILLS)  # no two phases of one colour


def test_a_method_has_one_colour_whatever_is_shown() -> None:
    methods = ["lora", "dept", "pet", "kpt", "lm_bff"]
    whole = style.looks({name: name for name in methods}, methods)
    for name in methods:
        assert style.looks({f"{name} lr=1": name}, methods)[f"{name} lr=1"] == whole[name]
    assert whole["lora"]["colour"] == style.looks({"lora": "lora"}, ())["lora"]["colour"]
    three = style.looks({"lora": "lora", "lora rank=16": "lora", "lora rank=32": "lora"}, methods)
    assert len({look["colour"] for look in three.values()}) == 3
    assert len({look["marker"] for look in three.values()}) == 3


# --- placing


@given(st.lists(st.floats(0, 100), min_size=1, max_size=45), st.floats(0.5, 4))
def test_spread_keeps_order_and_distance(wanted: list[float], gap: float) -> None:
    found = spread(wanted, gap, 0, 200)
    for (a, x), (b, y) in combinations(zip(wanted, found, strict=True), 2):
        assert abs(x - y) >= gap - 1e-6
        assert (x < y) == (a < b) or a == b
    assert all(-1e-6 <= x <= 200 + 1e-6 for x in found)


def test_spread_leaves_alone_what_is_apart() -> None:
    assert spread([10, 50, 90], 5, 0, 100) == [10, 50, 90]
    assert spread([50, 50], 10, 0, 100) == [45, 55]
    assert spread([1, 2, 3], 60, 0, 100) == pytest.approx([0, 50, 100])


def test_placed_labels_are_inside_and_apart() -> None:
    points, sizes = [(50.0, 50.0)] * 20, [(30.0, 8.0)] * 20
    corners = place(points, sizes, (0, 0, 200, 100), [(45, 45, 55, 55)])
    boxes = [(x, y, x + 30, y + 8) for x, y in corners] + [(45, 45, 55, 55)]
    for a, b in combinations(boxes, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
    assert all(x >= 0 and x + 30 <= 200 and y >= 0 and y + 8 <= 100 for x, y in corners)


# --- files and the command


@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_the_same_data_give_the_same_bytes(suffix: str) -> None:
    made = made_up("ranks", 5)
    first = plot.render(made, suffix)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False}):
        assert plot.render(made, suffix) == first
    assert first[:4] == {"svg": b"<?xm", "pdf": b"%PDF", "png": b"\x89PNG", "json": b'{\n "'}[suffix]


def test_names_are_text_not_mathematics() -> None:
    made = made_up("cost", 3)
    made["bars"][0]["method"] = name = "$x^2$ & <b>\x07\u200b Ж"
    made["looks"][name] = made["looks"]["lora_1"]
    assert b"<?xml" in plot.render(made, "svg")
    texts = [t for t, _ in text_boxes(picture(plot._printable(made)))]
    assert any(t.startswith("$x^2$ & <b>") for t in texts)


def test_the_command_writes_a_file(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "figures" / "shots.json"
    assert plot_command(["shots", "--out-dir", str(store.out_dir), "--method", "lora", "--out", str(path)]) == 0
    made = json.loads(path.read_text())
    assert made["kind"] == "shots"
    assert [line["method"] for line in made["panels"][0]["lines"]] == ["lora"]
    assert str(path) in capsys.readouterr().out


def test_without_a_kind_the_kinds_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert plot_command([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {kind} " in out for kind in plot.names())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank"], "Did you mean `ranks`"),
        (["shots", "--out", "a.gif"], r"must end in \.svg, \.pdf, \.png, \.json"),
        (["shots", "--method", "loar"], "Did you mean `lora`"),
        (["shots", "--colour", "red"], "--colour: no such option"),
    ],
)
def test_mistakes_name_the_way_out(store: Store, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plot_command([*arguments, "--out-dir", str(store.out_dir)])


def test_no_runs_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert plot_command(["shots", "--out-dir", str(tmp_path)]) == 0
    assert "No runs" in capsys.readouterr().out


def test_nothing_heavy_is_imported_for_the_list_or_for_json() -> None:
    code = (
        "import sys; from peftbench.figures.command import plot_command; plot_command([]); "
        "print(sorted({'torch', 'matplotlib', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("[]")
