"""What a library costs beside the models it calls: `python benchmarks/overhead.py`.

Every peer runs in a process of its own against one mock server in another process; their jobs
take turns, so that drift of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from report import table, verdict, write

HERE = Path(__file__).parent
NAMES = {
    "moa": "`moa`",
    "openai": "bare `AsyncOpenAI`",
    "langgraph": "LangGraph with `ChatOpenAI`",
    "pydantic-ai": "pydantic-ai",
}
IMPORTS = {
    "moa": "moa",
    "openai": "openai",
    "langgraph": "langgraph.graph, langchain_openai",
    "pydantic-ai": "pydantic_ai",
}
CALLS = 5
CRITICAL_S = {"W1": 0.340, "unbalanced": 0.300}
# Work, items, in flight. Three rounds of W3 each, so that every slot opens as many connections.
JOBS = {
    "one": ("W1", 4, 1),
    "w1_64": ("W1", 192, 64),
    "w3_64": ("W3", 192, 64),
    "w3_256": ("W3", 768, 256),
    "unbalanced": ("unbalanced", 4, 1),
    "mixture_64": ("mixture", 192, 64),
}
ONLY = {"w3_256": ("moa", "openai")}
"""Whom a job is about, where it isn't about all."""
TARGETS = {
    "cpu_per_call_ratio": ("at most", 0.2, 0.15),
    "items_per_second_ratio_64": ("at least", 1.3, 1.5),
    "one_at_a_time_over_critical_path": ("at most", 1.05, 1.03),
    "cpu_per_call_256_over_64": ("at most", 1.2, 1.2),
    "unbalanced_over_critical_path": ("at most", 1.05, 1.05),
    "mixture_cpu_over_graph": ("at most", 1.2, 1.2),
}


class Process:
    """A child that answers JSON lines with JSON lines."""

    def __init__(self, *command: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self) -> Any:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit(f"{self.child.args} ended with {self.child.wait()}")
        return json.loads(line)

    def ask(self, request: dict[str, object]) -> Any:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        return self.read()

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()


def import_s(modules: str) -> float | None:
    """Seconds that a fresh Python takes to import, less an empty one; `None` if not installed."""

    def once(code: str) -> float | None:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        return time.perf_counter() - start if done.returncode == 0 else None

    took = [once(f"import {modules}") for _ in range(5)]
    known = [seconds for seconds in took if seconds is not None]
    empty = [seconds for seconds in (once("pass") for _ in range(5)) if seconds is not None]
    return median(known) - median(empty) if known else None


