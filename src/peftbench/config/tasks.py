"""What may stand in the dictionaries of a task's YAML, which no dataclass describes: subsets, words, layouts, the hub.

A check is a function `(value, where) -> None` that raises `UsageError`; `where` is the dotted key, for the message.
Checks of dictionaries are put together from those of their values, so that this file reads as the schema that it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from peftbench.config import registry
from peftbench.config.schema import RunConfig, TaskConfig
from peftbench.errors import UsageError, did_you_mean

Check = Callable[[Any, str], None]
Load = TypeVar("Load", bound=Callable[..., Any])

SPLITS = ("train", "dev", "test", "unlabeled", "mismatched")
ENDS = ("low", "high")
"""The ends of a regression task's scores, as cloze words name them."""


@dataclass(frozen=True)
class Adapter:
    """What an adapter declares of itself, with the decorator `adapter`.

    Attributes:
        config: dataclass of the `task` section.
        keys: checks of keys of that section which the types of the dataclass do not say.
        subset: checks of the keys that a subset has for this adapter alone; None: any key may stand there, and the
            adapter checks its own.
        settle: completes the plain section when the config is composed.
        fits: `fits(config)`, asked when a config is composed; raises UsageError if the rest of it does not go together
            with the task.
    """

    config: type[TaskConfig] = TaskConfig
    keys: Mapping[str, Check] = field(default_factory=dict)
    subset: Mapping[str, Check] | None = None
    settle: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    fits: Callable[[RunConfig], None] | None = None


def adapter(
    config: type[TaskConfig] = TaskConfig,
    keys: Mapping[str, Check] | None = None,
    subset: Mapping[str, Check] | None = None,
    settle: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    fits: Callable[[RunConfig], None] | None = None,
) -> Callable[[Load], Load]:
    """Declare a function `load(cfg, data_dir) -> TaskData`; see `Adapter`. Undeclared, it takes a `TaskConfig`."""

    def declare(load: Load) -> Load:
        load.adapter = Adapter(config, keys or {}, subset, settle, fits)  # type: ignore[attr-defined]
        return load

    return declare


def adapter_of(name: str) -> Adapter:
    """What the adapter of that name declares; its module is imported.

    Raises:
        UsageError: there is none.
    """
    return getattr(registry.get("adapter", name), "adapter", Adapter())


def check_task(task: Mapping[str, Any]) -> None:
    """Check the dictionaries of a composed `task` section; the rest is checked against its dataclass.

    Raises:
        UsageError: a key is unknown, a label does not exist, or a value is not what the key wants: above all a word
            that YAML has read as true, false, a number or nothing.
    """
    declared = adapter_of(str(task.get("adapter")))
    for key, check in {**_TASK, **declared.keys}.items():
        if task.get(key) is not None:
            check(task[key], f"task.{key}")
    subsets = task.get("subsets") or {}
    for name, subset in subsets.items():
        _check_subset(declared, subset or {}, f"task.subsets.{name}")
    labels = {label for subset in subsets.values() for label in _labels(subset or {})}
    if subsets and all(_labels(subset or {}) for subset in subsets.values()):  # else some are only in the data files
        _check_words(task, labels, "task")
    for name, subset in subsets.items():
        if _labels(subset or {}):
            _check_words(subset, _labels(subset), f"task.subsets.{name}")


def text(value: Any, where: str) -> None:
    """A text, and not what YAML makes of an unquoted one."""
    if isinstance(value, str):
        return
    if isinstance(value, bool):
        words = ("yes", "on or true") if value else ("no", "off or false")
        raise UsageError(
            f"{where}: YAML reads an unquoted {words[0]}, {words[1]} as {str(value).lower()}. "
            f'Put it in quotes: "{words[0]}".'
        )
    if value is None:
        raise UsageError(f'{where}: has no value, or the unquoted word null. Give one, in quotes: "null".')
    if isinstance(value, (int, float)):
        raise UsageError(f'{where}: YAML reads it as the number {value}. Put what you wrote in quotes: "{value}".')
    raise UsageError(f"{where}: a text is expected, found {_kind(value)}.")


def word(value: Any, where: str) -> None:
    """A text with something in it."""
    text(value, where)
    if not value.strip():
        raise UsageError(f"{where}: is empty. Give it a text.")


def spelling(value: Any, where: str) -> None:
    """A label as a file writes it: text or a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        text(value, where)


def whole(value: Any, where: str) -> None:
    """A whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{where}={value}: must be a whole number from 0.")


def score(value: Any, where: str) -> None:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{where}={value}: must be a number.")


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise UsageError(f"{where}={value}: must be true or false.")


def choice(*choices: str) -> Check:
    """One of some words."""

    def check(value: Any, where: str) -> None:
        if value not in choices:
            raise UsageError(f"{where}={value}: not a valid choice. {did_you_mean(str(value), choices)}")

    return check


def listed(check: Check, least: int = 0, most: int | None = None) -> Check:
    """A list whose items pass `check`, of `least` to `most` items."""

    def check_list(value: Any, where: str) -> None:
        if value is None:
            raise UsageError(f"{where}: has no value. Give a list, or take the key out.")
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where}: a list is expected, found {_kind(value)}. Write [{value}].")
        if len(value) < least or (most is not None and len(value) > most):
            raise UsageError(f"{where}: {len(value)} items, where {_range(least, most)} are expected.")
        for position, item in enumerate(value):
            check(item, f"{where}[{position}]")

    return check_list


