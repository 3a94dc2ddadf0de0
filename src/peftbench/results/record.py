"""The record of a run: the truth from which every table is made. See docs/records.md for the schema."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

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
    """train_peak_mib, eval_peak_mib (+ _reserved on a GPU); saved_bytes."""
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
    """file, sha256, counts, invalid."""
    curves: dict[str, list] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    """versions, git_sha, dirty, device, n_devices, precision, threads, host facts."""
    notes: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
