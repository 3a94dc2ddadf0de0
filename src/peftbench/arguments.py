"""From what was typed to Hydra's flags and overrides: flags come first wherever they stood, and words that are neither
are named with what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from peftbench.errors import UsageError, did_you_mean

FLAGS = {
    "-m": 0, "--multirun": 0, "--cfg": 1, "-c": 1, "--package": 1, "-p": 1, "--resolve": 0, "--info": 1, "-i": 1,
    "--hydra-help": 0, "--shell-completion": 0, "-sc": 0,
}  # fmt: skip
"""Hydra's flags that are ours too, and how many words follow each."""
SWEEP = ("-m", "--multirun")
_NO_FILES = "Config files of your own lie in the folder that PEFTBENCH_CONF names (docs/sweeps.md)."
REFUSED = {
    "--experimental-rerun": "it would load a pickle, which can run code. `peftbench reproduce RUN_ID` is the way.",
    **dict.fromkeys(("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"), _NO_FILES),
    **dict.fromkeys(("--run", "-r"), "a command without -m is one run."),
}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
CHOICES = {**dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")), **dict.fromkeys(("--info", "-i"), _INFO)}
ONE_OF = (*SWEEP, *CHOICES, "--hydra-help", "--shell-completion", "-sc")
OUT_DIR = ("--out-dir", "--out_dir")


@dataclass
class Arguments:
    """What was typed, sorted."""

    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)

    @property
    def multirun(self) -> bool:
        """Whether this asks for a sweep."""
        return any(flag in SWEEP for flag in self.flags)

    @property
    def plain(self) -> bool:
        """Whether this asks for one run and nothing else."""
        return not self.flags


def sort_arguments(args: Sequence[str]) -> Arguments:
    """Flags and overrides of a run or a sweep.

    Raises:
        UsageError: a word is neither.
    """
    sorted_, left = Arguments(), list(args)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            if not equals and not word.startswith("~"):
                raise no_setting(word)
            sorted_.overrides.append(word)
        elif name in OUT_DIR:
            if not equals and not left:
                raise UsageError(f"{name}: needs a folder: {name} FOLDER or out_dir=FOLDER.")
            sorted_.overrides.append(f"out_dir={quoted(value if equals else left.pop(0))}")
        elif name in FLAGS:
            own = [name, *([value] if equals else left[: FLAGS[name]])]
            left = left if equals else left[FLAGS[name] :]
            check_flag(own)
            sorted_.flags += own
        else:
            raise unknown_flag(name, value or (left[0] if left else ""))
    if len(asked := [flag for flag in sorted_.flags if flag in ONE_OF]) > 1:
        raise UsageError(f"{' '.join(asked)}: only one of them at a time.")
    if asked and asked[0] in SWEEP and not sorted_.overrides:
        raise UsageError(
            f"{asked[0]}: a sweep of nothing. Give lists of values: peftbench -m method=lora,dept seed=1,2,3"
        )
    return sorted_


def check_flag(words: Sequence[str]) -> None:
    """Raises UsageError if a flag's value is missing or none of its choices."""
    name, *value = words
    if len(value) != FLAGS[name]:
        raise UsageError(f"{name}: " + ("needs a value behind it." if FLAGS[name] else "takes no value."))
    if name in CHOICES and value[0] not in CHOICES[name]:
        raise UsageError(f"{name} {value[0][:100]}: not a valid choice. {did_you_mean(value[0][:100], CHOICES[name])}")


def no_setting(word: str) -> UsageError:
    """What to say to a word that is no `KEY=VALUE`."""
    from peftbench.config.catalogue import setting_of

    return UsageError(f"{word[:100] or 'an empty word'}: cannot be read as key=value. {setting_of(word)}".rstrip())


def unknown_flag(name: str, value: str) -> UsageError:
    """What to say to a flag that there is none of."""
    if name in REFUSED:
        return UsageError(f"{name}: is not taken: {REFUSED[name]}")
    key = name.lstrip("-").replace("-", "_")
    if key in TOP_KEYS:
        return UsageError(f"{name}: settings are written KEY=VALUE: {key}={value or 'VALUE'}.")
    near = did_you_mean(name[:100], [*FLAGS, *OUT_DIR])
    return UsageError(f"{name[:100]}: no such option. {near} A setting is KEY=VALUE.")


TOP_KEYS = (
    "model", "method", "task", "protocol", "trainer", "tracking", "search", "shots", "seed", "data_seed", "data_dir",
    "out_dir", "rerun",
)  # fmt: skip


def with_flag(args: Sequence[str]) -> list[str]:
    """For commands that have `--out-dir FOLDER`: `out_dir=FOLDER` becomes that."""
    return [f"--out-dir={arg[len('out_dir=') :]}" if arg.startswith("out_dir=") else arg for arg in args]


def with_override(args: Sequence[str]) -> list[str]:
    """For commands that take settings: `--out-dir FOLDER` becomes `out_dir=FOLDER`."""
    made, left = [], list(args)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name in OUT_DIR and (equals or left):
            word = f"out_dir={quoted(value if equals else left.pop(0))}"
        made.append(word)
    return made


def quoted(text: str) -> str:
    """A text as one value in the grammar of Hydra's overrides, whatever is in it."""
    from peftbench.config.grammar import hydra_value

    return hydra_value(text)


def check_encoding(args: Sequence[str]) -> None:
    """Raises UsageError if an argument is not text in the terminal's encoding."""
    for number, arg in enumerate(args, 1):
        try:
            arg.encode("utf-8")
        except UnicodeEncodeError:
            shown = arg.encode("utf-8", "backslashreplace").decode()
            raise UsageError(f"argument {number}, {shown[:80]}: is not UTF-8 text.") from None
