"""The code in an exported folder: torch, transformers and peft alone, short enough to read. Free of torch itself."""

from __future__ import annotations

from typing import Any

from peftbench.errors import UsageError
from peftbench.records.manifest import Manifest

POOLED = {
    "mean": "(hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # mean over the text's tokens",
    "cls": "hidden[:, 0]  # the first token",
    "last": "hidden[torch.arange(len(hidden)), mask.sum(1) - 1]  # the last token of the text",
}
NORMALISED = "\n    pooled = torch.nn.functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5"

TEMPLATE = '''\
from pathlib import Path

import torch
{import_peft}from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).parent  # this folder
LABELS = {labels!r}

tokenizer = AutoTokenizer.from_pretrained(HERE, padding_side="right")
model = {model}.eval()
head = load_file(HERE / "head.safetensors")


@torch.no_grad()
def logits(texts, pairs=None):
    """(texts, classes){meaning}"""
    texts = [{prefix!r} + text for text in texts]
    lengths = {{"padding": True, "truncation": {truncation}, "max_length": {max_length}}}
    inputs = tokenizer(texts, pairs, **lengths, return_tensors="pt")
    hidden, mask = model(**inputs).last_hidden_state{virtual}, inputs["attention_mask"]
    pooled = {pooled}{normalised}
    return pooled @ head["classifier.weight"].T + head["classifier.bias"]


if __name__ == "__main__":
    print({example})
'''


def check_head(manifest: Manifest) -> None:
    """Raises UsageError if the run's model has no classification head."""
    name = manifest["method"]["formulation"]["name"]
    if name != "head":
        raise UsageError(
            f"run {manifest['run_id']}: method/formulation={name} answers in words, with rules of peftbench for the "
            "prompt, its length and what counts as a label. Only a classification head can be exported; `peftbench "
            "predict` answers for this run."
        )


def code_for(manifest: Manifest, *, base: str, merged: bool, virtual_tokens: int) -> str:
    """The Python file that gives the logits of a model with a classification head.

    Args:
        base: how the frozen backbone is named in `from_pretrained`, as Python code.
        merged: whether the folder holds a whole model instead of an adapter.
        virtual_tokens: positions of a soft prompt in front of the hidden states.
    """
    formulation, task = manifest["method"]["formulation"], manifest["task"]
    classes = task["problem"] == "classification"
    low, high = task["score_range"] or (0.0, 1.0)
    values: dict[str, Any] = {
        "import_peft": "" if merged else "from peft import PeftModel\n",
        "labels": task["labels"],
        "model": f"AutoModel.from_pretrained({'HERE' if merged else base})",
        "meaning": "." if classes else f": one number, cut to 0..1 and scaled to {low:g}..{high:g}.",
        "prefix": manifest["backbone"]["prefix"],
        "truncation": '"longest_first"' if manifest["pairs"] else "True",
        "max_length": manifest["trainer"]["max_length"],
        "virtual": f"[:, {virtual_tokens}:]" if virtual_tokens else "",
        "pooled": POOLED[manifest["backbone"]["pooling"]],
        "normalised": NORMALISED if formulation["normalize"] else "",
    }
    if not merged:
        values["model"] = f"PeftModel.from_pretrained({values['model']}, HERE)"
    example = '["a text"], ["its pair"]' if manifest["pairs"] else '["a text"]'
    values["example"] = f"[LABELS[i] for i in logits({example}).argmax(1)]" if classes else f"logits({example})"
    return TEMPLATE.format(**values)
