"""What serving adds to a graph, and what clients leave behind: `python benchmarks/server.py`.

A model server that answers after a set time, the server of `moa` and the client are processes of
their own. `--litellm PYTHON` names an interpreter that has LiteLLM's proxy, to be asked beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
import psutil

import moa
from moa import Agent, Graph, OpenAIEndpoint
from moa.graphs import BuiltGraph
from moa.serving.listening import listen_on, uvicorn_for
from report import table, verdict, write

HERE = Path(__file__).parent
IN_FLIGHT = 64
CALL_MS = 150
ROUNDS = 5
REQUESTS = 640
"""Of a round: ten for each in flight."""
CUT = 10_000
AIM = 0.15
TEXT = "My parcel should have come on Friday, and it is not here. Where is it?"


def graph_on(port: int) -> BuiltGraph[str, moa.Reply]:
    """Two calls, one after the other."""
    large = OpenAIEndpoint("large", model=f"m-{CALL_MS}", base_url=f"http://127.0.0.1:{port}/v1")
    g = Graph("two", str)
    draft = g.add(Agent(large, "Draft a reply.", name="draft"), g.input)
    return g.build(
        g.add(Agent(large, "Improve it.", name="improve"), draft.map(lambda it: it.text))
    )


def agent_on(port: int) -> Agent[Any, Any]:
    """One call, as a proxy passes it on."""
    large = OpenAIEndpoint("large", model=f"m-{CALL_MS}", base_url=f"http://127.0.0.1:{port}/v1")
    return Agent(large, "Answer.", name="one")


async def serve(port: int) -> None:
    """Serve both, and tell what there is of this process whenever a line comes in."""
    app = moa.serve(graph_on(port), agent_on(port))
    listener = listen_on("127.0.0.1", 0)
    running = asyncio.ensure_future(uvicorn_for(app, drain_s=5).serve(sockets=[listener]))
    print(listener.getsockname()[1], flush=True)
    own = psutil.Process()
    while await asyncio.to_thread(sys.stdin.readline):
        gc.collect()
        left = {
            "tasks": len(asyncio.all_tasks()),
            "sockets": len(own.net_connections()),
            "objects": len(gc.get_objects()),
            "MiB": round(own.memory_info().rss / 2**20, 1),
            "seconds": sum(own.cpu_times()[:2]),
        }
        print(json.dumps(left), flush=True)
    running.cancel()


class Child:
    """A process that prints its port, and then answers lines with lines of JSON."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def state(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


async def timed(ask: Callable[[], Awaitable[object]]) -> list[float]:
    """Ask with so many in flight, and give the seconds of each."""
    found: list[float] = []
    left = iter(range(REQUESTS))

    async def work() -> None:
        for _ in left:
            start = time.perf_counter()
            await ask()
            found.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())
    return found


@asynccontextmanager
async def asking(url: str, body: Any) -> AsyncGenerator[Callable[[], Awaitable[object]]]:
    """Give what posts a body to an address."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask() -> object:
            async with session.post(url, json=body) as answer:
                said = await answer.json()
                assert answer.status == 200, said
                return said

        yield ask


class Way:
    """What asking in one way took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu = 0.0
        """Seconds of processor of whoever runs the graph."""

    @property
    def cells(self) -> tuple[str, ...]:
        last = quantiles(self.seconds, n=100)[98]
        shown = (f"{one * 1000:.0f}" for one in (median(self.seconds), last))
        cpu = f"{self.cpu / len(self.seconds) * 1000:.2f}" if self.cpu else "-"
        return (*shown, cpu)


async def latencies(model: int, served: Child, proxy: int | None) -> dict[str, Way]:
    """Measure each way in turns."""
    address = f"http://127.0.0.1:{served.port}"
    graph, one = graph_on(model), agent_on(model)
    chat = {"model": "one", "messages": [{"role": "user", "content": TEXT}]}
    ways: dict[str, Way] = {}
    async with (
        asking(f"{address}/run/two", TEXT) as run_two,
        asking(f"{address}/run/one", TEXT) as run_one,
        asking(f"{address}/v1/chat/completions", chat) as chat_one,
        asking(f"http://127.0.0.1:{proxy}/v1/chat/completions", chat) as proxied,
    ):
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "graph": lambda: graph.run(TEXT),
            "graph, served": run_two,
            "agent": lambda: one.run(TEXT),
            "agent, served": run_one,
            "agent, as a chat": chat_one,
        }
        if proxy is not None:
            asks["LiteLLM's proxy"] = proxied
        for turn in range(ROUNDS + 1):
            for name, ask in asks.items():
                own = name in ("graph", "agent")
                before = time.process_time() if own else served.state()["seconds"]
                seconds = await timed(ask)
                after = time.process_time() if own else served.state()["seconds"]
                if turn:  # the first opens connections
                    way = ways.setdefault(name, Way())
                    way.seconds += seconds
                    way.cpu += 0 if ask is proxied else after - before
    return ways


