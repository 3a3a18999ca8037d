"""One library under load: `python benchmarks/overhead_peer.py PEER URL`.

Started by overhead.py, one process a peer. It reads jobs as JSON lines, runs them, and prints
what they took. Every peer does the same work: W1 and W3 are one SLM call, three side by side,
one LLM call; `unbalanced` is a branch of one call beside a branch of three; `mixture` is four
proposers and an aggregator.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

TEXT = "The parcel came two days late and the box was open, but the kettle works."
CLEAN = "Correct the spelling. Answer with the text alone."
ASK = ("What does the writer feel?", "What is the topic?", "Is it urgent?")
WRITE = "Write a short answer to the customer."

Item = Callable[..., Awaitable[object]]


def merge(a: dict[str, str], b: dict[str, str]) -> dict[str, str]:
    return a | b


class State(TypedDict):
    """What LangGraph's nodes share."""

    texts: Annotated[dict[str, str], merge]


MODELS = {"W1": ("slm-20", "llm-300"), "W3": ("slm-0", "llm-0")}


def moa_peer(url: str) -> dict[str, Item]:
    from pydantic import SecretStr

    from moa import Agent, Graph, Mixture, Text
    from moa.endpoints.openai import OpenAIEndpoint

    def endpoint(model: str) -> OpenAIEndpoint:
        return OpenAIEndpoint(
            model, model=model, base_url=url, api_key=SecretStr("none"), concurrency=1024
        )

    def item(small: str, large: str) -> Item:
        slm, llm = endpoint(small), endpoint(large)
        g = Graph("w1", Text)
        clean = g.add(Agent(slm, CLEAN, name="clean"), g.input)
        asked = [g.add(Agent(slm, ask, name=f"ask_{i}"), clean) for i, ask in enumerate(ASK)]
        brief = g.join(lambda a, b, c: f"{a}\n{b}\n{c}", *asked)
        graph = g.build(g.add(Agent(llm, WRITE, name="write"), brief))
        return lambda *context: graph.run(Text(text=TEXT), *context)

    def unbalanced() -> Item:
        short, long = endpoint("slm-50"), endpoint("llm-200")
        g = Graph("unbalanced", Text)
        one = g.add(Agent(long, CLEAN, name="one"), g.input)
        two = g.add(Agent(short, CLEAN, name="two"), g.input)
        three = g.add(Agent(short, CLEAN, name="three"), two)
        four = g.add(Agent(long, CLEAN, name="four"), three)
        graph = g.build(g.join(lambda a, b: f"{a}\n{b}", one, four))
        return lambda: graph.run(Text(text=TEXT))

    def mixture() -> Item:
        proposers = [Agent(endpoint("slm-0"), WRITE, name=f"proposer_{i}") for i in range(4)]
        graph = Mixture(proposers=proposers, aggregator=endpoint("llm-0"))
        return lambda: graph.run(TEXT)

    items = {name: item(*models) for name, models in MODELS.items()}
    return items | {"unbalanced": unbalanced(), "mixture": mixture()}


def openai_peer(url: str) -> dict[str, Item]:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)

    async def ask(model: str, instructions: str, text: str) -> str:
        messages: Any = [
            {"role": "system", "content": instructions},
            {"role": "user", "content": text},
        ]
        done = await client.chat.completions.create(model=model, messages=messages, max_tokens=64)
        return done.choices[0].message.content or ""

    def item(small: str, large: str) -> Item:
        async def run() -> str:
            clean = await ask(small, CLEAN, TEXT)
            asked = await asyncio.gather(*(ask(small, question, clean) for question in ASK))
            return await ask(large, WRITE, "\n".join(asked))

        return run

    return {name: item(*models) for name, models in MODELS.items()}


