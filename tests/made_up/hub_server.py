"""A hub of this machine: the endpoints that the hub's client asks, over tiny repositories of a test, with faults.

What it answers, with which headers, was read off the client. Large files (`LARGE`) lie on a second host name, as on the
real hub, so that a test sees that a token does not go there.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE = (".safetensors", ".parquet")


@dataclass
class Fault:
    """What goes wrong at a `place` (`info`, `tree`, `file`, `cdn`, `discussions`), so often (None: always).

    Attributes:
        how: a status; `page`, a web page with status 200; `cut`, half the bytes and an end; `flip`, other bytes of the
            same length; `hang`, no answer, or, at `cdn`, a first part of it and no more, until the hub's `let_go`.
    """

    place: str
    how: int | str
    times: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Repo:
    """Commits with their files; what `main` names; pull requests as (number, author, title, commit, its parent)."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: list[tuple[int, str, str, str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], ref: str | None = "main") -> str:
        """The commit with these files, named by them; a branch names it from now on."""
        names = json.dumps({name: _sha256(content) for name, content in files.items()})
        commit = hashlib.sha1(names.encode()).hexdigest()
        self.commits[commit] = dict(files)
        if ref is not None:
            self.refs[ref] = commit
        return commit

    def fault(self, place: str, how: int | str, times: int | None = None, **headers: str) -> None:
        """Add one; `headers` with `_` for `-`."""
        self.faults.append(Fault(place, how, times, {k.replace("_", "-"): v for k, v in headers.items()}))

    def take(self, place: str) -> Fault | None:
        """The fault that is due at this place."""
        for fault in self.faults:
            if fault.place == place and fault.times != 0:
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return None