async def cut(port: int, count: int) -> int:
    """Send requests, and leave many of them at any moment; say how many were answered."""
    dice = random.Random(0)
    left = iter(range(count))
    answered = 0

    async def work() -> None:
        nonlocal answered
        for _ in left:
            streams = dice.random() < 0.5
            accept = "text/event-stream" if streams else "application/json"
            body = json.dumps(TEXT)
            patience = dice.choice([None, dice.random() * 3 * CALL_MS / 1000])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            asked = (
                f"POST /run/{dice.choice(['one', 'two'])} HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Type: application/json\r\nAccept: {accept}\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
            if dice.random() < 0.05:  # not even the request comes whole
                asked = asked[: dice.randrange(len(asked))]
                patience = 0.01
            try:
                async with asyncio.timeout(patience):
                    writer.write(asked)
                    answered += (await reader.read()).startswith(b"HTTP/1.1 200")
            except (TimeoutError, OSError):
                pass
            if dice.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())
    return answered


def litellm(python: str, model: int, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start LiteLLM's proxy in front of the model server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: one\n"
        f"    litellm_params: {{model: openai/m-{CALL_MS}, api_key: none, "
        f"api_base: 'http://127.0.0.1:{model}/v1'}}\n"
    )
    command = [Path(python).parent / "litellm", "--config", config, "--port", str(port)]
    env = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        # Here nobody else can ask; the server of moa has no keys either.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    log = folder / "litellm.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1"], stdout=said, stderr=said, env=env
        )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except OSError:
            time.sleep(0.5)
    process.kill()
    raise SystemExit(f"LiteLLM's proxy did not start:\n{log.read_text()[-2000:]}")


def report(ways: dict[str, Way], before: Any, after: Any, answered: int) -> str:
    rows = [(name, *way.cells) for name, way in ways.items()]
    over = median(ways["graph, served"].seconds) / median(ways["graph"].seconds) - 1
    passes = verdict(over, "at most", AIM, AIM)
    kinds = ("tasks", "sockets", "objects", "MiB")
    leak = [(kind, before[kind], after[kind]) for kind in kinds]
    return (
        f"{IN_FLIGHT} in flight, calls of {CALL_MS} ms, two of them in the graph, "
        f"{REQUESTS * ROUNDS} requests each, in turns:\n\n"
        f"{table(('way', 'median, ms', '99 %, ms', 'CPU, ms'), rows)}\n\n"
        f"Served, the graph's median is {over:.0%} over its own (aim: at most {AIM:.0%}; {passes})."
        " Server, client and model share the cores of this machine.\n\n"
        f"After {CUT} requests, of which {answered} were waited for and the others left at any "
        "moment, half of them streams, the server has:\n\n"
        f"{table(('what', 'before', 'after'), leak)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--litellm", metavar="PYTHON", help="interpreter with LiteLLM's proxy")
    parser.add_argument("--no-write", action="store_true", help="print, and write no page")
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve))
        return
    model = Child(sys.executable, str(HERE / "mock_server.py"))
    served = Child(sys.executable, str(HERE / "server.py"), "--serve", str(model.port))
    with tempfile.TemporaryDirectory() as name:
        proxy = litellm(given.litellm, model.port, Path(name)) if given.litellm else None
        ways = asyncio.run(latencies(model.port, served, proxy and proxy[1]))
        if proxy is not None:
            proxy[0].terminate()
            proxy[0].wait(30)
    asyncio.run(cut(served.port, CUT // 4))  # pools and caches are full then
    time.sleep(2)
    before = served.state()
    answered = asyncio.run(cut(served.port, CUT))
    time.sleep(2)
    after = served.state()
    served.end()
    model.end()
    body = report(ways, before, after, answered)
    print(body)
    if not given.no_write:
        write("server", "python benchmarks/server.py", body)


if __name__ == "__main__":
    main()