def measure(repeats: int, quick: bool) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Run every job of every peer in turns; medians by peer and job."""
    imports = {peer: import_s(modules) for peer, modules in IMPORTS.items()}
    for peer, seconds in imports.items():
        if seconds is None:
            print(f"skipped {peer}: not installed (pip install 'mixture-of-agents[bench]')")
    server = Process(str(HERE / "mock_server.py"))
    url = f"http://127.0.0.1:{server.read()}/v1"
    peers = {
        peer: Process(str(HERE / "overhead_peer.py"), peer, url)
        for peer, seconds in imports.items()
        if seconds is not None
    }
    works = {peer: process.read()["work"] for peer, process in peers.items()}
    runs: dict[str, dict[str, list[Any]]] = {peer: {} for peer in peers}
    for repeat in range(repeats + 1):
        for job, (work, items, in_flight) in JOBS.items():
            for peer, process in peers.items():
                if work not in works[peer] or peer not in ONLY.get(job, peers):
                    continue
                count = max(in_flight, items // 8) if quick or repeat == 0 else items
                asked = {"work": work, "items": count, "in_flight": in_flight}
                took = process.ask(asked) | {"items": count}
                if repeat:
                    runs[peer].setdefault(job, []).append(took)
        print(f"repeat {repeat} of {repeats}" + (" (warm-up)" if not repeat else ""))
    for process in (*peers.values(), server):
        process.close()
    medians = {
        peer: {
            job: {
                "cpu_ms_per_call": median(t["cpu_s"] / t["items"] / CALLS for t in took) * 1e3,
                "collector_share": median(t["collector_s"] / t["cpu_s"] for t in took),
                "items_per_s": median(t["items"] / t["wall_s"] for t in took),
                "seconds_per_item": median(t["wall_s"] / t["items"] for t in took),
                "memory_mib": max(t["memory_mib"] for t in took),
            }
            for job, took in jobs.items()
        }
        for peer, jobs in runs.items()
    }
    return medians, {peer: seconds for peer, seconds in imports.items() if seconds is not None}


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    moa, bare = found["moa"], found["openai"]
    return {
        "cpu_per_call_ratio": moa["w3_64"]["cpu_ms_per_call"] / bare["w3_64"]["cpu_ms_per_call"],
        "items_per_second_ratio_64": moa["w1_64"]["items_per_s"] / bare["w1_64"]["items_per_s"],
        "one_at_a_time_over_critical_path": moa["one"]["seconds_per_item"] / CRITICAL_S["W1"],
        "cpu_per_call_256_over_64": moa["w3_256"]["cpu_ms_per_call"]
        / moa["w3_64"]["cpu_ms_per_call"],
        "unbalanced_over_critical_path": moa["unbalanced"]["seconds_per_item"]
        / CRITICAL_S["unbalanced"],
        "mixture_cpu_over_graph": moa["mixture_64"]["cpu_ms_per_call"]
        / moa["w3_64"]["cpu_ms_per_call"],
    }


def section(
    found: dict[str, dict[str, Any]], imports: dict[str, float], reached: dict[str, float]
) -> str:
    peers = list(found)
    rows = [
        ["W1, items/s, 64 in flight"] + [f"{found[p]['w1_64']['items_per_s']:.0f}" for p in peers],
        ["W1, one at a time, over the critical path"]
        + [f"{found[p]['one']['seconds_per_item'] / CRITICAL_S['W1']:.3f}" for p in peers],
        ["unbalanced graph, over the critical path"]
        + [
            f"{found[p]['unbalanced']['seconds_per_item'] / CRITICAL_S['unbalanced']:.3f}"
            if "unbalanced" in found[p]
            else "-"
            for p in peers
        ],
        *(
            row
            for job in ("w3_64", "w3_256")
            for row in (
                [f"W3, CPU ms per call, {job[3:]} in flight"]
                + [
                    f"{found[p][job]['cpu_ms_per_call']:.3f}" if job in found[p] else "-"
                    for p in peers
                ],
                ["of it in the garbage collector"]
                + [
                    f"{found[p][job]['collector_share']:.0%}" if job in found[p] else "-"
                    for p in peers
                ],
            )
        ),
        ["mixture of four, CPU ms per call, 64 in flight"]
        + [
            f"{found[p]['mixture_64']['cpu_ms_per_call']:.3f}" if "mixture_64" in found[p] else "-"
            for p in peers
        ],
        ["import, s"] + [f"{imports[p]:.2f}" for p in peers],
        ["peak memory, MiB"]
        + [f"{max(j['memory_mib'] for j in found[p].values()):.0f}" for p in peers],
    ]
    goals = [
        [f"`{name}`", f"{reached[name]:.3f}", f"{way} {target}", f"{way} {aim}", said]
        for name, (way, target, aim) in TARGETS.items()
        for said in [verdict(reached[name], way, target, aim)]
    ]
    return f"""## Overhead

W1: one SLM call (20 ms), then three SLM calls side by side (20 ms), then one LLM call (300 ms),
so the critical path is 340 ms. W3: the same at zero latency. Unbalanced: a branch of 200 ms beside
one of 50, 50 and 200 ms. The mixture: four proposers and an aggregator at zero latency, so five
calls as in W3. CPU is the client process's alone. At 256 in flight Python's garbage collector takes
more of it than at 64, since more objects are alive when it looks at them; it finds none to free.

{table(["", *(NAMES[p] for p in peers)], rows)}

{table(["ratio", "measured", "target", "aim", ""], goals)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="an eighth of the items")
    parser.add_argument("--json", type=Path, help="write the ratios here")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md alone")
    args = parser.parse_args()
    found, imports = measure(args.repeats, args.quick)
    reached = ratios(found)
    body = section(found, imports, reached)
    print(body)
    if args.json:
        args.json.write_text(json.dumps({k: round(v, 4) for k, v in reached.items()}, indent=2))
    if not args.no_docs:
        write("overhead", f"python benchmarks/overhead.py --repeats {args.repeats}", body)


if __name__ == "__main__":
    main()
