"""Files of a commit into the hub's cache: said beforehand, shown on a terminal, and checked before they are used."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from peftbench.errors import Interrupted
from peftbench.hub.asking import keep_names, patiently, resolve, say
from peftbench.hub.blobs import damaged
from peftbench.hub.problems import FORBIDDEN, NETWORK, HubProblem, explain
from peftbench.hub.repository import Repository

WORTH_SAYING = 1_000_000
"""Bytes from which on a download is announced and has a bar."""


def fetch(repository: Repository, commit: str, files: Sequence[str], without: Sequence[str] = ()) -> Path:
    """The folder of a commit in the hub's cache, with its files that match the patterns, whole and undamaged.

    What lies there already costs no request.

    Args:
        files: patterns of names that are wanted.
        without: patterns of names that are not.

    Raises:
        HubProblem: they cannot be had.
        Interrupted: a stop signal came while they were fetched.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def load(patterns: Sequence[str] = files, **how: Any) -> Path:
        return Path(
            snapshot_download(
                repository.name,
                repo_type=repository.kind,
                revision=commit,
                allow_patterns=list(patterns),
                ignore_patterns=list(without) or None,
                **how,
            )
        )

    offline, whole = bool(constants.HF_HUB_OFFLINE), True
    try:
        folder = load(local_files_only=True)
    except LocalEntryNotFoundError as missing:
        if offline:
            raise _not_here(missing, repository) from missing
        whole = False
    if not offline:
        awaited = not whole and _announced(repository, commit, files, without)
        with stoppable(repository.name, told=awaited), bars(awaited):
            folder = patiently(load, repository, ())  # the client has its own patience with files
        keep_names(repository, commit)
    present = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    wanted = [folder / name for name in _chosen(present, files, without)]  # other programs fetch other files
    return _checked(repository, folder, wanted, load, offline)


def _chosen(names: Iterable[str], files: Sequence[str], without: Sequence[str]) -> list[str]:
    """Those of `names` that the patterns choose, as the client has it."""
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(names, allow_patterns=list(files), ignore_patterns=list(without) or None))


def _not_here(missing: Exception, repository: Repository) -> HubProblem:
    """What is missing, and that nobody is asked for it."""
    return HubProblem(f"{explain(missing, repository).reason}{FORBIDDEN}", f"{NETWORK}, without HF_HUB_OFFLINE")


def _announced(repository: Repository, commit: str, files: Sequence[str], without: Sequence[str]) -> bool:
    """Say what is to come and how much, unless that is over at once; whether it was said."""
    known = resolve(repository, commit).files or {}
    sizes = [
        known[name] for name in _chosen(known, files, without) if not (repository.snapshot(commit) / name).exists()
    ]
    if not sizes or None in sizes:
        say(f"fetching {repository.name}@{commit}")
        return True
    size = sum(size for size in sizes if size is not None)
    if size >= WORTH_SAYING:
        say(f"fetching {repository.name}@{commit}, {readable(size)}")
    return size >= WORTH_SAYING


def readable(size: float) -> str:
    """Bytes as the hub writes them, in powers of ten.

    >>> readable(13_476_838_000), readable(900)
    ('13.5 GB', '900 bytes')
    """
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _checked(
    repository: Repository, folder: Path, wanted: Sequence[Path], load: Callable[..., Path], offline: bool
) -> Path:
    """`folder` once its `wanted` files are those of the hub; damaged ones are fetched again, once."""
    broken = damaged(wanted)
    if broken and not offline:
        names = [path.relative_to(folder).as_posix() for path in broken]
        say(f"{repository.name}: {', '.join(names)} in the hub's cache is damaged (not the hash in its name); again")
        with stoppable(repository.name), bars(True):
            patiently(lambda: load(names, force_download=True), repository, ())
        broken = damaged(broken)
    if broken:
        blobs = " ".join(str(path.resolve()) for path in broken)
        more = ", without HF_HUB_OFFLINE" if offline else ""
        raise HubProblem(
            f"{broken[0]} is damaged: its bytes have not the hash that they should have by the name of {blobs}",
            f"remove {blobs} and the link to it, and give the same command again with a network{more}",
        )
    return folder


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """The client's own progress bars on a terminal if `shown`, and none elsewhere, whatever else is silent now."""
    from huggingface_hub import constants, utils

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:  # the user has decided
        yield
        return
    were_off = utils.are_progress_bars_disabled()
    (utils.enable_progress_bars if shown and sys.stderr.isatty() else utils.disable_progress_bars)()
    try:
        yield
    finally:
        (utils.disable_progress_bars if were_off else utils.enable_progress_bars)()


@contextmanager
def stoppable(name: str, told: bool = True) -> Iterator[None]:
    """Say what happens when a stop signal comes during a download: the client ends it only with its files.

    The signal then goes to whoever was listening; an interruption of a run says where it was.
    """

    def listen(number: int, frame: FrameType | None) -> None:
        if told and number not in heard:
            heard.append(number)
            what = f"ending once the files of {name} that are under way are here (Ctrl-C again ends at once)"
            words = f"peftbench: {signal.Signals(number).name}: {what}\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, words.encode())
        before[number](number, frame)

    heard: list[int] = []
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before: dict[int, Any] = {number: handler for number in stops if callable(handler := signal.getsignal(number))}
    with suppress(ValueError):  # outside the main thread no signal comes
        for number in before:
            signal.signal(number, listen)
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(stop.code - 128, f"during the download of {name}") from stop
    finally:
        with suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)
