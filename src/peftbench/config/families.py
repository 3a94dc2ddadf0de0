"""The family of a checkpoint whose config leaves it open (`model.family=null`), by its config.json. Free of torch where
the file names a class that says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError

ENDINGS = {
    "ForConditionalGeneration": "seq2seq",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "encoder",
    "ForPreTraining": "encoder",
}
"""How the names of transformers' classes end -> family."""


def with_family(plain: dict[str, Any]) -> dict[str, Any]:
    """The `model` section with its family, read off the checkpoint where it is null.

    Raises:
        UsageError: there is no checkpoint to read it from.
    """
    if plain.get("family", "") is not None:
        return plain
    path = plain.get("path")
    if not path or str(path) == "???":
        return {**plain, "family": "encoder"}  # what is missing is said where the path is needed
    return {**plain, "family": family_of(config_of(plain), str(path))}


def family_of(config: dict[str, Any], path: str) -> str:
    """The family that a config.json says."""
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    named = str((config.get("architectures") or [""])[0])
    by_class = next((family for ending, family in ENDINGS.items() if named.endswith(ending)), None)
    if by_class not in (None, "causal"):
        return str(by_class)
    kind = config.get("model_type")
    if not kind:
        raise UsageError(
            f"model.path={path}: its config.json names no model_type, so it is no checkpoint of transformers."
        )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    # BERT-likes can also decode, and count as encoders.
    decodes = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "causal" if decodes else "encoder"


def config_of(plain: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's config.json; of one on the hub only this file is fetched, or taken from the hub's cache."""
    path, key = str(plain["path"]), "model.family=null"
    file = Path(path).expanduser() / "config.json" if plain.get("source") == "local" else hub_file(plain, key)
    if plain.get("source") == "local" and not file.is_file():
        what = "no such folder" if not file.parent.is_dir() else "the folder holds no config.json"
        raise UsageError(
            f"model.path={path}: {what}. model=local wants a folder as transformers' save_pretrained writes it: "
            "config.json, tokenizer files and *.safetensors."
        )
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot read it as JSON ({error}). Get the checkpoint again.") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds a {type(found).__name__}, not a JSON object. Get the checkpoint again.")
    return found


def hub_file(plain: dict[str, Any], key: str) -> Path:
    """config.json of a repository on the hub."""
    from peftbench.hub import HubProblem, Repository, fetch, resolve

    repository, revision = Repository(str(plain["path"])), plain.get("revision") or "main"
    try:
        return fetch(repository, resolve(repository, revision).commit, ["config.json"]) / "config.json"
    except HubProblem as problem:
        ways = "; ".join(way for way in (problem.way, "model.family=encoder, seq2seq or causal") if way)
        raise UsageError(
            f"{key}: config.json of {repository.name} at {revision} cannot be had: {problem.reason}. "
            f"Ways out: {ways}; or model=local model.path=DIR with a copied folder."
        ) from None
