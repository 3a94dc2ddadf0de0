"""The record of a run: the truth from which every table is made. See docs/records.md for the schema."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from peftbench.errors import UsageError

SCHEMA_VERSION = 1
Status = Literal["done", "diverged", "failed", "interrupted"]


@dataclass
class Record:
    """One run. Seconds, MiB (2^20 bytes) and plain counts; scores are in percent.

    `config` is the resolved config; everything else was measured or drawn.
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
    scores: dict[str, float] = field(default_factory=dict)
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
    draw: dict[str, Any] = field(default_factory=dict)
    """sha256, counts by class, overlap, notes, file."""
    data: dict[str, Any] = field(default_factory=dict)
    """sha256, source, notes."""
    model_info: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, Any] = field(default_factory=dict)
    """file, sha256, count, invalid."""
    curves: dict[str, list] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    """What each stage of the method did and cost; empty in records of earlier versions."""
    environment: dict[str, Any] = field(default_factory=dict)
    """versions, git_sha, dirty, device, n_devices, precision, threads, host facts."""
    notes: list[str] = field(default_factory=list)
    diagnosis: dict[str, Any] = field(default_factory=dict)
    """What `results.diagnosis` found; its `warnings` name the knob to turn. Empty in records of earlier versions."""
    tuning: dict[str, Any] = field(default_factory=dict)
    """What the search cost that chose the settings, and how it went; empty without one."""
    config: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    @property
    def tuned(self) -> str:
        """What the search of the settings took, in words; "" without one."""
        return f"{self.tuning['trials']} trials, {self.tuning['seconds']:.0f} s" if self.tuning else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no NaN or infinity: they become None. No search, no `tuning`."""
        return {name: plain(value) for name, value in asdict(self).items() if value or name not in ("tuning", "stages")}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """The record that `to_dict` gave; keys that this version does not know are ignored.

        Raises:
            ValueError: a required key is missing.
            UsageError: a newer peftbench wrote it.
        """
        if data.get("schema", 0) > SCHEMA_VERSION:
            raise UsageError(
                f"Run {data.get('run_id')} was recorded by a newer peftbench (schema {data['schema']}; this one reads "
                f"up to {SCHEMA_VERSION}). Update peftbench, or choose another folder with `out_dir=FOLDER`."
            )
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{name: value for name, value in data.items() if name in known})
        except TypeError as error:
            raise ValueError(f"not a record: {error}") from error


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
