"""A tagger of words in an exported folder."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.formulations import snippets
from peftbench.formulations.snippets import Network

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


def code(
    network: Network, tags: Sequence[str], *, prefix: str, max_length: int, virtual_tokens: int, normalize: bool
) -> str:
    """The whole file.

    Args:
        tags: in the order of the classifier's outputs.
        prefix: what stands in front of a text.
        normalize: whether hidden states have a fixed length.
    """
    constants = {"TAGS": tags, "PREFIX": prefix, "MAX_LENGTH": max_length}
    body = TAGS.format(
        virtual=f"[:, {virtual_tokens} :]" if virtual_tokens else "",
        normalised=NORMALISED if normalize else "",
    )
    begin = snippets.start(network, constants, files=True, tokenizer=', padding_side="right"')
    return begin + body + snippets.end(["text"])
