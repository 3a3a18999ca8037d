"""Agents with tools, beside pydantic-ai: `python benchmarks/tools.py --model NAME@URL|GGUF`.

Thirty small tasks with one to four tools each: the right tool, the right arguments, the right
answer. The model is asked in OpenAI's format (`native`), by a JSON schema (`schema`), and by
pydantic-ai where it is installed, with the same instructions, functions and limits. Each answer is
kept as soon as it is there, so that a run can be stopped and gone on with by the same command. With
`--items` it prints, and writes no page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from kept import Kept
from moa import Agent, OpenAIEndpoint, RunContext
from moa.core._async import map_async
from moa.core.errors import MoaError
from moa.endpoints import Capability
from moa.endpoints.dialects import LLAMACPP, VLLM, Dialect
from moa.local.embedded import Engine, EngineSettings
from report import table, write

HERE = Path(__file__).parent
INSTRUCTIONS = (
    "Answer the question in one sentence. Use the tools for sums, dates, units and whatever stands "
    "in a table; don't work them out yourself, and don't guess."
)
MAX_TOKENS, MAX_CALLS, TIMEOUT_S = 300, 8, 600.0
NATIVE: frozenset[Capability] = frozenset(("complete", "tools"))
SCHEMA: frozenset[Capability] = frozenset(("complete",))
MEASURES = ("tool", "arguments", "answer")
TEXT = """
## Tools

{items} tasks with one to four tools: sums, units, dates, and small tables of invented shops and
towns. A task has the right **tool** if exactly the tools were called that it takes, the right
**arguments** if each of those calls is among them, and the right **answer** if that says so.
`native` asks in OpenAI's format, `schema` by a JSON schema. All have the same instructions,
functions and limits, at temperature 0. An error counts as 0. Tokens and seconds are for a task,
beside the other tasks that were asked at the same time.

