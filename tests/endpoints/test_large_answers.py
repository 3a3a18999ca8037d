"""An answer of very many values, or a stream that comes at once, holds up nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
from itertools import groupby

import pytest
from tenacity import wait_none

from moa.core import _json as reading
from moa.core._json import JSON
from moa.core.context import RunContext
from moa.core.errors import AnswerTooLarge, EndpointRejected
from moa.core.usage import NOTHING
from moa.endpoints import Prompt, client
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried

from .conftest import Answer, Ask, Served, both_ways, chat, events, piece, sse

PROMPT = Prompt.of("Hello?", max_tokens=32)
OBJECTS = "[" + "{}," * reading.MOST_PARTS + "{}]"
TEXTS = "[" + '"",' * reading.MOST_PARTS + '""]'
NUMBERS = "[" + "1," * reading.MOST_VALUES + "1]"


@pytest.fixture
def endpoint() -> OpenAIEndpoint:
    return OpenAIEndpoint("writer", model="m", base_url="http://model.test/v1")


@pytest.mark.parametrize("values", [OBJECTS, TEXTS, NUMBERS], ids=["objects", "texts", "numbers"])
async def test_an_answer_of_too_many_values_is_refused_and_asked_for_once(
    served: Served, endpoint: OpenAIEndpoint, values: str
) -> None:
    served.will(Answer(text=f'{{"a": {values}}}'))
    with pytest.raises(AnswerTooLarge):
        await Retried(endpoint, wait=wait_none()).complete(PROMPT, RunContext())
    assert len(served.requests) == 1


async def test_an_event_of_too_many_values_is_refused(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(sse(f'data: {{"a": {OBJECTS}}}\n\n'))
    with pytest.raises(AnswerTooLarge):
        async for _ in endpoint.stream(PROMPT, RunContext()):
            pass


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "in a text"])
async def test_a_refusal_of_too_many_values_is_quoted_without_reading_it(
    served: Served, endpoint: OpenAIEndpoint, monkeypatch: pytest.MonkeyPatch, *, hidden: bool
) -> None:
    read: list[JSON] = []

    def noted(value: JSON) -> JSON:
        read.append(value)
        return value

    monkeypatch.setattr(reading, "_give_way", noted)
    values = f'{{"message": {OBJECTS}}}'
    text = json.dumps({"error": values}) if hidden else f'{{"error": {values}}}'
    served.will(Answer(422, text=text))
    with pytest.raises(EndpointRejected, match="HTTP 422") as caught:
        await endpoint.complete(PROMPT, RunContext())
    assert read == []
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
async def test_values_in_a_text_count_too_as_it_may_be_read_next(
    served: Served, endpoint: OpenAIEndpoint, *, escaped: bool
) -> None:
    text = json.dumps({"choices": [{"message": {"content": OBJECTS}}]})
    served.will(Answer(text=text.replace("{}", r"\u007b}") if escaped else text))
    with pytest.raises(AnswerTooLarge):
        await endpoint.complete(PROMPT, RunContext())


async def test_a_long_text_passes(served: Served, endpoint: OpenAIEndpoint) -> None:
    text = 'Says {it: ["é", 1]},\n' * 100_000
    served.will(chat(text))
    assert (await endpoint.complete(PROMPT, RunContext())).text == text


def test_two_thousand_vectors_of_four_thousand_numbers_are_no_more_than_may_be() -> None:
    vector = ",".join(["1"] * 4096)
    vectors = ",".join([f'{{"index": 1, "embedding": [{vector}]}}'] * 2048)
    answer = reading.read_json(f'{{"data": [{vectors}]}}'.encode())
    assert isinstance(answer, dict)


@pytest.mark.parametrize("coding", ["utf-16", "utf-32"])
def test_a_coding_that_json_doesn_t_have_hides_no_values(coding: str) -> None:
    with pytest.raises(ValueError, match="codec"):
        reading.read_json('{"a": "∢", "b": [{}]}'.encode(coding))


@both_ways
async def test_a_large_answer_is_read_in_a_thread(
    served: Served, endpoint: OpenAIEndpoint, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()

    def noted(content: bytes) -> object:
        if len(content) > 1 << 17:
            threads.add(threading.current_thread().name)
        return reading.read_json(content)

    monkeypatch.setattr(client, "read_json", noted)
    text = "Good. " * (1 << 15)
    served.will(
        events(piece(text, finish_reason="stop")) if "stream" in ask.__name__ else chat(text)
    )
    await ask(endpoint, PROMPT, RunContext())
    assert threads
    assert threading.current_thread().name not in threads


async def test_a_stream_that_comes_at_once_gives_way(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(events(*[{}] * 5000))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read() -> list[int]:
        body, run = {"model": "m", "stream": True}, RunContext()
        seen = [turns async for _ in endpoint.client.stream("/chat", body, run, estimate=NOTHING)]
        other.cancel()
        return seen

    async with asyncio.TaskGroup() as group:
        other = group.create_task(take_turns())
        reader = group.create_task(read())
    seen = reader.result()
    assert len(seen) == 5001  # and the amount
    assert max(len(list(same)) for _, same in groupby(seen)) <= 32
