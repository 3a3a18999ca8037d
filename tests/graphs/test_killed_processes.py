"""Ready graphs whose process is killed by `kill -9`, and another one goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .test_recipes_drawn import RECIPES, STATEFUL

CHILD = Path(__file__).with_name("killed_process.py")
LONGEST_S = 120.0
WRITTEN_S = 0.5
"""Time for a process to write what it was answered."""


class Models:
    """The models of a run: they count, and answer nobody any more once so many are answered."""

    def __init__(self, lives: int | None = None) -> None:
        self.lives = lives
        self.answered = 0
        self.lock = threading.Lock()
        self.dead = threading.Event()

    def take(self) -> bool:
        """Say whether one more is answered."""
        with self.lock:
            if self.lives is not None and self.answered >= self.lives:
                self.dead.set()
                return False
            self.answered += 1
            return True

    @contextmanager
    def serving(self) -> Generator[str]:
        """Answer requests, and give the address."""

        models = self

        class Serving(Handler):
            of = models

        server = ThreadingHTTPServer(("127.0.0.1", 0), Serving)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.socket.close()


class Handler(BaseHTTPRequestHandler):
    """Answers, as long as the models do."""

    of: Models

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if not self.of.take():
            time.sleep(LONGEST_S)  # until the process is killed
        with suppress(ConnectionError):
            self.send_response(200)
            self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def whole(name: str, file: Path, *on: str) -> tuple[str, int]:
    """Run a process to its end; give what it says, and how many calls were answered."""
    models = Models()
    with models.serving() as url:
        child = [sys.executable, str(CHILD), name, str(file), url, *on]
        done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, models.answered


def killed(name: str, file: Path, lives: int) -> None:
    """Kill a process once so many calls are answered."""
    models = Models(lives)
    with (
        models.serving() as url,
        subprocess.Popen([sys.executable, str(CHILD), name, str(file), url]) as child,
    ):
        assert models.dead.wait(LONGEST_S)
        time.sleep(WRITTEN_S)
        child.kill()


ALWAYS = "refine"
"""The one that the tests at hand kill too."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == ALWAYS else [pytest.mark.long])
        for name in sorted({*RECIPES} - STATEFUL)
    ],
)
def test_a_graph_goes_on_in_another_process(name: str, tmp_path: Path) -> None:
    said, calls = whole(name, tmp_path / "whole.db")
    for lives in sorted({0, calls // 2, calls - 1}):
        file = tmp_path / f"killed-{lives}.db"
        killed(name, file, lives)
        again, further = whole(name, file, "on")
        assert lives + further == calls, f"killed after {lives}"
        assert again == said