{rows}
"""

Unit = Literal["km", "miles", "kg", "pounds", "celsius", "fahrenheit", "litres", "gallons"]
SCALES: Mapping[str, float] = {"miles": 1.609344, "pounds": 0.45359237, "gallons": 3.785411784}
SAME: Mapping[str, str] = {"miles": "km", "pounds": "kg", "gallons": "litres"}
PRICES = {"pen": 1.2, "notebook": 3.5, "ink": 7.9, "desk": 189.0, "lamp": 24.9}
STOCK = {"pen": 137, "notebook": 42, "ink": 4, "desk": 3, "lamp": 18}
PEOPLE = {"Arwick": 8420, "Belford": 15310, "Corra": 2975, "Dunmoor": 40128}
MANAGERS = {"Arwick": "Ida Falk", "Belford": "Tom Reyes", "Corra": "Lin Osei"}


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


def subtract(a: float, b: float) -> float:
    """Subtract b from a."""
    return a - b


def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b


def divide(a: float, b: float) -> float:
    """Divide a by b."""
    return a / b


def convert(amount: float, unit: Unit, into: Unit) -> float:
    """Convert an amount from one unit into another.

    Args:
        amount: how much
        unit: what the amount is given in
        into: what it is wanted in
    """
    if (unit, into) == ("celsius", "fahrenheit"):
        return round(amount * 9 / 5 + 32, 4)
    if (unit, into) == ("fahrenheit", "celsius"):
        return round((amount - 32) * 5 / 9, 4)
    if SAME.get(unit, unit) != SAME.get(into, into):
        raise ValueError(f"{unit} can't be converted into {into}")
    return round(amount * SCALES.get(unit, 1.0) / SCALES.get(into, 1.0), 4)


def price_of(item: str) -> float:
    """Look up the price of an item in euros.

    Args:
        item: in the singular, such as pen
    """
    return PRICES[item]


def stock_of(item: str) -> int:
    """Look up how many pieces of an item are in stock.

    Args:
        item: in the singular, such as pen
    """
    return STOCK[item]


def population_of(town: str) -> int:
    """Look up how many people live in a town."""
    return PEOPLE[town]


def manager_of(town: str) -> str:
    """Look up who manages the shop in a town."""
    return MANAGERS[town]


def days_between(start: date, end: date) -> int:
    """Count the days from one date to another, such as 2026-01-31."""
    return (end - start).days


def weekday_of(day: date) -> str:
    """Say on which day of the week a date falls, such as 2026-01-31."""
    return day.strftime("%A")


def add_days(day: date, days: int) -> str:
    """Give the date that is some days after another, such as 2026-01-31; before it, if negative."""
    return str(day + timedelta(days=days))


TOOLS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(add, subtract, multiply, divide, convert, price_of, stock_of),
        *(population_of, manager_of, days_between, weekday_of, add_days),
    )
}
COMMUTES = ("add", "multiply")
Call = tuple[str, dict[str, Any]]
Task = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Served:
    """Where a model is served."""

    model: str
    url: str
    key: str
    dialect: Dialect


@contextmanager
def served(model: str) -> Any:
    """Serve a GGUF file; `NAME@URL` is served by vLLM, with the key in `VLLM_API_KEY`."""
    name, at, url = model.partition("@")
    if at:
        yield Served(model=name, url=url, key=os.environ.get("VLLM_API_KEY", "-"), dialect=VLLM)
        return
    engine = Engine(Path(model).expanduser(), EngineSettings(slots=1))
    try:
        key = engine.api_key.get_secret_value()
        yield Served(model=engine.model, url=engine.base_url, key=key, dialect=LLAMACPP)
    finally:
        engine.stop()


Asked = tuple[str, list[Call], int]
"""An answer, the calls before it, and tokens."""


async def by_moa(task: Task, at: Served, capabilities: frozenset[Capability]) -> Asked:
    endpoint = OpenAIEndpoint(
        "tools",
        model=at.model,
        base_url=at.url,
        api_key=at.key,
        dialect=at.dialect,
        capabilities=capabilities,
    )
    agent = Agent(
        endpoint,
        INSTRUCTIONS,
        tools=[TOOLS[name] for name in task["tools"]],
        max_tool_calls=MAX_CALLS,
        max_tokens=MAX_TOKENS,
        tag="",
    )
    async with endpoint:
        result = await agent.run(task["question"], RunContext(timeout_s=TIMEOUT_S))
    calls = [(call.name, _values(call.arguments)) for m in result.messages for call in m.tool_calls]
    return result.output.text, calls, result.usage.total.tokens


async def by_pydantic_ai(task: Task, at: Served) -> Asked:
    from pydantic_ai import Agent as Peer
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.usage import UsageLimits

    model = OpenAIChatModel(at.model, provider=OpenAIProvider(base_url=at.url, api_key=at.key))
    agent = Peer(
        model, instructions=INSTRUCTIONS, tools=[TOOLS[name] for name in task["tools"]], retries=2
    )
    async with asyncio.timeout(TIMEOUT_S):
        result = await agent.run(
            task["question"],
            model_settings={"temperature": 0.0, "max_tokens": MAX_TOKENS},
            usage_limits=UsageLimits(tool_calls_limit=MAX_CALLS),
        )
    parts = [part for message in result.all_messages() for part in message.parts]
    calls = [(p.tool_name, p.args_as_dict()) for p in parts if p.part_kind == "tool-call"]
    usage = result.usage
    return str(result.output), calls, usage.input_tokens + usage.output_tokens


WAYS: dict[str, Callable[[Task, Served], Awaitable[Asked]]] = {
    "native": lambda task, at: by_moa(task, at, NATIVE),
    "schema": lambda task, at: by_moa(task, at, SCHEMA),
}
if find_spec("pydantic_ai") is not None:
    WAYS["pydantic-ai"] = by_pydantic_ai


def _values(arguments: str) -> dict[str, Any]:
    try:
        values: object = json.loads(arguments)
    except ValueError:
        return {"": arguments}
    return values if isinstance(values, dict) else {"": values}


def graded(task: Task, answer: str, calls: Sequence[Call]) -> dict[str, float]:
    """Say what was right: the tools, their arguments, and the answer."""
    wanted: list[Call] = [(name, values) for name, values in task["calls"]]
    there = all(any(_same(one, call) for call in calls) for one in wanted)
    return {
        "tool": float(sorted(name for name, _ in calls) == sorted(name for name, _ in wanted)),
        "arguments": float(there),
        "answer": float(all(_says(answer, part) for part in task["answer"])),
    }


def _same(wanted: Call, made: Call) -> bool:
    (name, values), (other, given) = wanted, made
    if name != other:
        return False
    if name in COMMUTES and _alike({"a": values["b"], "b": values["a"]}, given):
        return True
    return _alike(values, given)


def _alike(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return wanted.keys() == given.keys() and all(
        _value(wanted[key]) == _value(given[key]) for key in wanted
    )


def _value(value: object) -> object:
    try:
        return round(float(str(value)), 2)
    except ValueError:
        return str(value).strip().casefold()


def _says(answer: str, wanted: str) -> bool:
    """Whether a number stands in an answer, to a hundredth of itself, or any of some words does."""
    try:
        number = float(wanted)
    except ValueError:
        return any(one.casefold() in answer.casefold() for one in wanted.split("|"))
    found = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", answer))
    return any(abs(float(one) - number) <= abs(number) / 100 for one in found)


async def measured(tasks: Sequence[Task], at: Served, kept: Kept, *, max_concurrency: int) -> None:
    """Ask every way about each task that isn't kept yet."""

    async def one(way: str, task: Task) -> None:
        key = f"{at.model}|{way}|{task['id']}"
        if key in kept.found:
            return
        begun = time.perf_counter()
        try:
            answer, calls, tokens = await WAYS[way](task, at)
            found = {"answer": answer, "calls": calls, "tokens": tokens}
        except MoaError as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        except Exception as error:  # noqa: BLE001  a peer's own
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        kept.keep(key, {**found, "seconds": time.perf_counter() - begun})
        print(f"{key}: {found.get('error') or found['answer']!r}", flush=True)

    for way in WAYS:
        await map_async(partial(one, way), tasks, max_concurrency=max_concurrency)


