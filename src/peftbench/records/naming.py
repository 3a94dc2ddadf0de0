"""Names of rows whose settings differ: `lora rank=16` rather than a hash, from the configs in the records."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from peftbench.cache import Cache, code_stamp
from peftbench.errors import a_or_an, did_you_mean
from peftbench.records.ids import EXCLUDED, SEEDS, content
from peftbench.records.leaderboard import Row
from peftbench.records.record import Record
from peftbench.records.store import Store

BLOCK = ("model", "task", "subset", "protocol", "shots", "metric")
"""What rows share that stand beside each other; their methods are told apart."""
SECTIONS = ("method.tuner.", "method.lr.", "method.formulation.", "method.", "trainer.", "search.", "")
"""Where keys are looked for first, and what is left out of their names."""
WORDS = ("task", "subset", "model", "method", "protocol", "metric", "status")
"""Columns of words, any of which may be taken for another: sst2 is a subset of the task glue."""
ABSENT = "none"
LONGEST = 24
TRICKS = "method.tricks"
"""Stands for the tricks of a run, by their names, beside the options of each."""

Leaves = dict[str, Any]


def settings(record: Record) -> Leaves:
    """Dotted keys and values of what decides a run's result, its seeds apart; `data` and `peftbench` beside them."""
    kept = content(record.config, EXCLUDED + SEEDS)
    kept |= {f"weights of {part}": sha for part, sha in (record.identity.get("contents") or {}).items()}
    kept |= record.identity.get("versions") or {}
    leaves = dict(flat({**kept, "data": record.data.get("sha256")}))
    leaves.pop("method.name", None)
    if tricks := (record.config.get("method") or {}).get("trick"):
        leaves[TRICKS] = "+".join(tricks)
    return leaves


def filled(records: Mapping[str, Record]) -> dict[str, Leaves]:
    """`settings` of each record; what only the others name there, as it stands in the record's whole config.

    A value that is as it always was does not count as a setting; beside one that does it is a value like any other.
    """
    told = {name: settings(record) for name, record in records.items()}
    keys = dict.fromkeys(key for leaves in told.values() for key in leaves)
    wholes = {name: dict(flat(record.config)) for name, record in records.items()}
    return {name: {k: told[name].get(k, wholes[name].get(k)) for k in keys} for name in records}


def flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nearest(column: str, value: str, rows: Sequence[Row], written: str = "{}={}", more: Iterable[str] = ()) -> str:
    """The end of a message to somebody who asks for a value that no row has in a column: the column that has it, or
    else the nearest value.

    Args:
        written: how the command writes a column and a value, for `str.format`.
        more: further values that may be asked for.

    >>> nearest("task", "sst2", [{"task": "glue", "subset": "sst2"}], "--{} {}")
    'That is a subset: `--subset sst2`.'
    """
    for other in WORDS:
        if other != column and value in {str(r.get(other)) for r in rows}:
            return f"That is {a_or_an(other)}: `{written.format(other, value)}`."
    return did_you_mean(value, {str(r.get(column)) for r in rows} | {*more})


def method_names(store: Store, rows: Iterable[Row]) -> dict[str, str]:
    """Variant -> the method's name, with the settings that tell it from others of its method in the same block.

    Only records of methods that stand for several variants are read, one a variant, and what came of it is remembered,
    for a variant is a hash of what is told here.
    """
    members: dict[str, Row] = {}
    together: dict[tuple[Any, ...], dict[str, None]] = defaultdict(dict)
    for row in rows:
        members.setdefault(row["variant"], row)
        together[(row["method"], *(row.get(name) for name in BLOCK))][row["variant"]] = None
    unclear = {key[0] for key, variants in together.items() if len(variants) > 1}
    if not unclear:
        return {variant: row["method"] for variant, row in members.items()}
    asked = sorted([*map(str, block), *sorted(variants)] for block, variants in together.items())
    key = [code_stamp("records", "config"), asked]
    return Cache("names").once(key, lambda: _told(store, members, together, unclear))


