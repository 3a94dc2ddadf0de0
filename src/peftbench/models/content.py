"""What a backbone is: its name by content, which a run's id, its checkpoints and its caches rest on. Free of torch.

A path or a branch says where weights lie; it does not say which they are. A hash of a file is kept by the file's size,
time of change and inode, so that it is computed once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftbench.cache import JsonCache
from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError
from peftbench.models.folder import regular

RANDOM_SEED = 20261121
"""Of the networks without pre-trained weights."""
TOKENIZER_FILE = Path(__file__).with_name("tiny_tokenizer.json")
ASSETS = Path(__file__).parents[1] / "assets"
HEAD, RECIPE = "head.safetensors", "recipe.json"
UNTRAINED = "untrained"
"""In place of a masked-LM head's folder: the head as its training began, to measure what training gave."""

SETTLED = 2 * 10**9
"""Nanoseconds after its last change from which on a file's hash is kept: a clock's tick may hide a second change."""

_hashes: dict[str, str] = {}


def content_id(cfg: ModelConfig) -> str:
    """Equal for exactly those configs that load the same weights, config and tokenizer.

    The commit of a hub model, a hash over every file that is read of any other; of random weights a hash of what they
    are made from. A branch of the hub is resolved: in the hub's cache when offline, else with one request.

    Raises:
        UsageError: the model cannot be found.
    """
    from peftbench.models.sources import locate

    if cfg.source == "random":
        return random_revision(cfg.arch)
    revision = locate(cfg).revision
    return revision if cfg.mlm_head is None else f"{revision}+{head_revision(cfg.mlm_head)[:16]}"


def random_revision(arch: dict[str, Any]) -> str:
    """Names random weights: hash of the architecture, the seed and the tokenizer."""
    spec = json.dumps([arch, RANDOM_SEED], sort_keys=True).encode() + TOKENIZER_FILE.read_bytes()
    return f"random:{hashlib.sha256(spec).hexdigest()[:16]}"


def head_revision(name: str) -> str:
    """The same for a masked-LM head that is shipped apart (`model.mlm_head`)."""
    if name == UNTRAINED:
        return name
    files = [head_folder(name) / file for file in (HEAD, RECIPE)]
    if absent := next((file for file in files if not file.exists()), None):
        raise UsageError(
            f"model.mlm_head={name}: {absent} is not there. Name a folder of peftbench/assets "
            f"({', '.join(sorted(p.name for p in ASSETS.iterdir() if p.is_dir()))}), one of yours, or `{UNTRAINED}`."
        )
    return content_hash(files)


def head_folder(name: str) -> Path:
    """Where a masked-LM head lies: one of the package's, or a folder of the user's."""
    return ASSETS / name if (ASSETS / name).is_dir() else Path(name).expanduser()


def content_hash(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of `files`, in the order of their names; computed once while they stay.

    Raises:
        UsageError: one of them is no regular file, or cannot be read.
    """
    ordered = sorted(files)
    key = [_stamp(file) for file in ordered]
    name = json.dumps(key)
    if name in _hashes:
        return _hashes[name]
    cache = JsonCache("content-hashes")
    known = cache.get(name)
    if not isinstance(known, str):
        known = _sha256(ordered)
    if all(time.time_ns() - changed > SETTLED for *_, changed in key):
        _hashes[name] = known
        cache.put(known, name)
    return known


def _stamp(file: Path) -> list[Any]:
    """What changes when the file does. The time of change cannot be set back, as that of the content can."""
    found = regular(file).stat()
    return [str(file.absolute()), found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _sha256(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        try:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
        except OSError as error:
            raise UsageError(f"{file}: cannot be read ({error.strerror}).") from None
    return digest.hexdigest()
