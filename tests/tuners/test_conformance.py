"""The conformance suite on every method, on tuners that are broken on purpose, and on the example of the docs."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

from peftbench.cli import main
from peftbench.config import compose
from peftbench.config.catalogue import names
from peftbench.conformance.bench import CASES, Bench, Case
from peftbench.conformance.checks import fitting
from peftbench.conformance.processes import two_processes
from peftbench.conformance.subject import find_subject, without_dropout
from peftbench.conformance.suite import FITS, Finding, cases_of, fits, judge
from peftbench.errors import UsageError
from peftbench.tuners.bitfit import BitfitOptions
from peftbench.tuners.bitfit.tuner import BitfitTuner

DOCS = Path(__file__).parents[2] / "docs" / "adding-a-method.md"
BERT, LLAMA = (next(c for c in CASES if c.name == name) for name in ("bert", "llama"))


def methods() -> list[str]:
    """Every method with a tuner that is complete as it stands; `peft` needs a type and `file` a file."""
    folder = files("peftbench.conf") / "method"
    needs = {
        name: yaml.safe_load((folder / f"{name}.yaml").read_text()).get("needs_model", True) for name in names("method")
    }
    return [name for name, needed in needs.items() if needed and name not in ("peft", "file")]


METHODS = methods()
KINDS = ("full", "bitfit", "hft", "lora", "dept", "prefix_tuning", "houlsby", "ia3", "iapt")
"""A method of each kind: all weights, biases, frozen halves, a sum, a product, keys and values, a bottleneck, a scale,
prompts by the text."""


def failures(findings: Iterable[Finding]) -> list[str]:
    return [f"{f.case}: {f.check}: {f.detail}" for f in findings if f.status == "fail"]


@pytest.mark.parametrize("name", KINDS)
def test_a_method_of_each_kind_keeps_its_promises(name: str) -> None:
    """On one of the networks that it fits, the networks in turn; all methods on all networks are below."""
    subject = find_subject(name)
    cases = cases_of(subject)
    turn = METHODS.index(name) % len(cases)
    benches = [Bench(subject.tuner, subject.lr, case) for case in (*cases[turn:], *cases[:turn])]
    case = next(bench.case for bench in benches if fits(bench).status == "pass")
    assert not failures(judge(subject, [case], quick=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_its_promises_on_every_network(name: str) -> None:
    subject = find_subject(name)
    assert not failures(judge(subject, cases_of(subject)))


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    subject = find_subject("dept")
    verdict = two_processes(Bench(subject.tuner, subject.lr, BERT), subject)
    assert verdict.status == "pass", verdict.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "prompt_tuning", "adalora", "full"])
def test_two_processes_train_a_causal_model_as_one(name: str) -> None:
    subject = find_subject(name)
    verdict = two_processes(Bench(subject.tuner, subject.lr, LLAMA), subject)
    assert verdict.status == "pass", verdict.detail


# Tuners that are broken on purpose. Each is the working one of the docs with one thing done wrong.


def example() -> str:
    """The tuner of docs/adding-a-method.md."""
    return next(block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "ScaleTuner" in block)


@pytest.fixture
def broken(tmp_path):
    """Write the example with replacements made, and judge it."""

    def write(*changes: tuple[str, str], case: Case = BERT) -> dict[str, Finding]:
        text = example()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / f"broken_{abs(hash(changes))}.py"
        path.write_text(text)
        return {f.check: f for f in judge(find_subject(str(path)), [case], quick=True) if f.status == "fail"}

    return write


FREEZE = "model = backbone.model.requires_grad_(False)"
RETURN = "        return model\n\n    def param_groups"


def test_the_unbroken_one_passes(broken) -> None:
    assert broken() == {}
    assert broken(case=LLAMA) == {}


def test_a_trainable_weight_that_is_not_declared_is_named(broken) -> None:
    thaw = f"{FREEZE}\n        model.encoder.layer[1].output.dense.weight.requires_grad_(True)"
    found = broken((FREEZE, thaw))
    assert "model.encoder.layer.1.output.dense.weight" in found["only declared parameters train"].detail


def test_a_frozen_weight_that_is_changed_behind_the_optimisers_back_is_named(broken) -> None:
    drift = "            model.embeddings.LayerNorm.bias.data += 1e-7\n            factor ="
    found = broken(("            factor =", drift))
    assert next(iter(found)) == "the frozen base stays bit-identical"
    assert "model.embeddings.LayerNorm.bias changed by up to" in found["the frozen base stays bit-identical"].detail


def test_a_declared_parameter_that_never_moves_is_named(broken) -> None:
    found = broken(
        (FREEZE, f"{FREEZE}\n        model.idle = nn.Parameter(torch.ones(3))"),
        ('{"scale": [model.token_scale]}', '{"scale": [model.token_scale, model.idle]}'),
    )
    assert "model.idle" in found["only declared parameters train"].detail
    assert "67 parameters, 64 by" in found["as many parameters as the formula says"].detail


def test_a_tuner_that_forgets_padding_is_caught(broken) -> None:
    by_width = ("embedded * factor.to(embedded.dtype)", "embedded * factor.to(embedded.dtype) * embedded.shape[1]")
    assert "in a batch padded to" in broken(by_width)["padding and company change no item"].detail
    no_positions = (
        "            count_real_positions(model)  # padding on the left must not move the positions of a text\n",
        "            pass\n",
    )
    gpt2 = next(c for c in CASES if c.name == "gpt2")
    assert {"padding and company change no item"} <= broken(no_positions, case=gpt2).keys()


def test_a_tuner_that_saves_too_little_is_caught(broken) -> None:
    half = ("model.token_scale.detach().cpu()", "0 * model.token_scale.detach().cpu()")
    assert "model.token_scale" in broken(half)["saved, loaded and trained on"].detail
    frozen = ('["scale"])\n', '["scale"])\n            model.token_scale.requires_grad_(False)\n')
    assert "cannot be trained on" in broken(frozen)["saved, loaded and trained on"].detail


def test_a_start_that_is_not_the_promised_one_is_caught(broken) -> None:
    assert "the promised start" in broken(("torch.zeros(backbone", "torch.ones(backbone"))


def test_a_switch_that_does_not_switch_is_caught(broken) -> None:
    assert "switched off, it is the base" in broken(("        self.on = False\n", "        self.on = True\n"))


def test_state_that_depends_on_micro_batches_is_caught(broken) -> None:
    per_pass = (
        "            factor = 1 + self.cfg.strength * model.token_scale",
        "            self.passes = getattr(self, 'passes', 0) + (1 if model.training else 0)\n"
        "            factor = 1 + self.cfg.strength * model.token_scale * self.passes",
    )
    assert "accumulation equals one batch" in broken(per_pass)


def test_a_crash_is_a_failure_with_its_place(broken) -> None:
    found = broken(("[model.token_scale]}", "[model.tokenscale]}"))
    assert re.search(r"AttributeError: .*tokenscale.* \(broken_\d+\.py, line \d+\)", next(iter(found.values())).detail)


def test_a_family_that_is_claimed_and_refused_is_a_failure(broken) -> None:
    usage = (
        "from torch import Tensor, nn\n",
        "from torch import Tensor, nn\nfrom peftbench.errors import UsageError\n",
    )
    found = broken(usage, (FREEZE, f'raise UsageError("not this one")\n        {FREEZE}'))
    assert "no network that was tried: refused: not this one" in found[FITS].detail


@pytest.mark.slow
def test_a_tuner_that_does_not_see_the_text_fits_nothing() -> None:
    """One vector in place of every hidden state can only learn how frequent the labels are."""

    class Blind(BitfitTuner):
        def build(self, backbone, context):
            model = super().build(backbone, context)
            model.register_forward_hook(blindfold)
            return model

    def blindfold(stack, args, output):
        output.last_hidden_state = output.last_hidden_state.mean((0, 1)).expand_as(output.last_hidden_state)
        return output

    cfg = BitfitOptions(name="bitfit")
    verdict = fitting(Bench(lambda: Blind(cfg), {"bias": 1e-2}, BERT))
    assert verdict.status == "fail", verdict.detail


# The command, and files of users


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return int(caught.value.code or 0)


@pytest.fixture
def my_tuner(tmp_path) -> Path:
    path = tmp_path / "my_tuner.py"
    path.write_text(example())
    return path


def test_the_example_of_the_docs_passes_by_the_command(my_tuner, capsys) -> None:
    assert run("check-method", str(my_tuner), "--family", "encoder", "--quick", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert {f["case"] for f in found["findings"]} == {"bert", "roberta"}
    assert all(f["status"] in ("pass", "not claimed") for f in found["findings"])


@pytest.mark.slow
def test_the_example_of_the_docs_passes_everything(my_tuner) -> None:
    assert not failures(judge(find_subject(str(my_tuner)), cases_of(find_subject(str(my_tuner))), ddp=True))


def test_a_failure_is_shown_and_ends_with_1(my_tuner, capsys) -> None:
    my_tuner.write_text(example().replace("torch.zeros(backbone", "torch.ones(backbone"))
    assert run("check-method", str(my_tuner), "--family", "encoder", "--quick") == 1
    text = capsys.readouterr().out
    assert "FAIL" in text
    assert "logits differ from those of the bare backbone by" in text


def test_the_example_of_the_docs_can_be_trained(my_tuner, tmp_path) -> None:
    common = ["model=tiny-bert", "trainer=debug", "shots=2", "tracking.wandb=disabled", f"out_dir={tmp_path / 'out'}"]
    mine = ["method=file", "method.name=scale", f"method.tuner.file={my_tuner}", "+method.lr.scale=0.01"]
    assert run(*mine, *common) == 0
    records = [json.loads(p.read_text()) for p in (tmp_path / "out" / "records").glob("*.json")]
    assert [r["parameters"]["module"] for r in records] == [64]
    my_tuner.write_text(example() + "\n# edited\n")
    assert compose([*mine]).method.tuner.sha256 != records[0]["config"]["method"]["tuner"]["sha256"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["prompt_tunning"], r"method=prompt_tunning.*Did you mean `prompt_tuning`"),
        (["majority"], r"method=majority trains nothing of a backbone"),
        (["lora", "--family", "encdoer"], r"--family encdoer.*Did you mean `encoder`"),
        (["lora", "method.tuner.rnak=3"], r"method\.tuner\.rnak.*Did you mean `method.tuner.rank`"),
        (["absent.py"], r"absent\.py: no such file"),
    ],
)
def test_a_wrong_command_ends_with_2_and_one_message(args, words, capsys) -> None:
    assert run("check-method", *args) == 2
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: "import torch\nx = = 1\n", r"line 2: SyntaxError"),
        (lambda t: "import torch\n\nprint(undefined)\n", r"line 3: NameError"),
        (lambda t: "import torch\n", r"exactly one subclass of peftbench\.tuners\.Tuner is wanted.*defines none"),
        (lambda t: t + "\nclass Second(ScaleTuner):\n    pass\n", r"defines ScaleTuner, Second"),
        (lambda t: t.replace("(TunerConfig)", ""), r"exactly one subclass of TunerConfig is wanted.*defines none"),
        (lambda t: t.replace("@dataclass\nclass", "class"), r"ScaleConfig is not a dataclass"),
        (lambda t: t.replace("def load(", "def laod("), r"ScaleTuner lacks load"),
        (lambda t: t.replace("number(1.0, gt=0)", "number(gt=0)"), r"ScaleConfig\.strength has no default"),
        (lambda t: t.replace('"causal"}', '"casual"}'), r"families names `casual`\. Did you mean `causal`"),
    ],
)  # fmt: skip
def test_a_file_without_exactly_one_tuner_is_told_what_it_lacks(change, words, tmp_path) -> None:
    path = tmp_path / f"tuner_{abs(hash(words))}.py"
    path.write_text(change(example()))
    with pytest.raises(UsageError, match=words):
        cases_of(find_subject(str(path)))


def test_dropout_is_switched_off_for_the_checks_only() -> None:
    cfg = compose(["method=vera", "+method.tuner.options.vera_dropout=0.3"]).method.tuner
    assert without_dropout(cfg).options["vera_dropout"] == 0.0
    assert cfg.options["vera_dropout"] == 0.3
    assert without_dropout(compose(["method=dept"]).method.tuner).token_dropout == 0.0


def test_checks_do_not_touch_the_shared_networks() -> None:
    from peftbench.conformance.bench import pristine

    before = copy.deepcopy(pristine(BERT, "features").model.state_dict())
    list(judge(find_subject("full"), [BERT], quick=True))
    after = pristine(BERT, "features").model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
