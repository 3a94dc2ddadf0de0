"""The report: its data are those of the records, no text of theirs becomes part of the page, and a browser shows it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_board import LABELS, METHODS, fill
from made_up_records import a_record

from peftbench.errors import UsageError
from peftbench.figures.report.command import report_command
from peftbench.figures.report.detail import by_class, confusion, detail, errors
from peftbench.figures.report.page import embedded, page
from peftbench.figures.report.payload import payload
from peftbench.records import leaderboard
from peftbench.records.predictions import Item
from peftbench.records.store import Store
from peftbench.tasks.problems import kind

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\"'&\u2028"
FORMULA = "=cmd|' /C calc'!A0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("report") / "results")
    fill(store, items=40)
    store.save(a_record("f" * 16, status="failed", score=None, scores={}, reason=HOSTILE, method="lora", model=FORMULA))
    strange = a_record("e" * 16, method=HOSTILE, model=HOSTILE, subset="eng", shots=5, notes=[HOSTILE])
    strange.diagnosis = {"warnings": [HOSTILE]}
    strange.config = {**strange.config, "method": {"name": HOSTILE}}
    store.save(strange)
    return store


@pytest.fixture(scope="module")
def report(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert report_command(["--out-dir", str(store.out_dir), "--out", str(path)]) == 0
    return path


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.S
    )
    assert found is not None
    return json.loads(found[1])


def table(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(part["columns"], row, strict=True)) for row in part["rows"]]


# --- data


def test_every_run_and_cell_is_there_with_its_numbers(store: Store, report: Path) -> None:
    made = data_of(report)
    rows = {r["run_id"]: r for r in leaderboard.current_rows(store)}
    runs = table(made["runs"])
    assert {r["run_id"]: r["score"] for r in runs} == {k: r["score"] for k, r in rows.items()}
    cells = table(made["cells"])
    assert sum(c["runs"] for c in cells) == len(rows) - 1
    cell = next(c for c in cells if (c["method"], c["subset"], c["shots"]) == ("lora", "swa", 20))
    members = [runs[i] for i in cell["ids"]]
    assert {m["method"] for m in members} == {"lora"}
    assert cell["score"] == pytest.approx(sum(m["score"] for m in members) / 3)
    assert cell["low"] < cell["score"] < cell["high"]
    assert cell["covers"] == "draws and items"
    assert cell["ties"]


def test_ties_have_an_a_in_every_setting(report: Path) -> None:
    settings: dict[tuple, list[str]] = {}
    for cell in table(data_of(report)["cells"]):
        if cell["method"] in METHODS and cell["model"] == "minilm":
            settings.setdefault((cell["subset"], cell["shots"]), []).append(cell["ties"])
    assert len(settings) == 6
    assert all(any("a" in letters for letters in ties) for ties in settings.values())


def test_the_page_of_a_run_is_its_record(store: Store, report: Path) -> None:
    more = data_of(report)["details"]["0" * 16]
    record = store.load("0" * 16)
    assert record is not None
    assert more["seconds"] == record.seconds
    assert more["config"]["task.name"] == "masakhanews"
    assert more["curves"]["loss"] == pytest.approx(record.curves["loss"], rel=1e-4)
    assert more["command"] == "peftbench reproduce 0000000000000000"
    counts = more["confusion"]["counts"]
    assert sum(map(sum, counts)) == more["items"] == 40
    right = sum(counts[i][i] for i in range(len(LABELS)))
    assert 100 * right / 40 == pytest.approx(record.score)
    assert len(more["errors"]) == more["wrong"] == 40 - right


def test_few_details_go_to_every_cell_first(store: Store) -> None:
    rows = leaderboard.current_rows(store)
    made = payload(store, rows, details=31)
    first = {cell["ids"][0] for cell in table(made["cells"]) if cell["ids"]}
    assert {rows[i]["run_id"] for i in first} == made["details"].keys()
    assert any("31 of 92 runs have a page" in note for note in made["notes"])


def test_a_missing_predictions_file_costs_a_note_only(store: Store, tmp_path: Path) -> None:
    record = store.load("0" * 16)
    assert record is not None
    more = detail(Store(tmp_path), record)
    assert more["confusion"] is None
    assert any("no predictions" in note for note in more["notes"])


def test_confusion_and_errors() -> None:
    items = [
        Item("a", "x", "x", {"x": 1.0, "y": 0.0}),
        Item("b", "x", "y", {"x": 1.0, "y": 1.5}),
        Item("c", "y", None, {}, "nonsense"),
        Item("d", "y", "x", {"x": 4.0, "y": 1.0}),
    ]
    assert confusion(items, ["x", "y"]) == {
        "labels": ["x", "y"],
        "columns": ["x", "y", "(no label)"],
        "counts": [[1, 1, 0], [1, 0, 1]],
    }
    found = errors(items, kind("classification"))
    assert [row[0] for row in found["errors"]] == ["d", "b", "c"]
    assert found["errors"][0] == ["d", "y", "x", 3.0, None, None]
    assert found["errors"][2] == ["c", "y", "(no label)", None, "nonsense", None]
    assert confusion([Item("a", 2.5, 2.0)], []) is None


def test_f1_of_each_class_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    targets, answers = list("aabbbcd"), ["a", "b", "b", "b", None, "a", "b"]
    items = [Item(str(i), t, a, {}, None) for i, (t, a) in enumerate(zip(targets, answers, strict=True))]
    counted = confusion(items, list("abcd"))
    assert counted is not None
    rows = by_class(counted)
    shown = [str(a) for a in answers]
    expected = precision_recall_fscore_support(targets, shown, labels=list("abcd"), zero_division=0)
    assert [[v or 0.0 for v in row[2:]] for row in rows] == [
        pytest.approx([100 * column[i] for column in expected[:3]], abs=0.01) for i in range(4)
    ]
    assert [row[:2] for row in rows] == [["a", 2], ["b", 3], ["c", 1], ["d", 1]]
    assert rows[2][2:] == [None, 0.0, 0.0]


@pytest.mark.browser
def test_the_legend_picks_a_method_out_and_colours_agree(browser: Any, report: Path) -> None:
    visit(browser, report, "plots")
    names = texts(browser, ".plot:first-of-type .legend button")
    assert "lora" in names
    assert "dept" in names
    browser.execute_script("[...document.querySelectorAll('.legend button')].find(b => b.value === 'lora').click()")
    groups = "[...document.querySelectorAll('.plot:first-of-type [data-method]')]"
    seen = browser.execute_script(f"return {groups}.map(g => [g.dataset.method, g.style.opacity])")
    assert {(m == "lora", o) for m, o in seen} == {(True, ""), (False, "0.08")}
    swatch = browser.execute_script(
        "return getComputedStyle([...document.querySelectorAll('.legend button')].find(b => b.value === 'lora')"
        ".querySelector('i')).backgroundColor"
    )
    assert swatch == "rgb(0, 114, 178)"


# --- the file


def test_the_file_is_one_page_that_loads_nothing(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    body = html.replace(re.search(r"<script>(.*?)</script>", html, re.S)[0], "")  # type: ignore[index]
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", body)
    assert html.count("<script") == html.count("</script>") == 2


def test_no_text_ends_the_data(report: Path) -> None:
    text = embedded({"a": HOSTILE + "</script><!--"})
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"a": HOSTILE + "</script><!--"}
    assert any(r["method"] == HOSTILE for r in table(data_of(report)["runs"]))


def test_the_same_records_give_the_same_file(store: Store, report: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    report_command(["--out-dir", str(store.out_dir), "--out", str(again)])
    assert again.read_bytes() == report.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "report.pdf"], r"must end in \.html"),
        (["--method", "loar"], "Did you mean `lora`"),
        (["--details", "many"], "not a whole number"),
        (["--method", "dept", "--status", "failed"], "No run matches"),
    ],
)
def test_mistakes_name_the_way_out(store: Store, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        report_command([*arguments, "--out-dir", str(store.out_dir)])


def test_no_runs_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert report_command(["--out-dir", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 0
    assert "No runs" in capsys.readouterr().out
    assert not (tmp_path / "r.html").exists()


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    binary, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium or its driver is not installed (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def visit(browser: Any, path: Path, view: str = "cells") -> None:
    browser.get("about:blank")
    browser.get(f"{path.as_uri()}#{view}")


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(n => n.textContent)"
    return browser.execute_script(script, selector)


def column(browser: Any, heading: str) -> list[str]:
    place = texts(browser, ".board thead th").index(heading) + 1
    return texts(browser, f".board tbody td:nth-child({place})")


def wait_for(browser: Any, script: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(lambda b: b.execute_script("return " + script))


def click(browser: Any, heading: str) -> None:
    script = "[...document.querySelectorAll('.board thead button')].find(b => b.textContent === arguments[0]).click()"
    browser.execute_script(script, heading)


@pytest.mark.browser
def test_every_view_without_a_word_on_the_console(browser: Any, report: Path) -> None:
    for view in ("cells", "runs", "cell=0", "run=" + "0" * 16, "run=" + "f" * 16, "run=nothing", "%E0%A4", "plots"):
        visit(browser, report, view)
        assert len(wait_for(browser, "document.getElementById('main').textContent")) > 20
    wait_for(browser, "document.querySelectorAll('.chart svg.marks').length === 5")
    assert "cannot be drawn" not in " ".join(texts(browser, "main"))
    assert browser.get_log("browser") == []


@pytest.mark.browser
def test_no_text_of_the_records_runs(browser: Any, report: Path) -> None:
    for view in ("cells", "runs", "run=" + "e" * 16, "run=" + "f" * 16, "plots"):
        visit(browser, report, view)
    wait_for(browser, "document.querySelectorAll('.chart svg.marks').length === 5")
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    visit(browser, report, "runs")
    assert HOSTILE in texts(browser, ".board td:first-child")


@pytest.mark.browser
def test_sorting(browser: Any, report: Path) -> None:
    visit(browser, report, "runs")
    assert texts(browser, "th[aria-sort=descending]") == ["score"]
    scores = [float(s) for s in column(browser, "score") if s]
    assert scores == sorted(scores, reverse=True)
    assert column(browser, "score")[-1] == ""  # the failed run has no score and stands last
    click(browser, "score")
    assert [float(s) for s in column(browser, "score") if s] == sorted(scores)
    assert column(browser, "score")[-1] == ""
    click(browser, "shots")
    assert [int(s) for s in column(browser, "shots")] == sorted(int(s) for s in column(browser, "shots"))
    assert texts(browser, "th[aria-sort]") == ["shots"]


@pytest.mark.browser
def test_filtering_by_words_and_choices(browser: Any, report: Path) -> None:
    visit(browser, report, "runs")
    browser.execute_script(
        "const s = document.querySelector('[data-column=method]');"
        "s.value = [...s.options].find(o => o.textContent === 'lora').value; s.dispatchEvent(new Event('change'))"
    )
    assert set(column(browser, "method")) == {"lora"}
    search = browser.find_element("css selector", "input[type=search]")
    search.send_keys("swa MINILM")
    assert set(column(browser, "subset")) == {"swa"}
    assert len(column(browser, "method")) == 9
    search.send_keys(" nowhere")
    assert texts(browser, "[role=status]") == ["nothing fits these filters"]


@pytest.mark.browser
def test_csv_is_whole_and_inert(browser: Any, report: Path, store: Store) -> None:
    visit(browser, report, "runs")
    rows = list(csv.DictReader(io.StringIO(browser.execute_script("return report.tables.runs.csv()"), newline="")))
    assert {r["run_id"] for r in rows} == {r["run_id"] for r in leaderboard.current_rows(store)}
    by_run = {r["run_id"]: r for r in rows}
    assert by_run["f" * 16]["model"] == "'" + FORMULA
    assert by_run["e" * 16]["method"] == HOSTILE
    assert float(by_run["0" * 16]["score"]) == pytest.approx(store.load("0" * 16).score)  # type: ignore[union-attr]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_leaves_the_window_at_the_side(browser: Any, report: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for view in ("cells", "runs", "plots", "run=" + "0" * 16, "run=" + "e" * 16):
        visit(browser, report, view)
        if view == "plots":
            wait_for(browser, "document.querySelectorAll('.chart svg.marks').length === 5")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, view
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.browser
def test_ten_thousand_rows(browser: Any, report: Path, tmp_path: Path) -> None:
    """Sorted, filtered and turned over; the page holds a hundred rows at a time, however many there are."""
    made = data_of(report)
    row = made["runs"]["rows"][0]
    made["runs"]["rows"] = [[f"run{i:05}", *row[1:3], i / 100, *row[4:]] for i in range(10_000)]
    path = tmp_path / "many.html"
    path.write_bytes(page({**made, "plots": [], "details": {}}))
    visit(browser, path, "runs")
    assert texts(browser, "[role=status]") == ["1 to 100 of 10,000"]
    assert column(browser, "score")[0] == "99.99"
    browser.execute_script("[...document.querySelectorAll('button')].find(b => b.textContent.includes('next')).click()")
    assert texts(browser, "[role=status]") == ["101 to 200 of 10,000"]
    browser.find_element("css selector", "input[type=search]").send_keys("run01234")
    assert column(browser, "run") == ["run01234"]
    assert browser.execute_script("return document.querySelectorAll('.board tbody tr').length") == 1
    assert browser.get_log("browser") == []
