"""Somebody beside an attack: `python beside.py PORT AUTHORIZATION [COMMAND…]`.

It asks for `/health` every 10 ms, each time on a connection of its own, and with a key (if
AUTHORIZATION isn't empty) a graph ten times a second. Each line of its input is answered with what
was seen since the last one, as JSON; see `Seen`. Given a command, it runs beside that, prints what
was seen, and fails where the command does or where an answer of `/health` took over a second.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TypedDict

EVERY_S, LEGIT_EVERY_S = 0.01, 0.1
PATIENCE_S = 10.0
"""Seconds that whoever asks a graph waits for an answer."""
LOST_S = 300.0
MOST_S = 1.0
"""Seconds that `/health` may take beside a command."""
GRAPH = "/run/llm"
_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Seen(TypedDict):
    """What was seen."""

    worst_s: float
    """The longest that an answer of `/health` took, or has taken."""
    health: int
    """How often it answered."""
    refused: int
    """How often it gave no answer, or another one."""
    asked: int
    """How often the graph was asked."""
    answered: int
    """How often it answered, in ten seconds."""


class Asker:
    """Asks one thing again and again, in a thread of its own."""

    def __init__(self, ask: Callable[[], bool], every_s: float) -> None:
        self._ask, self._every_s = ask, every_s
        self._turn = threading.Lock()
        self._began: float | None = None
        self._worst_s = 0.0
        self._asked = self._good = 0
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            began = self._began = time.monotonic()
            try:
                good = self._ask()
            except (OSError, http.client.HTTPException):
                good = False
            with self._turn:
                took_s, self._began = time.monotonic() - began, None
                self._worst_s = max(self._worst_s, took_s)
                self._asked, self._good = self._asked + 1, self._good + good
            time.sleep(max(0.0, self._every_s - took_s))

    def seen(self) -> tuple[float, int, int]:
        """The longest time, how often it asked, and how often it was answered, since the last."""
        with self._turn:
            since_s = time.monotonic() - self._began if self._began else 0.0
            found = max(self._worst_s, since_s), self._asked, self._good
            self._worst_s, self._asked, self._good = 0.0, 0, 0
            return found


class Beside:
    """Asks a server on this machine."""

    def __init__(self, port: int, authorization: str) -> None:
        self._port, self._authorization = port, authorization
        self._health = Asker(self._ask_health, EVERY_S)
        self._legit = Asker(self._ask_graph, LEGIT_EVERY_S) if authorization else None

    def _ask_health(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._port), LOST_S) as connection:
            connection.sendall(_HEALTH)
            return connection.recv(64).startswith(b"HTTP/1.1 200")

    def _ask_graph(self) -> bool:
        asking = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        headers = {"content-type": "application/json", "authorization": self._authorization}
        try:
            asking.request("POST", GRAPH, json.dumps("from-good Where is it?"), headers)
            answer = asking.getresponse()
            return answer.status == 200 and b"Fine." in answer.read()
        finally:
            asking.close()

    def seen(self) -> Seen:
        worst_s, health, good = self._health.seen()
        _, asked, answered = self._legit.seen() if self._legit else (0.0, 0, 0)
        return Seen(
            worst_s=worst_s, health=good, refused=health - good, asked=asked, answered=answered
        )


def main(port: str, authorization: str, *command: str) -> None:
    beside = Beside(int(port), authorization)
    if command:
        code = subprocess.run(command, check=False).returncode
        seen = beside.seen()
        print("beside it:", json.dumps(seen), flush=True)  # noqa: T201
        sys.exit(code or int(seen["worst_s"] > MOST_S or seen["refused"] > 0))
    for _ in sys.stdin:
        print(json.dumps(beside.seen()), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
