"""What `moa` makes of a vLLM server: `bash .ci/vllm && python benchmarks/serving.py`.

`.ci/vllm` leaves vLLM and the models in .vllm/. On one server, `moa` and a bare aiohttp loop that
sends the very same bodies take turns, so that drift of the machine hits both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import aiohttp
from pydantic import BaseModel

from moa import Choice, Predicate, RunContext, Score, choice, predicate, score, vllm
from moa.config import load
from moa.config.tables import ServerConfig
from moa.core.questions import questions_of
from moa.endpoints import Prompt
from moa.vllm.endpoint import VLLMEndpoint, free_port
from moa.vllm.settings import local_url
from moa.vllm.state import ServerFolder
from report import table, write

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / ".vllm" / "served" / "moa.toml"
MESSAGES = (
    ROOT / "examples" / "support" / "fitting.jsonl",
    ROOT / "tests" / "vllm" / "messages.jsonl",
)
IN_FLIGHT = (1, 8, 32)
REQUESTS = {1: 16, 8: 64, 32: 128}
OUTPUT_TOKENS = 16
RATIO = 0.95


class Mood(BaseModel):
    mood: Choice[Literal["negative", "positive"]] = choice("What is the sentiment?")


class Triage(BaseModel):
    """Eight questions about one message."""

    refund: Predicate = predicate("Does the customer ask for money back?")
    broken: Predicate = predicate("Is something broken?")
    order: Predicate = predicate("Does the message name an order?")
    thanks: Predicate = predicate("Does the customer say thanks?")
    angry: Predicate = predicate("Is the customer angry?")
    topic: Choice[str | None] = choice("What is it about?", labels=["parcel", "invoice", "account"])
    urgency: Score = score("How urgent is it?", levels=["can wait", "today", "now"])
    length: Score = score("How long is the message?", levels=["short", "middling", "long"])


class Took(NamedTuple):
    """One run of a job."""

    requests_per_s: float
    tokens_per_s: float
    """Prompt and answer together."""


Ask = Callable[[int], Awaitable[int]]
"""Does the n-th request of a run, and gives its tokens."""


async def timed(ask: Ask, count: int, in_flight: int) -> Took:
    """Do `count` requests, so many at once."""
    left: Iterable[int] = iter(range(count))
    tokens = 0

    async def work() -> None:
        nonlocal tokens
        for n in left:
            taken = await ask(n)  # others add to the sum meanwhile
            tokens += taken

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    seconds = time.perf_counter() - start
    return Took(count / seconds, tokens / seconds)


class Bare:
    """A loop over aiohttp that sends ready bodies, and reads nothing but the usage."""

    def __init__(self, endpoint: VLLMEndpoint, url: str, key: str) -> None:
        self.endpoint = endpoint
        self.url = url
        self.headers = {"Authorization": f"Bearer {key}"}

    async def __aenter__(self) -> Bare:
        # vLLM closes what is idle for 5 s; a request that meets the closing would fail the run.
        connector = aiohttp.TCPConnector(limit=64, keepalive_timeout=3)
        self.session = aiohttp.ClientSession(connector=connector, headers=self.headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.session.post(self.url + path, json=body) as answer:
            answer.raise_for_status()
            return await answer.json()


def tokens_of(usage: dict[str, Any]) -> int:
    return usage["prompt_tokens"] + usage["completion_tokens"]


class Bench:
    """The jobs, on one server.

    No two requests of the whole benchmark are the same: each text has a number of its own.
    """

    def __init__(self, endpoint: VLLMEndpoint, bare: Bare, texts: Sequence[str]) -> None:
        self.endpoint = endpoint
        self.bare = bare
        self.texts = texts
        self.number = 0

    def text(self, n: int) -> str:
        self.number += 1
        return f"{self.texts[n % len(self.texts)]} ({self.number})"

    def prompt(self, n: int) -> Prompt:
        return Prompt.of(
            self.text(n),
            system="Reply to the message in one sentence.",
            max_tokens=OUTPUT_TOKENS,
            temperature=0.0,
        )

    async def write_by_moa(self, n: int) -> int:
        context = RunContext()
        await self.endpoint.complete(self.prompt(n), context)
        return context.usage.total.input_tokens + context.usage.total.output_tokens

    async def write_by_hand(self, n: int) -> int:
        answer = await self.bare.post("/chat/completions", self.endpoint.chat(self.prompt(n)))
        assert answer["choices"][0]["message"]["content"]
        return tokens_of(answer["usage"])

    async def decide_by_moa(self, n: int) -> int:
        context = RunContext()
        await self.endpoint.decide(self.text(n), questions_of(Mood), context)
        return context.usage.total.input_tokens + context.usage.total.output_tokens

    async def decide_by_hand(self, n: int) -> int:
        body = dict(self.body)
        body["prompt"] = body["prompt"].replace("TEXT", self.text(n))
        answer = await self.bare.post("/completions", body)
        assert answer["choices"][0]["logprobs"]["top_logprobs"][0]
        return tokens_of(answer["usage"])

    async def decide_without_prefix(self, n: int) -> int:
        body = dict(self.body)
        text = self.text(n)
        body["prompt"] = f"Note {self.number}\n\n" + body["prompt"].replace("TEXT", text)
        return tokens_of((await self.bare.post("/completions", body))["usage"])

    async def learn_body(self) -> None:
        """Record what `moa` sends for a decision, so that the bare loop can send the same."""
        bodies: list[dict[str, Any]] = []
        client = self.endpoint.client
        post = client.post

        async def recorded(path: str, body: dict[str, Any], *rest: Any, **named: Any) -> Any:
            if path == "/completions":
                bodies.append(body)
            return await post(path, body, *rest, **named)

        client.post = recorded  # pyright: ignore[reportAttributeAccessIssue]
        await self.endpoint.decide("TEXT", questions_of(Mood), RunContext())
        client.post = post
        (self.body,) = bodies


Runs = dict[str, list[Took]]


async def against_bare(bench: Bench, repeats: int, scale: int) -> dict[str, Runs]:
    """Run both, in turn, at every concurrency; the first repeat warms up."""
    jobs = {
        "writes": (bench.write_by_moa, bench.write_by_hand),
        "decides": (bench.decide_by_moa, bench.decide_by_hand),
    }
    found: dict[str, Runs] = {}
    for repeat in range(repeats + 1):
        for job, (moa, bare) in jobs.items():
            for in_flight in IN_FLIGHT:
                count = max(in_flight, REQUESTS[in_flight] // (scale if repeat else 4))
                sides = [("moa", moa), ("bare", bare)]
                for side, ask in sides if repeat % 2 else reversed(sides):
                    took = await timed(ask, count, in_flight)
                    if repeat:
                        runs = found.setdefault(f"{job}, {in_flight}", {})
                        runs.setdefault(side, []).append(took)
        print(f"against a bare loop: repeat {repeat} of {repeats}", flush=True)
    return found


async def prefixes(bench: Bench, repeats: int, scale: int) -> Runs:
    """Decide with the stable prefix, and with a first line that differs, in turn."""
    found: Runs = {"with": [], "without": []}
    for _ in range(repeats):
        for name, ask in (
            ("with", bench.decide_by_hand),
            ("without", bench.decide_without_prefix),
        ):
            found[name].append(await timed(ask, 96 // scale, 8))
    return found


Way = Callable[[str], Awaitable[object]]
"""Asks all questions about a text."""


def together(endpoint: VLLMEndpoint) -> Way:
    async def ask(state: str) -> None:
        await endpoint.decide(state, questions_of(Triage), RunContext())

    return ask


def one_by_one(endpoint: VLLMEndpoint) -> Way:
    async def ask(state: str) -> None:
        for question in questions_of(Triage):
            await endpoint.decide(state, [question], RunContext())

    return ask


def side_by_side(endpoint: VLLMEndpoint) -> Way:
    async def ask(state: str) -> None:
        async with asyncio.TaskGroup() as group:
            for question in questions_of(Triage):
                group.create_task(endpoint.decide(state, [question], RunContext()))

    return ask


async def questions_asked(bench: Bench, ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Ask eight questions about one text in every way, in turn; median seconds."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, ask in ways.items():
            state = f"{bench.text(repeat)} " + " ".join(bench.texts[:6])
            start = time.perf_counter()
            await ask(state)
            if repeat:
                found[way].append(time.perf_counter() - start)
    return {way: median(seconds) for way, seconds in found.items()}


def texts() -> list[str]:
    rows = (json.loads(line) for file in MESSAGES for line in file.read_text("utf-8").splitlines())
    return [row["text"] for row in rows if 40 < len(row["text"]) < 240]


@asynccontextmanager
async def started(config: ServerConfig) -> AsyncGenerator[tuple[VLLMEndpoint, Bare], None]:
    """Start a server, and give both who asks it."""
    port = free_port()
    async with vllm.serve(
        config.model,
        port=port,
        python=config.vllm.python,
        env=config.vllm.env,
        dtype=config.vllm.dtype,
        max_model_len=2048,
        max_num_seqs=32,
    ) as endpoint:
        key = ServerFolder.of(port).key()
        assert key is not None
        async with Bare(endpoint, local_url(port), key.get_secret_value()) as bare:
            yield endpoint, bare


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start the servers one after the other, and run the jobs."""
    config = load(args.config).served_endpoints
    repeats, scale = (2, 4) if args.quick else (args.repeats, 1)
    found: dict[str, Any] = {}
    small, tiny = config["small"], config["tiny"]
    os.chdir(args.config.parent)  # the models are named from there
    async with started(small) as (endpoint, bare):
        bench = Bench(endpoint, bare, texts())
        await bench.learn_body()
        found["against"] = await against_bare(bench, repeats, scale)
        found["prefix"] = await prefixes(bench, repeats, scale)
        ways = {"one by one": one_by_one(endpoint), "side by side": side_by_side(endpoint)}
        found["labels"] = await questions_asked(bench, ways, repeats)
    async with started(tiny) as (endpoint, bare):
        bench = Bench(endpoint, bare, texts())
        ways = {
            "one request each, one by one": one_by_one(endpoint),
            "one request each, side by side": side_by_side(endpoint),
            "one request for all": together(endpoint),
        }
        found["systemone"] = await questions_asked(bench, ways, repeats)
    return found


