"""One library against failing servers: `python benchmarks/faults_peer.py PEER URL`.

Started by faults.py, one process a peer. It reads the names of faults as lines, runs ten rows at
once against each, and prints what became of them as JSON. Every peer is used as its documentation
teaches, with its own default retries and a timeout of 1 s, and by someone careful: failures are
collected rather than raised.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from pydantic import BaseModel

from faults_server import BY_NAME, Fault

ROWS = [f"row-{number}" for number in range(10)]
TELL = "Give the answer of the row."
KEY = "sk-faults-0123456789"
TIMEOUT_S, CAP_S = 1.0, 30.0
NEVER = "no end within 30 s"


class Word(BaseModel):
    """What is asked for where a type is."""

    word: str
    count: int


Run = Callable[[Fault, list[str | None], list[str]], Awaitable[str]]
"""Runs ten rows, writes down texts and errors, and says how many output tokens were charged."""


def collected(
    ask: Callable[[str], Awaitable[object]], outputs: list[str | None], errors: list[str]
) -> Callable[[int], Awaitable[None]]:
    """Give what asks for one row, and writes down what came."""

    async def one(place: int) -> None:
        try:
            outputs[place] = _text(await ask(ROWS[place]))
        except Exception as problem:  # noqa: BLE001  what a library raises is measured
            errors.append(f"{type(problem).__name__}: {problem}")

    return one


def _text(output: object) -> str:
    return json.dumps(output.model_dump()) if isinstance(output, Word) else str(output)


def moa_peer(url: str) -> Run:
    from tempfile import mkdtemp

    from moa import Agent
    from moa.config.endpoints import Endpoints

    os.environ["FAULTS_KEY"] = KEY
    folder = Path(mkdtemp())

    async def run(fault: Fault, outputs: list[str | None], errors: list[str]) -> str:
        file = folder / f"{fault.name}.toml"
        file.write_text(
            f'[endpoints.large]\ntier = "llm"\nmodel = "mock-{fault.name}"\nbase_url = "{url}"\n'
            f'api_key_env = "FAULTS_KEY"\ntimeout_s = {TIMEOUT_S}\n'
        )
        async with Endpoints(file) as endpoints:
            kind: dict[str, Any] = {"output": Word} if fault.work == "typed" else {}
            agent: Any = Agent(endpoints.llm, TELL, name="agent", **kind)
            if fault.work == "stream":
                one = collected(lambda row: _streamed(agent, row), outputs, errors)
                await asyncio.gather(*map(one, range(len(ROWS))))
                return ""
            tokens = 0
            async for item in agent.map(ROWS, max_concurrency=10):
                if item.error is None:
                    outputs[item.number - 1] = _text(item.output)
                else:
                    errors.append(f"{type(item.error).__name__}: {item.error}")
                tokens += item.usage.output_tokens
            return str(tokens)

    return run


async def _streamed(agent: Any, row: str) -> object:
    from moa import Result

    last: object = None
    async for happening in agent.stream(row):
        if isinstance(happening, Result):
            last = happening.output
    return last


def openai_peer(url: str) -> Run:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=url, api_key=KEY, timeout=TIMEOUT_S)

    async def run(fault: Fault, outputs: list[str | None], errors: list[str]) -> str:
        async def ask(row: str) -> object:
            asked: Any = {
                "model": f"mock-{fault.name}",
                "messages": [
                    {"role": "system", "content": TELL},
                    {"role": "user", "content": row},
                ],
            }
            if fault.work == "typed":
                parsed = await client.chat.completions.parse(**asked, response_format=Word)
                return parsed.choices[0].message.parsed
            if fault.work == "stream":
                text = ""
                async for piece in await client.chat.completions.create(**asked, stream=True):
                    text += (piece.choices[0].delta.content or "") if piece.choices else ""
                return text
            done = await client.chat.completions.create(**asked)
            return done.choices[0].message.content

        one = collected(ask, outputs, errors)
        await asyncio.gather(*map(one, range(len(ROWS))))
        return ""

    return run


class State(TypedDict, total=False):
    """What LangGraph's nodes share."""

    row: str
    answer: object


def langgraph_peer(url: str) -> Run:
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, StateGraph

    async def run(fault: Fault, outputs: list[str | None], errors: list[str]) -> str:
        chat: Any = ChatOpenAI(
            model=f"mock-{fault.name}", base_url=url, api_key=KEY, timeout=TIMEOUT_S
        )
        typed = chat.with_structured_output(Word) if fault.work == "typed" else chat

        async def call(state: State) -> State:
            asked = [("system", TELL), ("user", state["row"])]
            if fault.work == "stream":
                parts = [str(piece.content) async for piece in chat.astream(asked)]
                return {"answer": "".join(parts)}
            done = await typed.ainvoke(asked)
            return {"answer": done if fault.work == "typed" else done.content}

        builder = StateGraph(State)
        builder.add_node("call", call)
        builder.add_edge(START, "call")
        builder.add_edge("call", END)
        graph: Any = builder.compile()

        async def ask(row: str) -> object:
            return (await graph.ainvoke({"row": row}))["answer"]

        one = collected(ask, outputs, errors)
        await asyncio.gather(*map(one, range(len(ROWS))))
        return ""

    return run


def pydantic_ai_peer(url: str) -> Run:
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(base_url=url, api_key=KEY, timeout=TIMEOUT_S)

    async def run(fault: Fault, outputs: list[str | None], errors: list[str]) -> str:
        model = OpenAIChatModel(f"mock-{fault.name}", provider=OpenAIProvider(openai_client=client))
        kind: Any = Word if fault.work == "typed" else str
        agent: Any = Agent(model, instructions=TELL, output_type=kind)

        async def ask(row: str) -> object:
            if fault.work == "stream":
                async with agent.run_stream(row) as streaming:
                    return await streaming.get_output()
            return (await agent.run(row)).output

        one = collected(ask, outputs, errors)
        await asyncio.gather(*map(one, range(len(ROWS))))
        return ""

    return run


PEERS: dict[str, Callable[[str], Run]] = {
    "moa": moa_peer,
    "openai": openai_peer,
    "langgraph": langgraph_peer,
    "pydantic-ai": pydantic_ai_peer,
}


async def tried(run: Run, fault: Fault) -> dict[str, object]:
    """Run ten rows against a fault, and give what became of them."""
    outputs: list[str | None] = [None] * len(ROWS)
    errors: list[str] = []
    start, charged = time.perf_counter(), ""
    try:
        async with asyncio.timeout(CAP_S):
            charged = await run(fault, outputs, errors)
    except TimeoutError:
        errors.append(NEVER)
    return {
        "seconds": time.perf_counter() - start,
        "right": sum(map(_is_right, outputs, ROWS)),
        "wrong": sum(one is not None for one in outputs) - sum(map(_is_right, outputs, ROWS)),
        "failed": len(errors),
        "errors": _different(errors),
        "charged": charged,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _is_right(output: str | None, row: str) -> bool:
    word = row.replace("row", "answer")
    return output == word or output == json.dumps({"word": word, "count": 3})


def _different(errors: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(" ".join(error.split())[:600] for error in errors))


async def main(peer: str, url: str) -> None:
    run = PEERS[peer](url)
    while name := (await asyncio.to_thread(sys.stdin.readline)).strip():
        print(json.dumps(await tried(run, BY_NAME[name])), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