def _told(
    store: Store, members: Mapping[str, Row], together: Mapping[tuple[Any, ...], Mapping[str, None]], unclear: set[str]
) -> dict[str, str]:
    """`method_names`, from the records."""
    records = {v: store.load(row["run_id"]) for v, row in members.items() if row["method"] in unclear}
    leaves = filled({v: record for v, record in records.items() if record is not None})
    blocks: dict[str, list[list[str]]] = defaultdict(list)
    for key, variants in together.items():
        if key[0] in unclear:
            blocks[key[0]].append([v for v in variants if v in leaves])
    names = {variant: row["method"] for variant, row in members.items()}
    for method, found in blocks.items():
        names |= {variant: f"{method} {words}" for variant, words in tell_apart(leaves, found).items() if words}
    return _unique(names, together)


def tell_apart(leaves: Mapping[str, Leaves], blocks: Sequence[Sequence[str]]) -> dict[str, str]:
    """Name of each config in `blocks` -> `key=value ...` for the fewest keys that tell those of every block apart.

    All get the same keys, so that one config has one name in every block.
    """
    keys: dict[str, None] = {}
    for block in blocks:
        keys |= dict.fromkeys(_telling([leaves[name] for name in block], list(keys)))
    shorts = short_keys(keys)
    return {
        name: " ".join(f"{shorts[key]}={_value(key, leaves[name].get(key))}" for key in keys)
        for block in blocks
        for name in block
    }


def _telling(configs: Sequence[Leaves], first: Sequence[str]) -> Iterator[str]:
    """The fewest keys that tell configs apart, found greedily; those of `first` are there already."""
    every = dict.fromkeys(key for config in configs for key in config)
    spelled = {key: [json.dumps(config.get(key), default=str) for config in configs] for key in every}
    open_keys = {key: values for key, values in spelled.items() if len(set(values)) > 1}
    place = [tuple(values[i] for key, values in open_keys.items() if key in first) for i in range(len(configs))]
    while open_keys and len(set(place)) < len(configs):
        best = min(open_keys, key=lambda k: (-len(set(zip(place, open_keys[k], strict=True))), *_preference(k)))
        if len(set(zip(place, open_keys[best], strict=True))) == len(set(place)):
            return
        place = [(*was, value) for was, value in zip(place, open_keys.pop(best), strict=True)]
        yield best


def _preference(key: str) -> tuple[int, int, str]:
    """A method's own settings before the others, short keys before long ones."""
    return next(i for i, section in enumerate(SECTIONS) if key.startswith(section)), len(key), key


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Key -> its name in a label: `method.tuner.rank` is `rank`, the learning rate of the module `lr`."""
    keys = list(keys)
    shorts = {key: _short(key) for key in keys}
    taken = list(shorts.values())
    return {key: short if taken.count(short) == 1 else key for key, short in shorts.items()}


def _short(key: str) -> str:
    if key.startswith("method.lr."):
        return key.removeprefix("method.").removesuffix(".module")
    for section in SECTIONS:
        if key.startswith(section):
            return key.removeprefix(section) if key != f"{section}name" else section.split(".")[-2] if section else key
    return key


def setting_of(record: Record, name: str) -> str | None:
    """A setting of a run as labels show it, by its whole key or by its name in labels; None if it has none of it."""
    leaves = dict(flat(record.config)) | settings(record)
    keys = (key for section in ("", *SECTIONS) for key in (f"{section}{name}", f"{section}{name}.module"))
    return next((_value(key, leaves[key]) for key in keys if key in leaves), None)


def short_value(value: Any) -> str:
    """A value in a label: 0.001 as 1e-3, a hash by its first digits."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: ABSENT}[value]
    if isinstance(value, float) and value and (abs(value) < 0.01 or abs(value) >= 1e5):
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if len(text) >= 40 and not set(text) - set("0123456789abcdef"):
        return text[:8]
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _value(key: str, value: Any) -> str:
    return value if key == TRICKS and value else short_value(value)


def _unique(names: dict[str, str], together: Mapping[tuple[Any, ...], Iterable[str]]) -> dict[str, str]:
    """Names that are the same in a block get the first digits of their variant, for no config says what differs."""
    same = set()
    for variants in together.values():
        of_name = defaultdict(list)
        for variant in variants:
            of_name[names[variant]].append(variant)
        same |= {variant for found in of_name.values() if len(found) > 1 for variant in found}
    return {variant: f"{name} #{variant[:4]}" if variant in same else name for variant, name in names.items()}
