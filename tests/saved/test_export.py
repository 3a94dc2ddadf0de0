"""Exported folders answer without peftbench, and as the run's model does."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from made_up_networks import write

import peftbench

FAST = ["task=demo_news", "shots=1", "trainer=debug", "trainer.probe=false", "trainer.precision=fp32",
        "tracking.wandb=disabled"]  # fmt: skip
CLOZE = ["method/formulation=cloze", "method.formulation.template='{text} Topic: {mask}.'"]
TEXTS = ["A match was won in the last minute.", "Rain", "The central bank raises rates, the third time this year."]
ALONE = """\
import json, sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "peftbench":
            raise ImportError("peftbench is not here")
sys.meta_path.insert(0, Blocked())
for line in sys.stdin:
    folder, code, texts = json.loads(line)
    names = {"__file__": folder + "/README.md", "__name__": "alone"}
    exec(code, names)
    print("answers", json.dumps(names["predict"](texts)), flush=True)
"""

CALIBRATED = ["method.formulation.learn_weights=true", "method.formulation.calibration=contextual",
              "method.formulation.drop_unlikely=0.2", "method.stages=[calibration,supervised]"]  # fmt: skip


def finish(folder: Path, *overrides: str) -> peftbench.Run:
    return peftbench.run(*FAST, "trainer.save=all", f"out_dir={folder}", *overrides)


@pytest.fixture(scope="module")
def answered_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], list[dict]]]:
    """What the code in a README gives in a process, one for all folders, that cannot import peftbench."""
    errors = tmp_path_factory.mktemp("alone") / "stderr"
    command = [sys.executable, "-I", "-c", ALONE]
    with errors.open("w") as log, Popen(command, stdin=PIPE, stdout=PIPE, stderr=log, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(folder: Path) -> list[dict]:
            (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
            process.stdin.write(json.dumps([str(folder), code, TEXTS]) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("answers "):
                    return json.loads(line.removeprefix("answers "))
            raise AssertionError(errors.read_text())

        yield ask


def assert_equal_alone(run: peftbench.Run, answers: list[dict]) -> None:
    for found, wanted in zip(answers, run.predict(TEXTS), strict=True):
        assert found["label"] == (pytest.approx(wanted.label) if isinstance(wanted.label, float) else wanted.label)
        assert found.get("text") == wanted.text
        assert found.get("scores", {}) == pytest.approx(wanted.scores, abs=1e-5)


HEADS = [
    (["method=lora", "model=tiny-bert", "method.lr.head=0.1", "method.lr.lora=0.1"], False),
    (["method=lora", "model=tiny-bert", "method.lr.lora=0.1"], True),
    (["method=prompt_tuning", "model=tiny-bert"], False),
    (["method=p_tuning_v2", "model=tiny-bert"], False),
    (["method=ia3", "model=tiny-bert"], True),
    (["method=bitfit", "model=tiny-bert"], False),
    (["method=full", "model=tiny-roberta", "method.formulation.dense=true", "method.formulation.pooling=cls"], False),
    (["method=lora", "model=tiny-llama", "method/formulation=head"], False),
    (["method=lora", "model=tiny-t5", "method/formulation=head", "method.lr.lora=0.1"], False),
    (["method=lora", "model=tiny-t5", "method/formulation=head", "method.formulation.pooling=mean"], True),
]
WORDS = [
    (["method=lora", "model=tiny-llama", "method/formulation=score", "method.lr.lora=0.1"], False),
    (["method=lora", "model=tiny-llama", "method/formulation=generate", "method.lr.lora=0.1"], True),
    (["method=prompt_tuning", "model=tiny-llama", "method/formulation=generate"], False),
    (["method=full", "model=tiny-gpt2", "method/formulation=score"], False),
    (["method=lora", "model=tiny-t5", "method/formulation=generate", "method.lr.lora=0.1"], False),
    (["method=lora", "model=tiny-t5", "method/formulation=score", "method.lr.lora=0.1"], True),
    (["method=prompt_tuning", "model=tiny-t5", "method/formulation=score"], False),
    (["method=lora", "model=tiny-bert", *CLOZE, "method.formulation.train_head=true"], False),
    (["method=lora", "model=tiny-roberta", *CLOZE], True),
    (["method=prompt_tuning", "model=tiny-bert", *CLOZE], False),
    (["method=full", "model=tiny-bert", *CLOZE], False),
    (["method=lora", "model=tiny-t5", *CLOZE], False),
    (["method=lora", "model=tiny-bert", *CLOZE, "method.formulation.verbalizer=knowledgeable"], False),
    (["method=lora", "model=tiny-bert", *CLOZE, *CALIBRATED], True),
]


@pytest.mark.parametrize(
    ("overrides", "merge"), [HEADS[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in HEADS[1:] + WORDS)]
)
def test_the_readme_answers_without_peftbench(
    tmp_path: Path, answered_alone: Callable[[Path], list[dict]], overrides: list[str], merge: bool
) -> None:
    run = finish(tmp_path / "results", *overrides)
    folder = run.export(tmp_path / "exported", merge=merge)
    assert_equal_alone(run, answered_alone(folder))
    text = (folder / "README.md").read_text()
    assert f"f1_weighted {run.score:.1f}, 95 % interval" in text
    assert f"peftbench {overrides[0]}" in text or overrides[0] in text
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in folder.rglob("*.json"))
    with pytest.raises(peftbench.UsageError, match="is there already"):
        run.export(folder)


def test_code_for_answers_in_words_says_what_the_run_says(tmp_path: Path) -> None:
    """In this process; the slow cases above do it in one without peftbench."""
    run = finish(tmp_path / "results", "method=lora", "model=tiny-llama", "method/formulation=score")
    code = runpy.run_path(str(run.export(tmp_path / "exported") / "inference.py"))
    for found, wanted in zip(code["predict"](TEXTS), run.predict(TEXTS), strict=True):
        assert found["label"] == wanted.label
        assert found["scores"] == pytest.approx(wanted.scores, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "family"), [("bart", "seq2seq"), ("mbart", "seq2seq"), ("opt", "causal")])
def test_heads_of_other_networks_are_read_alike(tmp_path: Path, network: str, family: str) -> None:
    """mBART's decoder starts with the last token of the text; OPT-350m's outputs are narrower than its states."""
    from transformers import AutoModel

    write(tmp_path / "model", network, AutoModel)
    where = ["model=local", f"model.path={tmp_path / 'model'}", f"model.family={family}"]
    run = finish(tmp_path / "results", *where, "method=full", "method/formulation=head")
    code = runpy.run_path(str(run.export(tmp_path / "exported") / "inference.py"))
    for found, wanted in zip(code["predict"](TEXTS), run.predict(TEXTS), strict=True):
        assert found["scores"] == pytest.approx(wanted.scores, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "matrix"), [("phi3", "qkv_proj"), ("gpt2", "c_attn"), ("modernbert", "Wqkv")])
def test_lora_of_a_fused_projection_is_merged_into_it(
    tmp_path: Path, network: str, matrix: str, answered_alone: Callable[[Path], list[dict]]
) -> None:
    """Query, key and value in one matrix; in GPT-2 stored with its axes swapped."""
    from safetensors.torch import load_file
    from transformers import AutoModel

    write(tmp_path / "model", network, AutoModel)
    where = ["model=local", f"model.path={tmp_path / 'model'}"]
    rates = ["method.lr.lora=0.1", "method.lr.head=0.1", "trainer.steps=5", "protocol.select=last"]
    run = finish(tmp_path / "results", *where, "method=lora", "method/formulation=head", *rates)
    folder = run.export(tmp_path / "exported", merge=True)
    assert_equal_alone(run, answered_alone(folder))
    before = load_file(tmp_path / "model" / "model.safetensors")
    (merged,) = folder.rglob("model.safetensors")
    after = {name: tensor for name, tensor in load_file(merged).items() if name in before}
    changed = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert changed == {name for name in before if name.endswith(f"{matrix}.weight")}


def test_what_plain_peft_cannot_load_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    run = finish(tmp_path / "results", "method=dept", "model=tiny-bert")
    with pytest.raises(peftbench.UsageError, match=r"type DEPT is peftbench's own.*peftbench\.register\(\)"):
        run.export(tmp_path / "new" / "exported")
    with pytest.raises(peftbench.UsageError, match=r"cannot be (put|exported)"):
        run.export(tmp_path / "exported", merge=True)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_what_has_no_short_form_is_refused(tmp_path: Path) -> None:
    words = finish(tmp_path, "method=lora", "model=tiny-bert", *CLOZE, "method.formulation.verbalizer=soft")
    with pytest.raises(peftbench.UsageError, match=rf"run {words.run_id}: .*verbalizer=soft"):
        words.export(tmp_path / "exported")
    floor = finish(tmp_path, "method=majority")
    with pytest.raises(peftbench.UsageError, match="no network"):
        floor.export(tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_an_adapter_of_peftbench_is_loaded_by_peft_once_it_is_registered(tmp_path: Path) -> None:
    from peft import PeftModel

    from peftbench.config import compose
    from peftbench.models import load_backbone

    run = finish(tmp_path, "method=dept", "model=tiny-bert")
    peftbench.register()
    bare = load_backbone(compose(["model=tiny-bert"]).model, "features").model
    model = PeftModel.from_pretrained(bare, str(run.adapter_path))
    assert model.active_peft_config.peft_type == "DEPT"