def row(model: str, way: str, tasks: Sequence[Task], kept: Kept) -> list[str] | None:
    found = [kept.found.get(f"{model}|{way}|{task['id']}") for task in tasks]
    there = [(task, one) for task, one in zip(tasks, found, strict=True) if one]
    if len(there) < len(tasks):
        return None
    scores = [
        graded(task, one["answer"], one["calls"]) if "answer" in one else dict.fromkeys(MEASURES, 0)
        for task, one in there
    ]
    return [
        f"{model}: {way}",
        *(f"{fmean(score[measure] for score in scores):.2f}" for measure in MEASURES),
        f"{fmean(one.get('tokens', 0) for _, one in there):.0f}",
        f"{median(one['seconds'] for _, one in there):.1f}",
        str(sum("error" in one for _, one in there)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", required=True, help="GGUF files, or NAME@URL")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of tools.jsonl")
    parser.add_argument("--items", type=int, help="tasks; all, and a page, without it")
    parser.add_argument("--concurrency", type=int, default=1, help="tasks at a time")
    parser.add_argument("--json", type=Path, help="keeps each answer, and is read again")
    args = parser.parse_args()
    lines = (args.data / "tools.jsonl").read_text(encoding="utf-8").splitlines()
    tasks: list[Task] = [json.loads(line) for line in lines][: args.items]
    kept, rows = Kept(args.json), list[list[str]]()
    for model in args.model:
        with served(model) as at:
            asyncio.run(measured(tasks, at, kept, max_concurrency=args.concurrency))
        rows += filter(None, (row(at.model, way, tasks, kept) for way in WAYS))
    head = ("model", *MEASURES, "tokens", "seconds", "failed")
    text = TEXT.format(items=len(tasks), rows=table(head, rows))
    if args.items:
        print(text)
    else:
        files = ("NAME@URL" if "@" in model else "FILE" for model in args.model)
        command = f"python benchmarks/tools.py --model {' '.join(files)}"
        some = f" --concurrency {args.concurrency}" if args.concurrency > 1 else ""
        write("tools", command + some, text)


if __name__ == "__main__":
    main()
