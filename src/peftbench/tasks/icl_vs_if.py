"""In-context learning against instruction following (Kotha, Springer and Raghunathan, ICLR 2024, arXiv 2309.10105).

Two demonstrations say to repeat or to capitalise the input, and the last input looks like a question. Whoever learns in
context begins with the question's own first word; whoever follows instructions answers it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, text
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl
from peftbench.tasks.sources import Found, assemble, find_files, resolve_subset, text_of

KEYS = ("lang", "icl_task", "if_task", "prompt", "icl_ans", "if_ans")


@adapter(subset={"references": text, "language": text})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """The prompts of one language, in the order of the file; the reference of a row is its in-context answer.

    Raises:
        UsageError: there is no prompt in the language, or a line is none.
    """
    subset = resolve_subset(cfg)
    found, language = find_files(cfg, subset, data_dir, required=["test"]), subset.options["language"]
    rows = _rows(found, language)
    if not rows:
        raise UsageError(f"{found.files['test'][0]}: no prompt in the language `{language}`.")
    return assemble(cfg, subset, found, {"test": rows}, labels=(), label_words={})


def _rows(found: Found, language: str) -> list[Row]:
    """What a prompt also asks for (`instructed`) and its pair of tasks (`kind`) stand in the row's parts."""
    rows: list[Row] = []
    for path, line, record in found.records("test", partial(read_jsonl, require=KEYS), KEYS):
        values = {key: text_of(record, key, path, line) for key in KEYS}
        if values["lang"] == language:
            kind, instructed = f"{values['icl_task']}-{values['if_task']}", values["if_ans"].strip()
            parts = {"prompt": values["prompt"], "instructed": instructed, "kind": kind}
            rows.append(Row(f"test:{len(rows)}", values["prompt"], (values["icl_ans"].strip(),), parts=parts))
    return rows
