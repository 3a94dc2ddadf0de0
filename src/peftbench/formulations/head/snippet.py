"""A classification head in an exported folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftbench.formulations import snippets
from peftbench.formulations.pooling import DECODER_END, Reader
from peftbench.formulations.snippets import Network
from peftbench.tasks.base import TaskData

POOLED = {
    "mean": "(hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # mean over the text's tokens",
    "cls": "hidden[:, 0]  # the first token",
    "last": "hidden[torch.arange(len(hidden)), mask.sum(1) - 1]  # the last token of the text",
    DECODER_END: "hidden[torch.arange(len(hidden)), ends]  # the decoder's state at the end of the text",
}
STATES = "    hidden = model(**inputs).last_hidden_state{virtual}\n"
START = 'torch.full_like(inputs["input_ids"][:, :1], model.config.decoder_start_token_id)'
LAST_TOKEN = 'inputs["input_ids"].gather(1, mask.sum(1, keepdim=True) - 1)'
ENCODER_STATES = """\
    first = {first}
    hidden = model(**inputs, decoder_input_ids=first).encoder_last_hidden_state[:, -mask.shape[1] :]
"""
DECODER_STATES = """\
    ids = inputs["input_ids"]
    shifted = torch.cat([{first}, ids[:, :-1]], dim=1)
    hidden = model(**inputs, decoder_input_ids=shifted).last_hidden_state
    found = (ids == tokenizer.eos_token_id) & (mask == 1)
    ends = torch.stack([(own if own.any() else real).nonzero()[-1, 0] for own, real in zip(found, mask)])
"""
NORMALISED = "    pooled = torch.nn.functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5\n"
DENSE = '    pooled = torch.tanh(pooled @ head["dense.weight"].T + head["dense.bias"])\n'
LOGITS = '''head = load_file(HERE / "head.safetensors")


@torch.no_grad()
def logits(texts, pairs=None):
    """(texts, {outputs}) outputs of the head."""
    texts = [PREFIX + text for text in texts]
    lengths = {{"padding": True, "truncation": {truncation}, "max_length": MAX_LENGTH}}
    inputs = tokenizer(texts, pairs, **lengths, return_tensors="pt")
    mask = inputs["attention_mask"]
{states}    pooled = {pooled}
{normalised}{dense}    return pooled @ head["classifier.weight"].T + head["classifier.bias"]


def predict(rows):
    """For each row, {row}, its label{and_scores}."""
    found = logits({arguments})
'''
CLASSES = """\
    scores = [dict(zip(LABELS, values)) for values in found.tolist()]
    return [{"label": max(own, key=own.get), "scores": own} for own in scores]
"""
NUMBER = """\
    low, high = RANGE
    return [{"label": value * (high - low) + low} for value in found.squeeze(-1).tolist()]
"""


def code(
    network: Network,
    task: TaskData,
    names: Sequence[str],
    read: Reader,
    *,
    prefix: str,
    max_length: int,
    virtual_tokens: int,
    normalize: bool,
    dense: bool,
) -> str:
    """The whole file.

    Args:
        names: of the texts of a row.
        read: how one vector is read off the network's states.
        prefix: what stands in front of the first text.
        normalize: whether the vector has a fixed length.
        dense: whether a layer comes before the linear one.
    """
    classes, pairs = task.problem == "classification", len(names) > 1
    constants: dict[str, Any] = {"LABELS": task.labels} if classes else {"RANGE": task.score_range}
    constants |= {"PREFIX": prefix, "MAX_LENGTH": max_length}
    states = STATES.format(virtual=f"[:, {virtual_tokens} :]" if virtual_tokens else "")
    if read.encoder_decoder:
        states = DECODER_STATES if read.pooling == DECODER_END else ENCODER_STATES
        states = states.replace("{first}", LAST_TOKEN if read.wraps else START)
    body = LOGITS.format(
        outputs="classes" if classes else "1",
        truncation='"longest_first"' if pairs else "True",
        states=states,
        pooled=POOLED[read.pooling],
        normalised=NORMALISED if normalize else "",
        dense=DENSE if dense else "",
        row="a tuple of two texts" if pairs else "a text",
        and_scores=" and the classes' logits" if classes else "",
        arguments="[row[0] for row in rows], [row[1] for row in rows]" if pairs else "rows",
    )
    begin = snippets.start(network, constants, files=True, tokenizer=', padding_side="right"')
    return begin + body + (CLASSES if classes else NUMBER) + snippets.end(names)
