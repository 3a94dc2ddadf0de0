"""What a network is built of, for every tuner: `anatomy_of(model)`.

The names of the parts come from the first that has them: a user's `anatomy.yaml` beside the checkpoint, the table of
known architectures (`architectures.yaml`), or the network's own structure.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from peftbench.errors import UsageError
from peftbench.models.anatomy.parts import Anatomy
from peftbench.models.folder import ANATOMY

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from peftbench.models.anatomy.names import Names

KEPT = "_peftbench_anatomy"
"""Attribute of a network that holds its anatomy, read before a tuner changes anything. Copies keep it."""


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """The parts of a network; read once, so that names stay those of the untouched one.

    Raises:
        UsageError: neither the table nor the structure says what they are.
    """
    if KEPT not in vars(model):
        object.__setattr__(model, KEPT, read(model))
    return vars(model)[KEPT]


def read(model: PreTrainedModel) -> Anatomy:
    """The parts by the table, else by the structure."""
    from peftbench.models.anatomy.names import Misfit, Reader, refused

    architecture = str(model.config.get_text_config().model_type)
    try:
        if architecture in known():
            return Reader(model, "table of known architectures").anatomy(known()[architecture])
        from peftbench.models.anatomy.structure import names_from_structure

        return Reader(model, "structure of the network").anatomy(names_from_structure(model))
    except Misfit as error:
        raise refused(architecture, f"model={model.config._name_or_path or architecture}", error) from None


def scale_of(model: PreTrainedModel) -> float:
    """See `Anatomy.embedding_scale`; known of any network."""
    from peftbench.models.anatomy.names import embedding_scale

    return embedding_scale(model, known().get(str(model.config.get_text_config().model_type), {}))


def describe(model: PreTrainedModel, folder: Path) -> None:
    """Take the names from `anatomy.yaml` in a checkpoint's folder, if there is one.

    Raises:
        UsageError: it is no description, or not of this network.
    """
    from peftbench.models.anatomy.names import Misfit, Reader

    path = folder / ANATOMY
    if not path.is_file():
        return
    try:
        names = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    try:
        if not isinstance(names, dict):
            raise Misfit("it holds no keys and values")
        object.__setattr__(model, KEPT, Reader(model, str(ANATOMY)).anatomy(with_defaults(names)))
    except (Misfit, KeyError, TypeError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UsageError(
            f"{path}: {missing}. Its keys are those of an entry of peftbench/models/anatomy/architectures.yaml."
        ) from None


def with_defaults(names: dict[str, Any]) -> Names:
    """What may be left out: networks are mostly pre-norm, with rotary positions."""
    return {"positions": "rotary", "norm": "pre", **names}


@cache
def known() -> dict[str, Names]:
    """model_type -> names."""
    text = files("peftbench.models.anatomy").joinpath("architectures.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


__all__ = ["Anatomy", "anatomy_of", "describe", "known", "scale_of"]
