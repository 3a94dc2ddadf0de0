"""Models made for single software projects: every way to make one, from a model of all other projects.

    python scripts/personas.py [--projects jsoup,gson,joda-time] [--out-dir results] [OVERRIDE ...]

For each project: all weights are trained on the other projects' tests (`train_on=others`, the start), then each method
goes on from there with the project's own (`method.init_from`), and so does, for as many steps, training on the others:
what personalisation adds is the difference to that. Runs that are finished are found, so a script that was stopped goes
on. `peftbench table personal-code --out-dir ...` shows them; overrides go to all runs alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import peftbench

COMMON = (
    "task=code_tests", "model=smollm2-135m", "protocol.dev=none", "protocol.select=last", "protocol.test_rows=16",
    "task.other_rows=8",
    "task.metrics=[bleu,edit_similarity,exact_match,parses_java]", "trainer.batch_size=4", "trainer.micro_batch=1",
    "trainer.max_length=256", "method/formulation=generate", "method.formulation.answer_tokens=128",
    "tracking.wandb=disabled",
)  # fmt: skip
START = ("method=full", "task.train_on=others", "shots=64", "trainer.steps=16", "trainer.save=all")
PERSONA = ("shots=40", "trainer.steps=8")
METHODS = {
    "others again": ("method=full", "task.train_on=others"),
    "custom": ("method=full",),
    "embeddings and head": ("method=embed_head",),
    "last block": ("method=last_layer",),
    "prefix": ("method=prefix_tuning", "method.tuner.init_text='Write a unit test for the method.'"),
    "LoRA": ("method=lora",),
}


def main() -> None:
    """Make the runs and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", default="jsoup,gson,joda-time")
    parser.add_argument("--methods", default=",".join(METHODS), help="of: %(default)s")
    parser.add_argument("--out-dir", default="results")
    options, overrides = parser.parse_known_args()
    last = (f"out_dir={options.out_dir}", *overrides)
    for project in options.projects.split(","):
        for name, run in personas(project, options.methods.split(","), last):
            scores = ", ".join(f"{metric} {value:.1f}" for metric, value in sorted(run.record.scores.items()))
            print(
                f"{project}, {name}: {scores}; {flops(run):.1f} TFLOP, {run.record.parameters['adapter_bytes']:,} bytes"
            )


def personas(project: str, methods: list[str], last: tuple[str, ...]) -> Iterator[tuple[str, peftbench.Run]]:
    """The start, then what each method makes of it."""
    own = (*COMMON, f"task.project={project}")
    start = peftbench.run(*own, *START, *last)
    yield "start", start
    for name in methods:
        yield name, peftbench.run(*own, *PERSONA, *METHODS[name], f"method.init_from={start.run_id}", *last)


def flops(run: peftbench.Run) -> float:
    """Operations of the whole training, in 10^12, if each step were on the longest items, on which one was counted."""
    return float(run.record.compute["step_flops"] or 0) * float(run.record.compute["steps"]) / 1e12


if __name__ == "__main__":
    main()
