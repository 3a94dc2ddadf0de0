"""Doors that stay shut: what Hydra would make or look up because a file or a word says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from peftbench.config.doors import check_override, check_text, literal
from peftbench.config.grammar import hydra_value
from peftbench.config.load import compose, from_plain
from peftbench.config.user_files import check_settings, read_yaml
from peftbench.errors import UsageError

BOMB = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
CODE = '{_target_: os.system, _args_: ["touch BAD"]}'


def refused(path, text) -> str:
    """The message of a settings file that is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        check_settings(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (f"hydra:\n  callbacks:\n    x: {CODE}\n", ":3:9", "_target_"),
        ("hydra:\n  searchpath: [file:///tmp]\n", ":2:3", "hydra.searchpath"),
        ("hydra:\n  job_logging: {root: {level: INFO}}\n", ":2:3", "hydra.job_logging"),
        ("hydra: {sweeper: {params: {hydra.callbacks.x: 1}}}\n", ":1:28", "hydra.callbacks.x"),
        (f"trainer:\n  steps: {CODE}\n", ":2:11", "_target_"),
        (f"a: &x {CODE}\nb: {{<<: *x}}\n", ":1:8", "_target_"),
        ("# @package hydra.callbacks\nx: 1\n", ":1", "Hydra's own keys"),
        ("defaults:\n  - override hydra/launcher: joblib\n", ":2:30", "local, slurm"),
        ("defaults:\n  - task@hydra.callbacks: x\n", ":2:5", "Hydra's own parts"),
        ("defaults:\n  - /hydra/callbacks: x\n", ":2:5", "Hydra's own parts"),
        ("defaults:\n  - me\nname: x\n", ":2:5", "names itself"),
        ("defaults: {a: b}\n", ":1:11", "must be a list"),
        ("name: ${oc.env:SECRET}\n", ":1:7", "another key"),
        ("name: ${${x}:SECRET}\n", ":1:7", "another key"),
        ("name: [[[[\n", ":2:1", "not valid YAML"),
        ("name: a\n\tb: c\n", ":2:1", "not valid YAML"),
        ('name: !!python/object/apply:os.system ["id"]\n', ":1:7", "no tags"),
        ("- a\n- b\n", ":1:1", "mapping"),
        ("name: a\nname: b\n", ":2:1", "twice"),
        ("null: b\n", ":1:1", "a key must be a name"),
        ("a: " + "[" * 60 + "]" * 60, ":1:54", "nested too deeply"),
        ("a: " + "[" * 5000, "", "nested too deeply"),
        (BOMB, "", "more than 200,000 values"),
        (b"name: \xff\xfe\n", ":1", "not UTF-8"),
        (b"a: 1\nname: \x00\n", ":2", "not allowed"),
    ],
)  # fmt: skip
def test_a_settings_file_that_is_refused(text, place, words, tmp_path):
    path = tmp_path / "task" / "me.yaml"
    message = refused(path, text)
    assert message.startswith(f"{path}{place}")
    assert words in message


def test_a_settings_file_that_is_none_but_settings(tmp_path):
    path = tmp_path / "me.yaml"
    path.write_text(
        "# @package _global_\n# hydra is named in this comment\ndefaults:\n  - override /method: lora\n"
        "  - override hydra/launcher: slurm\n"
        "hydra:\n  launcher: {timeout_min: 5}\n  sweeper:\n    params: {seed: '1,2', task.lang: 'hau,ibo'}\n"
        "task: {subset: '${.lang}', label_words: {a: '\\${b}'}, languages: &l [hau], fields: *l}\nnone: \n"
    )
    check_settings(path)
    assert read_yaml(path)["task"]["languages"] == ["hau"]


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """A folder of the user's own that Hydra looks into."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    return tmp_path


def test_hydra_meets_no_file_that_was_not_looked_through(own_files):
    made = {
        "experiment/tuned.yaml": f"# @package _global_\nhydra:\n  callbacks:\n    x: {CODE}\n",
        "hydra/callbacks/evil.yaml": "x: {_target_: os.system}\n",
        "task/broken.yaml": "name: [[[[",
        "task/round.yaml": "defaults:\n  - about\n",
        "task/about.yaml": "defaults:\n  - round\n",
    }
    for name, text in made.items():
        (own_files / name).parent.mkdir(parents=True, exist_ok=True)
        (own_files / name).write_text(text)
    for override, words in {
        "+experiment=tuned": "tuned.yaml:4:9: _target_",
        "+experiment=../hydra/callbacks/evil": "stand in for one of Hydra's|Parent traversal",  # by us, by Hydra 1.4
        "task=broken": "broken.yaml:1:11: not valid YAML",
        "task=round": "in a circle",
    }.items():
        with pytest.raises(UsageError, match=words):
            compose([override])
    assert not (own_files / "BAD").exists()


@pytest.mark.parametrize(
    "override",
    [
        "hydra.callbacks.x._target_=os.system",
        "+hydra.callbacks.x={a:1}",
        "+task@hydra.callbacks.x=sst2",
        "hydra/callbacks=x",
        "hydra.searchpath=[file:///tmp]",
        "hydra.mode=MULTIRUN",
        "hydra.launcher={a:1}",
        "hydra.launcher.setup={_target_:os.system}",
        "hydra.sweeper.params.x={_target_:os.system}",
        "hydra.launcher.setup=${oc.env:HOME}",
        "+trainer._target_=os.system",
    ],
)
def test_overrides_that_are_refused(override):
    with pytest.raises(UsageError):
        check_override(override)


@pytest.mark.parametrize(
    "override",
    [
        "hydra/launcher=slurm",
        "hydra.launcher.n_jobs=2",
        "hydra.sweeper.params.seed='1,2'",
        "method=lora",
        "out_dir=hydra",
    ],
)
def test_overrides_that_are_not(override):
    check_override(override)


TEXTS = st.text(alphabet="\\${}a.:'\" ,=[(\n", max_size=12).filter(lambda text: text != "???")


@given(TEXTS)
def test_a_literal_text_is_never_resolved(text):
    made = OmegaConf.create({"x": {"y": [literal(text)]}})
    assert OmegaConf.to_container(made, resolve=True) == {"x": {"y": [text]}}


@given(TEXTS)
def test_a_quoted_value_is_read_as_it_is(text):
    from peftbench.config.many import parse

    read = parse(f"key={hydra_value(text)}").value()
    assert OmegaConf.to_container(OmegaConf.create({"x": read}), resolve=True) == {"x": text}


def test_values_are_resolved_once(monkeypatch):
    monkeypatch.setenv("SECRET", "leaked")
    literal_text = "${oc.env:SECRET}"
    once = compose([f"tracking.project={hydra_value(literal_text)}", "trainer=debug", "data_dir=${oc.env:SECRET}"])
    assert (once.tracking.project, once.data_dir) == (literal_text, "leaked")  # typed, and typed to be looked up
    from dataclasses import asdict

    again = from_plain(asdict(once))  # as a record, a worker's file or `reproduce` gives it
    assert again.tracking.project == literal_text


def test_what_in_a_text_is_worked_out():
    for fine in ("a", "$a", "${a}", "${.lang}", "${task.subset}", r"\${oc.env:X}", r"{x}"):
        check_text(fine, "here")
    for wrong in ("${oc.env:X}", r"\\${oc.env:X}", "${a:}", "${${b}}", "${a", "x ${.a} ${now:%Y}"):
        with pytest.raises(UsageError, match="here"):
            check_text(wrong, "here")
