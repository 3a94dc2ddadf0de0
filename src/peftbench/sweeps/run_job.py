"""One run among many: whatever becomes of it is told in one word and one line, and never stops the others."""

from __future__ import annotations

import traceback
from contextlib import suppress
from dataclasses import dataclass, replace

from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.inputs import InputCache
from peftbench.records.leases import LeaseHeld
from peftbench.records.record import Record
from peftbench.records.store import Store

CLAIMED, MISTAKE = "claimed", "mistake"


@dataclass(frozen=True)
class Ended:
    """What came of one run.

    Attributes:
        status: its record's; `claimed` if another process has it in hand; `mistake` if it cannot be a run.
        words: score and time, the reason, or the mistake: one line.
    """

    status: str
    words: str


def run_job(cfg: RunConfig, inputs: InputCache) -> Ended:
    """Do one run; only a request to stop (KeyboardInterrupt) gets out of here.

    A crash that the run itself could not file is filed here, with its traceback in the run's folder.
    """
    from peftbench.search.search import run_searched

    try:
        record, is_new = run_searched(quiet(cfg), inputs)
    except LeaseHeld as error:
        return Ended(CLAIMED, str(error))
    except UsageError as error:
        return Ended(MISTAKE, str(error))
    except SystemExit:
        return Ended(MISTAKE, "its processes refused to begin and have said why")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        file_death(cfg, inputs, reason, "".join(traceback.format_exception(error)))
        return Ended("failed", reason.partition("\n")[0])
    assert record is not None, "a sweep is run by the main process of each run"
    return Ended(record.status, in_one_line(record, is_new))


def quiet(cfg: RunConfig) -> RunConfig:
    """The same run without a progress bar of its own."""
    return replace(cfg, trainer=replace(cfg.trainer, progress=False))


def in_one_line(record: Record, is_new: bool = True) -> str:
    """What a run came to: its score and how long it took, or why there is none."""
    if record.status != "done" or record.score is None:
        return f"{record.status}: {record.reason}".partition("\n")[0].rstrip(": ")
    dev = "" if record.dev_score is None else f" (dev {record.dev_score:.1f})"
    took = f"{record.seconds.get('total', 0.0):.1f} s" if is_new else "was done already"
    return f"{record.metric} {record.score:.1f}{dev}, {took}"


def file_death(cfg: RunConfig, inputs: InputCache, reason: str, report: str = "", log: str = "") -> None:
    """A record in the name of a run whose process ended without filing one, so that its end is not hidden.

    Args:
        report: the traceback, if there is one; it goes to the run's folder.
        log: the file in which the process wrote its last words.

    Nothing is filed if the run is done, or somebody else has it in hand.
    """
    from peftbench.records.fill import base_record
    from peftbench.records.leaderboard import refresh
    from peftbench.runner import store_of

    store: Store = store_of(cfg)
    with suppress(UsageError):
        data, drawn, run_id = inputs.load(cfg)
        record = base_record(cfg, data, drawn, run_id, inputs.basis(cfg))
        with store.claim(run_id) as folder:
            earlier = store.load(run_id)
            if earlier is not None and earlier.status == "done":
                return
            if report:
                write_atomic(folder / "traceback.txt", report.encode(), durable=False)
                reason += f" (traceback: {folder / 'traceback.txt'})"
            record.reason = reason + (f" (log: {log})" if log else "")
            store.save(record)
        refresh(store)
