"""A tagger of words in an exported folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.formulations import snippets
from peftbench.formulations.snippets import Network

if TYPE_CHECKING:
    from peftbench.formulations.tags.formulation import TagsFormulation

NORMALISED = "    hidden = torch.nn.functional.normalize(hidden, dim=-1) * hidden.shape[-1] ** 0.5\n"
TAGS = '''head = load_file(HERE / "head.safetensors")


@torch.no_grad()
def predict(texts):
    """For each text, a tag for each of its words, which stand between single spaces."""
    lengths = {{"padding": True, "truncation": True, "max_length": MAX_LENGTH}}
    inputs = tokenizer([PREFIX + text for text in texts], **lengths, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state{virtual}
{normalised}    best = (hidden @ head["classifier.weight"].T + head["classifier.bias"]).argmax(-1).tolist()
    return [{{"label": tags_of(text, inputs.encodings[i], best[i])}} for i, text in enumerate(texts)]


def tags_of(text, encoding, best):
    """The tag at the first token of each word; `O` for a word without one."""
    start, found = len(PREFIX), []
    for word in text.split(" "):
        places = (encoding.char_to_token(start + i) for i in range(len(word)))
        place = next((p for p in places if p is not None), None)
        found.append("O" if place is None else TAGS[best[place]])
        start += len(word) + 1
    return found
'''


def code(formulation: TagsFormulation, network: Network) -> str:
    """The whole file."""
    constants = {"TAGS": formulation.tags, "PREFIX": formulation.prefix, "MAX_LENGTH": formulation.max_length}
    body = TAGS.format(
        virtual=f"[:, {formulation.virtual_tokens} :]" if formulation.virtual_tokens else "",
        normalised=NORMALISED if formulation.normalize else "",
    )
    begin = snippets.start(network, constants, files=True, tokenizer=', padding_side="right"')
    return begin + body + snippets.end(formulation.text_names(pairs=False))
