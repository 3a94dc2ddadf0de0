"""`Run.export`: a folder that plain transformers and peft load. What is written is run once and compared."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.files import readable_errors, write_atomic
from peftbench.records import manifest as manifests
from peftbench.records.manifest import Manifest
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.saved import card
from peftbench.saved.inference import check_head, code_for
from peftbench.saved.load import adapter_folder, restored, with_places
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from torch import Tensor

    from peftbench.config.schema import RunConfig
    from peftbench.learner import Learner

BASE = "base"
"""Folder with the frozen backbone, where it does not come from the hub."""
TOLERANCE = 1e-4
TEXTS = (
    "The team won the final after extra time.",
    "Parliament votes on the new budget today, ministers said.",
    "Rain",
)
"""What the exported code and the run's own model are both asked."""


def export(store: Store, record: Record, folder: Path, merge: bool) -> Path:
    """Write `folder`, whole or not at all.

    Args:
        merge: put an adapter into the backbone's weights.

    Raises:
        UsageError: the folder is there already, or plain libraries cannot answer as the run does.
    """
    adapter = adapter_folder(record, store.folder(record.run_id))
    manifest = manifests.read(adapter)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"export {folder}: is there already. Choose a new folder.")
    if manifest["kind"] != "learner":
        raise UsageError(f"run {record.run_id}: method={record.method} has no network. `peftbench predict` answers.")
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
    return folder


def _fill(home: Path, store: Store, record: Record, adapter: Path, manifest: Manifest, merge: bool) -> None:
    from transformers import PreTrainedModel

    from peftbench.models import load_backbone

    check_head(manifest)
    cfg, task = _config(record, manifest), manifests.task_of(manifest)
    learner = restored(adapter, manifest, cfg, task)[0]
    wanted, model = _logits(learner, manifest["pairs"]), learner.model
    whole, base = merge or isinstance(model, PreTrainedModel), _base(manifest)
    code = code_for(manifest, base=base, merged=whole, virtual_tokens=learner.tuner.virtual_tokens)
    if not whole:
        _check_plain(record, adapter)
    if whole:
        merged = model if isinstance(model, PreTrainedModel) else _merged(record, model)
        _name_labels(merged.config, manifest)
        merged.save_pretrained(home)
    else:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(adapter / name, home / name)
        if base.startswith("HERE"):
            load_backbone(cfg.model, "features", cfg.trainer.dropout).model.save_pretrained(home / BASE)
    learner.backbone.tokenizer.save_pretrained(home)
    shutil.copy(adapter / "head.safetensors", home / "head.safetensors")
    manifests.write(home, manifest)
    write_atomic(home / "inference.py", code.encode())
    card.write_export(home, record, manifest, code, interval=_interval(store, record), merged=whole)
    _compare(record, home, wanted, manifest["pairs"])


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


def _logits(learner: Learner, pairs: bool) -> Tensor:
    """(texts, classes) of `TEXTS`, text by text."""
    import torch

    formulation: Any = learner.formulation
    paired = TEXTS[::-1] if pairs else (None,) * len(TEXTS)
    rows = [Row(str(i), text, None, pair=pair) for i, (text, pair) in enumerate(zip(TEXTS, paired, strict=True))]
    with torch.no_grad():
        return torch.cat([formulation.logits(learner.model, learner.collate([i])) for i in learner.encode(rows)])


def _compare(record: Record, home: Path, wanted: Tensor, pairs: bool) -> None:
    """Raises UsageError unless the code in `home` gives the same logits: for a pair that plain peft treats
    otherwise (it drops token types and positions behind a soft prompt), or a weight without a place in the network."""
    from peftbench.models.load import quiet

    with quiet():
        found = runpy.run_path(str(home / "inference.py"))["logits"](list(TEXTS), list(TEXTS[::-1]) if pairs else None)
    distance = float((found - wanted).abs().max())
    if not distance <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise UsageError(
            f"run {record.run_id}: plain transformers and peft give other logits than the run's model (up to "
            f"{distance:.3g} apart on a sample), so method={record.method} on model={record.model} cannot be exported "
            "faithfully. `peftbench predict` answers."
        )
