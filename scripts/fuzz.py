"""Everything a user can write, written wrong: command lines, settings files, data files and records by the thousand.

    python scripts/fuzz.py [--commands 10000] [--yaml 2000] [--data 2000] [--records 1000] [--seed 1]

Nothing is trained: a command line is composed, checked and, where it is sound, named; a settings file is composed; a
data file is read; a record is looked at by the views. Each case ends well (0) or with one message (2, `UsageError`).
Anything else is a traceback: it is printed with what reproduces it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
ODD = [
    "", " ", "=", "==", "'", '"', "\\", "${", "${}", "${x}", "${oc.env:HOME}", "\\${x}", "???", "null", "[]",
    "{}", "[", "{", "a,b", "a b", '\xe9', '\u5b57', '\u202e', "\x00", "\n", "\t", "nan", "inf", "-inf", "-1",
    "0", "1e999", "1e-400", "true", "no", "9" * 40, "x" * 5000, "../../etc/passwd", "/dev/null",
    "!!python/object:os.system", "*", "~", "+", "@", "#", "%s", "{0}", "range(1,3)", "range(5,1)",
    "range(1,9,0)", "choice(1,2)", "interval(0,1)", "glob(*)", "sort(3,1)", "shuffle(1,2)", "int(x)", "float(1)",
    "str(1)", "tag(a,b)", "json_str(1)", "lora", "dept,lora", "[dept,lora]", "{a:1}", "{a:{b:[1]}}",
]  # fmt: skip
FLAGS = [
    "-m", "--cfg", "job", "--shots", "10", "--out-dir", "-h", "--resolve", "--hydra", "-x", "--", "-", "run",
    "demo", "--experimental-rerun=x", "--config-dir", "-cn", "--json", "--all",
]  # fmt: skip
LINES = [
    "good\tpos", "bad\tneg", '"open quote\tpos', "\ttab first", "", '\xe9\u5b57\tpos', "a\tb\tc\td", "\x00", "{",
    '{"text": 1}', '{"text": "x", "label": "pos"}', '{"text": null, "label": []}', '\u2028',
    "a" * 3000 + "\tpos", "text\tlabel",
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in {"commands": 10_000, "yaml": 2_000, "data": 2_000, "records": 1_000}.items():
        parser.add_argument(f"--{kind}", type=int, default=count, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="KIND:N", help="one case, with its traceback")
    options = parser.parse_args()
    kinds: dict[str, Callable[[random.Random, Path], None]] = {"commands": command, "yaml": settings, "data": data}
    found = 0
    with tempfile.TemporaryDirectory(prefix="peftbench-fuzz-") as folder, working_in(Path(folder)):
        for kind, case in kinds.items():
            wanted = range(getattr(options, kind))
            if options.only:
                only, _, number = options.only.partition(":")
                wanted = range(int(number), int(number) + 1) if only == kind else range(0)
            found += go(kind, case, wanted, options.seed, Path(folder))
    script = ROOT / "fuzz_records.py"
    if options.records and not options.only:
        counts = ["--records", str(options.records), "--seed", str(options.seed)]
        done = subprocess.run([sys.executable, str(script), *counts], check=False)
        found += done.returncode != 0
    return 1 if found else 0


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """A folder of its own, as a user's, with a folder for settings files."""
    before = Path.cwd()
    os.chdir(folder)
    (folder / "conf" / "task").mkdir(parents=True)
    (folder / "conf" / "experiment").mkdir()
    (folder / "data" / "t").mkdir(parents=True)
    os.environ["PEFTBENCH_CONF"] = str(folder / "conf")
    try:
        yield
    finally:
        os.chdir(before)
        del os.environ["PEFTBENCH_CONF"]


def go(kind: str, case: Callable[[random.Random, Path], None], wanted: range, seed: int, folder: Path) -> int:
    """Cases of one kind; how many ended in a traceback."""
    codes: Counter[str] = Counter()
    faults: dict[str, tuple[int, int]] = {}
    began = time.process_time()
    for number in wanted:
        rng = random.Random(f"{kind}:{seed}:{number}")
        code, words = outcome(case, rng, folder, show=len(wanted) == 1)
        codes[code] += 1
        if code == "traceback":
            first, times = faults.get(words, (number, 0))
            faults[words] = (first, times + 1)
    if len(wanted):
        counts = ", ".join(f"{code}: {count:,}" for code, count in sorted(codes.items()))
        print(f"{kind}: {len(wanted):,} in {time.process_time() - began:.0f} CPU s; exit codes {counts}", flush=True)
    for words, (number, times) in faults.items():
        print(f"  {times} x {words}\n      again: python scripts/fuzz.py --seed {seed} --only {kind}:{number}")
    return len(faults)


def outcome(case: Callable, rng: random.Random, folder: Path, show: bool) -> tuple[str, str]:
    """ "0", "2" or "traceback", and where it came from."""
    from peftbench.errors import UsageError

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            case(rng, folder)
    except UsageError as error:
        if show:
            print(error)
        return (
            ("2", "")
            if "\n" not in str(error) and len(str(error)) < 3_000
            else ("traceback", f"many lines: {error}"[:300])
        )
    except SystemExit as end:
        return str(end.code or 0), ""
    except Exception as error:
        if show:
            traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {str(error)[:100]!r} at {Path(last.filename).name}:{last.lineno}"
    return "0", ""


