"""How mixtures run: `python benchmarks/mixtures.py`.

Six proposers in two layers and an aggregator, 300 ms each, on a mock server in another process:
with a fault beside a plain `asyncio.gather`, and their pace without one (W2).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import SecretStr

from moa.core.context import RunContext
from moa.core.errors import MoaError, QuorumNotMet
from moa.endpoints import Endpoint, Prompt, close_all
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.graphs.mixture import Mixture
from overhead import Process
from report import table, verdict, write

HERE = Path(__file__).parent
REQUEST = "Rent or buy a flat in a town where I may stay for five years?"
STEP_S, LAYERS, PROPOSERS = 0.3, 2, 6
CRITICAL_S = STEP_S * (LAYERS + 1)
FAULTS = {"dead": 0.0, "half a JSON": STEP_S, "empty": STEP_S, "hangs 30 s": 30.0}
MODELS = {"half a JSON": "half-300", "empty": "empty-300", "hangs 30 s": "hang-30000"}
DEADLINE_S = 1.0
"""Seconds that each proposer has in the runs in which one hangs and all are waited for."""
GATHER_GIVES_UP_S = 5.0
OPENED: list[Endpoint] = []
"""Closed at the end."""
TARGETS = {
    "dead_s": ("at most", 1.2, 1.2),
    "half_a_json_s": ("at most", 1.2, 1.2),
    "empty_s": ("at most", 1.2, 1.2),
    "hangs_over_deadline_s_per_layer": ("at most", 0.1, 0.1),
    "w2_one_at_a_time_over_critical_path": ("at most", 1.05, 1.03),
    "w2_16_in_flight_of_ideal": ("at least", 0.87, 0.87),
}


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    seconds: float
    said: str
    missing: tuple[str, ...] = ()
    named: bool = False
    """Whether the trace names who is missing."""


def served(name: str, url: str, *, model: str = "fine-300", retried: bool = True) -> Endpoint:
    endpoint = OpenAIEndpoint(
        name, model=model, base_url=url, api_key=SecretStr("none"), concurrency=1024
    )
    OPENED.append(endpoint)
    return Retried(endpoint) if retried else endpoint


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def faulty(fault: str, url: str) -> Endpoint:
    if fault == "dead":
        return served("f", f"http://127.0.0.1:{closed_port()}/v1")
    return served("f", url, model=MODELS[fault])


def six(url: str, fault: str | None = None) -> list[Endpoint]:
    fine = [served(name, url) for name in "abcde"]
    return [*fine, faulty(fault, url) if fault else served("f", url)]


def mixed(url: str, fault: str | None = None, **settings: Any) -> Mixture:
    return Mixture(
        proposers=six(url, fault), aggregator=served("large", url), layers=LAYERS, **settings
    )


async def run_mixture(graph: Mixture) -> Ended:
    start = time.perf_counter()
    try:
        result = await graph.run(REQUEST)
    except QuorumNotMet as error:
        return Ended(time.perf_counter() - start, f"{len(error.causes)} causes: {error}")
    seconds = time.perf_counter() - start
    missing = result.output.missing
    named = all(any(f"'{name}'" in note.text for note in result.trace) for name in missing)
    said = f"{len(result.output.proposals)} of {PROPOSERS}"
    return Ended(seconds, said, missing, named)


async def run_gather(url: str, fault: str) -> Ended:
    """Do the same by hand, as one would: gather each layer, then ask for one answer."""
    proposers, large = six(url, fault), served("large", url)

    async def work() -> None:
        prompt = Prompt.of(REQUEST, max_tokens=64)
        for _ in range(LAYERS):
            answers = await asyncio.gather(*(p.complete(prompt, RunContext()) for p in proposers))
            listed = "\n".join(answer.text for answer in answers)
            prompt = Prompt.of(f"{REQUEST}\n{listed}", max_tokens=64)
        await large.complete(prompt, RunContext())

    start = time.perf_counter()
    try:
        async with asyncio.timeout(GATHER_GIVES_UP_S):
            await work()
    except TimeoutError:
        return Ended(time.perf_counter() - start, "still waiting")
    except MoaError as error:
        return Ended(time.perf_counter() - start, f"fails: {type(error).__name__}")
    return Ended(time.perf_counter() - start, f"{PROPOSERS} of {PROPOSERS}")


async def repeated(work: Callable[[], Awaitable[Ended]], repeats: int) -> Ended:
    """Run some times; the one that took longest, since every single run has to be in time."""
    found = [await work() for _ in range(repeats)]
    return max(found, key=lambda ended: ended.seconds)


async def faults(url: str, repeats: int) -> dict[str, tuple[Ended, Ended]]:
    found: dict[str, tuple[Ended, Ended]] = {}
    for fault in FAULTS:
        graph = mixed(url, fault)
        mine = await repeated(lambda graph=graph: run_mixture(graph), repeats)
        bare = await run_gather(url, fault)
        found[fault] = (mine, bare)
        print(
            f"{fault}: {mine.seconds:.3f} s, {mine.said}; gather {bare.seconds:.3f} s, {bare.said}"
        )
    return found


async def deadline(url: str, repeats: int) -> Ended:
    """Wait for all with patience for ever, so that the proposers' own deadline ends it."""
    graph = mixed(url, "hangs 30 s", proposer_timeout_s=DEADLINE_S, straggler_timeout_s=None)
    return await repeated(lambda: run_mixture(graph), repeats)


