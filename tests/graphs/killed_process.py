"""A process that runs a ready graph, to be killed: `python killed_process.py NAME FILE URL [on]`.

Each call of its models is a request to URL first. With `on` it goes on with what FILE keeps.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parent.parent))

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from graphs.killed import THREAD
from graphs.test_recipes_drawn import RECIPES
from moa import testing
from moa.core.context import RunContext


def ask(url: str, name: str, text: str) -> None:
    """Wait until a request is answered."""
    with urllib.request.urlopen(url, json.dumps([name, text]).encode()) as answer:
        answer.read()


async def main(name: str, file: str, url: str, *on: str) -> None:
    double: Any = testing._Double  # pyright: ignore[reportPrivateUsage]
    answer = double._answer

    async def heard(double: Any, asked: testing.SimulatedRequest, context: RunContext) -> Any:
        await asyncio.to_thread(ask, url, double.name, asked.text)
        return await answer(double, asked, context)

    double._answer = heard
    make, request = RECIPES[name]
    first = cast("list[object]", request)[0] if isinstance(request, list) else request
    async with AsyncSqliteSaver.from_conn_string(file) as saver:
        compiled: Any = make().compile(checkpointer=saver)
        output = await compiled.ainvoke(None if on else first, THREAD)
    sys.stdout.write(output.model_dump_json())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
