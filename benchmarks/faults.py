"""What a hundred faults of a server do to ten rows: `python benchmarks/faults.py`.

Each peer runs in a process of its own against a failing server of its own. What is written goes
into benchmarks/faults.md, and its sums into docs/faults.md.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from faults_peer import CAP_S
from faults_server import FAULTS, Fault
from report import table, write

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "faults.md"
EACH = HERE / "faults.md"
"""The page that has a line for each fault."""
NAMES = {
    "moa": "`moa`",
    "openai": "`AsyncOpenAI`",
    "langgraph": "LangGraph",
    "pydantic-ai": "pydantic-ai",
}
GROUPS = {"text": "", "typed": "typed: ", "stream": "stream: "}
Found = dict[str, Any]
STUCK_S = 2 * CAP_S
"""A client that reads what is always there leaves its event loop no turn to end it at `CAP_S`."""
STUCK = f"killed after {STUCK_S:.0f} s: it left its event loop no turn"
NOTHING = {"right": 0, "wrong": 0, "failed": 10, "errors": [STUCK], "charged": ""}


class Child:
    """A process that answers lines with lines."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return line

    def ask(self, line: str, within_s: float) -> str | None:
        """Ask for a line, or for `None` where the process has none by then."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        # Each line has one answer, so that nothing of it can be in the buffer of `readline` yet.
        ready, _, _ = select.select([self.process.stdout], [], [], within_s)
        return self.line() if ready else None

    def kill(self) -> float:
        """End it at once; give its peak memory, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.process.kill()
        self.process.wait()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        return int(peak[1]) / 1024

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def best(fault: Fault) -> int:
    """How many of the ten rows can be right."""
    if fault.harmless or fault.hits == "first":
        return 10
    return 9 if fault.hits == "one" else 0


def try_all(peer: str, faults: tuple[Fault, ...]) -> dict[str, Found]:
    """Run a peer against each fault."""
    server = Child(str(HERE / "faults_server.py"))
    root = f"http://127.0.0.1:{server.line().strip()}"
    words = (str(HERE / "faults_peer.py"), peer, f"{root}/v1")
    child = Child(*words)
    found: dict[str, Found] = {}
    for fault in faults:
        answer = child.ask(fault.name, STUCK_S)
        if answer is None:
            peak = child.kill()
            child = Child(*words)
            came: Found = NOTHING | {"seconds": STUCK_S, "megabytes": peak}
        else:
            came = json.loads(answer)
        with urllib.request.urlopen(f"{root}/count?mock-{fault.name}") as counted:
            requests, leaked = json.load(counted)
        found[fault.name] = came | {"requests": requests, "leaked": leaked}
        print(f"{peer:12} {fault.name:24} {came['right']:2} right, {came['wrong']} wrong, "
              f"{came['seconds']:5.1f} s, {requests} requests  {came['errors'][:1]}")  # fmt: skip
    child.close()
    server.close()
    return found


def _cell(found: Found | None, fault: Fault) -> str:
    if found is None:
        return "-"
    lost = best(fault) - found["right"]
    said = f"{found['right']}"
    said += f", **{found['wrong']} wrong**" if found["wrong"] else ""
    said += ", **key sent on**" if found["leaked"] else ""
    return f"{said} · {found['seconds']:.1f} s · {found['requests']}" + (" ⚠" if lost > 0 else "")


def _says(found: Found) -> str:
    if not found["errors"]:
        return "nothing: the answers are right" if found["right"] == 10 else "nothing"
    said = found["errors"][0].replace("|", "/").replace("<", "&lt;")
    said = re.sub(r"http://127\.0\.0\.1:\d+", "…", said.replace("large: ", ""))
    return f"`{said.partition(':')[0]}`{said.partition(':')[2][:150]}"


def sums(found: dict[str, dict[str, Found]]) -> str:
    """Write what each peer lost, as a table."""
    totals = [
        [
            NAMES[peer],
            sum(max(0, best(f) - runs[f.name]["right"]) for f in FAULTS),
            sum(runs[f.name]["wrong"] for f in FAULTS),
            f"{max(runs[f.name]['seconds'] for f in FAULTS):.1f}",
            "**yes**" if any(runs[f.name]["leaked"] for f in FAULTS) else "no",
            f"{max(runs[f.name]['megabytes'] for f in FAULTS):.0f}",
        ]
        for peer, runs in found.items()
    ]
    head = ["", "rows lost", "wrong answers given as right", "longest fault, s"]
    return f"""\
Ten rows at once, against a server that fails in one way, with each library's default retries. A row
is *lost* if it could have been right. A text that is cut at `max_tokens` counts as wrong; the trace
of `moa` says that it is cut. Rows that run for {CAP_S:.0f} s are cancelled, and a process that goes
on is killed after {STUCK_S:.0f} s. [All faults, a line each](../benchmarks/faults.md).

{table([*head, "key sent to another host", "peak memory, MB"], totals)}"""


def each(found: dict[str, dict[str, Found]]) -> str:
    """Write a line for each fault."""
    lines = [
        [
            f"{GROUPS[fault.work]}{fault.what}",
            {"one": "1 row", "first": "first tries", "all": "all"}[fault.hits],
            _says(found["moa"][fault.name]),
            found["moa"][fault.name]["charged"] or "-",
            *(_cell(found[peer][fault.name], fault) for peer in found),
        ]
        for fault in FAULTS
    ]
    whole = table(
        ["fault", "hits", "what `moa` says", "charged", *(NAMES[p] for p in found)], lines
    )
    return f"""\
Ten rows at once against a server that fails in one way, on loopback. A fault hits one row of the
ten each time, every row's first try, or all. All use a timeout of 1 s and their default retries,
and collect failures instead of raising the first, so a bare `asyncio.gather` does worse than this.
The cells say: right rows of ten · seconds until the last row ended · requests that the server saw.
⚠: rows were lost, that could have been right. *Charged* are the output tokens that `moa` counts
against a budget; an answer has 8, and at most 512 were asked for: where nobody can know what was
billed, it is the most that it can have been. All give a text that is cut at `max_tokens`; the trace
of `moa` says that it is cut.

{whole}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="faults whose names begin so")
    parser.add_argument("--peers", default=",".join(NAMES))
    asked = parser.parse_args()
    faults = tuple(f for f in FAULTS if f.name.startswith(asked.only or ""))
    peers = asked.peers.split(",")
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(peers, pool.map(lambda peer: try_all(peer, faults), peers), strict=True))
    if asked.only or peers != [*NAMES]:
        return
    write("faults", "python benchmarks/faults.py", sums(found), page=PAGE)
    write("faults", "python benchmarks/faults.py", each(found), page=EACH)


if __name__ == "__main__":
    main()
