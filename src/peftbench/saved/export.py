"""`Run.export`: a folder that plain transformers and peft load. What is written is run once and compared."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.files import readable_errors, write_atomic
from peftbench.formulations.snippets import Network
from peftbench.records import manifest as manifests
from peftbench.records.manifest import Manifest
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.saved import card
from peftbench.saved.load import adapter_folder, restored, with_places
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.formulations.predictions import Prediction
    from peftbench.learner import Learner

BASE = "base"
"""Folder with the frozen backbone, where it does not come from the hub."""
HEAD = "head.safetensors"
TOLERANCE = 1e-4
TEXTS = (
    "The team won the final after extra time.",
    "Parliament votes on the new budget today, ministers said.",
    "Rain",
    "The ministers met again and said nothing about the price of bread. " * 60,
)
"""What the exported code and the run's own model are both asked."""


def export(store: Store, record: Record, manifest: Manifest, folder: Path, merge: bool) -> Path:
    """Write `folder`, whole or not at all.

    Args:
        manifest: of the run, or of one task of it.
        merge: put an adapter into the backbone's weights.

    Raises:
        UsageError: the folder is there already, or plain libraries cannot answer as the run does.
    """
    adapter = adapter_folder(record, store.folder(record.run_id))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"export {folder}: is there already. Choose a new folder.")
    if manifest["kind"] != "learner":
        raise UsageError(f"run {record.run_id}: method={record.method} has no network. `peftbench predict` answers.")
    if chosen := (manifest["method"].get("inference") or {}).get("name"):
        raise UsageError(
            f"run {record.run_id}: its answers are drawn by method/inference={chosen}, which is peftbench's. "
            "`peftbench predict` answers; export a run with plain answers instead."
        )
    made = [parent for parent in folder.parents if not parent.exists()]
    with readable_errors("write to", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _fill(home, store, record, adapter, manifest, merge)
        home.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        os.replace(home, folder)
    finally:
        shutil.rmtree(home, ignore_errors=True)
        for unused in made:
            with suppress(OSError):  # what was exported is in it
                unused.rmdir()
    return folder


def _fill(home: Path, store: Store, record: Record, adapter: Path, manifest: Manifest, merge: bool) -> None:
    from transformers import PreTrainedModel

    from peftbench.models import load_backbone
    from peftbench.models.architecture import AUTO_CLASSES

    cfg, task = _config(record, manifest), manifests.task_of(manifest)
    learner = restored(adapter, manifest, cfg, task)[0]
    model, base = learner.model, _base(manifest)
    whole = merge or isinstance(model, PreTrainedModel)
    auto_class = AUTO_CLASSES[learner.backbone.family, learner.backbone.purpose].__name__
    code = _code(record, learner, Network(auto_class, None if whole else base), manifest["pairs"])
    wanted = _answers(learner, manifest["pairs"])
    if whole:
        merged = model if isinstance(model, PreTrainedModel) else _merged(record, model)
        _name_labels(merged.config, manifest)
        merged.save_pretrained(home)
    else:
        if start := manifest.get("start"):
            raise UsageError(
                f"run {record.run_id}: it started from the weights of run {start['run']}, not from pre-trained ones "
                "that a plain adapter belongs to. Add --merge, where the method allows it; `peftbench predict` answers."
            )
        _check_plain(record, adapter)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(adapter / name, home / name)
        if base.startswith("HERE"):
            load_backbone(cfg.model, learner.backbone.purpose, cfg.trainer.dropout).model.save_pretrained(home / BASE)
    learner.backbone.tokenizer.save_pretrained(home)
    if HEAD in code:
        learner.save_head(home)
    manifests.write(home, {key: value for key, value in manifest.items() if key != "head"})  # it has its own names here
    write_atomic(home / "inference.py", code.encode())
    card.write_export(home, record, manifest, code, interval=_interval(store, record), merged=whole)
    _compare(record, home, learner.formulation.text_names(manifest["pairs"]), wanted, manifest["pairs"])


def _code(record: Record, learner: Learner, network: Network, pairs: bool) -> str:
    """`inference.py`. Raises UsageError if the formulation has no short form."""
    try:
        if how := learner.formulation.task.lowercase:
            raise UsageError(f"task.lowercase={how} is a rule of peftbench's. `peftbench predict` answers for the run.")
        return learner.formulation.snippet(learner.model, network, pairs)
    except UsageError as error:
        raise UsageError(f"run {record.run_id}: {error}") from None


def _interval(store: Store, record: Record) -> str:
    """Behind the score: its interval, and what that covers."""
    from peftbench import statistics

    found = statistics.summarise(statistics.load_cell(store, [record]))
    return "" if found.low is None else f", 95 % interval {found.low:.1f} to {found.high:.1f} ({found.method})"


def _config(record: Record, manifest: Manifest) -> RunConfig:
    """Of the run's model on the CPU in fp32, as the exported code computes."""
    cfg = manifests.config_of(with_places(manifest, record.config))
    return replace(cfg, trainer=replace(cfg.trainer, device="cpu", precision="fp32"))


def _base(manifest: Manifest) -> str:
    """How the exported code names the frozen backbone: on the hub at its commit, else a folder beside the adapter."""
    model = manifest["model"]
    if model["source"] != "hub":
        return f'HERE / "{BASE}"'
    return f'"{model["path"]}", revision="{manifests.pinned(model, manifest["backbone"])["revision"]}"'


def _check_plain(record: Record, adapter: Path) -> None:
    """Raises UsageError unless plain peft knows the type of the adapter."""
    from peftbench import tuners
    from peftbench.tuners.peft_types import OWN

    tuners.register()
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise UsageError(
            f"run {record.run_id}: peft has no adapter like that of method={record.method}. `peftbench predict` "
            "answers."
        )
    kind = str(json.loads(path.read_bytes())["peft_type"])
    if kind in OWN:
        raise UsageError(
            f"run {record.run_id}: an adapter of type {kind} is peftbench's own, and plain peft cannot load it. With "
            f"peftbench installed it can: `import peftbench; peftbench.register()`, then PeftModel.from_pretrained("
            f"backbone, '{adapter}'). `peftbench predict` answers as well."
        )


def _merged(record: Record, model: Any) -> Any:
    """The backbone with the adapter in its weights."""
    try:
        return model.merge_and_unload()
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise UsageError(
            f"run {record.run_id}: --merge: what method={record.method} trains cannot be put into the backbone's "
            f"weights ({error}). Export it without --merge."
        ) from None


def _name_labels(config: Any, manifest: Manifest) -> None:
    """Label names in the model's config, where other tools look for them."""
    labels = manifest["task"]["labels"]
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}


