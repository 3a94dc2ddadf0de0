"""What the fields of a record hold, and the check of that on reading. Any tool may have written the file, with a
checksum that fits, so nothing of it is believed before: a view may then take every field for what it says here.

Keys that are not named here are left alone (later versions have more); what they hold must be data that can be printed
and counted with, too: finite numbers, no deep nests.
"""

from __future__ import annotations

import types
from datetime import datetime
from functools import cache
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

DEPTH = 32
"""Nested lists and dictionaries; a resolved config has six."""
GREATEST = 1e60
"""No measure is greater, and squares of such numbers are still finite."""
WHOLE = 2**63
"""Bound of whole numbers: bytes, parameters and seeds fit."""

Numbers = dict[str, float | None]


class DrawFacts(TypedDict, total=False):
    """`Record.draw`."""

    sha256: str
    protocol: str
    version: int | str
    unit: str
    shots: int | str
    data_seed: int
    select: str
    rows: dict[str, int] | None
    counts: dict[str, Any]
    overlap: dict[str, Any]
    notes: list[str]


class SourceFacts(TypedDict, total=False):
    """`Record.data["source"]`."""

    kind: str
    where: str
    files: dict[str, str] | None


class DataFacts(TypedDict, total=False):
    """`Record.data`."""

    sha256: str
    source: SourceFacts | None
    notes: list[str] | None
    problem: str | None
    labels: list[str] | None
    score_range: list[float] | None


class PredictionFacts(TypedDict, total=False):
    """`Record.predictions`."""

    file: str | None
    sha256: str
    count: int
    invalid: int


class StageFacts(TypedDict, total=False):
    """One of `Record.stages`, and of its parts."""

    name: str
    status: str
    reason: str
    steps: int
    tokens: int
    train_seconds: float | None
    unlabeled_passes: int
    teachers: int
    seconds: Numbers
    cpu_seconds: Numbers
    memory: Numbers
    step_flops: float | None
    dev_score: float | None
    lr: dict[str, float]
    notes: list[str]
    parts: list[StageFacts]


class EnvironmentFacts(TypedDict, total=False):
    """`Record.environment`."""

    device: str
    n_devices: int
    precision: str | None
    versions: dict[str, str] | None
    git_sha: str | None
    dirty: bool | None
    python: str
    platform: str
    cpu: str
    cores: int | None
    threads: int | None
    gpu: str | None


class MajorityFacts(TypedDict, total=False):
    """`Record.diagnosis["majority"]`."""

    label: str
    share: float
    target_share: float


class DiagnosisFacts(TypedDict, total=False):
    """`Record.diagnosis`."""

    majority: MajorityFacts
    truncation: Numbers
    label_tokens: dict[str, list[str]]
    dev_test_gap: float | None
    norms: dict[str, Numbers]
    warnings: list[str] | None


class IdentityFacts(TypedDict, total=False):
    """`Record.identity`."""

    contents: dict[str, str]


class TuningFacts(TypedDict, total=False):
    """`Record.tuning`."""

    sampler: str
    trials: int
    failed: int
    seeds: int
    seconds: float
    cpu_seconds: float | None
    values: dict[str, Any]
    dev_score: float | None
    start_dev_score: float | None
    equal: int
    dev_rows: int
    dev_selects: bool
    study: str


class ModelFacts(TypedDict, total=False):
    """`Record.model_info`."""

    family: str
    revision: str | None
    source: str


class ModelKeys(TypedDict, total=False):
    """What readers look up in `config["model"]`."""

    name: str


class FormulationKeys(TypedDict, total=False):
    """What readers look up in `config["method"]["formulation"]`."""

    name: str


class MethodKeys(TypedDict, total=False):
    """What readers look up in `config["method"]`."""

    name: str
    needs_model: bool
    lr: dict[str, float | None] | None
    tuner: dict[str, Any] | None
    formulation: FormulationKeys | None
    stages: list[str]
    init_from: str | None


class TaskKeys(TypedDict, total=False):
    """What readers look up in `config["task"]`."""

    name: str
    subset: str | None
    subsets: dict[str, Any] | None
    label_words: dict[str, Any] | None


