"""The settings that a search chose as a file of the user's, which `+experiment=NAME` runs with any seed.

The file names the choice of each config group and, below, what differs from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from peftbench.config.catalogue import names
from peftbench.config.command import is_open
from peftbench.config.doors import literal
from peftbench.config.load import compose_raw, to_run_config
from peftbench.config.schema import RunConfig
from peftbench.config.space import value_at
from peftbench.config.user_files import DEFAULT, VARIABLE
from peftbench.files import write_atomic

GROUPS = ("model", "method", "task", "protocol", "trainer")
STAND_INS = {"model": "source", "method": "tuner.name"}
"""Where a section's name is no file's name (`model=hub`, `method=peft`, `method=file`): what names the file."""
NOT_SETTINGS = ("seed", "data_seed", "data_dir", "out_dir", "rerun", "tracking", "search", "evaluate", "tuning")
"""Keys of a run that an experiment leaves to the command line."""
# fmt: off
IN_FILE = (
    "sampler", "trials", "failed", "seeds", "seconds", "cpu_seconds", "values", "dev_score", "start_dev_score",
    "dev_scores", "dev_rows", "dev_selects", "data_seed", "study",
)
# fmt: on
"""What of a search's cost travels with its file, into the record of every run of it."""


def write_experiment(cfg: RunConfig) -> Path:
    """Write the file of a config that a search has filled in; an earlier one of the same search is replaced."""
    path = folder(cfg) / "experiment" / f"{name_of(cfg)}.yaml"
    write_atomic(path, text_of(cfg, path.stem).encode())
    return path


def folder(cfg: RunConfig) -> Path:
    """Where the user's config files are kept: `$PEFTBENCH_CONF`, else `conf` in the run's `out_dir`."""
    return Path(os.environ.get(VARIABLE) or Path(cfg.out_dir, DEFAULT.name)).expanduser()


def name_of(cfg: RunConfig) -> str:
    """Method, task, shots and the first digits of the search."""
    words = f"{cfg.method.name}-{cfg.task.name}-{cfg.task.place}-{cfg.shots}shots-{cfg.tuning['study'][:8]}"
    return re.sub(r"[^\w-]+", "_", words)


def command(cfg: RunConfig) -> str:
    """What to type to run the file."""
    own = folder(cfg)
    prefix = "" if os.environ.get(VARIABLE) or own == DEFAULT else f"{VARIABLE}={own} "
    return f"{prefix}peftbench +experiment={name_of(cfg)} seed=2"


def text_of(cfg: RunConfig, name: str) -> str:
    """The file's content."""
    tuning = cfg.tuning
    choices = {group: choice(cfg, group) for group in GROUPS}
    body = {
        "defaults": [{f"override /{group}": chosen} for group, chosen in choices.items()],
        **settings(cfg, choices),
        "tuning": {key: tuning[key] for key in IN_FILE},
    }
    took = f"{tuning['trials']} trials, {tuning['seconds']:.0f} s"
    head = (
        f"# @package _global_\n# peftbench +experiment={name}\n#\n"
        f"# Chosen by search={tuning['sampler']} ({took}) for the score on {tuning['dev_rows']} dev rows, those of\n"
        f"# data_seed={tuning['data_seed']}, with training seed {cfg.seed}. `tuning` goes into each run's record.\n"
    )
    return head + yaml.safe_dump(literal(body), sort_keys=False, allow_unicode=True, width=120)


def choice(cfg: RunConfig, group: str) -> str:
    """The file that a section of the config came from, by its name."""
    section = getattr(cfg, group)
    known = [*names(group), *(p.stem for p in (folder(cfg) / group).glob("*.yaml"))]
    stand_in = str(value_at(section, STAND_INS[group])) if group in STAND_INS else ""
    return section.name if section.name in known or stand_in not in known else stand_in


def settings(cfg: RunConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    """What has to be set beside the choices, nested as in a config file."""
    raw = compose_raw([f"{group}={chosen}" for group, chosen in choices.items()])
    needed = {key: value_at(cfg, key) for key in missing(OmegaConf.to_container(raw, resolve=False))}
    for key, value in needed.items():
        OmegaConf.update(raw, key, value)
    plain = {key: value for key, value in asdict(cfg).items() if key not in NOT_SETTINGS}
    found = difference(plain, asdict(to_run_config(raw)))
    found.get("method", {}).pop("space", None)
    for key, value in {**needed, **cfg.tuning["values"]}.items():
        *parents, name = key.split(".")
        node = found
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = value
    return {key: value for key, value in found.items() if value != {}}


def missing(tree: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys that the files of a config leave open."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from missing(value, f"{prefix}{key}.")
        elif is_open(f"{prefix}{key}", value):
            yield f"{prefix}{key}"


def difference(wanted: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The nested keys of `wanted` that are not in `base` or have another value there."""
    found = {}
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            if below := difference(value, base[key]):
                found[key] = below
        elif key not in base or base[key] != value:
            found[key] = value
    return found
