"""A cloze in an exported folder."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.errors import UsageError
from peftbench.formulations import snippets
from peftbench.formulations.patterns import Pattern, PatternEncoder, Placeholder
from peftbench.formulations.snippets import Network
from peftbench.formulations.verbalizers import LOG_EPSILON, MeanVerbalizer, SoftVerbalizer, Verbalizer
from peftbench.tasks.base import TaskData

CHANGES = {
    None: "str",
    "cut": "lambda text: text[:-1]",
    "bare": f"lambda text: text[:-1] if text[-1:] in {string.punctuation!r} else text",
    "lower": "lambda text: text[:1].lower() + text[1:]",
}
FILLED = '''

CHANGES = {{{changes}}}


def ids_of(texts):
    """Token ids of the pattern, filled with texts by name."""
    texts = {{**texts, "mask": MASK}}
    pieces = [piece if isinstance(piece, str) else CHANGES[piece[1]](texts[piece[0]]) for piece in PATTERN]
    return tokenizer(PREFIX + "".join(pieces).strip(), verbose=False)["input_ids"]


def filled(row):
    """Ids of a row, {row}; a mask in its text is written apart."""
    apart = f"{{MASK[0]}} {{MASK[1:-1]}} {{MASK[-1]}}"
    texts = {{name: text.replace(MASK, apart) for name, text in zip(NAMES, {texts})}}
    return ids_of(fitted(texts, ids_of, MAX_LENGTH))
'''
MASKED = '''

def word_scores(ids):
    """Label -> for each of its words the mean score of its tokens at the mask."""
    inputs = {{"input_ids": torch.tensor([ids]), "attention_mask": torch.ones((1, len(ids)), dtype=torch.long)}}
    scores = model(**inputs).logits[0, {virtual}ids.index(tokenizer.mask_token_id)].float()
    return {{label: [scores[torch.tensor(word)].mean() for word in words] for label, words in WORDS.items()}}
'''
SENTINEL = '''

def word_scores(ids):
    """Label -> for each of its words the mean log-likelihood of its tokens behind the sentinel."""
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones((1, len(ids)), dtype=torch.long)}
    first = [model.config.decoder_start_token_id, tokenizer.convert_tokens_to_ids(MASK)]

    def likelihood(word):
        logits = model(**inputs, decoder_input_ids=torch.tensor([[*first, *word[:-1]]])).logits[0, 1:]
        return logits.float().log_softmax(-1)[torch.arange(len(word)), torch.tensor(word)].mean()

    return {label: [likelihood(word) for word in words] for label, words in WORDS.items()}
'''
MEAN = '''

def class_scores(words):
    """Label -> the mean score of its words."""
    return {label: torch.stack(own).mean().item() for label, own in words.items()}
'''
WEIGHED = '''

def class_scores(words):
    """Label -> the weighted mean of the logarithms of its words' probabilities among all words{prior}."""
    log_p = torch.stack([score for own in words.values() for score in own]).log_softmax(0)
{calibrated}    parts = torch.logaddexp(log_p, torch.tensor(FLOOR)).split([len(own) for own in words.values()])
    return {{label: (torch.tensor(WEIGHTS[label]) * part).sum().item() for label, part in zip(words, parts)}}
'''
CALIBRATED = """\
    prior = torch.logaddexp(torch.tensor(LOG_PRIOR), torch.tensor(FLOOR))
    log_p = (log_p - prior).log_softmax(0)
"""
PREDICT = '''

@torch.no_grad()
def predict(rows):
    """For each row its label, and the labels' scores."""
    found = []
    for row in rows:
        scores = class_scores(word_scores(filled(row)))
        found.append({{"label": {label}, "scores": scores}})
    return found