def distinct(check: Check) -> Check:
    """A list whose items pass `check` and read differently: other code points for the same characters, or spaces around
    them, do not make another item."""
    each = listed(check, least=1)

    def check_distinct(value: Any, where: str) -> None:
        each(value, where)
        read = [unicodedata.normalize("NFC", item).strip() for item in value]
        for position, item in enumerate(read):
            if item in read[:position]:
                raise UsageError(f"{where}[{position}]: `{item}` stands there already. Take one out, or rename it.")

    return check_distinct


def one_or_more(check: Check) -> Check:
    """A value that passes `check`, or a list of such."""
    many = listed(check, least=1)
    return lambda value, where: (many if isinstance(value, (list, tuple)) else check)(value, where)


def mapping(check: Check, key: Check = spelling) -> Check:
    """Keys that pass `key` to values that pass `check`."""

    def check_mapping(value: Any, where: str) -> None:
        _need_mapping(value, where)
        for name, item in value.items():
            key(name, f"{where}, key {name}")
            check(item, f"{where}.{name}")

    return check_mapping


def section(**checks: Check) -> Check:
    """A dictionary with these keys and no others; any may be left out."""

    def check_section(value: Any, where: str) -> None:
        _need_mapping(value, where)
        for name, item in value.items():
            if name not in checks:
                raise UsageError(f"{where}.{name}: no such key. {did_you_mean(str(name), checks)}")
            checks[name](item, f"{where}.{name}")

    return check_section


def _need_mapping(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: keys with values are expected, found {_kind(value)}.")


def by_split(check: Check) -> Check:
    """A dictionary from split names."""
    return section(**dict.fromkeys(SPLITS, check))


def labels(value: Any, where: str) -> None:
    """Label names in order, or label as the files write it -> its name."""
    (mapping(word) if isinstance(value, Mapping) else distinct(word))(value, where)


LAYOUT = section(
    columns=listed(text, least=1),
    text=listed(text, least=1),
    pair=text,
    label=text,
    first_label=whole,
    quoting=choice("csv", "none"),
)
HUB = section(
    repo=text, revision=text, name=text, files=by_split(text), required=listed(text), labels=listed(text), layout=LAYOUT
)
CLOZE = mapping(
    section(
        patterns=one_or_more(text),
        words=mapping(one_or_more(word)),
        shorten=choice("last", "longest"),
        source=text,
    )
)
TEMPLATES = mapping(listed(section(name=word, instruction=text, example=word, separator=text, words=mapping(word))))
_TASK: dict[str, Check] = {
    "hub": HUB,
    "label_words": mapping(word),
    "cloze": CLOZE,
    "templates": TEMPLATES,
    "fields": distinct(word),
    "metrics": listed(text),
    "subsets": mapping(lambda value, where: _need_mapping(value or {}, where)),
}
_SUBSET: dict[str, Check] = {
    "labels": labels,
    "label_words": mapping(word),
    "sizes": by_split(whole),
    "languages": listed(text),
    "metrics": listed(text, least=1),
    "main_metric": text,
    "fields": distinct(word),
    "folder": text,
    "files": by_split(one_or_more(text)),
    "hub": HUB,
    "licence": text,
    "held_out": choice("halve", "train", "mismatched"),
    "cloze": CLOZE,
}


def _check_subset(adapter: Adapter, value: Mapping[str, Any], where: str) -> None:
    """A subset's keys and values; of an adapter that does not say which it has, the keys that are common to all."""
    if adapter.subset is not None:
        section(**_SUBSET, **adapter.subset)(value, where)
    else:
        section(**_SUBSET)({key: value[key] for key in _SUBSET if key in value}, where)


def _labels(subset: Mapping[str, Any]) -> set[str]:
    """The label names of a subset, as far as the YAML has them; of a regression task the ends of its scores."""
    if "score_range" in subset:
        return set(ENDS)
    given = subset.get("labels") or ()
    return {str(name) for name in (given.values() if isinstance(given, Mapping) else given)}


def _check_words(part: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Words hang on labels: a key that is none is a mistake."""
    check_labels(part.get("label_words") or {}, names, f"{where}.label_words")
    for name, values in (part.get("cloze") or {}).items():
        check_labels(values.get("words") or {}, names, f"{where}.cloze.{name}.words")


def check_labels(words: Iterable[Any], names: Iterable[str], where: str) -> None:
    """Raises UsageError for the first of `words` that is no label."""
    names = set(names)
    for label in map(str, words):
        if label not in names:
            raise UsageError(f"{where}.{label}: `{label}` is no label. {did_you_mean(label, names)}")


def other_word(label: str) -> str:
    """How to give a label another word, as it is typed into a shell.

    >>> print(other_word("sports"), other_word("one star"), sep=", ")
    task.label_words.sports=WORD, 'task.label_words={one star: WORD}'
    """
    if re.fullmatch(r"[A-Za-z_0-9][A-Za-z_0-9-]*", label):
        return f"task.label_words.{label}=WORD"
    if re.fullmatch(r"[A-Za-z_][A-Za-z_0-9/+. -]*", label):
        return f"'task.label_words={{{label}: WORD}}'"
    return f"`label_words` in the task's YAML, label `{label}`"  # Hydra has no spelling for it


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "keys with values"
    return "a list" if isinstance(value, (list, tuple)) else repr(value)[:60]


def _range(least: int, most: int | None) -> str:
    return f"at least {least}" if most is None else f"{least} to {most}" if least < most else str(most)
