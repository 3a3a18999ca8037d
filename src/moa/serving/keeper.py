"""Keeper: starts a server, keeps its log, and leaves nothing of it running, however it ends.

It is a program of its own, with nothing but the standard library. It stops the server when its
standard input ends, so also when whoever started it is killed. When the server ends, it ends all
processes that the server left behind, and says on standard output how it ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import NoReturn

_TAIL_LINES = 400
_LONGEST_LINE = 4000
_NOT_STARTED = 127
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Become the parent of what this process's descendants leave behind, where there is such."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def sweep(group: int | None = None) -> None:
    """Kill all descendants of this process, until there are none.

    Args:
        group: A process group to kill where descendants can't be listed.
    """
    while True:
        left = _descendants()
        if left is None:
            if group is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
            return
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _descendants() -> list[int] | None:
    """List the living descendants of this process; `None` where the system doesn't say."""
    if not Path("/proc/self/stat").exists():
        return None
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # it has just ended
            continue
        if state != "Z" or int(parent) == os.getpid():
            children.setdefault(int(parent), []).append(int(folder.name))
    found: list[int] = []
    ahead = [os.getpid()]
    while ahead:
        ahead = [child for parent in ahead for child in children.get(parent, ())]
        found += ahead
    return found


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class _Log(logging.handlers.RotatingFileHandler):
    """A file of bounded size. Where the disk is full, lines are lost, and the server goes on."""

    def __init__(self, path: str, *, size: int, parts: int) -> None:
        super().__init__(path, maxBytes=size, backupCount=parts, encoding="utf-8", delay=True)
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def add(self, line: str) -> None:
        kept = line.rstrip()[:_LONGEST_LINE]
        if kept:
            self.tail.append(kept)
            self.emit(logging.makeLogRecord({"msg": kept}))

    def handleError(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self.close()  # the next line opens it again


def main(path: str, size: int, parts: int, grace_s: float, command: list[str]) -> NoReturn:
    """Run a server until it ends, or until standard input does.

    Args:
        path: Where its log goes.
        size: Most bytes of a part of the log.
        parts: Older parts that are kept.
        grace_s: Seconds that the server has to end by itself.
        command: What is run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    adopt_orphans()
    log = _Log(path, size=size, parts=parts)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    except OSError as error:
        _tell(_NOT_STARTED, [f"{command[0]}: {error.strerror}"])

    def stop(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        child.terminate()

    signal.signal(signal.SIGTERM, stop)
    reader = threading.Thread(target=_read, args=(child, log), daemon=True)
    reader.start()
    threading.Thread(target=_stop_at_end_of_input, args=(child, grace_s), daemon=True).start()
    code = child.wait()
    sweep(child.pid)
    reader.join(timeout=5.0)
    _tell(code, list(log.tail))


def _read(child: subprocess.Popen[str], log: _Log) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        log.add(line)


def _stop_at_end_of_input(child: subprocess.Popen[str], grace_s: float) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()


def _tell(code: int, tail: list[str]) -> NoReturn:
    with contextlib.suppress(OSError):
        print(json.dumps({"code": code, "tail": tail}), flush=True)  # noqa: T201
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