class Hub(ThreadingHTTPServer):
    """`url` is its HF_ENDPOINT; `requests` what was asked, `tokens` what the requests carried by their paths, `sent`
    the large files that went out whole in spite of a fault."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[str] = []
        self.tokens: dict[str, str | None] = {}
        self.sent: list[str] = []
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def model(self, name: str) -> Repo:
        return self.repos.setdefault(("models", name), Repo())

    def dataset(self, name: str) -> Repo:
        return self.repos.setdefault(("datasets", name), Repo())

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path != "/api/agent-harnesses":
            self.server.requests.append(f"{self.command} {path}")
            self.server.tokens[path] = self.headers.get("Authorization")
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/(\w+)/?(.*)", path):
            kind, name, question, rest = found.groups()
            answer = getattr(self, f"api_{question}", None)
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, rest = "datasets" if found[1] else "models", found[2], f"{found[3]}/{found[4]}"
            answer = self.file
        elif found := re.fullmatch(r"/cdn/(models|datasets)/([^/]+/[^/]+)/(.+)", path):
            kind, name, rest = found.groups()
            answer = self.cdn
        else:
            answer = None
        if answer is None:
            return self.send(404)
        repo = self.server.repos.get((kind, name))
        if repo is None:
            return self.send(404, headers={"X-Error-Code": "RepoNotFound"})
        return answer(repo, kind, name, rest)

    def api_revision(self, repo: Repo, _kind: str, name: str, revision: str) -> None:
        if self.went_wrong(repo, "info") or (commit := self.known(repo, revision)) is None:
            return
        sizes = "blobs=true" in self.path
        files = [self.entry(file, content, sizes) for file, content in repo.commits[commit].items()]
        facts = {"id": name, "sha": commit, "siblings": files, "private": False, "gated": False, "tags": []}
        self.send(200, json.dumps({**facts, "lastModified": "2026-01-01T00:00:00.000Z"}))

    def entry(self, file: str, content: bytes, sizes: bool) -> dict[str, Any]:
        lfs = {"size": len(content), "sha256": _sha256(content), "pointerSize": 120}
        more = {"size": len(content), "blobId": _git(content), **({"lfs": lfs} if file.endswith(LARGE) else {})}
        return {"rfilename": file, **(more if sizes else {})}

    def api_tree(self, repo: Repo, _kind: str, _name: str, rest: str) -> None:
        if self.went_wrong(repo, "tree") or (commit := self.known(repo, rest.partition("/")[0])) is None:
            return
        below = rest.partition("/")[2]
        entries = []
        for file, content in repo.commits[commit].items():
            if below and not file.startswith(f"{below}/"):
                continue
            lfs = {"oid": _sha256(content), "size": len(content), "pointerSize": 120}
            entry = {"type": "file", "path": file, "size": len(content), "oid": _git(content)}
            entries.append({**entry, **({"lfs": lfs} if file.endswith(LARGE) else {})})
        folders = {file.rpartition("/")[0] for file in repo.commits[commit] if "/" in file}
        entries += [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in sorted(folders)]
        self.send(200, json.dumps(entries))

    def api_discussions(self, repo: Repo, _kind: str, name: str, _rest: str) -> None:
        if self.went_wrong(repo, "discussions"):
            return
        about = {"repo": {"name": name, "type": "model"}, "status": "open", "isPullRequest": True}
        pulls = [
            {
                "title": title,
                "num": number,
                "author": {"name": author},
                "createdAt": "2026-01-01T00:00:00.000Z",
                **about,
            }
            for number, author, title, *_ in repo.pulls
        ]
        self.send(200, json.dumps({"count": len(pulls), "start": 0, "discussions": pulls}))

    def api_commits(self, repo: Repo, _kind: str, _name: str, rest: str) -> None:
        number = int(rest.rpartition("/")[2])
        ids = next(pull[3:] for pull in repo.pulls if pull[0] == number)
        date = "2026-01-01T00:00:00.000Z"
        self.send(200, json.dumps([{"id": i, "title": "", "message": "", "date": date, "authors": []} for i in ids]))

    def file(self, repo: Repo, kind: str, name: str, rest: str) -> None:
        revision, _, file = rest.partition("/")
        if self.went_wrong(repo, "file") or (commit := self.known(repo, revision)) is None:
            return
        content = repo.commits[commit].get(file)
        if content is None:
            return self.send(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        if not file.endswith(LARGE):
            return self.send(200, content, {"X-Repo-Commit": commit, "ETag": f'"{_git(content)}"'})
        port = self.server.server_address[1]
        headers = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{_sha256(content)}"'}
        place = f"http://localhost:{port}/cdn/{kind}/{name}/{commit}/{file}"
        return self.send(302, b"", {"X-Repo-Commit": commit, "Location": place, **headers})

    def cdn(self, repo: Repo, _kind: str, _name: str, rest: str) -> None:
        commit, _, file = rest.partition("/")
        content = repo.commits[commit][file]
        fault = repo.take("cdn") if self.command == "GET" else None
        if fault is None:
            return self.send(200, content, {"ETag": f'"{_sha256(content)}"'})
        if isinstance(fault.how, int):
            return self.send(fault.how, b"", fault.headers)
        if fault.how == "flip":
            return self.send(200, bytes(byte ^ 255 for byte in content))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        if fault.how == "hang":
            self.wfile.flush()
            self.server.let_go.wait(600)
            self.wfile.write(content[half:])
        self.server.sent.append(f"{commit}/{file}")
        return None

    def known(self, repo: Repo, revision: str) -> str | None:
        """The commit of a revision; None, and the hub's answer, if there is none."""
        commit = repo.refs.get(revision, revision)
        if commit in repo.commits:
            return commit
        self.send(404, headers={"X-Error-Code": "RevisionNotFound"})
        return None

    def went_wrong(self, repo: Repo, place: str) -> bool:
        """Whether a fault was due at this place, and has been answered."""
        fault = repo.take(place)
        if fault is None:
            return False
        if fault.how == "hang":
            self.server.let_go.wait(600)
            return False
        if fault.how == "page":
            self.send(200, b"<html>Please log in to this network.</html>", {"Content-Type": "text/html"})
        else:
            self.send(int(fault.how), b"", fault.headers)
        return True

    def send(self, status: int, content: bytes | str = b"", headers: Mapping[str, str] | None = None) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.let_go.set()
        hub.shutdown()
        hub.server_close()
        thread.join()
