"""What a folder with a checkpoint must be before anything in it is read. Free of torch."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError

WEIGHTS = "*.safetensors"
INDEX = "model.safetensors.index.json"
READ = (".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken", ".codes")
"""Endings of the files that transformers may read of a checkpoint; no other one decides anything."""
ANATOMY = "anatomy.yaml"
"""A user's description of the network's parts, see `peftbench.models.anatomy`."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken", "*.codes")
BYTES_ALONE = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
"""Tokenizers that need no vocabulary."""
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")
JSON_BYTES = 1 << 28
"""The largest JSON file that is opened; tokenizers of 250,000 pieces take 17 MB."""
LAYERS, SIZE = 1000, 100_000_000
"""The most layers, and the largest width or vocabulary, that a config may ask for: a network is built before its
weights are looked at."""


def files_read(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that decide what is loaded, by name.

    Raises:
        UsageError: one of them is no regular file, or cannot be looked at.
    """
    found = [p for p in folder.iterdir() if p.suffix in READ]
    found += (folder / "additional_chat_templates").glob("*.jinja")
    found += folder.glob(ANATOMY)
    for path in found:
        regular(path)
    return sorted(found)


def regular(path: Path) -> Path:
    """`path`, if it is a file with bytes in it or a link to one: a FIFO or a device would be read for ever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}). Remove it, or get the checkpoint again."
        ) from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is no regular file, so it is not read. Remove it, or get the checkpoint again.")
    return path


def check_folder(folder: Path, what: str) -> None:
    """Whether `folder` holds a checkpoint that can be loaded safely and wholly.

    Args:
        what: the model in the words of a message.

    Raises:
        UsageError: weights or tokenizer are absent, the weights are pickled or lie elsewhere, an adapter lies beside
            them, or the config is no network of this world.
    """
    names = {path.name for path in files_read(folder)}
    if not any(name.endswith(".safetensors") for name in names):
        raise UsageError(
            f"{what} holds no {WEIGHTS} file. Pickled weights (*.bin, *.pt) can run code when they are opened and are "
            "never read here. Ways out: a revision of the model that has safetensors (model.revision=COMMIT), or a "
            "copy that you convert where you trust it with transformers' `save_pretrained(DIR)` and load with "
            "model=local model.path=DIR."
        )
    if left := sorted(names.intersection(ADAPTERS)):
        raise UsageError(
            f"{what} holds {left[0]} beside the weights: transformers would put that adapter on top of the network. "
            "Move it to a folder of its own, or merge it (peft's `merge_and_unload`) and save the result."
        )
    config = read_json(folder / "config.json")
    named = config.get("transformers_weights")
    _check_names([] if named is None else [named], folder, "config.json: transformers_weights")
    if INDEX in names:
        weights = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weights, dict):
            raise UsageError(f"{folder / INDEX}: no weight_map. Get the checkpoint again.")
        _check_names(sorted({str(file) for file in weights.values()}), folder, INDEX)
    check_sizes(config, str(folder / "config.json"))
    _check_tokenizer(folder, what)


def _check_names(names: list[Any], folder: Path, where: str) -> None:
    """Every file that weights are said to lie in is safetensors, in this folder, and there."""
    for name in names:
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise UsageError(
                f"{folder}: {where} names {name!r}. Weights are read from safetensors files of the same folder alone: "
                "pickled ones can run code, and what lies elsewhere is not part of the checkpoint."
            )
        if not (folder / name).exists():
            raise UsageError(f"{folder}: {where} names {name}, which is not there. Get the checkpoint again.")


def _check_tokenizer(folder: Path, what: str) -> None:
    if any(any(folder.glob(pattern)) for pattern in VOCABULARIES):
        return
    settings = folder / "tokenizer_config.json"
    kind = read_json(settings).get("tokenizer_class") if settings.exists() else None
    if kind not in BYTES_ALONE:
        raise UsageError(
            f"{what} has no tokenizer files ({', '.join(VOCABULARIES[:4])}): every word would be unknown. Copy those "
            "of the model it was made from into the folder (`AutoTokenizer.from_pretrained(...).save_pretrained(DIR)`)."
        )


def check_sizes(config: dict[str, Any], where: str) -> None:
    """Whether a network of these sizes can be built at all.

    Raises:
        UsageError: a number of the config is beyond every network that there is.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            check_sizes(value, f"{where}: {key}")
        elif isinstance(value, int) and any(part in key for part in ("layer", "size", "dim", "num_", "n_", "d_")):
            limit = LAYERS if "layer" in key else SIZE
            if value > limit:
                raise UsageError(f"{where}: {key}={value} is more than {limit:,}; no network like this is built here.")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        UsageError: it is no JSON object, nested without end, or larger than any of a checkpoint.
    """
    if regular(path).stat().st_size > JSON_BYTES:
        raise UsageError(f"{path} has more than {JSON_BYTES >> 20} MiB; no such file of a checkpoint has.")
    try:
        value = json.loads(path.read_bytes())
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply to be read.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot read it as JSON ({error}). Get the checkpoint again.") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}, not a JSON object. Get the checkpoint again.")
    return value
