"""Adapter types of our own, made known to peft so that it loads, switches and disables them like its own."""

from __future__ import annotations

from enum import Enum

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method

OWN: set[str] = set()
"""Names of the types that only peftbench has."""


def register_type(config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Make peft know the type whose name is the model's prefix without its underscore, in capitals.

    Safe to call again, also after the module that defines the classes was reloaded.
    """
    name = model_cls.prefix.removesuffix("_")
    OWN.add(name.upper())
    add_type(name.upper())
    kind = PeftType(name.upper())
    for mapping in (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING):
        mapping.pop(kind, None)
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)


def add_type(name: str) -> None:
    """A member of peft's enum of types; peft offers no other way to add one."""
    if name not in PeftType.__members__:
        add_member(PeftType, name)


def add_member(enum: type[Enum], name: str) -> None:
    """Extend an enum of strings by a member whose value is its name."""
    member = str.__new__(enum, name)  # type: ignore[type-var]
    member._name_, member._value_ = name, name  # type: ignore[attr-defined]
    setattr(enum, name, member)
    enum._member_names_.append(name)
    enum._member_map_[name] = member  # type: ignore[assignment]
    enum._value2member_map_[name] = member  # type: ignore[assignment]
