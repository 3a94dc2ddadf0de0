"""Exported folders answer without peftbench, and as the run's model does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import peftbench

FAST = ["task=demo_news", "shots=1", "trainer=debug", "trainer.probe=false", "tracking.wandb=disabled"]
TEXTS = ["A match was won in the last minute.", "Rain", "The central bank raises rates, the third time this year."]
ALONE = """\
import json, sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "peftbench":
            raise ImportError("peftbench is not here")
sys.meta_path.insert(0, Blocked())
names = {"__file__": sys.argv[1] + "/README.md", "__name__": "alone"}
exec(open(sys.argv[2]).read(), names)
json.dump(names["logits"](json.loads(sys.argv[3])).tolist(), open(sys.argv[4], "w"))
"""


def finish(folder: Path, *overrides: str) -> peftbench.Run:
    return peftbench.run(*FAST, "trainer.save=all", f"out_dir={folder}", *overrides)


def answered_alone(folder: Path, work: Path) -> list[list[float]]:
    """What the code in the README gives in a process of its own that cannot import peftbench."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    (work / "code.py").write_text(code)
    arguments = [str(folder), str(work / "code.py"), json.dumps(TEXTS), str(work / "logits.json")]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *arguments], check=True, capture_output=True)
    return json.loads((work / "logits.json").read_text())


def assert_equal_alone(run: peftbench.Run, folder: Path, work: Path) -> None:
    own = [list(answer.scores.values()) for answer in run.predict(TEXTS)]
    for found, wanted in zip(answered_alone(folder, work), own, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "merge"),
    [
        (["method=lora", "model=tiny-bert", "method.lr.head=0.1", "method.lr.lora=0.1"], False),
        pytest.param(["method=lora", "model=tiny-bert", "method.lr.lora=0.1"], True, marks=pytest.mark.slow),
        pytest.param(["method=prompt_tuning", "model=tiny-bert"], False, marks=pytest.mark.slow),
        pytest.param(["method=p_tuning_v2", "model=tiny-bert"], False, marks=pytest.mark.slow),
        pytest.param(["method=ia3", "model=tiny-bert"], True, marks=pytest.mark.slow),
        pytest.param(["method=bitfit", "model=tiny-bert"], False, marks=pytest.mark.slow),
        pytest.param(["method=full", "model=tiny-roberta"], False, marks=pytest.mark.slow),
        pytest.param(["method=lora", "model=tiny-llama", "method/formulation=head"], False, marks=pytest.mark.slow),
    ],
)
def test_the_readme_answers_without_peftbench(tmp_path: Path, overrides: list[str], merge: bool) -> None:
    run = finish(tmp_path / "results", *overrides)
    folder = run.export(tmp_path / "exported", merge=merge)
    assert_equal_alone(run, folder, tmp_path)
    text = (folder / "README.md").read_text()
    assert f"f1_weighted {run.score:.1f}, 95 % interval" in text
    assert f"peftbench {overrides[0]}" in text or overrides[0] in text
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in folder.rglob("*.json"))
    with pytest.raises(peftbench.UsageError, match="is there already"):
        run.export(folder)


def test_what_plain_peft_cannot_load_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    run = finish(tmp_path / "results", "method=dept", "model=tiny-bert")
    with pytest.raises(peftbench.UsageError, match=r"type DEPT is peftbench's own.*peftbench\.register\(\)"):
        run.export(tmp_path / "exported")
    with pytest.raises(peftbench.UsageError, match=r"cannot be (put|exported)"):
        run.export(tmp_path / "exported", merge=True)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_answers_in_words_and_floors_are_refused(tmp_path: Path) -> None:
    words = finish(tmp_path, "method=lora", "model=tiny-t5")
    with pytest.raises(peftbench.UsageError, match="answers in words"):
        words.export(tmp_path / "exported")
    floor = finish(tmp_path, "method=majority")
    with pytest.raises(peftbench.UsageError, match="no network"):
        floor.export(tmp_path / "exported")


def test_an_adapter_of_peftbench_is_loaded_by_peft_once_it_is_registered(tmp_path: Path) -> None:
    from peft import PeftModel

    from peftbench.config import compose
    from peftbench.models import load_backbone

    run = finish(tmp_path, "method=dept", "model=tiny-bert")
    peftbench.register()
    bare = load_backbone(compose(["model=tiny-bert"]).model, "features").model
    model = PeftModel.from_pretrained(bare, str(run.adapter_path))
    assert model.active_peft_config.peft_type == "DEPT"
