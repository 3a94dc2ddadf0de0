"""GGUF files (llama.cpp's format) as plain checkpoints: transformers dequantises once, later loads take 0.1 s."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAGIC = b"GGUF"


def check(path: Path) -> None:
    """Whether `path` is a GGUF file that can be read here; looks at its first bytes alone.

    Raises:
        UsageError: it is not, or the package that reads such files is not installed.
    """
    if not path.is_file():
        raise UsageError(f"model.path={path}: no such file. model=gguf wants one file: model.path=FILE.gguf.")
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise UsageError(
                f"model.path={path}: not a GGUF file (it does not begin with GGUF). A folder with safetensors is "
                "model=local model.path=DIR."
            )
    if find_spec("gguf") is None:
        raise UsageError(f'reading {path.name} needs the gguf package: pip install "peftbench[offline]"')


def convert(path: Path, folder: Path) -> None:
    """Write the network in `path` as float32 safetensors with its config and tokenizer.

    Output embeddings that equal the word embeddings are tied, as they were before the file was made.

    Raises:
        UsageError: the file is cut off or damaged, or of an architecture that transformers does not read.
    """
    check(path)
    try:
        _convert(path, folder)
    except Exception as error:  # gguf and transformers raise errors of many kinds over a damaged file
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{path}: cannot be read as a GGUF checkpoint ({type(error).__name__}: {reason}). A file that is cut off "
            "or damaged: get it again. An architecture that transformers does not read: use its safetensors release "
            "(model=hub model.path=ORG/NAME)."
        ) from error


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from peftbench.models.architecture import AUTO_CLASSES, family_of

    where: dict[str, Any] = {"gguf_file": path.name}
    auto_class = AUTO_CLASSES[family_of(AutoConfig.from_pretrained(path.parent, **where)), "lm"]
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    loaded = auto_class.from_pretrained(path.parent, dtype=torch.float32, **where)
    # A model loaded from GGUF calls itself quantised and refuses to be saved; its float32 weights in a model built
    # from the same config are an ordinary one.
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    config.tie_word_embeddings = has_equal_ends(loaded)
    with torch.device("meta"):
        plain = auto_class.from_config(config)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def has_equal_ends(model: PreTrainedModel) -> bool:
    """Whether word and output embeddings are the same numbers."""
    import torch

    first, last = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert isinstance(first, torch.Tensor)
    assert isinstance(last, torch.Tensor)
    return first.shape == last.shape and torch.equal(first, last)