async def all_dead(url: str) -> Ended:
    dead = [
        served("a", f"http://127.0.0.1:{closed_port()}/v1", retried=False),
        *(
            served(name, url, model=model, retried=False)
            for name, model in zip("bcd", MODELS.values(), strict=True)
        ),
    ]
    return await run_mixture(
        Mixture(proposers=dead, aggregator=served("large", url), proposer_timeout_s=DEADLINE_S)
    )


async def pace(url: str, items: int, in_flight: int) -> float:
    """Seconds that `items` runs take, `in_flight` at a time."""
    graph = mixed(url)
    left = iter(range(items))

    async def worker() -> None:
        for _ in left:
            await graph.run(REQUEST)

    await asyncio.gather(*(graph.run(REQUEST) for _ in range(in_flight)))  # opens connections
    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return time.perf_counter() - start


async def measure(url: str, repeats: int, items: int) -> tuple[dict[str, float], str]:
    try:
        return await measured(url, repeats, items)
    finally:
        await close_all(OPENED)


async def measured(url: str, repeats: int, items: int) -> tuple[dict[str, float], str]:
    await run_mixture(mixed(url))  # imports, connections
    found = await faults(url, repeats)
    late, dead = await deadline(url, repeats), await all_dead(url)
    alone = [await pace(url, items, 1) / items for _ in range(repeats)]
    many = [await pace(url, 16 * items, 16) / items for _ in range(repeats)]
    over_s = late.seconds - DEADLINE_S - LAYERS * STEP_S
    reached = {
        **{f"{name.replace(' ', '_').lower()}_s": found[name][0].seconds for name in FAULTS},
        "hangs_over_deadline_s_per_layer": over_s / LAYERS,
        "w2_one_at_a_time_over_critical_path": median(alone) / CRITICAL_S,
        "w2_16_in_flight_of_ideal": CRITICAL_S / median(many),
        "five_of_six": float(all(mine.said == "5 of 6" for mine, _ in found.values())),
        "missing_is_named": float(all(mine.named and mine.missing for mine, _ in found.values())),
        "causes_of_all_dead": float(dead.said.split(" ")[0]),
    }
    return reached, section(found, late, dead, reached)


def section(
    found: dict[str, tuple[Ended, Ended]], late: Ended, dead: Ended, reached: dict[str, float]
) -> str:
    rows = [
        [
            name,
            f"{mine.seconds:.2f} s, {mine.said}",
            ", ".join(mine.missing) if mine.named else "not named",
            f"{bare.seconds:.2f} s, {bare.said}",
        ]
        for name, (mine, bare) in found.items()
    ]
    rows.append(
        [
            f"hangs, all are waited for, {DEADLINE_S:g} s each",
            f"{late.seconds:.2f} s, {late.said}",
            ", ".join(late.missing) if late.named else "not named",
            "-",
        ]
    )
    goals = [
        [f"`{name}`", f"{reached[name]:.3f}", f"{way} {target}", f"{way} {aim}", said]
        for name, (way, target, aim) in TARGETS.items()
        for said in [verdict(reached[name], way, target, aim)]
    ]
    causes = "\n".join(dead.said.partition(": ")[2].splitlines())
    return f"""## Mixtures

Six proposers in two layers and an aggregator, all on a mock server in another process that answers
after 300 ms, so the critical path is 900 ms; each endpoint is retried as those of `moa.toml` are.
One proposer is at fault. Times are the longest of the repeats. Beside it the same by hand:
`asyncio.gather` over the same endpoints, layer by layer, given up after {GATHER_GIVES_UP_S:g} s.

{table(["the sixth proposer", "`mixture`", "the trace names", "`asyncio.gather`"], rows)}

W2: the same without a fault, one run at a time, and 16 in flight, in which the ideal is 16 runs in
each 900 ms. Where all proposers are at fault, there is one error:

```text
{causes}
```

{table(["ratio", "measured", "target", "aim", ""], goals)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--items", type=int, default=8, help="runs that one slot makes, W2")
    parser.add_argument("--json", type=Path, help="write the ratios here")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md alone")
    args = parser.parse_args()
    server = Process(str(HERE / "mock_server.py"))
    url = f"http://127.0.0.1:{server.read()}/v1"
    reached, body = asyncio.run(measure(url, args.repeats, args.items))
    server.close()
    print(body)
    if args.json:
        args.json.write_text(json.dumps({k: round(v, 4) for k, v in reached.items()}, indent=2))
    if not args.no_docs:
        write("mixtures", f"python benchmarks/mixtures.py --repeats {args.repeats}", body)


if __name__ == "__main__":
    main()
