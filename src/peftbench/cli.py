"""The command line. Thin: it dispatches, lets Hydra compose, and turns mistakes into one message and exit code 2.

Nothing here imports torch, transformers, peft, evaluate or wandb; `peftbench.runner` does so once a run really starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from peftbench import __version__
from peftbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "run": "peftbench.cli:run_command",
    "ls": "peftbench.cli:ls_command",
    "cp": "peftbench.config.copy_command:cp",
    "plan": "peftbench.inspect.plan_command:plan_command",
    "status": "peftbench.inspect.status:status_command",
    "gc": "peftbench.inspect.gc:gc_command",
    "leaderboard": "peftbench.views.leaderboard_command:leaderboard_command",
    "table": "peftbench.tables.command:table_command",
    "compare": "peftbench.views.compare.command:compare_command",
    "plot": "peftbench.figures.command:plot_command",
    "report": "peftbench.figures.report.command:report_command",
    "predict": "peftbench.inspect.predict_command:predict_command",
    "export": "peftbench.inspect.export_command:export_command",
    "reproduce": "peftbench.reproduce.command:reproduce_command",
    "check-method": "peftbench.conformance.command:check_method",
    "terms": "peftbench.terms.command:terms_command",
}
"""What each command calls with the arguments behind its name, for an exit code; imported when it is asked for."""

HELP = """\
peftbench {version}: benchmarks of parameter-efficient fine-tuning that people can believe

usage:
  peftbench [run] [KEY=VALUE ...]        one run: trains, measures, files one record
  peftbench -m KEY=VALUE,VALUE ...       a sweep: every combination; hydra.launcher.n_jobs=2 side by side,
                                         hydra/launcher=slurm on a cluster (docs/sweeps.md)
  peftbench plan [-m] KEY=VALUE,VALUE    what that would run, what is done already, what it costs, what will not fit
  peftbench status [SWEEP] [--watch]     how the newest sweep stands: who is at work, what failed and why
  peftbench gc [--yes]                   what killed processes left behind
  peftbench ls [models|methods|tasks|protocols|tables] [--json]
  peftbench ls runs [COLUMN=VALUE ...]   the runs, also those at work
  peftbench cp method lora my_lora       a packaged config into $PEFTBENCH_CONF, to edit and use by its new name
  peftbench leaderboard [--help]         the table of all runs under results/
  peftbench table [NAME] [--help]        a paper's table: ours, the paper's number, a verdict; --run fills it
  peftbench compare A B [...] [--help]   is a difference real, and how many more draws would settle it?
  peftbench plot [KIND] [--help]         a figure of the runs as SVG, PDF, PNG or JSON; without KIND: the kinds
  peftbench report [--help]              one HTML file: leaderboard, plots, a page a run; needs no network
  peftbench predict RUN_ID --file FILE   labels for new rows, with probabilities, by what a run has trained
  peftbench export RUN_ID DIR [--merge]  a folder that transformers and peft load without peftbench
  peftbench reproduce RUN_ID [--help]    runs it again from its record and compares old with new
  peftbench check-method NAME|FILE.py    does a tuner, ours or yours, keep its promises? about a minute, offline
  peftbench terms KEY=VALUE --from LIST  label words for KPT and SciPrompt, retrieved from a list of terms

the four axes ({axes_hint}):
  model=NAME      {models}
  method=NAME     {methods}
  task=NAME       {tasks}
  shots=K|full    0 means no training; what K counts is the protocol's business

more keys:
  protocol=NAME   {protocols}
  search=tpe|random  search.trials=20    choose hyper-parameters on dev first; what it cost is in the record
  seed=1  data_seed=null  data_dir=$PEFTBENCH_DATA  out_dir=results  rerun=false
  trainer=fewshot|full|debug  trainer.steps=160  trainer.max_length=128  trainer.devices=2 ...
  tracking.wandb=auto|online|offline|disabled

