"""SIB-200: topics of FLORES-200 sentences, the same ones in 205 languages (Adelani et al. 2024, arXiv 2309.07445)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.config.tasks import adapter, listed, mapping, text
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks import languages
from peftbench.tasks.base import TaskData
from peftbench.tasks.languages import LanguageConfig, check_source
from peftbench.tasks.topics import SUBSET_KEYS

CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
EVERY = "every"
"""The entry of `task.subsets` that says what holds for every language."""


@dataclass
class Sib200Config(LanguageConfig):
    """`codes`: FLORES codes of the languages. `iso`: ISO 639-3 codes that are not the beginning of the FLORES code."""

    codes: list[str] = field(default_factory=list)
    iso: dict[str, str] = field(default_factory=dict)


def settle(task: dict[str, Any]) -> dict[str, Any]:
    """The task with the FLORES codes of its languages, and a subset for each.

    Raises:
        UsageError: a language is unknown, or written in several scripts.
    """
    named = {key: flores_code(str(task[key]), task, key) for key in ("lang", "source_lang") if task.get(key)}
    subsets = task.get("subsets") or {}
    if EVERY in subsets:
        place = {code: {"languages": [code], "folder": f"{task.get('folder')}/{code}"} for code in named.values()}
        subsets = {code: {**subsets[EVERY], **own} for code, own in place.items()}
    return check_source({**task, **named, "subset": named.get("lang"), "subsets": subsets, "codes": [], "iso": {}})


def flores_code(lang: str, task: dict[str, Any], key: str) -> str:
    """The FLORES code for a FLORES or an ISO 639-3 code; one that is not in the list is taken as it is, for its folder
    may be there."""
    codes, iso = task.get("codes") or [], task.get("iso") or {}
    if CODE.fullmatch(lang):
        return lang
    found = [iso[lang]] if lang in iso else [code for code in codes if code.startswith(f"{lang}_")]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"task.{key}={lang}: has several scripts. Choose one of {', '.join(found)}.")
    known = [*codes, *iso, *(code.partition("_")[0] for code in codes)]
    raise UsageError(
        f"task.{key}={lang}: no language of SIB-200 (a FLORES code as swh_Latn, or ISO 639-3). "
        f"{did_you_mean(lang, known)}"
    )


@adapter(
    config=Sib200Config,
    keys={"codes": listed(text), "iso": mapping(text)},
    subset=SUBSET_KEYS,
    settle=settle,
)
def load(cfg: Sib200Config, data_dir: Path | None) -> TaskData:
    """One language, in the folder that its FLORES code names."""
    try:
        return languages.load(cfg, data_dir)
    except UsageError as error:
        folder = Path(data_dir or "", cfg.folder)
        there = sorted(p.name for p in folder.iterdir() if CODE.fullmatch(p.name)) if folder.is_dir() else []
        if not there or (folder / cfg.subset).is_dir():
            raise
        raise UsageError(f"{error}\n  Languages below {folder}: {', '.join(there)}.") from error
