"""Frozen embeddings on disk: append-only shards of (text hash, vector), written atomically, never changed."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from peftbench.cache import cache_dir


class EmbeddingCache:
    """The vectors of one identity (backbone revision, pooling, prefix, length)."""

    def __init__(self, identity: list[Any]) -> None:
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self.folder = cache_dir() / "embeddings" / key

    def read(self) -> dict[str, np.ndarray]:
        """Text hash (64 hex digits) -> vector (d,). A shard that cannot be read is removed and made again later."""
        known: dict[str, np.ndarray] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            try:
                tensors = load_file(shard)
            except (SafetensorError, OSError):
                shard.unlink(missing_ok=True)
                continue
            for digest, vector in zip(tensors["hashes"], tensors["vectors"], strict=True):
                known[digest.tobytes().hex()] = vector
        return known

    def add(self, vectors: dict[str, np.ndarray]) -> None:
        """Write a new shard, named by its content, so that processes never write to one file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("".join(vectors).encode()).hexdigest()[:16]
        hashes = np.stack([np.frombuffer(bytes.fromhex(h), dtype=np.uint8) for h in vectors])
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        save_file({"hashes": hashes, "vectors": np.stack(list(vectors.values()))}, temporary)
        temporary.replace(self.folder / f"{name}.safetensors")
