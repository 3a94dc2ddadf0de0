"""The unlabelled text that a language's adapters are trained on. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.unlabelled import Document, document, is_held_out, limited, read_lines, sha256, unshared

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig, TaskConfig
    from peftbench.stages.language_adapters import LanguageAdaptersOptions


@dataclass(frozen=True)
class Pool:
    """What there is to learn a language from, and what became of it.

    Attributes:
        train, held_out: documents without a sentence that evaluation has.
        sentences: there were before.
        dropped: share a run of characters with an evaluation text of the run.
    """

    train: list[Document]
    held_out: list[Document]
    sentences: int
    dropped: int

    def sha256(self) -> str:
        """Of what is trained on, and what is held out."""
        return sha256([*self.train, ["held out"], *self.held_out])


def languages(task: TaskConfig) -> dict[str, TaskConfig]:
    """The languages of a run, that which is trained first: each with the task in it alone. The subset of a task without
    languages counts as one."""
    source: str | None = getattr(task, "source_lang", None)
    if source is None:
        return {task.subset: task}
    places: Any = [{"lang": name, "subset": name, "source_lang": None} for name in (source, task.subset)]
    return {place["subset"]: replace(task, **place) for place in places}


def contents(cfg: RunConfig, data_dir: Path | None) -> dict[str, str]:
    """For the run's name: a hash of all text that its language adapters may be trained on.

    Raises:
        UsageError: a language has none.
    """
    options = cfg.method.options("language_adapters")
    found = [documents(options, load_task(task, data_dir), data_dir) for task in languages(cfg.task).values()]
    return {"language_texts": "+".join(f"sha256:{sha256(each)[:32]}" for each in found)}


def pools(cfg: RunConfig, data_dir: Path | None, tests: Iterable[Row]) -> dict[str, Pool]:
    """The text of each of the run's languages, checked against what the run evaluates on: the dev and test texts of its
    languages, and the `tests` that were drawn.

    Raises:
        UsageError: a language has none, or nothing is left of it.
    """
    options = cfg.method.options("language_adapters")
    tasks = {name: load_task(task, data_dir) for name, task in languages(cfg.task).items()}
    rows = [*tests, *(row for data in tasks.values() for split in splits_of(data) for row in split)]
    texts = [row.whole for row in rows]
    return {name: pool(documents(options, data, data_dir), options, texts, name) for name, data in tasks.items()}


def pool(found: Sequence[Document], options: LanguageAdaptersOptions, evaluated: Sequence[str], language: str) -> Pool:
    """One language's, from its documents. Of texts that hold nothing out, the last one is."""
    chosen = limited(found, options.characters)
    apart = [is_held_out(one) for one in chosen]
    if len(chosen) > 1 and not any(apart):
        apart[-1] = True
    kept = unshared(chosen, evaluated)
    train, held = (
        [one for one, out in zip(kept, apart, strict=True) if one and out is wanted] for wanted in (False, True)
    )
    if not train:
        raise UsageError(
            f"method=madx: every sentence of the unlabelled text of `{language}` stands in a dev or test text. Give "
            f"other text: a folder with {language}.txt, one sentence a line, as method.language_adapters.texts=FOLDER."
        )
    sentences = sum(map(len, chosen))
    return Pool(train, held, sentences, sentences - sum(map(len, kept)))


def documents(options: LanguageAdaptersOptions, data: TaskData, data_dir: Path | None) -> list[Document]:
    """All of a language's text: its file's, then the task's train rows', whose labels are not read.

    Raises:
        UsageError: there is none.
    """
    file = folder_of(options.texts, data_dir) / f"{data.subset}.txt" if options.texts else None
    found = read_lines(file) if file is not None and file.is_file() else []
    if options.task_texts:
        found += [one for row in (*data.train, *data.unlabeled) if (one := document(row.whole))]
    if not found:
        looked = f"{file} is not there" if file is not None else "method.language_adapters.texts names no folder"
        also = "its train split has none" if options.task_texts else "method.language_adapters.task_texts=false"
        raise UsageError(
            f"method=madx: no unlabelled text in `{data.subset}`: {looked}, and {also}. Give a folder with "
            f"{data.subset}.txt, one sentence a line, as method.language_adapters.texts=FOLDER, or take "
            "method=madx_task, which needs no language's adapters."
        )
    return found


def folder_of(texts: str, data_dir: Path | None) -> Path:
    """The folder with a file a language: as given, else below `data_dir`.

    Raises:
        UsageError: there is no such folder.
    """
    given = Path(texts).expanduser()
    tried = [given, *([data_dir / given] if data_dir is not None else [])]
    found = next((folder for folder in tried if folder.is_dir()), None)
    if found is None:
        raise UsageError(
            f"method.language_adapters.texts={texts}: no such folder ({', '.join(map(str, tried))}). It holds a file "
            "LANG.txt for each language, one sentence a line."
        )
    return found


def splits_of(data: TaskData) -> Iterator[Sequence[Row]]:
    """Those that a task is evaluated on."""
    yield from (data.dev, data.test, *data.extra_tests.values())
