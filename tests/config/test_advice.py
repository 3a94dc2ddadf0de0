"""Every command that a message of the tasks, the formulations or the diagnosis advises is one that composes."""

import ast
import re
from pathlib import Path

import pytest

import peftbench
from peftbench.config import compose
from peftbench.config.many import Composer

ROOT = Path(peftbench.__file__).parent
SOURCES = [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "formulations").rglob("*.py"), ROOT / "records" / "diagnosis.py"]
ADVICE = re.compile(
    r"(?<![\w.{/`-])((?:task|method|protocol|trainer)(?:[./][\w{}]+)+=|shots=|protocol=|task=)(\[[^\]]*\]|[^\s,;:)\"'`]+)"
)
HOLES = {
    "shots": "3",
    "trainer.max_length": "64",
    "protocol.dev_per_class": "3",
    "method.formulation.words": "names",
    "method.formulation.pattern": "0",
    "task.subsets.{}.labels": "[a,b]",
}
"""Key -> a value for the place that a message fills in."""
CLOZE = ["method=lm_bff", "model=minilm-mlm"]


def advice():
    """Each override that stands in a message, with something in the places that the message fills in."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)  # type: ignore
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            for match in ADVICE.finditer(text):
                if text[match.end() : match.end() + 1] != ":":  # `key=value:` says where a mistake is
                    yield match[1].rstrip("="), match[2].rstrip(".")


def composable(key, value):
    value = re.sub(r"NAME|FILE|LANGUAGE|\[\.\.\.\]", "{}", value.replace("WORD", "great"))
    hole = "trec" if ".layout." in key else "sports" if "label_words" in key else "eng"
    return f"{key.replace('{}', hole)}={value.replace('{}', HOLES.get(key, '{}'))}"


@pytest.fixture(scope="module")
def composer():
    return Composer()


# where the message puts a value of the user's own, there is nothing to try
@pytest.mark.parametrize("override", sorted({o for found in advice() if "{}" not in (o := composable(*found))}))
def test_advice_is_a_command_that_works(override, composer):
    base = CLOZE if "method.formulation" in override else []
    base = ["method=icl", "model=tiny-gpt2"] if "method.formulation.by=" in override else base
    base = ["method/formulation=generate"] if "method.formulation.constrain=" in override else base
    base = ["task.of=[sst2,ag_news]"] if override.startswith("task.heads=") else base
    composer.compose([f"task={task_of(override)}", *base, override])


def task_of(override):
    """A task whose YAML has the key."""
    if override.startswith(("task.quoting=", "task.problem=", "task.path=")):
        return "file"
    if override.startswith(("task.of=", "task.heads=")):
        return "sequence"
    return "topics" if ".layout." in override else "demo_news"


def test_the_advice_on_a_template_works_as_it_is_quoted():
    cfg = compose(["method=lm_bff", "model=minilm-mlm", "method.formulation.template='{text} Topic: {mask}.'"])
    assert cfg.method.formulation.template == "{text} Topic: {mask}."


def test_there_is_advice_to_be_tried():
    assert len(list(advice())) > 20
