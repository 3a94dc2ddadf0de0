"""Answers in words in an exported folder: written (`generate`), or ranked by likelihood (`score`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.errors import UsageError
from peftbench.formulations import snippets
from peftbench.formulations.generate import GenerateConfig
from peftbench.formulations.snippets import Network
from peftbench.formulations.text import CHAT_DATE
from peftbench.tasks.base import TaskData

PROMPT = '''

def ids_of(texts):
    """Token ids of the prompt."""
    whole = PREFIX + " ".join(f"{{name}}: {{text}}" for name, text in texts.items())
{cue}

def prompt(row):
    """(1, n) ids of a row, {row}."""
    texts = dict(zip(FIELDS, {texts}))
    return torch.tensor([ids_of(fitted(texts, ids_of, ROOM))])
'''
NO_CUE = '    return tokenizer(whole, verbose=False)["input_ids"]\n'
CUE = """\
    ids = tokenizer(whole, verbose=False)["input_ids"]
    ids = ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids  # the text goes on
    return ids + tokenizer(CUE, add_special_tokens=False)["input_ids"]
"""
CHAT = """\
    turn = [{"role": "user", "content": whole}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False, date_string=DATE)
    return tokenizer(text, add_special_tokens=False)["input_ids"]
"""
WRITTEN = '''

def read(text):
    """{reads}"""
{reading}

@torch.no_grad()
def predict(rows):
    """For each row what the model writes, and the label that it stands for: None if it is none."""
    found = []
    for row in rows:
        ids = prompt(row)
        how = {{"max_new_tokens": ANSWER_LENGTH, "do_sample": False, "num_beams": 1}}
        how |= {{"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}}  # whatever the checkpoint's own settings are
        how |= {{"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}}
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how){new}
        text = tokenizer.decode(written[0], skip_special_tokens=True)
        found.append({{"label": read(text), "text": text}})
    return found
'''
NEW = """
        if torch.equal(written[:, : ids.shape[1]], ids):  # it begins with the prompt
            written = written[:, ids.shape[1] :]"""
READ_LABEL = """\
    return LABEL_OF.get(text.strip()) or LABEL_OF.get(" ".join(text.lower().split()).rstrip("."))
"""
READ_NUMBER = """\
    found = re.fullmatch(r"(\\d+(?:\\.\\d+)?)", re.sub(r"\\s*\\.\\s*", ".", text.strip()))
    low, high = RANGE
    return float(found[1]) if found and low <= float(found[1]) <= high else None
"""
RANKED = '''

def likelihood(ids, word):
    """Mean log-likelihood of the tokens of an answer and of the end behind a prompt."""
    answer = torch.tensor([[*tokenizer(word, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
    mask = torch.ones_like(ids)
{logits}    return logits.float().log_softmax(-1).gather(2, answer[..., None]).mean().item()


@torch.no_grad()
def predict(rows):
    """For each row the likeliest label, and how likely each is."""
    found = []
    for row in rows:
        ids = prompt(row)
        scores = {{label: likelihood(ids, word) for label, word in WORDS.items()}}
        found.append({{"label": max(scores, key=scores.get), "scores": scores}})
    return found
'''
CAUSAL_LOGITS = """\
    both = torch.cat([ids, answer], dim=1)
    logits = model(input_ids=both, attention_mask=torch.ones_like(both)).logits[:, -answer.shape[1] - 1 : -1]
"""
PAIRED_LOGITS = """\
    given = torch.cat([torch.full_like(answer[:, :1], model.config.decoder_start_token_id), answer[:, :-1]], dim=1)
    logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=given).logits
"""


@dataclass(frozen=True)
class Prompt:
    """What a row is put into.

    Attributes:
        names: of the texts of a row.
        prefix: what stands in front of them.
        room: tokens that it may take.
        causal: whether the answer goes on where it ends; else it is an encoder's.
        chat: whether it is the user's turn of a chat.
        cue: the end of a causal prompt that is no chat.
    """

    names: Sequence[str]
    prefix: str
    room: int
    causal: bool
    chat: bool
    cue: str


def written(
    network: Network,
    task: TaskData,
    prompt: Prompt,
    how: GenerateConfig,
    label_of: Mapping[str, str],
    answer_length: int,
) -> str:
    """The whole file for answers that are generated.

    Args:
        how: they are chosen.
        label_of: what is written -> the label that it stands for.
        answer_length: tokens that an answer may take.

    Raises:
        UsageError: they are read, drawn or constrained by rules that have no short form.
    """
    if task.problem not in ("classification", "regression"):
        raise UsageError(
            f"answers of a {task.problem} task are read by a parser of peftbench's. `peftbench predict` "
            "answers for this run."
        )
    if how.sample or how.constrain != "none":
        raise UsageError(
            "answers that are sampled or constrained are peftbench's to draw. `peftbench predict` answers for this run."
        )
    classes = task.problem == "classification"
    own: dict[str, Any] = {"LABEL_OF": label_of} if classes else {"RANGE": task.score_range}
    body = WRITTEN.format(
        reads="The label that a text stands for." if classes else "The number that a text is, if it is in the range.",
        reading=READ_LABEL if classes else READ_NUMBER,
        new=NEW if prompt.causal else "",
    )
    begin = _start(network, prompt, {**own, "ANSWER_LENGTH": answer_length})
    return ("" if classes else "import re\n") + begin + body + snippets.end(prompt.names)


def ranked(network: Network, prompt: Prompt, words: Mapping[str, str]) -> str:
    """The whole file for labels that are ranked by the mean log-likelihood of one answer each, `words`."""
    body = RANKED.format(logits=CAUSAL_LOGITS if prompt.causal else PAIRED_LOGITS)
    if prompt.causal:
        body = body.replace("    mask = torch.ones_like(ids)\n", "")
    return _start(network, prompt, {"WORDS": words}) + body + snippets.end(prompt.names)


def _start(network: Network, prompt: Prompt, own: dict[str, Any]) -> str:
    """Until the prompt is there."""
    constants = {**own, "FIELDS": tuple(prompt.names), "PREFIX": prompt.prefix, "ROOM": prompt.room}
    cue = CHAT if prompt.chat else CUE if prompt.causal else NO_CUE
    if prompt.causal:
        constants |= {"DATE": CHAT_DATE} if prompt.chat else {"CUE": prompt.cue}
    one = len(prompt.names) == 1
    asked = PROMPT.format(cue=cue, row="a text" if one else "a tuple of texts", texts="[row]" if one else "row")
    return snippets.start(network, constants) + snippets.fitted("longest") + asked
