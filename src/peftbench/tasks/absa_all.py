"""Several subtasks and domains of `absa` as one task, for one model of all (Zhou et al., arXiv 2412.02279).

Each row keeps the instruction, the elements and the format of its subtask, which its `domain` names (`aste_rest14`);
its `group` is its sentence. Polarity (apc) asks for a list of one polarity, like the other subtasks.

The files of the subtasks share sentences, and one's train set holds sentences of another's test set. No row of train or
dev is kept whose sentence stands in the test set of any subtask or domain of the YAML whose test file is at hand,
whether it is asked for or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftbench.config.schema import TaskConfig, number
from peftbench.config.tasks import adapter, listed, score, text
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks import absa
from peftbench.tasks.base import DataSource, Mixture, Row, TaskData, bare_task
from peftbench.tasks.sources import Found, assemble, resolve_subset
from peftbench.tasks.tuple_formats import TupleForm

TRAINED = ("train", "dev")


@dataclass
class AbsaAllConfig(TaskConfig):
    """`subtask` and `domain` (one, a list, or null for all) say which of absa's subsets, `mixing` how often each comes
    up in training."""

    subtask: Any = None
    domain: Any = None
    mixing: float = number(1.0, ge=0, le=1)


def settle(task: dict[str, Any]) -> dict[str, Any]:
    """The task with a subset that lists its parts.

    Raises:
        UsageError: there is no such subtask or domain, one is not there for any of the others, one part is left, or
            a subset is given.
    """
    single = {name: values for name, values in task["subsets"].items() if "parts" not in values}
    known = [tuple(name.split("_", 1)) for name in single]
    chosen = {
        "subtask": _chosen(task, "subtask", [s for s, _ in known], absa.ALSO_CALLED),
        "domain": _chosen(task, "domain", [d for _, d in known], {}),
    }
    parts = [(s, d) for d in chosen["domain"] for s in chosen["subtask"] if (s, d) in known]
    _check_parts(task, chosen, parts)
    name = "_".join("+".join(names) if task.get(key) else "all" for key, names in chosen.items())
    if task.get("subset") not in (None, name):
        given = f"task.subset={task['subset']}"
        raise UsageError(f"{given}: absa_all takes task.subtask and task.domain, each one or several.")
    mixture = {"parts": [f"{s}_{d}" for s, d in parts], "mixing": task.get("mixing", 1.0)}
    return {**task, "subset": name, "subsets": {**single, name: mixture}}


def _check_parts(
    task: Mapping[str, Any], chosen: Mapping[str, Sequence[str]], parts: Sequence[tuple[str, str]]
) -> None:
    for place, (key, other) in enumerate((("subtask", "domain"), ("domain", "subtask"))):
        there = {part[place] for part in parts}
        if task.get(key) and (missing := [name for name in chosen[key] if name not in there]):
            others = ", ".join(chosen[other])
            raise UsageError(f"task.{key}: {missing[0]} is not there for {others}. Take it out; see absa.yaml.")
    if len(parts) == 1:
        subtask, domain = parts[0]
        raise UsageError(
            f"task=absa_all: of task.subtask and task.domain only {subtask} of {domain} is left, which is no mixture. "
            f"Name more, or use task=absa task.subtask={subtask} task.domain={domain}."
        )


def _chosen(task: Mapping[str, Any], key: str, there: Iterable[str], also: Mapping[str, str]) -> list[str]:
    """What `task.KEY` asks for, by our names and each once; all that there are if it asks for none."""
    given, known = task.get(key) or [], list(dict.fromkeys(there))
    asked = [also.get(str(name).lower(), str(name)) for name in (given if isinstance(given, list | tuple) else [given])]
    for name in asked:
        if name not in known:
            raise UsageError(f"task.{key}: absa has no `{name}`. {did_you_mean(name, [*known, *also])}")
    return list(dict.fromkeys(asked)) or known


@adapter(
    config=AbsaAllConfig,
    settle=settle,
    subset={**(absa.load.adapter.subset or {}), "parts": listed(text, least=1), "mixing": score},  # type: ignore[attr-defined]
)
def load(cfg: AbsaAllConfig, data_dir: Path | None) -> TaskData:
    """The parts one behind the other, without the sentences of any test set in train and dev."""
    subset = resolve_subset(cfg)
    loaded = {name: _part(cfg, name, data_dir) for name in subset.options["parts"]}
    tests = test_sentences(cfg, data_dir)
    barred = frozenset().union(*tests.values())
    splits: dict[str, list[Row]] = {}
    notes = []
    for split in ("train", "dev", "test"):
        rows = [_named(row, name) for name, part in loaded.items() for row in getattr(part, split)]
        kept = [row for row in rows if absa.sentence_key(row.text) not in barred] if split in TRAINED else rows
        splits[split] = kept
        if split in TRAINED:
            notes.append(
                f"{split}: {len(rows) - len(kept)} of {len(rows)} rows left out, whose sentences stand in one of "
                f"{len(tests)} test sets"
            )
    notes += [note.replace(":", f": {name}:", 1) for name, part in loaded.items() for note in part.notes]
    notes += _note_dev(splits)
    mixture = Mixture({name: _bare(part) for name, part in loaded.items()}, float(subset.options["mixing"]))
    files = {f"{name}/{file}": sha for name, part in loaded.items() for file, sha in part.source.files.items()}
    source = replace(next(iter(loaded.values())).source, where=str(Path(data_dir or "", cfg.folder)), files=files)
    return assemble(
        cfg, subset, source, splits, notes, labels=(), label_words={}, mixture=mixture, domains=tuple(loaded)
    )  # fmt: skip


def _part(cfg: AbsaAllConfig, name: str, data_dir: Path | None) -> TaskData:
    """One of absa's subsets; polarity as tuples of one element."""
    data = absa.load(replace(cfg, name="absa", subset=name), data_dir)
    if data.problem == "tuples":
        return data
    form = TupleForm(("polarity",), {"polarity": data.labels})
    rows: dict[str, Any] = {
        s: [replace(r, target=((r.target,),)) for r in getattr(data, s)] for s in ("train", "dev", "test")
    }
    own = resolve_subset(replace(cfg, subset=name))
    return replace(
        data, **rows, problem="tuples", labels=(), label_words={}, tuple_form=form, cloze={},
        instruction=own.options.get("instruction", ""),
    )  # fmt: skip


