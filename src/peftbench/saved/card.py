"""The README of a folder with what a run has trained: a model card as the hub reads it. Free of torch."""

from __future__ import annotations

from pathlib import Path

from peftbench.files import write_atomic
from peftbench.records.manifest import Manifest
from peftbench.records.record import Record
from peftbench.version import __version__


def write(folder: Path, record: Record, manifest: Manifest) -> None:
    """Write the `README.md` of a run's `adapter/` folder."""
    text = "\n".join([*front_matter(record, manifest), *about(record, manifest), "", *how_to_load(folder, record), ""])
    write_atomic(folder / "README.md", text.encode("utf-8", "backslashreplace"))


def front_matter(record: Record, manifest: Manifest) -> list[str]:
    """The YAML block at the top."""
    lines = ["---", "library_name: peft", f"tags: [peftbench, {record.method}, {record.task}]"]
    if base := base_name(manifest):
        lines.insert(1, f"base_model: {base}")
    return [*lines, "---", ""]


def base_name(manifest: Manifest) -> str:
    """What the backbone is called: on the hub, if it comes from there, else in `model=NAME`."""
    model = manifest["model"]
    return str((model["path"] if model["source"] == "hub" else model["name"]) if model else "")


def about(record: Record, manifest: Manifest, interval: str = "") -> list[str]:
    """What was trained on what, and what came of it."""
    task = f"{record.task}/{record.subset}" if record.subset else record.task
    shots = "all rows" if record.shots == "full" else f"{record.shots} shots"
    backbone = manifest["backbone"]
    rows = record.draw.get("rows") or {}
    drawn = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    facts = [
        ("backbone", f"{base_name(manifest)}, revision {backbone['revision']}" if backbone else ""),
        ("task", f"{task}; labels: {', '.join(manifest['task']['labels']) or 'a score'}"),
        ("draw", f"protocol {record.protocol}, {shots}, data seed {record.data_seed}: {drawn}"),
        ("training seed", str(record.seed)),
        ("test score", "" if record.score is None else f"{record.metric} {record.score:.1f}{interval}"),
        ("trained", _trained(record.parameters)),
        ("input", f"at most {manifest['trainer']['max_length']} tokens" if backbone else ""),
        ("made by", f"peftbench {__version__}, run {record.run_id}"),
    ]
    return [f"# {record.method} on {task}", "", *(f"- {name}: {value}" for name, value in facts if value)]


def _trained(counts: dict[str, int]) -> str:
    trained = counts.get("module", 0) + counts.get("head", 0)
    return f"{trained:,} of {counts['total']:,} parameters" if counts.get("total") else ""


def how_to_load(folder: Path, record: Record) -> list[str]:
    """What to do with the folder."""
    tasks = record.sequence.get("tasks")
    chosen, argument = (f" --task {tasks[0]}", f', task="{tasks[0]}"') if tasks else ("", "")
    lines = [
        "## Use",
        "",
        f"    peftbench predict {record.run_id}{chosen} --file new.csv --text-column text",
        "",
        f'or in Python, `peftbench.load_run(run_id{argument}).predict(["..."])`. `peftbench.json` names',
        "all that it takes: labels, pooling, the normalisation in front of the head, prefix, length, template.",
        f"`peftbench export {record.run_id}{chosen} DIR` makes a folder for transformers and peft alone.",
    ]
    if (folder / "adapter_config.json").is_file():
        lines += [
            "",
            "`adapter_config.json` is peft's: `PeftModel.from_pretrained(backbone, folder)`. A type of peftbench's own",
            "(DEPT, EPT, IAPT, adapters) is known to peft after `import peftbench; peftbench.register()`.",
        ]
    return lines


def write_export(folder: Path, record: Record, manifest: Manifest, code: str, interval: str, merged: bool) -> None:
    """Write the `README.md` of an exported folder, the code of `inference.py` in it."""
    what = "The whole model, the trained weights in it" if merged else "A peft adapter"
    if "head.safetensors" in code:
        what += ", and beside it `head.safetensors`, the head that was trained with it"
    lines = [
        *front_matter(record, manifest),
        *about(record, manifest, interval),
        *costs(record),
        f"- command: `{command_of(record)}`",
        "",
        f"{what}. `inference.py` needs torch, transformers, safetensors" + ("" if merged else " and peft") + ":",
        "",
        "```python",
        code.rstrip(),
        "```",
        "",
    ]
    write_atomic(folder / "README.md", "\n".join(lines).encode("utf-8", "backslashreplace"))


def costs(record: Record) -> list[str]:
    """What the training took."""
    seconds, peak = record.seconds.get("train"), record.memory.get("train_peak_mib")
    device = record.environment.get("device", "")
    memory = "" if peak is None else f", train peak {peak:,.0f} MiB"
    where = f", on {device}" if device else ""
    return [] if seconds is None else [f"- cost: {seconds:.1f} s of training{memory}{where}"]


def command_of(record: Record) -> str:
    """The command that makes the run."""
    from peftbench.config.command import command, overrides_of

    return command(overrides_of(record.config, always=["method"]))
