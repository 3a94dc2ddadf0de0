"""Weights & Biases beside the record: a copy for the eye, never a condition for the result."""

from __future__ import annotations

import logging
import netrc
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from peftbench.config.schema import TrackingConfig
from peftbench.records.record import Record

log = logging.getLogger(__name__)

INIT_SECONDS = 30.0
FINISH_SECONDS = 60.0
"""How long W&B may keep a run waiting at its start and at its end. What was not sent by then lies on disk."""

T = TypeVar("T")


class Tracker:
    """One W&B run. Whatever W&B does wrong becomes one warning, and the run goes on without it.

    Its files lie in `<folder>/wandb`. Host name, user name, paths, git remote and system load are not collected: what
    matters of them is in the record, and a monitor beside the training would disturb its measures.
    """

    def __init__(self, cfg: TrackingConfig, record: Record, folder: Path) -> None:
        """Start tracking.

        Args:
            cfg: the config group `tracking`.
            record: the run's record as far as it is known; its names and config are sent.
            folder: the run's own.
        """
        self._run: Any = None
        self.mode = resolve_mode(cfg.wandb, os.environ)
        if self.mode == "disabled":
            return
        with self._warn("cannot start"):
            self._run = _within(2 * INIT_SECONDS, lambda: _start(self.mode, cfg, record, folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve in `values`."""
        if self._run is not None:
            with self._warn("cannot log"):
                self._run.log({"step": step, **values})

    def finish(self, record: Record) -> None:
        """Send scores and costs and close the W&B run."""
        run = self._run
        if run is None:
            return

        def close() -> None:
            run.summary.update(_summary(record))
            run.finish(exit_code=0 if record.status == "done" else 1)

        with self._warn("cannot finish"):
            _within(FINISH_SECONDS + 10, close)
        self._run = None

    def abandon(self) -> None:
        """Close the W&B run, if it is still open, of a run that turned out to be a mistake and has no record.

        Left open it would take in the points of the next run of this process.
        """
        run, self._run = self._run, None
        if run is not None:
            with self._warn("cannot finish"):
                _within(FINISH_SECONDS + 10, lambda: run.finish(exit_code=1))

    @contextmanager
    def _warn(self, what: str) -> Iterator[None]:
        """Any error of W&B ends the tracking, not the run."""
        try:
            yield
        except Exception as error:
            self._run = None
            reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
            log.warning("W&B %s (%s). The run goes on without it and its record is complete.", what, reason)


def resolve_mode(wanted: str, environ: Mapping[str, str]) -> str:
    """online, offline or disabled. `auto` asks $WANDB_MODE, then looks for credentials; no network is used."""
    if wanted != "auto":
        return wanted
    if environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return environ["WANDB_MODE"]
    return "online" if has_credentials(environ) else "offline"


def has_credentials(environ: Mapping[str, str]) -> bool:
    """Whether there is an API key, in $WANDB_API_KEY or in the netrc file that `wandb login` writes."""
    if environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    names = [environ["NETRC"]] if environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for name in names:
        try:
            if netrc.netrc(os.path.expanduser(name)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _start(mode: str, cfg: TrackingConfig, record: Record, folder: Path) -> Any:
    """A W&B run; offline where online was asked for and cannot be had."""
    before = os.environ.get("WANDB_SILENT")
    os.environ["WANDB_SILENT"] = "true"  # the setting of the same name comes too late for the login's message
    try:
        import wandb

        try:
            return _init(wandb, mode, cfg, record, folder)
        except Exception as error:
            if mode == "offline":
                raise
            log.warning("W&B cannot be reached (%s); this run is logged offline.", str(error).splitlines()[0])
            wandb.teardown()  # else the run id counts as in use
            return _init(wandb, "offline", cfg, record, folder)
    finally:
        if before is None:
            del os.environ["WANDB_SILENT"]
        else:
            os.environ["WANDB_SILENT"] = before


def _init(wandb: Any, mode: str, cfg: TrackingConfig, record: Record, folder: Path) -> Any:
    place = f"{record.task}/{record.subset}"
    run = wandb.init(
        mode=mode,
        dir=str(folder),
        id=record.run_id,
        resume="allow",
        project=cfg.project,
        entity=cfg.entity,
        group=cfg.group or f"{place} {record.model} {record.method} {record.shots}",
        name=f"{record.method} {place} {record.shots} d{record.data_seed} s{record.seed}",
        tags=[
            tag[:64] for tag in dict.fromkeys([record.model, record.method, record.task, record.protocol, *cfg.tags])
        ],
        config=placeless({k: v for k, v in record.config.items() if k not in ("data_dir", "out_dir", "tracking")}),
        settings=wandb.Settings(
            silent=True,
            console="off",
            reinit="create_new",  # runs that are trained together are tracked side by side
            init_timeout=INIT_SECONDS,
            login_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
    )
    run.define_metric("*", step_metric="step")
    return run


def placeless(value: Any) -> Any:
    """`value` with no absolute path in it, which tells more of a user than of the run; its last part stays."""
    if isinstance(value, dict):
        return {key: placeless(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [placeless(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "file:")):
        return f".../{value.rstrip('/').rpartition('/')[2]}"
    return value


def _summary(record: Record) -> dict[str, Any]:
    """The record's numbers under names like `seconds/train`."""
    parts = ("scores", "seconds", "memory", "compute", "parameters")
    flat = {f"{part}/{name}": value for part in parts for name, value in getattr(record, part).items()}
    own = {"status": record.status, "score": record.score, "dev_score": record.dev_score}
    own["predictions/invalid"] = record.predictions.get("invalid")
    return {name: value for name, value in (own | flat).items() if value is not None}


def _within(seconds: float, call: Callable[[], T]) -> T:
    """`call()`, given up after some seconds: W&B's own time limits do not cover a service that hangs."""
    result: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            result.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="wandb-call", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if errors:
        raise errors[0]
    return result[0]
