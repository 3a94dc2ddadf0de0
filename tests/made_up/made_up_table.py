"""A table of two tuners on two languages, and runs that fill it."""

from __future__ import annotations

from itertools import product

from made_up_runs import file_run

from peftbench.records.store import Store
from peftbench.tables import spec

TABLE = """
title: "A table | of <b>tuners</b> & 100 %"
description: two tuners on two languages
paper: nobody, nowhere
run: {model: tiny-bert, task: masakhanews, shots: 10}
repeat: {data_seed: [1, 2, 3]}
reference: {file: dept, source: main GLUE/SuperGLUE (as reprinted by ULPT table 1), model: t5-base}
backbones: {t5-base: tiny-bert}
margin: "2.0"
rows:
  - {label: LoRA, run: {method: lora}, reference: {method: LoRA}}
  - {label: "=DePT, r=9", run: {method: dept}, reference: {method: DePT}, caveat: CAVEAT}
  - {label: SPoT, missing: not in this version, reference: {method: SPoT}}
columns:
  - {label: hau, run: {task.lang: hau}, metric: accuracy, reference: {task: RTE}}
  - {label: swa, run: {task.lang: swa}, metric: accuracy, reference: {task: CB, metric: accuracy}}
  - {label: mean, mean_of: [hau, swa]}
  - {label: "train, s", run: {task.lang: hau}, metric: train_seconds}
claims:
  - {label: DePT minus LoRA, kind: difference, row: "=DePT, r=9", of: LoRA, columns: [hau, swa]}
  - {label: DePT above LoRA, kind: relative, row: "=DePT, r=9", of: LoRA, columns: [hau]}
  - {label: time saved by DePT, kind: saving, row: "=DePT, r=9", of: LoRA, columns: ["train, s"]}
  - {label: the best, kind: best, columns: [hau, swa]}
"""
LORA, DEPT = "LoRA", "=DePT, r=9"


def a_table(text: str = TABLE, caveat: str = ""):
    return spec.parse("made-up", text.replace("CAVEAT", f'"{caveat}"'))


def overrides(method: str, lang: str, *more: str) -> list[str]:
    return ["model=tiny-bert", "task=masakhanews", "shots=10", f"method={method}", f"task.lang={lang}", *more]


def fill(store: Store) -> Store:
    """All runs of the table: DePT is clearly worse than LoRA, and takes half its time."""
    for method, lang, draw in product(("lora", "dept"), ("hau", "swa"), (1, 2, 3)):
        accuracy, seconds = (0.9, 20.0) if method == "lora" else (0.5, 10.0)
        file_run(store, overrides(method, lang), accuracy, draw, seconds={"train": seconds + draw, "total": 50.0})
    return store
