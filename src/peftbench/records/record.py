"""The record of a run: the truth from which every table is made. See docs/records.md for the schema."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from peftbench.errors import UsageError
from peftbench.json_types import check
from peftbench.records import schema

SCHEMA_VERSION = 1
RUN_ID = re.compile("[0-9A-Za-z][0-9A-Za-z_-]*")
"""What a run may be called: files and folders have its name."""
OPTIONAL = ("tuning", "stages", "identity", "sequence", "inference", "wordings", "former_ids", "together")
Status = Literal["done", "diverged", "failed", "interrupted"]


class NewerRecord(UsageError):
    """The record is of a schema that this version does not know; it is left where it is."""


@dataclass
class Record:
    """One run. Seconds, MiB (2^20 bytes) and plain counts; scores are in percent.

    `config` is the resolved config; everything else was measured or drawn. What is annotated with a second type is of
    that one when it is read from a file.
    """

    run_id: str
    status: Status
    created: str
    """UTC, ISO 8601."""
    model: str
    method: str
    task: str
    subset: str
    protocol: str
    shots: int | str
    data_seed: int
    seed: int
    metric: str
    """Name of the main metric."""
    score: float | None
    """Main metric on test, in percent."""
    reason: str = ""
    """Why the run did not end as `done`."""
    scores: Annotated[dict[str, float], schema.Numbers] = field(default_factory=dict)
    """Every metric on test; those of an extra test set are named `<metric>_<set>`."""
    dev_score: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by phase, `total` included."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float | None] = field(default_factory=dict)
    """train_peak_mib, eval_peak_mib; on a GPU also train_peak_reserved_mib, eval_peak_reserved_mib; saved_bytes."""
    compute: dict[str, float | None] = field(default_factory=dict)
    """step_flops, tokens_per_second, tokens, steps."""
    parameters: dict[str, int] = field(default_factory=dict)
    """module, head, total, adapter_bytes."""
    lr: dict[str, float] = field(default_factory=dict)
    draw: Annotated[dict[str, Any], schema.DrawFacts] = field(default_factory=dict)
    """sha256, counts by class, overlap, notes, file."""
    data: Annotated[dict[str, Any], schema.DataFacts] = field(default_factory=dict)
    """sha256, source, notes."""
    model_info: Annotated[dict[str, Any], schema.ModelFacts] = field(default_factory=dict)
    predictions: Annotated[dict[str, Any], schema.PredictionFacts] = field(default_factory=dict)
    """file, sha256, count, invalid; of answers to written prompts also `prompts`: file, sha256, count."""
    curves: Annotated[dict[str, list[Any]], dict[str, list[float | None]]] = field(default_factory=dict)
    stages: Annotated[list[dict[str, Any]], list[schema.StageFacts]] = field(default_factory=list)
    """What each stage of the method did and cost; empty in records of earlier versions."""
    environment: Annotated[dict[str, Any], schema.EnvironmentFacts] = field(default_factory=dict)
    """versions, git_sha, dirty, device, n_devices, precision, threads, host facts."""
    notes: list[str] = field(default_factory=list)
    diagnosis: Annotated[dict[str, Any], schema.DiagnosisFacts] = field(default_factory=dict)
    """What `results.diagnosis` found; its `warnings` name the knob to turn. Empty in records of earlier versions."""
    tuning: Annotated[dict[str, Any], schema.TuningFacts] = field(default_factory=dict)
    """What the search cost that chose the settings, and how it went; empty without one."""
    config: Annotated[dict[str, Any], schema.ConfigKeys] = field(default_factory=dict)
    identity: Annotated[dict[str, Any], schema.IdentityFacts] = field(default_factory=dict)
    """What the run's id rests on besides config, draw and data: `contents`, the weights it started from, and raised
    `versions` of its components; `peftbench.records.ids.Basis`."""
    sequence: Annotated[dict[str, Any], schema.SequenceFacts] = field(default_factory=dict)
    """Of a sequence: `tasks`, `metrics` (the main one of each), `heads`, the accuracy `matrix` in percent (row t is
    after t tasks, row 0 before the first; None where a task was not asked) and `knowledge`. Empty for a single task."""
    inference: Annotated[dict[str, Any], schema.InferenceFacts] = field(default_factory=dict)
    """How the answers were drawn, where not plainly, and what that cost (`peftbench.inference.cost`): `name`; `parent`,
    the run that has trained the learner, if it was another; `rows`, `calls`, `tokens`, `seconds` over the test sets;
    `each`, the same and FLOPs for a row, `plain` and `own`; `facts` by name."""
    wordings: Annotated[list[dict[str, Any]], list[schema.WordingFacts]] = field(default_factory=list)
    """Of a test set that was asked in several wordings: of each its name, whether it was observed, score, divergence
    from the reference, which stands first, and predictions. Empty for one wording."""
    together: Annotated[dict[str, int], schema.TogetherFacts] = field(default_factory=dict)
    """Of a run that shared steps with others of its sweep (`trainer.together`): `size` of the group at the first such
    step and its `index` there. Its seconds and peaks are then the group's. Empty for a run that was trained alone."""
    former_ids: list[str] = field(default_factory=list)
    """What the run was called before (`peftbench migrate`)."""
    schema: int = SCHEMA_VERSION

    @property
    def tuned(self) -> str:
        """What the search of the settings took, in words; "" without one."""
        return f"{self.tuning['trials']} trials, {self.tuning['seconds']:.0f} s" if self.tuning else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no NaN or infinity: they become None. Empty `OPTIONAL` fields are left out."""
        return {name: plain(value) for name, value in asdict(self).items() if value or name not in OPTIONAL}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """The record that `to_dict` gave; keys that this version does not know are ignored.

        Raises:
            ValueError: a required key is missing, or a field is not what `schema` says.
            NewerRecord: a newer peftbench wrote it.
        """
        version = data.get("schema", 0)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerRecord(
                f"Run {data.get('run_id')} was recorded by a newer peftbench (schema {version}; this one reads "
                f"up to {SCHEMA_VERSION}). Update peftbench, or choose another folder with `out_dir=FOLDER`."
            )
        hints = _read_hints()
        known = {name: value for name, value in data.items() if name in hints}
        for name, value in known.items():
            check(value, hints[name], name)
        try:
            record = cls(**known)
        except TypeError as error:
            raise ValueError(f"not a record: {error}") from error
        record._check_names()
        return record

    def _check_names(self) -> None:
        """What becomes a part of a path must not leave its folder. Raises ValueError."""
        if not RUN_ID.fullmatch(self.run_id):
            raise ValueError(f"run_id: `{self.run_id}` cannot be one")
        file = self.predictions.get("file")
        if file is not None and (not file or "/" in file or not file.isprintable()):
            raise ValueError("predictions.file: not the name of a file in the run's folder")
        if isinstance(self.shots, str) and self.shots != "full" and not self.shots.isdecimal():
            raise ValueError("shots: neither a number nor `full`")
        schema.moment(self.created, "created")


@cache
def _read_hints() -> dict[str, Any]:
    """Field -> its type as it stands in a file: the second one of those that are annotated."""
    hints = get_type_hints(Record, include_extras=True)
    return {name: get_args(hint)[1] if get_origin(hint) is Annotated else hint for name, hint in hints.items()}


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numpy scalars become Python's, keys text, NaN and infinity None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if type(value).__module__ == "numpy":
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
