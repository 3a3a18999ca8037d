"""A live `moa serve` on this machine, in a process of its own, and who is beside it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO, Any, Self

import psutil
from beside import Seen

from moa.serving.keys import Key, KeyFile, digest, key_store, new_secret
from moa.serving.ledger import LEASE_S, Ledger
from moa.serving.limits import KeyUsage

HERE = Path(__file__).parent
DESCRIPTORS = 1024
"""As many as a process may have where nobody has said more."""
STUDIO_KEY = "of-the-page"
CONFIG = """
[endpoints.large]
tier = "llm"
model = "m"
base_url = "http://127.0.0.1:{port}/v1"
input_price = 1
output_price = 1
"""


def add_key(address: str, name: str = "alice", **settings: Any) -> dict[str, str]:
    """Add a key to a file or a table, and give the header of who has it."""
    secret = new_secret()
    with key_store(address) as store:
        store.add(Key(name=name, sha256=digest(secret), **settings))
    return {"authorization": f"Bearer {secret}"}


def standing_of(address: str, name: str) -> KeyUsage:
    """Give what a key has spent once all processes have been dead for long."""
    where = address if "://" in address else KeyFile(Path(address)).ledger
    with Ledger(where, clock=lambda: time.time() + 2 * LEASE_S) as ledger:
        ledger.charge_the_dead()
        return ledger.usage_of(name)


class Child:
    """A script that prints what it has to say, a line each time, and ends with its input."""

    def __init__(self, script: str, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe(self._process.stdin).close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe(self._process.stdout).close()

    def line(self) -> str:
        return self._pipe(self._process.stdout).readline()

    def say(self) -> None:
        pipe = self._pipe(self._process.stdin)
        pipe.write("\n")
        pipe.flush()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


class Gateway(Child):
    """The gateway of `gateway.py`.

    Args:
        every: One answer in so many is a fault; 0: none is.
    """

    def __init__(self, every: int = 0) -> None:
        super().__init__("gateway.py", str(every))
        self.port = int(self.line())

    def count(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many calls were answered, and how many of them are billed, by the name in them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/count") as answer:
            calls, billed = json.load(answer)
        return calls, billed


class Watch(Child):
    """Somebody beside: see `beside.py`."""

    def __init__(self, port: int, authorization: str = "") -> None:
        super().__init__("beside.py", str(port), authorization)

    def seen(self) -> Seen:
        """What was seen since the last time."""
        self.say()
        return json.loads(self.line())


class Live:
    """A server of the agent `llm`, with jobs and the page, whose model is a gateway's.

    Args:
        folder: What it writes goes here.
        gateway: Its model.
        keys: File or table of its keys; `None`: it has none.
        names: What it serves.
    """

    def __init__(
        self,
        folder: Path,
        gateway: Gateway,
        keys: str | None = None,
        *,
        names: tuple[str, ...] = ("llm",),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.log = folder, folder / "log"
        self.port = 0
        self._keys, self._names = keys, names
        (folder / "moa.toml").write_text(CONFIG.format(port=gateway.port))
        self.process = self._started()

    def _started(self) -> psutil.Popen:
        config, jobs = str(self.folder / "moa.toml"), str(self.folder / "jobs")
        command = [sys.executable, "-m", "moa", "serve", *self._names, "--config", config]
        command += ["--studio", "--jobs", jobs, "--port", str(self.port)]
        command += ["--keys", self._keys] if self._keys else []
        with self.log.open("ab") as log:
            start = log.tell()
            process = psutil.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "MOA_STUDIO_KEY": STUDIO_KEY, "MOA_VECTORS": "0"},
            )
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        self._wait_until_up(process, start)
        return process

    def _wait_until_up(self, process: psutil.Popen, start: int) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            said = self.log.read_bytes()[start:].decode(errors="replace")
            if " on http://127.0.0.1:" in said:
                self.port = int(said.partition(" on http://127.0.0.1:")[2].split()[0])
                if self.is_up(1.0):
                    return
            time.sleep(0.05)
        process.kill()
        raise AssertionError(f"moa serve isn't up:\n{self.log.read_text()[-2000:]}")

    def is_up(self, timeout_s: float) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=timeout_s) as answer:
                return answer.status == 200
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def megabytes(self) -> float:
        return self.process.memory_info().rss / 2**20

    @property
    def descriptors(self) -> int:
        return self.process.num_fds()

    def tracebacks(self) -> int:
        """How many there are in its log."""
        return self.log.read_text(errors="replace").count("Traceback (most recent call last)")

    def again(self) -> None:
        """Start it again, on the same port, once it has ended."""
        self.process = self._started()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, timeout_s: float = 60.0) -> int:
        """Tell it to end, and give its exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()