class TrainerKeys(TypedDict, total=False):
    """What readers look up in `config["trainer"]`."""

    steps: int | None
    epochs: float | None
    batch_size: int | None
    micro_batch: int | None
    max_length: int | None


class SearchKeys(TypedDict, total=False):
    """What readers look up in `config["search"]`."""

    name: str
    space: dict[str, Any] | None


class ConfigKeys(TypedDict, total=False):
    """`Record.config`: what readers of records look up in it. The whole of it is checked where it is run again."""

    model: ModelKeys | None
    method: MethodKeys
    task: TaskKeys | None
    protocol: dict[str, Any] | None
    trainer: TrainerKeys | None
    tracking: dict[str, Any] | None
    search: SearchKeys | None
    shots: int | str
    seed: int
    data_seed: int | None


_WORDS = {
    dict: "a dictionary", list: "a list", str: "text", int: "a whole number", float: "a number",
    bool: "true or false", type(None): "null",
}  # fmt: skip
_ANYTHING: dict[type, Any] = {dict: dict[str, Any], list: list[Any]}


def check(value: Any, hint: Any, name: str = "record", depth: int = 0) -> None:
    """Make sure that `value`, as it came from JSON, is of the type `hint`.

    `hint` is made of str, int, float, bool, None, Any, Literal, unions, lists, dictionaries with text as keys, and
    TypedDict classes. A whole number is a float as well; True and False are no numbers.

    Raises:
        ValueError: it is not; the text names the field, dotted.
    """
    if depth > DEPTH:
        raise ValueError(f"{name}: nested too deeply")
    wanted = hint if get_origin(hint) is None else get_origin(hint)
    if wanted in (Union, types.UnionType):
        _check_union(value, get_args(hint), name, depth)
    elif wanted is Literal:
        if value not in get_args(hint) or not isinstance(value, str):
            raise ValueError(f"{name}: not one of {', '.join(map(str, get_args(hint)))}")
    elif wanted is Any:
        _check(value, _ANYTHING.get(type(value), type(value)), name, depth)
    else:
        _check(value, hint, name, depth)


def _check_union(value: Any, choices: tuple[Any, ...], name: str, depth: int) -> None:
    """The first choice that fits; if none does, what is wrong by the first one of this value's own kind."""
    problems = []
    for choice in choices:
        try:
            return check(value, choice, name, depth)
        except ValueError as error:
            problems.append(error)
    raise problems[0]


def _check(value: Any, hint: Any, name: str, depth: int) -> None:
    """`check` of one that is neither a union nor Literal nor Any."""
    if is_typeddict(hint):
        known = _hints(hint)
        _of_type(value, dict, name)
        for key, item in value.items():
            check(item, known.get(key, Any), f"{name}.{key}", depth + 1)
        return
    wanted = get_origin(hint) or hint
    _of_type(value, wanted, name)
    if wanted is dict:
        for key, item in value.items():
            check(item, get_args(hint)[1], f"{name}.{key}", depth + 1)
    elif wanted is list:
        for item in _representatives(value):
            check(item, get_args(hint)[0], name, depth + 1)
    elif wanted in (int, float) and not abs(value) < (WHOLE if isinstance(value, int) else GREATEST):  # nor is NaN
        raise ValueError(f"{name}: no finite number of a size that a run can have")


def _representatives(items: list[Any]) -> list[Any]:
    """Of numbers and None the extremes and one of each type, which stand for all: curves are long. Else every item."""
    by_type = {type(item): item for item in items}
    if len(items) < 9 or not by_type.keys() <= {int, float, type(None)}:
        return items
    numbers = [item for item in items if item is not None]
    return [*by_type.values(), *((min(numbers), max(numbers)) if numbers else ())]


def _of_type(value: Any, wanted: type, name: str) -> None:
    accepted = (int, float) if wanted is float else wanted
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{name}: {_WORDS[type(value)]}, not {_WORDS[wanted]}")


def moment(value: str, name: str) -> None:
    """Make sure that `value` is a point in time, ISO 8601. Raises ValueError."""
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{name}: no time in ISO 8601") from error


@cache
def _hints(hint: type) -> dict[str, Any]:
    return get_type_hints(hint)
