"""What is checked: a method of ours by its name, or a tuner in a user's own file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from peftbench.config.load import compose
from peftbench.config.schema import TunerConfig
from peftbench.errors import UsageError, did_you_mean
from peftbench.tuners import build_tuner
from peftbench.tuners.base import Tuner
from peftbench.tuners.user_file import tuner_from_file

FAMILIES = ("encoder", "seq2seq", "causal")


@dataclass(frozen=True)
class Subject:
    """A tuner with its config and learning rates.

    Attributes:
        name: the method's, or the file's path.
        overrides: further `KEY=VALUE` of the config, for a method.
        cfg: the tuner's config without dropout, which would hide differences behind chance.
        lr: group name -> learning rate; empty for a file.
    """

    name: str
    overrides: tuple[str, ...]
    cfg: TunerConfig
    lr: Mapping[str, float]

    def tuner(self) -> Tuner:
        """A fresh one."""
        cfg = copy.deepcopy(self.cfg)
        return tuner_from_file(self.name, cfg) if is_file(self.name) else build_tuner(cfg)

    def families(self) -> list[str]:
        """The backbone families that the tuner claims.

        Raises:
            UsageError: it claims one that there is not.
        """
        claimed = self.tuner().families
        for family in claimed:
            if family not in FAMILIES:
                raise UsageError(f"{self.name}: families names `{family}`. {did_you_mean(family, FAMILIES)}")
        return [family for family in FAMILIES if family in claimed]


def find_subject(name: str, overrides: Sequence[str] = ()) -> Subject:
    """The method called `name`, or the tuner in the Python file at that path.

    Raises:
        UsageError: there is no such method, it trains no backbone, or the file does not hold exactly one tuner.
    """
    if is_file(name):
        if overrides:
            raise UsageError(f"{overrides[0]}: a tuner in a file is checked with the defaults of its config dataclass.")
        return Subject(name, (), without_dropout(tuner_from_file(name).cfg), {})
    method = compose([f"method={name}", *overrides]).method
    if not method.needs_model:
        raise UsageError(f"method={name} trains nothing of a backbone, so there is no tuner to check.")
    return Subject(name, tuple(overrides), without_dropout(method.tuner), method.lr)


def is_file(name: str) -> bool:
    """Whether a subject is a path: methods have neither the ending nor a separator that exists on disk."""
    return name.endswith(".py") or Path(name).is_file()


def without_dropout(cfg: Any) -> Any:
    """A copy in which every number called `...dropout...` is 0, those in `options` too."""
    cfg = copy.deepcopy(cfg)
    for f in fields(cfg):
        value = getattr(cfg, f.name)
        if "dropout" in f.name and isinstance(value, float):
            setattr(cfg, f.name, 0.0)
        if isinstance(value, dict):
            setattr(cfg, f.name, {k: 0.0 if "dropout" in str(k) else v for k, v in value.items()})
    return cfg