'''
BEST = "max(scores, key=scores.get)"
BETWEEN = "RANGE[0] + torch.tensor([*scores.values()]).softmax(0)[1].item() * (RANGE[1] - RANGE[0])"
HEAD = """
trained = load_file(HERE / "head.safetensors")  # the masked-LM head
model.get_base_model().load_state_dict({{"{prefix}" + name: tensor for name, tensor in trained.items()}}, strict=False)
"""


def code(
    network: Network,
    task: TaskData,
    names: Sequence[str],
    encoder: PatternEncoder,
    word_ids: Mapping[str, Sequence[Sequence[int]]],
    verbalizer: Verbalizer,
    *,
    virtual_tokens: int,
    sentinel: bool = False,
    head: str | None = None,
) -> str:
    """The whole file.

    Args:
        names: of the texts of a row.
        word_ids: label name -> the tokens of each of its words.
        verbalizer: how the words' scores make a label's.
        sentinel: whether an encoder-decoder fills the gap.
        head: what stands in front of the names in `head.safetensors` in the network; None if nothing is read from it.

    Raises:
        UsageError: the label words are a part of the network.
    """
    classes = task.problem == "classification"
    constants = _words(word_ids, verbalizer) | _pattern(encoder, names)
    constants |= {} if classes else {"RANGE": task.score_range}
    virtual = f"{virtual_tokens} + " if virtual_tokens else ""
    return "".join(
        [
            snippets.start(network, constants, files=head is not None),
            HEAD.format(prefix=head) if head is not None else "",
            snippets.fitted(encoder.pattern.shorten),
            _filled(encoder.pattern, one=len(names) == 1),
            SENTINEL if sentinel else MASKED.format(virtual=virtual),
            _class_scores(verbalizer),
            PREDICT.format(label=BEST if classes else BETWEEN),
            snippets.end(names),
        ]
    )


def _pattern(encoder: PatternEncoder, names: Sequence[str]) -> dict[str, Any]:
    return {
        "PATTERN": [(p.name, p.change) if isinstance(p, Placeholder) else p for p in encoder.pattern.pieces if p],
        "NAMES": tuple(names),
        "MASK": encoder.mask,
        "PREFIX": encoder.prefix,
        "MAX_LENGTH": encoder.max_length,
    }


def _words(word_ids: Mapping[str, Sequence[Sequence[int]]], verbalizer: Verbalizer) -> dict[str, Any]:
    """The label words' tokens; weights and prior of those that count, where they are weighed."""
    if isinstance(verbalizer, SoftVerbalizer):
        raise UsageError(
            "method.formulation.verbalizer=soft puts a trained map into the network. `peftbench predict` answers for "
            "this run."
        )
    end = 1 if verbalizer.words.first else None
    ids = {label: [word[:end] for word in own] for label, own in word_ids.items()}
    if isinstance(verbalizer, MeanVerbalizer):
        return {"WORDS": ids}
    kept, weights = verbalizer.words_kept.tolist(), verbalizer.weights().tolist()
    found: dict[str, Any] = {
        "WORDS": {
            x: [w for w, k in zip(own, row, strict=False) if k] for (x, own), row in zip(ids.items(), kept, strict=True)
        },
        "WEIGHTS": {
            x: [w for w, k in zip(own, row, strict=True) if k] for x, own, row in zip(ids, weights, kept, strict=True)
        },
        "FLOOR": LOG_EPSILON,
    }
    return found | (
        {"LOG_PRIOR": verbalizer.log_prior()[verbalizer.words_kept].tolist()} if verbalizer.calibrated else {}
    )


def _class_scores(verbalizer: Verbalizer) -> str:
    if isinstance(verbalizer, MeanVerbalizer):
        return MEAN
    calibrated = verbalizer.calibrated
    return WEIGHED.format(
        prior=", divided by how likely they are anyway" if calibrated else "",
        calibrated=CALIBRATED if calibrated else "",
    )


def _filled(pattern: Pattern, one: bool) -> str:
    """The functions that fill the pattern; `one`: whether it has a single text."""
    changes = dict.fromkeys(piece.change for piece in pattern.pieces if isinstance(piece, Placeholder))
    return FILLED.format(
        changes=", ".join(f"{change!r}: {CHANGES[change]}" for change in changes),
        row="a text" if one else "a tuple of texts",
        texts="[row]" if one else "row",
    )
