"""The words of `peftbench`, `peftbench --help` and `peftbench --version`."""

from __future__ import annotations

import textwrap

from peftbench.version import __version__

SHORT = """\
peftbench {version}: benchmarks of parameter-efficient fine-tuning that people can believe

  peftbench demo                                  one run that needs neither data nor network nor GPU, about a minute
  peftbench method=lora task=demo_news shots=10   one run: trains, measures, files one record in results/
  peftbench -m method=lora,dept data_seed=1,2,3   a sweep: every combination
  peftbench plan -m method=lora,dept ...          what that would run, what is done already, what it costs
  peftbench status                                how the newest sweep stands
  peftbench ls methods                            what there is; also models, tasks, tables, tricks, recipes, runs ...
  peftbench leaderboard --group                   means and spread of all runs
  peftbench compare lora dept                     is a difference real?
  peftbench table dept-glue                       a paper's table: ours, the paper's number, a verdict
  peftbench report                                one HTML file: leaderboard, plots, a page a run

peftbench --help names every command, axis and key; peftbench COMMAND --help one of them.
"""

LONG = """\
peftbench {version}: benchmarks of parameter-efficient fine-tuning that people can believe

run:
  peftbench [run] KEY=VALUE ...          one run: trains, measures, files one record
  peftbench demo [KEY=VALUE ...]         the packaged demo: needs neither data nor network nor GPU
  peftbench -m KEY=VALUE,VALUE ...       a sweep: every combination; hydra.launcher.n_jobs=2 side by side,
                                         hydra/launcher=slurm on a cluster (docs/sweeps.md)
  peftbench reproduce RUN_ID             runs it again from its record and compares old with new
before and during:
  peftbench plan [-m] KEY=VALUE,VALUE    what that would run, what is done already, what it costs, what will not fit
  peftbench status [SWEEP] [--watch]     how the newest sweep stands: who is at work, what failed and why
  peftbench gc [--yes]                   what killed processes left behind
  peftbench migrate [--out-dir DIR]      new ids for the runs of 0.1.0; the old ones find them still
what there is:
  peftbench ls [models|methods|tasks|protocols|tables|formulations|tricks|inferences|recipes] [NAME] [--json]
  peftbench ls runs [COLUMN=VALUE ...]   the runs, also those at work
results:
  peftbench leaderboard                  the table of all runs under results/
  peftbench compare A B [...]            is a difference real, and how many more draws would settle it?
  peftbench diff RUN RUN [--json]        what differs between two runs: config, data, model, scores, costs, answers
  peftbench table [NAME]                 a paper's table: ours, the paper's number, a verdict; --run fills it
  peftbench plot [KIND]                  a figure of the runs as SVG, PDF, PNG or JSON; without KIND: the kinds
  peftbench report                       one HTML file: leaderboard, plots, a page a run; needs no network
  peftbench board [TABLE]                what a tuned table says: ties first, ranks, gains of tuning, fronts
  peftbench pack --to FOLDER             records and answers as one small file that every view reads (docs/records.md)
  peftbench predict RUN_ID --file FILE   labels for new rows, with probabilities, by what a run has trained
  peftbench infer RUN_ID method/inference=NAME  test answered another way by what a run has trained
  peftbench export RUN_ID DIR [--merge]  a folder that transformers and peft load without peftbench
your own:
  peftbench check-task NAME|FILE.yaml    rows, classes, lengths, duplicates, possible shots of a data set, yours too
  peftbench check-method NAME|FILE.py    does a tuner, ours or yours, keep its promises? about a minute, offline
  peftbench terms KEY=VALUE --from LIST  label words for KPT and SciPrompt, retrieved from a list of terms
  peftbench cp method lora my_lora       a packaged config into $PEFTBENCH_CONF, to edit and use by its new name

Every command has --help, and takes out_dir=FOLDER or --out-dir FOLDER.

the four axes (`peftbench ls` says more):
  model=NAME      {models}
  method=NAME     {methods}
  task=NAME       {tasks}
  shots=K|full    0 means no training; what K counts is the protocol's business

more keys:
  protocol=NAME   {protocols}
  method/formulation=NAME
                  {formulations}
  method/inference=NAME
                  {inferences}
  +method/trick=NAME
                  {tricks}
  +recipe=NAME    {recipes}
  search=tpe|random  search.trials=20    choose hyper-parameters on dev first; what it cost is in the record
  seed=1  data_seed=null  data_dir=$PEFTBENCH_DATA  out_dir=results  rerun=false
  trainer=fewshot|full|debug  trainer.steps=160  trainer.max_length=128  trainer.devices=2 ...
  tracking.wandb=auto|online|offline|disabled

examples:
  peftbench method=dept task=masakhanews task.lang=swa shots=10 model=e5-small-q4
  peftbench -m method=dept,lora,full task.lang=hau,ibo task=masakhanews shots=5,10 data_seed=1,2,3
  peftbench --cfg job method=lora                             print the whole config and run nothing

The same command again reports the finished run and trains nothing (rerun=true trains anew).
A value with commas, spaces or brackets needs quotes within quotes: "out_dir='a,b'"; a literal ${{ is written \\${{.
Shell completion: eval "$(peftbench -sc install=bash)"   (also zsh, fish). Hydra's own flags: peftbench --hydra-help
Exit codes: 0 done; 1 a run failed (its record says why); 2 the command, the config or the data is wrong.
"""


def short_help() -> str:
    """What bare `peftbench` prints: one screen."""
    return SHORT.format(version=__version__)


def long_help() -> str:
    """What `--help` prints; the choices are read from the config folder, so they are never out of date."""
    from peftbench.config.catalogue import GROUPS, names

    def wrap(group: str) -> str:
        return ("\n" + " " * 18).join(textwrap.wrap(", ".join(names(group)), 98))

    groups = {f"{group}s": wrap(group) for group in GROUPS if group != "table"}
    return LONG.format(version=__version__, **groups)
