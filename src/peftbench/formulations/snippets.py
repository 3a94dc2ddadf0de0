"""Code that answers rows with torch, transformers and peft alone: `inference.py` of an exported folder.

What every formulation's code begins and ends with, and what several of them have. Each is a text that is filled in and
run once before a folder is handed out (`peftbench.saved.export`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

START = """\
from pathlib import Path

import torch
{imports}
from transformers import {auto_class}, AutoTokenizer

HERE = Path(__file__).parent  # this folder
{constants}

tokenizer = AutoTokenizer.from_pretrained(HERE{tokenizer})
model = {model}.eval()
"""
END = """

if __name__ == "__main__":
    print(predict({example}))
"""
FITTED = '''

def fitted(texts, ids_of, limit):
    """Texts by name, {which} cut at the ends of tokens until the whole takes at most `limit` tokens."""
    if len(ids_of(texts)) <= limit:
        return texts
    room = {{"add_special_tokens": False, "truncation": True, "max_length": limit, "return_offsets_mapping": True}}
    ends = {{name: [end for _, end in tokenizer(text, **room)["offset_mapping"]] for name, text in texts.items()}}
    kept = {{name: len(own) for name, own in ends.items()}}
    while True:
        cut = {{name: text[: ends[name][kept[name] - 1]] if kept[name] else "" for name, text in texts.items()}}
        over = min(len(ids_of(cut)) - limit, sum(kept.values()))
        if over <= 0:
            return cut
        for _ in range(over):
            kept[{loser}] -= 1
'''
LOSERS = {
    "longest": ("the longest", "max(reversed(kept), key=kept.get)"),
    "last": ("the last", "[name for name in kept if kept[name]][-1]"),
}


@dataclass(frozen=True)
class Network:
    """How the exported network is loaded.

    Attributes:
        auto_class: of transformers.
        base: Python code that names the frozen backbone in `from_pretrained`; None if the folder holds a whole model.
    """

    auto_class: str
    base: str | None

    def code(self) -> str:
        """The expression that loads it."""
        if self.base is None:
            return f"{self.auto_class}.from_pretrained(HERE)"
        return f"PeftModel.from_pretrained({self.auto_class}.from_pretrained({self.base}), HERE)"


def start(network: Network, constants: Mapping[str, Any], *, files: bool = False, tokenizer: str = "") -> str:
    """The beginning: imports, constants by name, tokenizer and model.

    Args:
        files: whether the code reads safetensors files of its own.
        tokenizer: further arguments of the tokenizer.
    """
    imports = ["from peft import PeftModel"] if network.base is not None else []
    imports += ["from safetensors.torch import load_file"] if files else []
    text = START.format(
        imports="\n".join(imports),
        auto_class=network.auto_class,
        constants="\n".join(f"{name} = {value!r}" for name, value in constants.items()),
        tokenizer=tokenizer,
        model=network.code(),
    )
    return text.replace("import torch\n\nfrom", "import torch\nfrom")


def fitted(shorten: str) -> str:
    """The function that cuts texts, as `peftbench.formulations.fitting` does."""
    which, loser = LOSERS[shorten]
    return FITTED.format(which=which, loser=loser)


def end(names: Sequence[str]) -> str:
    """A call of `predict` for one row: a text, or a tuple of texts in the order of `names`."""
    texts = tuple(f"a {name}" for name in names)
    return END.format(example=repr([texts if len(texts) > 1 else texts[0]]))
