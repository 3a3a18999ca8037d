"""The support graph on a small computer: offline, within its memory, with its energy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "edge" / "support_offline.py"
MOST_MB = 1000


@pytest.mark.embedded
@pytest.mark.timeout(300)
def test_support_runs_offline_within_a_gigabyte_and_tells_its_energy() -> None:
    inbox = EXAMPLES / "support" / "inbox.jsonl"
    command = [sys.executable, str(SCRIPT), str(inbox), "--limit", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *items, memory = done.stdout.splitlines()
    assert len(items) == 3
    for line in items:
        shown = re.search(r"([\d.]+) J \((measured|estimate): .+\)$", line)
        assert shown, line
        assert float(shown[1]) > 0
    peak = re.fullmatch(r"peak memory: (\d+) MB \(client (\d+), engine (\d+)\)", memory)
    assert peak, memory
    assert int(peak[1]) <= MOST_MB
    assert int(peak[2]) > 10
    assert int(peak[3]) > 50, "the engine's process was not counted"


@pytest.mark.parametrize(
    ("call", "leaves"),
    [
        ("socket.create_connection(('127.0.0.1', 9), timeout=0.2)", False),
        ("socket.create_connection(('localhost', 9), timeout=0.2)", False),
        ("socket.socket().connect_ex(('localhost', 9))", False),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))", False),
        ("socket.create_connection(('203.0.113.7', 80), timeout=0.2)", True),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.7', 9))", True),
        ("socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('203.0.113.7', 9))", True),
        ("socket.getaddrinfo('example.org', 80)", True),
    ],
)
def test_the_example_refuses_to_leave_the_machine(call: str, leaves: bool) -> None:
    program = (
        f"import sys, socket, runpy; m = runpy.run_path({str(SCRIPT)!r})\n"
        f"sys.addaudithook(m['refuse_to_leave'])\n"
        f"try: {call}\n"
        "except PermissionError as error: print(error)\n"
        "except OSError: print('tried')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ("offline" in done.stdout) is leaves