def _rows(names: Sequence[str], pairs: bool) -> list[Row]:
    """`TEXTS` as rows: each with a text for every name, of which other samples are the second and further ones."""
    rows = []
    for number in range(len(TEXTS)):
        texts = [TEXTS[(number + place) % len(TEXTS)] for place in range(max(len(names), 2))]
        parts = dict(zip(names, texts, strict=False))
        rows.append(Row(str(number), texts[0], None, pair=texts[1] if pairs else None, parts=parts))
    return rows


def _answers(learner: Learner, pairs: bool) -> list[Prediction]:
    """The run's own to `TEXTS`, text by text."""
    rows = _rows(learner.formulation.text_names(pairs), pairs)
    return [learner.predict(learner.collate([item]))[0] for item in learner.encode(rows)]


def _asked(names: Sequence[str], pairs: bool) -> list[Any]:
    """The same rows as the exported code takes them."""
    texts = [[row.parts[name] for name in names] for row in _rows(names, pairs) if row.parts]
    return [own[0] if len(own) == 1 else tuple(own) for own in texts]


def _compare(record: Record, home: Path, names: Sequence[str], wanted: Sequence[Prediction], pairs: bool) -> None:
    """Raises UsageError unless the code in `home` answers alike: for a pair that plain peft treats
    otherwise (it drops token types and positions behind a soft prompt), or a weight without a place in the network."""
    from peftbench.models.load import quiet

    try:
        with quiet():
            found = runpy.run_path(str(home / "inference.py"))["predict"](_asked(names, pairs))
        apart = "; ".join(filter(None, map(_difference, found, wanted)))
    except Exception as error:  # whatever plain libraries raise over what they do not know
        apart = f"{type(error).__name__}: {error}"
    if apart:
        raise UsageError(
            f"run {record.run_id}: plain transformers and peft give other answers than the run's model ({apart:.200}), "
            f"so method={record.method} on model={record.model} cannot be exported faithfully. `peftbench predict` "
            "answers."
        )


def _difference(found: dict[str, Any], wanted: Prediction) -> str:
    """In what the exported code's answer to a row is another; empty if in nothing."""
    numbers = {"label": wanted.label} if isinstance(wanted.label, float) else wanted.scores
    given = found if isinstance(wanted.label, float) else found.get("scores", {})
    limit = TOLERANCE * max(1.0, *map(abs, numbers.values())) if numbers else 0.0
    if far := [name for name, value in numbers.items() if not abs(given[name] - value) <= limit]:
        return f"{far[0]}: {given[far[0]]:.6g} for {numbers[far[0]]:.6g}"
    if isinstance(wanted.label, tuple) and tuple(found["label"]) != wanted.label:
        return f"{found['label']} for {list(wanted.label)}"
    if wanted.answer is not None and found["text"] != wanted.answer:
        return f"`{found['text']}` for `{wanted.answer}`"
    return ""