def langgraph_peer(url: str) -> dict[str, Item]:
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, StateGraph

    def model(name: str) -> Any:
        return ChatOpenAI(model=name, base_url=url, api_key="none", max_retries=0, max_tokens=64)  # pyright: ignore[reportCallIssue]  an alias

    def node(chat: Any, name: str, instructions: str, *sources: str) -> Any:
        async def call(state: State) -> dict[str, dict[str, str]]:
            text = "\n".join(state["texts"][source] for source in sources)
            done = await chat.ainvoke([("system", instructions), ("user", text)])
            return {"texts": {name: done.content}}

        return call

    def built(nodes: dict[str, Any], edges: list[tuple[Any, str]]) -> Item:
        builder = StateGraph(State)
        for name, function in nodes.items():
            builder.add_node(name, function)
        for start, end in edges:
            builder.add_edge(start, end)
        graph = builder.compile()
        return lambda: graph.ainvoke({"texts": {"input": TEXT}})

    def item(small: str, large: str) -> Item:
        slm, llm = model(small), model(large)
        asks = [f"ask_{i}" for i in range(len(ASK))]
        nodes = {"clean": node(slm, "clean", CLEAN, "input")}
        nodes |= {a: node(slm, a, q, "clean") for a, q in zip(asks, ASK, strict=True)}
        nodes["write"] = node(llm, "write", WRITE, *asks)
        fan = [("clean", a) for a in asks]
        return built(nodes, [(START, "clean"), *fan, (asks, "write"), ("write", END)])

    def unbalanced() -> Item:
        short, long = model("slm-50"), model("llm-200")
        nodes = {
            "one": node(long, "one", CLEAN, "input"),
            "two": node(short, "two", CLEAN, "input"),
            "three": node(short, "three", CLEAN, "two"),
            "four": node(long, "four", CLEAN, "three"),
        }
        edges = [(START, "one"), (START, "two"), ("two", "three"), ("three", "four")]
        return built(nodes, [*edges, ("one", END), ("four", END)])

    items = {name: item(*models) for name, models in MODELS.items()}
    return items | {"unbalanced": unbalanced()}


def pydantic_ai_peer(url: str) -> dict[str, Item]:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=url, api_key="none")

    def agent(model: str, instructions: str) -> Any:
        return Agent(
            OpenAIChatModel(model, provider=provider),
            instructions=instructions,
            model_settings={"max_tokens": 64},
        )

    def item(small: str, large: str) -> Item:
        clean, write = agent(small, CLEAN), agent(large, WRITE)
        asks = [agent(small, question) for question in ASK]

        async def run() -> str:
            cleaned = (await clean.run(TEXT)).output
            asked = await asyncio.gather(*(ask.run(cleaned) for ask in asks))
            return (await write.run("\n".join(a.output for a in asked))).output

        return run

    return {name: item(*models) for name, models in MODELS.items()}


PEERS: dict[str, Callable[[str], dict[str, Item]]] = {
    "moa": moa_peer,
    "openai": openai_peer,
    "langgraph": langgraph_peer,
    "pydantic-ai": pydantic_ai_peer,
}


async def job(item: Item, items: int, in_flight: int) -> dict[str, float]:
    """Run `items` items, `in_flight` at a time."""
    left = iter(range(items))

    async def worker() -> None:
        for _ in left:
            await item()

    collector_s = 0.0

    def collecting(phase: str, _: dict[str, int]) -> None:
        nonlocal collector_s
        now = time.thread_time()
        collector_s += now if phase == "stop" else -now

    gc.callbacks.append(collecting)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    gc.callbacks.remove(collecting)
    return took | {"collector_s": collector_s}


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main(peer: str, url: str) -> None:
    start = time.perf_counter()
    items = PEERS[peer](url)
    ready_s = time.perf_counter() - start
    print(json.dumps({"work": sorted(items), "ready_s": ready_s}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        took = await job(items[asked["work"]], asked["items"], asked["in_flight"])
        print(json.dumps(took | {"memory_mib": memory_mib()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
