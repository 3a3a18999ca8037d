"""The journal of a run: what endpoints have answered is found again, and counted."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import EndpointUnavailable, MoaError, OutputError, StoreError
from moa.core.journal import Journal, digest
from moa.core.questions import Option, Question
from moa.endpoints import Completion, Endpoint, Prompt
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Cached, Fallback, Limited
from moa.testing import SimulatedEndpoint

PROMPT = Prompt.of("Why?")
YES_OR_NO = Question("good", "predicate", "Is it?", (Option("yes", True), Option("no", False)))
Ask = Callable[[Endpoint, RunContext], Awaitable[object]]


def bare() -> SimulatedEndpoint:
    return SimulatedEndpoint(
        rule=lambda text: {"good": {"yes": 0.9}} if text == "state" else f"read {text}"
    )


def wrapped(endpoint: Endpoint) -> Endpoint:
    return Retried(Cached(Limited(Fallback(endpoint, bare()), concurrency=2)))


async def streamed(endpoint: Endpoint, context: RunContext) -> object:
    pieces = [piece async for piece in endpoint.stream(PROMPT, context)]
    assert isinstance(pieces[-1], Completion)
    assert "".join(str(piece) for piece in pieces[:-1]) == pieces[-1].text
    return pieces[-1]


CALLS: dict[str, Ask] = {
    "complete": lambda endpoint, context: endpoint.complete(PROMPT, context),
    "stream": streamed,
    "decide": lambda endpoint, context: endpoint.decide("state", [YES_OR_NO], context),
    "embed": lambda endpoint, context: endpoint.embed(["a", "b"], context),
}


def begun(journal: Journal) -> RunContext:
    context = RunContext(budget=Budget(calls=9))
    context.journal = journal.root
    return context


def itself(endpoint: Endpoint) -> Endpoint:
    return endpoint


@pytest.mark.parametrize("around", [itself, wrapped])
@pytest.mark.parametrize("name", CALLS)
async def test_an_answer_is_found_as_it_was(name: str, around: Any) -> None:
    before = Journal()
    first = begun(before)
    answer = await CALLS[name](around(bare()), first)
    assert len(before.kept) == 1
    silent = bare()
    again = begun(Journal(texts=before.kept))
    assert await CALLS[name](around(silent), again) == answer
    assert (silent.prompts, silent.states) == ([], [])
    assert again.usage == first.usage
    assert again.trace == first.trace


async def test_a_text_that_came_in_pieces_is_found_when_it_is_asked_whole() -> None:
    before = Journal()
    answer = await streamed(bare(), begun(before))
    assert await CALLS["complete"](bare(), begun(Journal(texts=before.kept))) == answer


def test_what_is_asked_is_told_apart_whatever_it_is() -> None:
    asked = ["a", "b", b"\xff", "\ud800", "\udc00", {"a": 1}, object(), YES_OR_NO]
    assert len({digest(one) for one in asked}) == len(asked)


async def test_equal_calls_have_an_answer_each() -> None:
    before, said = Journal(), iter("ab")
    endpoint = SimulatedEndpoint(rule=lambda _: next(said))
    context = begun(before)
    texts = [(await endpoint.complete(PROMPT, context)).text for _ in "ab"]
    context = begun(Journal(texts=before.kept))
    assert [(await endpoint.complete(PROMPT, context)).text for _ in "ab"] == texts == ["a", "b"]


@pytest.mark.parametrize(
    "error",
    [
        EndpointUnavailable("gone", endpoint="e", status=503, retry_after_s=2.0, begun=True),
        OutputError("it refused", node="n", text="No."),
    ],
)
async def test_an_error_is_found_too(error: MoaError) -> None:
    before = Journal()
    failing = SimulatedEndpoint(rule=lambda _: error)
    with pytest.raises(type(error)):
        await failing.complete(PROMPT, begun(before))
    with pytest.raises(type(error)) as found:
        await bare().complete(PROMPT, begun(Journal(texts=before.kept)))
    assert (str(found.value), vars(found.value)) == (str(error), vars(error))


async def test_what_is_kept_of_another_kind_is_told() -> None:
    before = Journal()
    await bare().complete(PROMPT, begun(before))
    broken = dict.fromkeys(before.kept, '{"value": 7}')
    with pytest.raises(StoreError):
        await bare().complete(PROMPT, begun(Journal(texts=broken)))


def test_a_set_is_told_apart_alike_in_every_process() -> None:
    code = (
        "from moa.core.journal import digest; print(digest({'a', 'b', 'c', 'd'}, frozenset('xyz')))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


async def test_a_call_whose_record_was_not_written_is_not_missed_later() -> None:
    async def write(key: str, record: str) -> None:
        del key, record
        raise asyncio.CancelledError

    journal = Journal(write=write)
    context = begun(journal)
    with pytest.raises(asyncio.CancelledError):
        await bare().complete(PROMPT, context)
    assert not journal.root.calls