def medians(runs: Runs) -> dict[str, dict[str, float]]:
    return {
        side: {
            "requests_per_s": median(took.requests_per_s for took in all_took),
            "tokens_per_s": median(took.tokens_per_s for took in all_took),
        }
        for side, all_took in runs.items()
    }


def ratios(runs: Runs) -> dict[str, float]:
    """Of each repeat, since its two sides were neighbours: the median, the lowest, the highest."""
    each = [
        moa.requests_per_s / bare.requests_per_s
        for moa, bare in zip(runs["moa"], runs["bare"], strict=True)
    ]
    return {"ratio": median(each), "lowest": min(each), "highest": max(each)}


def figures(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "against": {
            job: {**medians(runs), **ratios(runs)} for job, runs in found["against"].items()
        },
        "prefix": medians(found["prefix"]),
        "labels_s": found["labels"],
        "systemone_s": found["systemone"],
    }


def section(reached: dict[str, Any]) -> str:
    against = [
        [
            job,
            *(f"{both[side]['requests_per_s']:.1f}" for side in ("moa", "bare")),
            *(f"{both[side]['tokens_per_s']:.0f}" for side in ("moa", "bare")),
            f"{both['ratio']:.3f} ({both['lowest']:.2f} to {both['highest']:.2f})",
            "target reached" if both["ratio"] >= RATIO else "**missed**",
        ]
        for job, both in reached["against"].items()
    ]
    prefix = [[name, f"{both['requests_per_s']:.1f}"] for name, both in reached["prefix"].items()]
    labels = [[way, f"{seconds * 1e3:.0f}"] for way, seconds in reached["labels_s"].items()]
    one = [[way, f"{seconds * 1e3:.0f}"] for way, seconds in reached["systemone_s"].items()]
    return f"""## Serving

vLLM 0.32 on the processor, with the weights of SmolLM2-135M-Instruct (float32); `moa` and a bare
aiohttp loop send the same bodies to one server in turn, no two texts alike. *Writes*: a chat
completion of {OUTPUT_TOKENS} tokens. *Decides*: a label score, one token. How many are in flight
stands after the comma. The ratio is the median over the repeats, with the lowest and the highest,
and is to be at least {RATIO}. Where those two lie far apart, something else used the machine, and a
median near the target says neither that it is reached nor that it is missed.

{table(["", "`moa`, requests/s", "bare", "`moa`, tokens/s", "bare", "ratio", ""], against)}

The same decision with the question and its examples first, which the server caches, and with a
first line that is another each time, 8 in flight:

{table(["stable prefix", "decisions/s"], prefix)}

Eight questions about one text of about 120 words. By label scores, on SmolLM2, the text is read
once for each question:

{table(["label scores", "ms"], labels)}

By `/v1/systemone`, on a random Qwen3 of two layers, so that it is the requests that cost:

{table(["System One", "ms"], one)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help="as .ci/vllm writes it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a quarter of the requests, twice")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md alone")
    args = parser.parse_args()
    if not args.config.exists():
        raise SystemExit(f"{args.config} is not there: run `bash .ci/vllm` first, which makes it")
    args.config = args.config.absolute()
    out = args.json and args.json.absolute()
    reached = figures(asyncio.run(measure(args)))
    body = section(reached)
    print(body)
    if out:
        out.write_text(json.dumps(reached, indent=2))
    if not args.no_docs and not args.quick:
        write("serving", f"python benchmarks/serving.py --repeats {args.repeats}", body)


if __name__ == "__main__":
    main()
