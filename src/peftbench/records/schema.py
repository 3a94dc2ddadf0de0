"""What the fields of a record hold, and the check of that on reading. Any tool may have written the file, with a
checksum that fits, so nothing of it is believed before: a view may then take every field for what it says here.

Keys that are not named here are left alone (later versions have more); what they hold must be data that can be printed
and counted with, too: finite numbers, no deep nests.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypedDict

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
    noise: dict[str, Any]
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
    test_texts: list[str] | None


class FileFacts(TypedDict, total=False):
    """A file of a run's."""

    file: str
    sha256: str
    count: int


class PredictionFacts(TypedDict, total=False):
    """`Record.predictions`."""

    file: str | None
    sha256: str
    count: int
    invalid: int
    prompts: FileFacts
    shortened: bool


class TogetherFacts(TypedDict, total=False):
    """`Record.together`."""

    size: int
    index: int


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
    facts: dict[str, float | str | None]
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


class DiagnosisFacts(TypedDict, total=False):
    """`Record.diagnosis`: what readers look up in it; the rest is theirs to print."""

    warnings: list[str] | None


class IdentityFacts(TypedDict, total=False):
    """`Record.identity`."""

    contents: dict[str, str]
    versions: dict[str, Any]


class KnowledgeFacts(TypedDict, total=False):
    """`Record.sequence["knowledge"]`."""

    texts: int
    tokens: int
    loss: list[float | None]
    change: list[float | None]
    margin: list[float | None]


class SequenceFacts(TypedDict, total=False):
    """`Record.sequence`."""

    tasks: list[str]
    metrics: list[str]
    heads: str
    matrix: list[list[float | None]]
    knowledge: KnowledgeFacts | None


class CostsOfAnswers(TypedDict, total=False):
    """`Record.inference["each"]`."""

    plain: Numbers
    own: Numbers


class InferenceFacts(TypedDict, total=False):
    """`Record.inference`."""

    name: str
    parent: str
    rows: int
    calls: int
    tokens: int
    seconds: float
    each: CostsOfAnswers
    facts: Numbers


class WordingFacts(TypedDict, total=False):
    """One of `Record.wordings`."""

    name: str
    observed: bool
    score: float
    kl: float | None
    predictions: PredictionFacts


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
    dev_scores: list[float | None]
    equal: int
    dev_rows: int
    dev_selects: bool
    study: str
    experiment: str


class ModelFacts(TypedDict, total=False):
    """`Record.model_info`."""

    family: str
    revision: str | None
    source: str


class ModelKeys(TypedDict, total=False):
    """What readers look up in `config["model"]`."""

    name: str
    seen: dict[str, str]


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


def moment(value: str, name: str) -> None:
    """Make sure that `value` is a point in time, ISO 8601. Raises ValueError."""
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{name}: no time in ISO 8601") from error
