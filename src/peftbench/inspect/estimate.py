"""What a run will cost, from what earlier runs cost: seconds, CPU seconds and memory, and on what that rests.

Earlier runs are taken from the nearest group that has any: the same model, method, task and shots; else other shots,
other tasks, other methods. Training time is scaled by the items and tokens to be trained on; the other times are taken
as they were.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from peftbench.config.schema import RunConfig, SearchConfig
from peftbench.records.leaderboard import Row
from peftbench.stages import stages_of

LEVELS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("model", "method", "task", "subset", "shots"), "the same model, method, task and shots"),
    (("model", "method", "task", "subset"), "the same model, method and task, other shots"),
    (("model", "method"), "the same model and method, other tasks"),
    (("model",), "the same model, other methods"),
)
"""What a run shares with the earlier ones that stand for it, from the best basis to the last resort."""

NO_MODEL = "none"
BARE_PROCESS_MIB, BARE_FLOOR_MIB = 500.0, 200.0
"""Interpreter with torch and transformers, or with scikit-learn: for records that do not say what a process held."""
BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class CostEstimate:
    """Cost of one run; None where nothing is known.

    Attributes:
        seconds: wall time in a process that has imported everything.
        cpu_seconds: the same in CPU seconds, of one process.
        import_seconds: wall time of the imports, once a process.
        peak_mib: most that one process will hold, the greatest of the earlier runs.
        gpu_mib: the same on a GPU.
        basis: in words.
    """

    seconds: float | None
    peak_mib: float | None
    basis: str
    cpu_seconds: float | None = None
    import_seconds: float = 0.0
    gpu_mib: float | None = None


NO_BASIS = CostEstimate(None, None, "no basis")


def estimate(cfg: RunConfig, rows: Iterable[Row], device: str = "cpu") -> CostEstimate:
    """Cost of one run. For many, `Estimator` sorts the rows once."""
    return Estimator(rows).estimate(cfg, device)


class Estimator:
    """Estimates from the leaderboard's rows (hidden columns included)."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._groups: dict[tuple, list[Row]] = {}
        for r in rows:
            if r["status"] == "done" and r.get("total_seconds") is not None:
                for keys, _ in LEVELS:
                    self._groups.setdefault((keys, *(r.get(key) for key in keys)), []).append(r)
        self._known: dict[tuple, CostEstimate] = {}

    def estimate(self, cfg: RunConfig, device: str = "cpu") -> CostEstimate:
        """Cost of one run on `device`, `cpu` or `cuda`; runs on another device stand in if there are no others."""
        trainer, stages = cfg.trainer, stages_of(cfg.method.stages)
        wanted = {
            "model": cfg.model.name if cfg.method.needs_model else NO_MODEL,
            "method": cfg.method.name,
            "task": cfg.task.name,
            "subset": cfg.task.place,
            "shots": cfg.shots,
            "one_training": len(stages) == 1 and stages[0].one_training and not (cfg.method.trick or cfg.recipe),
            "trains": cfg.labelled != 0 and any(stage.trains for stage in stages),
            "planned_steps": trainer.steps,
            **{name: getattr(trainer, name) for name in ("epochs", "batch_size", "micro_batch", "max_length")},
        }
        key = (*wanted.values(), device)
        if key not in self._known:
            self._known[key] = self._search(wanted, device)
        return with_trials(self._known[key], cfg.search)

    def _search(self, wanted: Row, device: str) -> CostEstimate:
        for same_device in (True, False):
            for keys, words in LEVELS:
                group = self._groups.get((keys, *(wanted[key] for key in keys)), [])
                if "method" not in keys:
                    if wanted["model"] == NO_MODEL or not wanted["one_training"]:
                        continue
                    group = [r for r in group if not trained_several(r)]
                near = [r for r in group if (r.get("device") == device) == same_device]
                usable = [(r, scale) for r in near if (scale := training_scale(wanted, r)) is not None]
                if usable:
                    found = _from(wanted, usable, words)
                    return found if same_device else replace(found, basis=f"{found.basis}; on another device")
        return NO_BASIS


