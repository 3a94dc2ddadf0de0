"""A tuner in a user's own Python file. The file is run, as `python FILE` would: the user asked for it by its path."""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from peftbench.config.registry import run_file
from peftbench.config.schema import TunerConfig
from peftbench.config.sections import build
from peftbench.errors import UsageError
from peftbench.tuners.base import Tuner
from peftbench.tuners.file import FileOptions


def tuner_from_config(cfg: FileOptions) -> Tuner:
    """The tuner of `method=file`: its config is made from `options`.

    Raises:
        UsageError: as `tuner_from_file`, or an option is not a field of the file's config dataclass.
    """
    _, config_class = classes_in(Path(cfg.file).resolve())
    options = {"name": Path(cfg.file).stem, **cfg.options}
    return tuner_from_file(cfg.file, build(config_class, options, "method.tuner.options"))


def tuner_from_file(path: str, cfg: Any = None) -> Tuner:
    """The one tuner of a file, with `cfg` or with the defaults of the file's config dataclass.

    Raises:
        UsageError: the file cannot be read or run, or does not hold exactly one tuner and one config dataclass.
    """
    tuner_class, config_class = classes_in(Path(path).resolve())
    if cfg is None:
        for field in dataclasses.fields(config_class):
            if field.name != "name" and field.default in (MISSING, dataclasses.MISSING) and no_factory(field):
                raise UsageError(f"{path}: {config_class.__name__}.{field.name} has no default, and a check needs one.")
        cfg = build(config_class, {"name": Path(path).stem}, Path(path).name)
    return tuner_class(cfg)


def no_factory(field: dataclasses.Field) -> bool:
    """Whether no function makes the default of a field."""
    return field.default_factory is dataclasses.MISSING


@cache
def classes_in(path: Path) -> tuple[type[Tuner], type[TunerConfig]]:
    """The tuner and the config dataclass that a file defines; the file is run once in a process."""
    module = run_file(path)
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    tuners = [c for c in own if issubclass(c, Tuner) and not inspect.isabstract(c)]
    abstract = [c for c in own if issubclass(c, Tuner) and inspect.isabstract(c)]
    configs = [c for c in own if issubclass(c, TunerConfig)]
    if not tuners and abstract:
        lacking = ", ".join(sorted(abstract[0].__abstractmethods__))
        raise UsageError(f"{path}: {abstract[0].__name__} lacks {lacking}, which every tuner has. See tuners/base.py.")
    for kind, found in (("subclass of peftbench.tuners.Tuner", tuners), ("subclass of TunerConfig", configs)):
        if len(found) != 1:
            names = ", ".join(c.__name__ for c in found) or "none"
            raise UsageError(f"{path}: exactly one {kind} is wanted, and this file defines {names}.")
    if "__dataclass_fields__" not in vars(configs[0]):
        raise UsageError(f"{path}: {configs[0].__name__} is not a dataclass; write @dataclass above it.")
    return tuners[0], configs[0]
