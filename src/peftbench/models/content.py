"""What a backbone is: its name by content, which a run's id, its checkpoints and its caches rest on. Free of torch.

A path or a branch says where weights lie; it does not say which they are. A hash of a file is kept by the file's size,
time of change and inode, so that it is computed once.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from peftbench.cache import cache_dir
from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError
from peftbench.models.hashing import content_hash
from peftbench.models.sources import locate

RANDOM_SEED = 20261121
"""Of the networks without pre-trained weights."""
TOKENIZER_FILE = Path(__file__).with_name("tiny_tokenizer.json")
ASSETS = Path(__file__).parents[1] / "assets"
HEAD, RECIPE = "head.safetensors", "recipe.json"
UNTRAINED = "untrained"
"""In place of a masked-LM head's folder: the head as its training began, to measure what training gave."""


def content_id(cfg: ModelConfig) -> str:
    """Equal for exactly those configs that load the same weights, config and tokenizer.

    The commit of a hub model, a hash over every file that is read of any other; of random weights a hash of what they
    are made from. A branch of the hub is resolved: in the hub's cache when offline, else with one request.

    Raises:
        UsageError: the model cannot be found.
    """
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
            f"({', '.join(sorted(p.name for p in ASSETS.iterdir() if p.is_dir()))}), one of yours, or `{UNTRAINED}`. "
            "scripts/train_mlm_head.py trains one into the cache."
        )
    return content_hash(files)


def head_folder(name: str) -> Path:
    """Where a masked-LM head lies: one of the package's, one that was trained into the cache, or a folder of the
    user's."""
    places = (ASSETS / name, cache_dir() / "models" / name)
    return next((place for place in places if place.is_dir()), Path(name).expanduser())