def with_trials(run: CostEstimate, search: SearchConfig) -> CostEstimate:
    """The run and the trials of its search before it, each taken to cost what the run does."""
    if search.name == "none" or run.seconds is None:
        return run
    trial = max(run.seconds * search.seeds, 1e-9)
    most = search.trials if search.trials is not None else math.inf
    if search.seconds is not None:
        most = min(most, math.ceil(search.seconds / trial))
    times = 1 + most * search.seeds
    cpu_seconds = None if run.cpu_seconds is None else run.cpu_seconds * times
    basis = f"{run.basis}; {most} trials"
    return replace(run, seconds=run.seconds * times, cpu_seconds=cpu_seconds, basis=basis)


def trained_several(r: Row) -> bool:
    """Whether a run had more steps than its trainer plans for one training: a method of several stages or models, whose
    length says nothing about others."""
    return bool(r.get("planned_steps")) and (r.get("steps") or 0) > r["planned_steps"]


def training_scale(wanted: Row, earlier: Row) -> float | None:
    """How many times the gradient steps of `earlier` make up those of `wanted`; None if the two cannot be compared."""
    if not earlier.get("steps"):
        return None if wanted["trains"] else 1.0
    if not wanted["trains"]:
        return 0.0 if wanted["shots"] == 0 else None
    amounts = _training_amount(wanted), _training_amount(earlier)
    if amounts[0] is None or amounts[1] is None or amounts[0][0] != amounts[1][0]:
        return None
    return amounts[0][1] / amounts[1][1]


def _training_amount(r: Row) -> tuple[str, float] | None:
    """Unit and number of what is trained on."""
    if not r.get("max_length"):
        return None
    if r.get("planned_steps"):
        return "steps", r["planned_steps"] * r["batch_size"] * r["max_length"]
    if not r.get("epochs"):
        return None
    if r["shots"] == "full":
        return "epochs of all rows", r["epochs"] * r["max_length"]
    return "epochs of shots", r["epochs"] * r["shots"] * r["max_length"]


def _from(wanted: Row, usable: Sequence[tuple[Row, float]], words: str) -> CostEstimate:
    """The median over earlier runs, each brought to the size of the wanted one. Runs of its very size go first."""
    exact = [(r, scale) for r, scale in usable if scale == 1]
    chosen = exact or usable
    imports = [r["import_seconds"] for r, _ in chosen if r.get("import_seconds")]
    cpu = [_scaled(r, scale, "cpu_seconds", "train_cpu_seconds") for r, scale in chosen if r.get("cpu_seconds")]
    peaks = [peak for r, _ in chosen if (peak := _process_mib(wanted, r)) is not None]
    runs = f"median of {len(chosen)} runs" if len(chosen) > 1 else "1 run"
    return CostEstimate(
        seconds=statistics.median(_scaled(r, scale, "total_seconds", "train_seconds") for r, scale in chosen),
        cpu_seconds=statistics.median(cpu) if cpu else None,
        import_seconds=statistics.median(imports) if imports else 0.0,
        peak_mib=max(peaks, default=None),
        gpu_mib=max((r["gpu_peak_mib"] for r, _ in chosen if r.get("gpu_peak_mib")), default=None),
        basis=f"{runs} of {words}" + ("" if exact else "; training scaled"),
    )


def _scaled(r: Row, scale: float, total: str, train: str) -> float:
    """A run's time without the imports, its training scaled."""
    imports = (r.get("import_seconds") or 0.0) if total == "total_seconds" else 0.0
    return max(0.0, r[total] - imports + (scale - 1) * (r.get(train) or 0.0))


def _process_mib(wanted: Row, r: Row) -> float | None:
    """What a process holds at most: the earlier run's, its growth in training scaled by the tokens of one pass."""
    grown = r.get("train_peak_mib") or 0.0
    if r.get("device") == "cuda":
        grown = 0.0  # on the GPU
    tokens = [(s.get("micro_batch") or s.get("batch_size") or 0) * (s.get("max_length") or 0) for s in (wanted, r)]
    scale = tokens[0] / tokens[1] if all(tokens) else 1.0
    whole = r.get("process_peak_mib")
    if whole is None:
        if r.get("total_params") is None:
            return None
        bare = BARE_FLOOR_MIB if r["model"] == NO_MODEL else BARE_PROCESS_MIB
        whole = bare + r["total_params"] * BYTES_PER_PARAMETER / 2**20 + grown
    return whole + (scale - 1) * grown
