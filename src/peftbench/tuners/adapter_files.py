"""Adapters on disk, in peft's own layout: `adapter_config.json` and `adapter_model.safetensors`.

`PeftModel.save_pretrained` would also write a model card, may ask a hub whether the base model's vocabulary was
changed, and copies whole embedding matrices when an embedding is targeted; none of that belongs into a run's folder.
"""

from __future__ import annotations

import copy
from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peftbench.errors import UsageError

WEIGHTS = "adapter_model.safetensors"


def write_adapter(folder: Path, config: PeftConfig, tensors: dict[str, Tensor]) -> None:
    """Write a config (marked for inference, as peft does) and CPU copies of `tensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(config)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    # Copies: names that share one tensor (RandLoRA's bases, a tied embedding) must each be whole in the file.
    cpu = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    save_file(cpu, folder / WEIGHTS, metadata={"format": "pt"})


def read_tensors(folder: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an adapter file, checked to have exactly the names and shapes of `expected`.

    Raises:
        UsageError: the file is absent or belongs to another adapter.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise UsageError(f"{path}: no such file. The folder of a finished run holds it; give that folder.")
    found = load_file(path)
    shapes = {name: tuple(t.shape) for name, t in found.items()}
    wanted = {name: tuple(t.shape) for name, t in expected.items()}
    if shapes != wanted:
        differing = sorted(n for n in shapes.keys() | wanted.keys() if shapes.get(n) != wanted.get(n))
        name = differing[0]
        raise UsageError(
            f"{path}: this adapter was made with other settings: `{name}` has shape {shapes.get(name, 'none')} in "
            f"the file and {wanted.get(name, 'none')} in the model ({len(differing)} tensors differ). "
            "Use the config of the run that saved it."
        )
    return found


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the active adapter of `model`."""
    name = model.active_adapters[0]
    write_adapter(folder, model.peft_config[name], adapter_tensors(model))


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Read the active adapter of `model` back; what is trainable stays trainable."""
    tensors = read_tensors(folder, adapter_tensors(model))
    set_peft_model_state_dict(model, tensors, adapter_name=model.active_adapters[0])


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """Name in the file -> tensor of the active adapter."""
    return get_peft_model_state_dict(model, adapter_name=model.active_adapters[0], save_embedding_layers=False)


def write_module(module: nn.Module, path: Path) -> None:
    """A small trained module as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}, path)


def read_module(module: nn.Module, path: Path) -> None:
    """Read back what `write_module` wrote. Raises UsageError if the file is absent or holds another module."""
    if not path.exists():
        raise UsageError(f"{path}: no such file. The folder of a run with the same method holds it.")
    try:
        module.load_state_dict(load_file(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: made with other settings. Use the config of its run. {reason}") from None
