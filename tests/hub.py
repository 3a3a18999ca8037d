"""A hub on loopback: gives one file, as the real one does, and fails as it is told to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CONTENT = b"GGUF" + bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Hub:
    """What it gives, and what it was asked."""

    url: str
    content: bytes = CONTENT
    headers: dict[str, str] = field(
        default_factory=lambda: {"ETag": f'"{SHA256}"', "X-Repo-Commit": "c" * 40}
    )
    """Sent with each answer."""
    status: int | None = None
    """Answered in place of the file."""
    moved_to: str | None = None
    """Redirects to the same path there."""
    cut: list[int] = field(default_factory=list[int])
    """Bytes of the next answers after which their connections break."""
    knows_ranges: bool = True
    go_on: threading.Event | None = None
    """Waited for in the middle of an answer."""
    asked: list[tuple[str, Message]] = field(default_factory=list[tuple[str, Message]])
    """Paths and headers of those who wanted the file itself."""

    def told(self, header: str) -> list[str | None]:
        """What each request said in a header."""
        return [headers.get(header) for _, headers in self.asked]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        hub = self.hub
        if hub.moved_to is not None:
            return self._head(302, {"Location": hub.moved_to + self.path})
        self._head(hub.status or 200, length=len(hub.content))

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append((self.path, self.headers))
        if hub.moved_to is not None:
            return self._head(302, {"Location": hub.moved_to + self.path})
        if hub.status is not None:
            return self._head(hub.status)
        start, total = self._start(), len(hub.content)
        if start >= total:
            return self._head(416, {"Content-Range": f"bytes */{total}"})
        body = hub.content[start:]
        if start:
            said = {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
            self._head(206, said, length=len(body))
        else:
            self._head(200, length=len(body))
        sent = hub.cut.pop(0) if hub.cut else len(body)
        if hub.go_on is not None:
            self.wfile.write(body[: sent // 2])
            hub.go_on.wait(30)
            body, sent = body[sent // 2 :], sent - sent // 2
        self.wfile.write(body[:sent])

    def _start(self) -> int:
        asked = self.headers.get("Range") if self.hub.knows_ranges else None
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0

    def _head(self, status: int, headers: dict[str, str] | None = None, *, length: int = 0) -> None:
        self.send_response(status)
        for name, value in {**self.hub.headers, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def isolate(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep the hub's library to a folder, and from asking for more than the file."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    patch.setenv("HF_HOME", str(folder / "home"))  # for the processes of a test
    patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    constants = "huggingface_hub.constants"
    patch.setattr(f"{constants}.HF_TOKEN_PATH", str(folder / "home" / "token"))
    patch.setattr(f"{constants}.HF_HUB_CACHE", str(folder / "shared"))
    patch.setattr(f"{constants}.HF_HUB_DISABLE_TELEMETRY", True)


@contextmanager
def serving() -> Generator[Hub, None, None]:
    """Run a hub for the time of a test."""
    handler = type("Serving", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub = handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.go_on is not None:
            hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