def _bare(part: TaskData) -> TaskData:
    """What is said of a part's rows, without them and without where they lay."""
    return replace(bare_task(part), source=DataSource("local", ""))


def _named(row: Row, part: str) -> Row:
    """A row that says which part it belongs to. A sentence is one group in all parts of a split."""
    split, _, number = row.id.partition(":")
    group = hashlib.blake2b(absa.sentence_key(row.text).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return replace(row, id=f"{split}:{part}/{number}", domain=part, group=f"{split}:{group}")


def test_sentences(cfg: TaskConfig, data_dir: Path | None) -> dict[Path, frozenset[str]]:
    """Test file -> its sentences, of every subset whose test file is at hand."""
    found: dict[Path, frozenset[str]] = {}
    for name, values in cfg.subsets.items():
        subset = resolve_subset(replace(cfg, subset=name)) if "parts" not in values else None
        for file in subset.files.get("test", ()) if subset else ():
            path = Path(data_dir or "", subset.folder, file)  # type: ignore[union-attr]
            if path not in found and path.is_file():
                rows = absa.rows_of(subset, Found(DataSource("local", ""), {"test": (path,)}), "test")  # type: ignore[arg-type]
                found[path] = frozenset(absa.sentence_key(row.text) for row in rows)
    return found


def _note_dev(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """Subtasks split the same sentences in their own ways: one's dev is not new to a model of all."""
    train = {absa.sentence_key(row.text) for row in splits["train"]}
    shared = sum(absa.sentence_key(row.text) in train for row in splits["dev"])
    note = (
        f"dev: the sentences of {shared} of {len(splits['dev'])} rows also stand in train, for another subtask or this"
    )
    return [note] if shared else []
