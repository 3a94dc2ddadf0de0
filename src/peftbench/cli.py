"""The command line. Thin: it dispatches, lets Hydra compose, and turns mistakes into one message and exit code 2.

Nothing here imports torch, transformers, peft, evaluate or wandb; `peftbench.runner` does so once a run really starts.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from peftbench.arguments import Arguments, check_encoding, sort_arguments, with_flag, with_override
from peftbench.errors import UsageError, did_you_mean
from peftbench.version import __version__

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from peftbench.config.schema import RunConfig

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "run": "peftbench.cli:run_command",
    "demo": "peftbench.cli:demo_command",
    "ls": "peftbench.cli:ls_command",
    "cp": "peftbench.config.copy_command:cp",
    "plan": "peftbench.inspect.plan_command:plan_command",
    "status": "peftbench.inspect.status:status_command",
    "gc": "peftbench.inspect.gc:gc_command",
    "migrate": "peftbench.inspect.migrate:migrate_command",
    "leaderboard": "peftbench.views.leaderboard_command:leaderboard_command",
    "table": "peftbench.tables.command:table_command",
    "compare": "peftbench.views.compare.command:compare_command",
    "diff": "peftbench.views.diff:diff_command",
    "plot": "peftbench.figures.command:plot_command",
    "report": "peftbench.figures.report.command:report_command",
    "pack": "peftbench.views.pack_command:pack_command",
    "board": "peftbench.figures.board.command:board_command",
    "predict": "peftbench.inspect.predict_command:predict_command",
    "infer": "peftbench.inspect.infer_command:infer_command",
    "export": "peftbench.inspect.export_command:export_command",
    "reproduce": "peftbench.reproduce.command:reproduce_command",
    "check-method": "peftbench.conformance.command:check_method",
    "check-task": "peftbench.inspect.check_task:check_task",
    "terms": "peftbench.terms.command:terms_command",
}
"""What each command calls with the arguments behind its name, for an exit code; imported when it is asked for."""

TAKE_SETTINGS = ("run", "demo", "plan", "check-task", "terms")
"""Commands whose words are settings (`out_dir=FOLDER`); the others have options (`--out-dir FOLDER`)."""
DEMO = ("method=dept", "task=demo_news", "shots=10", "trainer=demo")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `peftbench` and `python -m peftbench`; always ends with SystemExit."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        check_encoding(args)
        code = dispatch(args)
    except UsageError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        code = USAGE
    except KeyboardInterrupt as error:
        print("peftbench: interrupted; what was finished is kept, the same command goes on.", file=sys.stderr)
        code = getattr(error, "code", INTERRUPTED)
        leave_threads_behind(code)
    except BrokenPipeError:  # `peftbench ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    except OSError as error:
        code = end_of_a_path(error)
    except Exception as error:
        print(f"peftbench: a fault of peftbench's: {in_one_line(error)}", file=sys.stderr)
        code = FAILED
    sys.exit(code)


def leave_threads_behind(code: int) -> None:
    """End the process here if a library's thread would keep it: the interpreter waits for each that is no daemon, and
    that of a download tries again for minutes. What was finished has been filed."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_of_a_path(error: OSError) -> int:
    """The exit code after a path that no file can have, or that may not be looked at, wherever it was given."""
    number = error.errno or 0
    if number not in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR):
        print(f"peftbench: a fault of peftbench's: {in_one_line(error)}", file=sys.stderr)
        return FAILED
    print(
        f"peftbench: {UsageError(error.filename)}: {os.strerror(number).lower()}. Give another path.",
        file=sys.stderr,
    )
    return USAGE


def dispatch(args: list[str]) -> int:
    """The command that the first word names, or a run of settings; the exit code."""
    first = args[0] if args else ""
    if not args or first in ("-h", "--help", "help"):
        from peftbench.help import long_help, short_help

        print(long_help() if args else short_help(), end="")
        return DONE
    if first == "--version":
        print(f"peftbench {__version__}")
        return DONE
    if first in COMMANDS:
        module, _, function = COMMANDS[first].partition(":")
        words = with_override(args[1:]) if first in TAKE_SETTINGS else with_flag(args[1:])
        return getattr(import_module(module), function)(words)
    if not first.startswith(("-", "+", "~")) and "=" not in first:
        from peftbench.config.catalogue import setting_of

        meant = setting_of(first)
        raise UsageError(
            f"{first[:100] or 'an empty word'}: no such command. {meant or did_you_mean(first[:100], COMMANDS)}"
        )
    return run_command(args)


