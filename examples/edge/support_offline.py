"""The support graph on a small computer: offline, within 1 GB of memory, with its energy.

    python examples/edge/support_offline.py examples/support/inbox.jsonl --limit 5

It needs the extra `local`. Fetch the model once, with a network: `moa models fetch embedded`; or
name a GGUF file in `MOA_MODEL`. From the first item on, a connection of this
process that would leave the machine is an error; the engine's own process is not watched.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import sys
from pathlib import Path
from typing import Any

import psutil

from moa import EmbeddedEndpoint, RunContext
from moa.advisor.energy import WATTS_PER_CORE, meter
from moa.inbox.support import Support, Ticket
from moa.local.embedded import EngineSettings

MEGABYTE = 1_000_000
SETTINGS = EngineSettings(context_window=2048, slots=1)
"""One slot has one cache of prompts. Half of the usual window does for messages and examples, and
halves what the model keeps of what it reads."""


def refuse_to_leave(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise where this process would connect, send or look up a name outside this machine."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address: Any = arguments[1]
        if address is None or isinstance(address, str | bytes):
            return  # a socket that is connected already, or a path: a Unix socket
        host = address[0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if not is_here(host):
        raise PermissionError(f"offline, and something wanted to reach {host}")


def is_here(host: str | bytes | None) -> bool:
    """Whether a host is this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name.lower() in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False  # a name, which somebody else would have to look up


def peak(process: psutil.Process) -> int:
    """Give the most memory that a process has had resident, in bytes."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():  # not Linux
        memory: Any = process.memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


async def run(rows: list[dict[str, Any]], *, watts_per_core: float) -> None:
    slm = EmbeddedEndpoint(settings=SETTINGS, timeout_s=600)
    graph = Support(slm=slm, llm=slm)
    try:
        await slm.start(RunContext())
        sys.addaudithook(refuse_to_leave)
        counted = meter(watts_per_core=watts_per_core)
        for row in rows:
            before = counted.joules()
            result = await graph.run(Ticket.model_validate(row))
            energy = counted.since(before)
            print(
                f"{row.get('id')}: {type(result.output).__name__}, {result.seconds:.2f} s, {energy}"
            )
        client = psutil.Process()
        parts = [peak(process) for process in (client, *client.children(recursive=True))]
        shown = f"client {parts[0] // MEGABYTE}, engine {sum(parts[1:]) // MEGABYTE}"
        print(f"peak memory: {sum(parts) // MEGABYTE} MB ({shown})")
    finally:
        await slm.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inbox", type=Path, help="a .jsonl file of messages")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument(
        "--watts-per-core",
        type=float,
        default=WATTS_PER_CORE,
        help="what a busy core of this machine draws, where no energy is measured",
    )
    given = parser.parse_args()
    lines = given.inbox.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: given.limit]]
    asyncio.run(run(rows, watts_per_core=given.watts_per_core))


if __name__ == "__main__":
    main()