@functools.cache
def keys() -> list[str]:
    """Dotted keys of a composed config, and groups."""
    from omegaconf import OmegaConf

    from peftbench.config.load import compose_raw

    def walk(node: dict, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    own: Any = OmegaConf.to_container(compose_raw([]))
    return [*walk(own, ""), "method/tuner", "method/formulation", "hydra/launcher", "hydra.launcher.n_jobs", "hydra.x"]


def word(rng: random.Random) -> str:
    """One word of a command line: mostly a setting, sound or not."""
    kind = rng.random()
    if kind < 0.12:
        return rng.choice(FLAGS)
    if kind < 0.2:
        return rng.choice(ODD)
    key = rng.choice(keys())
    if rng.random() < 0.1:
        place = rng.randrange(len(key))
        key = key[:place] + rng.choice([*ODD[:30], "", ".", "/"]) + key[place + 1 :]
    value = rng.choice(ODD) if rng.random() < 0.7 else str(rng.choice([1, 3, 0.5, "lora", "full", "sst2", "debug"]))
    if rng.random() < 0.1:
        value = value[: rng.randrange(len(value) + 1)] + rng.choice(ODD) + value
    return rng.choice(["", "", "", "", "+", "++", "~"]) + f"{key}={value}"


def command(rng: random.Random, folder: Path) -> None:
    """A command line, as far as a run or a sweep of it can be named."""
    from peftbench import cli
    from peftbench.arguments import check_encoding, sort_arguments
    from peftbench.config.load import check_overrides, compose
    from peftbench.sweeps.jobs import compose_jobs, expand
    from peftbench.sweeps.launchers import refuse

    words = [word(rng) for _ in range(rng.choice([1, 1, 2, 3]))]
    check_encoding(words)
    if words[0] in cli.COMMANDS or (not words[0].startswith(("-", "+", "~")) and "=" not in words[0]):
        if words[0] not in ("run", "demo", ""):
            cli.dispatch(words[:1] if words[0] not in cli.COMMANDS else ["--version"])
        words = words[1:]
    typed = sort_arguments(words)
    check_overrides(typed.overrides)
    if typed.multirun:
        jobs = expand([o for o in typed.overrides if "hydra" not in o])
        refuse(compose_jobs(jobs[:20]))
    else:
        compose(typed.overrides)


STRANGE = (b"defaults: [me]", b"<<: *x", b"a: &x [*x]", b"- a", b"hydra: {callbacks: {x: 1}}", b"? [a]: b")


def mutated(rng: random.Random, content: bytes) -> bytes:
    """A text file with some of its lines or bytes changed."""
    lines = content.split(b"\n")
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, kind = rng.randrange(len(lines)), rng.random()
        if kind < 0.25:
            lines.insert(at, rng.choice(lines))
        elif kind < 0.4 and len(lines) > 1:
            del lines[at]
        elif kind < 0.75:
            head, colon, _ = lines[at].partition(b":")
            lines[at] = head + colon + b" " + rng.choice(ODD).encode("utf-8", "surrogatepass")
        elif kind < 0.9:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + bytes([rng.randrange(256)]) + lines[at][place + 1 :]
        else:
            lines[at] = rng.choice(STRANGE)
    return b"\n".join(lines)


def settings(rng: random.Random, folder: Path) -> None:
    """A task's or an experiment's file that is nearly sound."""
    from peftbench.config.load import compose

    conf = files("peftbench.conf")
    group = rng.choice(["task", "task", "experiment"])
    known = sorted(f.name for f in (conf / group).iterdir() if f.name.endswith(".yaml"))
    content = (conf / group / rng.choice(known)).read_bytes()
    (folder / "conf" / group / "me.yaml").write_bytes(mutated(rng, content))
    compose(["+experiment=me"] if group == "experiment" else ["task=me"])


TASK = """\
name: t
adapter: topics
subset: tsv
description: A task
homepage: none
licence: none
languages: [eng]
main_metric: accuracy
metrics: [accuracy]
folder: t
subsets:
"""
SUBSET = "  {0}: {{labels: [pos, neg], files: {{train: train.{0}, dev: dev.{0}, test: test.{0}}}}}\n"
ROWS = {
    "tsv": ("text\tlabel\n", "good text {0}\tpos\nbad text {0}\tneg\n"),
    "csv": ("text,label\n", "good {0},pos\nbad {0},neg\n"),
    "jsonl": ("", '{{"text": "good {0}", "label": "pos"}}\n{{"text": "bad {0}", "label": "neg"}}\n'),
}


def data(rng: random.Random, folder: Path) -> None:
    """Data files of a few lines, half of them with something odd."""
    from peftbench.inputs import InputCache

    ending = rng.choice(sorted(ROWS))
    odd = rng.choice(["train", "dev", "test"])
    for split in ("train", "dev", "test"):
        head, rows = ROWS[ending]
        content = head + "".join(rows.format(f"{split} {number}") for number in range(5))
        if split == odd:
            content += "".join(rng.choice(LINES) + "\n" for _ in range(rng.choice([0, 0, 1, 2])))
        written = mutated(rng, content.encode()) if split == odd and rng.random() < 0.5 else content.encode()
        (folder / "data" / "t" / f"{split}.{ending}").write_bytes(written)
    InputCache().load(task_config(ending, folder))


@functools.cache
def task_config(ending: str, folder: Path) -> Any:
    """The config of a floor on the files with this ending."""
    from peftbench.config.load import compose

    (folder / "conf" / "task" / "t.yaml").write_text(TASK + "".join(map(SUBSET.format, sorted(ROWS))))
    return compose(["task=t", f"task.subset={ending}", "method=majority", "shots=2", f"data_dir={folder / 'data'}"])


if __name__ == "__main__":
    raise SystemExit(main())