def in_one_line(error: Exception) -> str:
    """What went wrong and where the traceback lies, which is for the issue that reports it."""
    with tempfile.NamedTemporaryFile("w", prefix="peftbench-", suffix=".txt", delete=False, encoding="utf-8") as file:
        print(sys.argv, file=file)
        traceback.print_exception(error, file=file)
    first = next(iter(str(error).splitlines()), "")[:300]
    return f"{type(error).__name__}: {first} (traceback: {file.name}; please send it with the command)"


def demo_command(args: list[str]) -> int:
    """`peftbench demo`: the packaged data set and backbone; `peftbench demo conjugate`: the linear regression by which
    conjugate prompting (docs/inference.md) is explained, in NumPy."""
    if args == ["conjugate"]:
        from peftbench.inference.conjugate.regression import report

        print(report())
        return DONE
    return run_command([*DEMO, *args])


def run_command(args: list[str]) -> int:
    """`peftbench [run] OVERRIDES`: Hydra composes one config, or many with -m, and each becomes a run."""
    if {"-h", "--help"} & {*args}:
        from peftbench.help import long_help

        print(long_help(), end="")
        return DONE
    typed = sort_arguments(args)
    if {"-sc", "--shell-completion"} & {*typed.flags} and any(o.startswith("query=") for o in typed.overrides):
        from peftbench.completion import complete

        if not complete(COMMANDS, TAKE_SETTINGS, dispatch):
            return DONE
    if typed.flags:
        return through_hydra(typed)
    from peftbench.config.many import compose_remembered

    return run_one(compose_remembered(typed.overrides))


def through_hydra(typed: Arguments) -> int:
    """What Hydra does itself: sweeps with its launchers, `--cfg`, `--info`, completion."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from peftbench.config.hydra_source import COMMAND, CONFIG_MODULE, HYDRA_DEFAULTS
    from peftbench.config.load import check_overrides, explain, opened, opened_for_sweep, to_run_config

    check_overrides(typed.overrides)
    codes: list[int] = []
    mistakes: list[UsageError] = []

    def job(cfg: DictConfig) -> None:  # a sweep comes here only with a launcher that is not ours
        try:
            codes.append(run_one(to_run_config(cfg)))
        except UsageError as error:  # kept from Hydra, which would announce it in its own words
            mistakes.append(error)

    words = opened_for_sweep(typed.overrides) if typed.multirun else [*map(opened, typed.overrides)]
    sys.argv = [sys.argv[0], *typed.flags, *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one line
    try:
        hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name=COMMAND, **HYDRA_DEFAULTS)(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, typed.overrides) from None
    except SystemExit as end:  # after words of its own, about a package that is not there
        return USAGE if end.code == FAILED and not typed.multirun else int(end.code or DONE)
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's word on a number for a file (task=3)
            raise
        raise explain(error, typed.overrides) from None
    if len(mistakes) == 1 and not codes:
        raise mistakes[0]
    for mistake in mistakes:
        print(f"peftbench: {mistake}", file=sys.stderr)
    return max([*codes, USAGE] if mistakes else codes, default=DONE)


def run_one(config: RunConfig) -> int:
    """One run and its summary; the exit code."""
    from peftbench.imports import process_is_ours
    from peftbench.inspect.announce import Announced, announce

    process_is_ours()
    announce(config)
    from peftbench.search.search import run_searched
    from peftbench.views.summary import print_summary

    record, is_new = run_searched(config, Announced(config))
    if record is None:  # not the main process of a distributed run
        return DONE
    print_summary(record, config.out_dir, is_new)
    return DONE if record.status == "done" else FAILED


def ls_command(args: list[str]) -> int:
    """`peftbench ls [GROUP] [NAME] [--json]`, `peftbench ls runs [COLUMN=VALUE ...]`, `peftbench ls models NAME
    --anatomy`."""
    if args[:1] == ["runs"]:
        from peftbench.inspect.runs import ls_runs

        return ls_runs(args[1:])
    if "--anatomy" in args:
        from peftbench.inspect.anatomy import ls_anatomy

        return ls_anatomy(args)
    from peftbench.config.catalogue import ls

    return ls(args)
