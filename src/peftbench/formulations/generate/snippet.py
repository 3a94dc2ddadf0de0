"""Answers in words in an exported folder: written (`generate`), or ranked by likelihood (`score`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.formulations import snippets
from peftbench.formulations.snippets import Network
from peftbench.formulations.text import CHAT_DATE

if TYPE_CHECKING:
    from peftbench.formulations.generate.formulation import GenerateFormulation, TextFormulation

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


def written(formulation: GenerateFormulation, network: Network, pairs: bool) -> str:
    """The whole file for answers that are generated.

    Raises:
        UsageError: they are read, drawn or constrained by rules that have no short form.
    """
    if formulation.task.problem not in ("classification", "regression"):
        raise UsageError(
            f"answers of a {formulation.task.problem} task are read by a parser of peftbench's. `peftbench predict` "
            "answers for this run."
        )
    if formulation.how.sample or formulation.how.constrain != "none":
        raise UsageError(
            "answers that are sampled or constrained are peftbench's to draw. `peftbench predict` answers for this run."
        )
    classes = formulation.task.problem == "classification"
    own: dict[str, Any] = {"LABEL_OF": formulation.label_of} if classes else {"RANGE": formulation.task.score_range}
    body = WRITTEN.format(
        reads="The label that a text stands for." if classes else "The number that a text is, if it is in the range.",
        reading=READ_LABEL if classes else READ_NUMBER,
        new="" if formulation.encoder_decoder else NEW,
    )
    begin = _start(formulation, network, pairs, {**own, "ANSWER_LENGTH": formulation.answer_length})
    return ("" if classes else "import re\n") + begin + body + snippets.end(formulation.text_names(pairs))


def ranked(formulation: TextFormulation, network: Network, pairs: bool, plain: bool) -> str:
    """The whole file for labels that are ranked.

    Raises:
        UsageError: they are ranked by more than the mean log-likelihood of one answer each.
    """
    if not plain:
        raise UsageError(
            "labels with several candidates, with calibration or by other likelihoods than mean are ranked by rules of "
            "peftbench's. `peftbench predict` answers for this run."
        )
    words = {label: formulation.space + formulation.answer_text(label) for label in formulation.task.labels}
    body = RANKED.format(logits=PAIRED_LOGITS if formulation.encoder_decoder else CAUSAL_LOGITS)
    if not formulation.encoder_decoder:
        body = body.replace("    mask = torch.ones_like(ids)\n", "")
    return _start(formulation, network, pairs, {"WORDS": words}) + body + snippets.end(formulation.text_names(pairs))


def _start(formulation: TextFormulation, network: Network, pairs: bool, own: dict[str, Any]) -> str:
    """Until the prompt is there."""
    causal, names = not formulation.encoder_decoder, tuple(formulation.text_names(pairs))
    room = formulation.max_length - (formulation.answer_length if causal else 0)
    constants = {**own, "FIELDS": names, "PREFIX": formulation.prefix, "ROOM": room}
    cue = CHAT if formulation.chat else CUE if causal else NO_CUE
    if causal:
        constants |= {"DATE": CHAT_DATE} if formulation.chat else {"CUE": formulation.cue_text}
    one = len(names) == 1
    prompt = PROMPT.format(cue=cue, row="a text" if one else "a tuple of texts", texts="[row]" if one else "row")
    return snippets.start(network, constants) + snippets.fitted("longest") + prompt
