"""A server with the HTTP interface of language models, which answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers `reply`, or what it makes of the prompt, to every prompt, after going through `script`: a word for each
    request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[str] = []
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.reply: str | Callable[[str], str] = "Category: Sports."
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append({"path": self.path, **json.loads(body)})
        self.server.keys.append(self.headers.get("Authorization"))
        how = self.server.script.pop(0) if self.server.script else "well"
        getattr(self, how, self.status)(how)

    def well(self, _: str) -> None:
        usage, reply = {"prompt_tokens": 11, "completion_tokens": 3}, self.server.reply
        text = reply if isinstance(reply, str) else reply(self.server.seen[-1]["messages"][0]["content"])
        self.send(200, json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}))

    def slow(self, how: str) -> None:
        """Answers when nobody can be waiting any more."""
        self.server.over.wait(600)
        self.well(how)

    def wrong(self, _: str) -> None:
        self.send(200, '{"choices": []}')

    def garbage(self, _: str) -> None:
        self.send(200, "<html>busy</html>")

    def cut(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b'{"choices": ')
        self.connection.close()

    def elsewhere(self, _: str) -> None:
        self.send(302, "", {"Location": "http://127.0.0.1:9/"})

    def status(self, how: str) -> None:
        self.send(int(how), "{}", {"Retry-After": "0"})

    def send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def serving() -> Iterator[Server]:
    """One that runs in the block."""
    made = Server()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.over.set()
    made.shutdown()
    made.server_close()
