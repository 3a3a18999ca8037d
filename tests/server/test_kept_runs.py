"""What a server holds of runs that have ended: names, usage and notes, and no texts."""

from __future__ import annotations

import gc
import sys
from types import FunctionType, ModuleType
from typing import Any

import pytest

from moa import Result, RunContext
from moa.core.errors import OutputError
from moa.serving.keys import ANYONE

from .harness import client_of, greeter, server_with

LONG = 300_000
STREAM = {"accept": "text/event-stream"}
TEXT = "x" * LONG
TALK = [
    {"role": "system", "content": TEXT},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": TEXT},
    {"role": "user", "content": "Hello?"},
]


class Noting:
    """A node whose notes quote its input."""

    name = "noting"

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        assert context
        for _ in range(3):
            context.note("changed", f"it was {request}")
        if request.startswith("fail"):
            raise OutputError(request, node=self.name, text=request)
        return Result(output=request, trace=context.trace)


def bytes_held_by(kept: object) -> int:
    """Count the bytes of an object and all that it leads to, but for code."""
    left, seen, held = [kept], set[int](), 0
    while left:
        one = left.pop()
        if id(one) not in seen and not isinstance(one, type | ModuleType | FunctionType):
            seen.add(id(one))
            held += sys.getsizeof(one)
            left += gc.get_referents(one)
    return held


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/run/greeter", TEXT, {}),
        ("/run/greeter", TEXT, STREAM),
        ("/run/noting", TEXT, {}),
        ("/run/noting", f"fail {TEXT}", {}),
        ("/v1/chat/completions", {"model": "greeter", "messages": TALK}, {}),
        ("/v1/chat/completions", {"model": "greeter", "messages": TALK, "stream": True}, {}),
        ("/v1/chat/completions", {"model": "noting", "messages": TALK}, {}),
    ],
)
async def test_an_ended_run_holds_no_text(path: str, body: Any, headers: dict[str, str]) -> None:
    server, app = server_with(greeter(TEXT), Noting())
    async with client_of(app) as client:
        answer = await client.post(path, json=body, headers=headers)
        kept = server.runs.trace(answer.headers["x-moa-trace"], ANYONE)
        record = (await client.get(f"/traces/{kept.id}")).json()
    assert bytes_held_by(kept) < 10_000
    assert record["usage"]
    assert [note for note in record["trace"] if note["kind"] in ("answered", "changed")]