examples:
  peftbench                                                   the packaged demo: needs neither network nor GPU
  peftbench method=dept task=masakhanews task.lang=swa shots=10 model=e5-small-q4
  peftbench -m method=dept,lora,full task.lang=hau,ibo task=masakhanews shots=5,10 data_seed=1,2,3
  peftbench --cfg job method=lora                             print the whole config and run nothing

The same command again reports the finished run and trains nothing (rerun=true trains anew).
Shell completion: eval "$(peftbench -sc install=bash)"   (also zsh, fish). Hydra's own flags: peftbench --hydra-help
Exit codes: 0 done; 1 a run failed (its record says why); 2 the command, the config or the data is wrong.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `peftbench` and `python -m peftbench`; always ends with SystemExit."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if args and args[0] in ("-h", "--help", "help"):
            print(help_text(), end="")
            code = DONE
        elif args and args[0] == "--version":
            print(f"peftbench {__version__}")
            code = DONE
        elif args and args[0] in COMMANDS:
            module, _, function = COMMANDS[args[0]].partition(":")
            code = getattr(import_module(module), function)(args[1:])
        elif args and not args[0].startswith(("-", "+", "~")) and "=" not in args[0]:
            raise UsageError(f"{args[0]}: no such command. {did_you_mean(args[0], COMMANDS)}")
        else:
            code = run_command(args)
    except UsageError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        code = USAGE
    except KeyboardInterrupt as error:
        print("peftbench: interrupted; what was finished is kept, the same command goes on.", file=sys.stderr)
        code = getattr(error, "code", INTERRUPTED)
    except BrokenPipeError:  # `peftbench ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    sys.exit(code)


def help_text() -> str:
    """What `--help` prints; the choices are read from the config folder, so they are never out of date."""
    import textwrap

    from peftbench.config.catalogue import names

    def wrap(group: str) -> str:
        return ("\n" + " " * 18).join(textwrap.wrap(", ".join(names(group)), 98))

    groups = {f"{g}s": wrap(g) for g in ("model", "method", "task", "protocol")}
    return HELP.format(version=__version__, axes_hint="`peftbench ls` says more", **groups)


def run_command(args: list[str]) -> int:
    """`peftbench [run] OVERRIDES`: Hydra composes one config, or many with -m, and each becomes a run."""
    if args and args[0] in ("-h", "--help"):
        print(help_text(), end="")
        return DONE
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from peftbench.config.load import CONFIG_MODULE, explain, opened

    overrides = [a for a in args if not a.startswith("-")]
    codes: list[int] = []
    mistakes: list[UsageError] = []

    def job(cfg: DictConfig) -> None:  # a sweep comes here only with a launcher that is not ours
        try:
            codes.append(run_one(cfg))
        except UsageError as error:  # kept from Hydra, which would announce it in its own words
            mistakes.append(error)

    sys.argv = [sys.argv[0], *map(opened, args)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one line
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides) from None
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's word on a number for a file (task=3)
            raise
        raise explain(error, overrides) from None
    if len(mistakes) == 1 and not codes:
        raise mistakes[0]
    for mistake in mistakes:
        print(f"peftbench: {mistake}", file=sys.stderr)
    return max([*codes, USAGE] if mistakes else codes, default=DONE)


def run_one(cfg: DictConfig) -> int:
    """One run and its summary; the exit code."""
    from peftbench.config.load import to_run_config
    from peftbench.search.search import run_searched
    from peftbench.views.summary import print_summary

    config = to_run_config(cfg)
    record, is_new = run_searched(config)
    if record is None:  # not the main process of a distributed run
        return DONE
    print_summary(record, config.out_dir, is_new)
    return DONE if record.status == "done" else FAILED


def ls_command(args: list[str]) -> int:
    """`peftbench ls [GROUP] [--json]`, `peftbench ls runs [COLUMN=VALUE ...]`."""
    if args[:1] == ["runs"]:
        from peftbench.inspect.runs import ls_runs

        return ls_runs(args[1:])
    from peftbench.config.catalogue import ls

    return ls(args)
