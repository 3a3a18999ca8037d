"""Which way to decide a server offers is found out by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from moa.context import RunContext
from moa.endpoints import Decision
from moa.endpoints.decide import Decides, way_of
from moa.endpoints.dialects import OLLAMA, UNKNOWN, VLLM, Dialect
from moa.errors import (
    EndpointRejected,
    EndpointUnavailable,
    EndpointUnsupported,
)

from .conftest import Served, chat
from .decider import ALL, REFUND, decided, endpoint, reply

UNSUPPORTED = httpx2.Response(501, json={"error": {"message": "no decisions with Llama"}})
MODELS = httpx2.Response(200, json={"data": [{"id": "m", "owned_by": "vllm"}]})
NOT_FOUND = httpx2.Response(404, json={"detail": "Not Found"})


class Routed:
    """Answers by path; what it doesn't know is 404."""

    def __init__(self, routes: Mapping[str, httpx2.Response]) -> None:
        self.routes = routes

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        found = self.routes.get(request.url.path, NOT_FOUND)
        return httpx2.Response(found.status_code, headers=found.headers, content=found.read())


async def test_a_server_that_decides_is_asked_natively(
    served: Served, transport: httpx2.AsyncClient
) -> None:
    served.will(Routed({"/v1/models": MODELS, "/v1/systemone": reply()}))
    decider = endpoint(transport, decides="auto")
    decisions = await asyncio.gather(*(decided(decider, *ALL) for _ in range(3)))
    assert served.paths == ["/v1/models", *["/v1/systemone"] * 3]
    assert all(decision.answers[0].source == "native" for decision in decisions)


async def test_a_server_that_cannot_decide_is_asked_once(
    served: Served, transport: httpx2.AsyncClient
) -> None:
    routes = {
        "/v1/models": httpx2.Response(200, json={"data": [{"id": "m", "owned_by": "me"}]}),
        "/v1/systemone": UNSUPPORTED,
        "/v1/chat/completions": chat('{"refund": "yes"}'),
    }
    served.will(Routed(routes))
    decider = endpoint(transport, decides="auto")
    contexts = [RunContext() for _ in range(8)]
    await asyncio.gather(
        *(decider.decide(f"text {i}", [REFUND], c) for i, c in enumerate(contexts))
    )
    await decider.decide("later", [REFUND], RunContext())
    assert served.paths.count("/v1/models") == 1
    assert served.paths.count("/v1/systemone") == 1
    assert served.paths.count("/v1/chat/completions") == 9
    for context in contexts:
        assert [note.kind for note in context.trace] == ["fell back", "answered"]
        assert "no decisions with Llama" in context.trace[0].text


async def test_a_server_that_only_chats_is_tried_once_at_most(
    served: Served, transport: httpx2.AsyncClient
) -> None:
    served.will(Routed({"/v1/chat/completions": chat('{"refund": "yes"}')}))
    decider = endpoint(transport, decides="auto")
    for _ in range(3):
        await decider.decide("text", [REFUND], RunContext())
    chats = ["/v1/chat/completions"] * 3
    assert [path for path in served.paths if path not in chats] == ["/v1/models"]


def test_two_event_loops_may_find_the_way_at_once() -> None:
    both = threading.Barrier(2, timeout=10)

    def serve(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            both.wait()
            return httpx2.Response(200, json=MODELS.json())
        return reply()

    transport = httpx2.AsyncClient(transport=httpx2.MockTransport(serve))
    decider = endpoint(transport, decides="auto")

    def decide() -> Decision:
        return asyncio.run(decided(decider, *ALL))

    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(decide) for _ in range(2)]
        assert [len(decision.result(10).answers) for decision in found] == [3, 3]


async def test_a_server_that_is_down_is_not_taken_for_one_that_cannot_decide(
    served: Served, transport: httpx2.AsyncClient
) -> None:
    served.will(httpx2.Response(503))
    decider = endpoint(transport, decides="auto")
    with pytest.raises(EndpointUnavailable):
        await decided(decider, REFUND)
    served.will(Routed({"/v1/models": MODELS, "/v1/systemone": reply()}))
    assert (await decided(decider, REFUND)).answers[0].source == "native"


async def test_openai_itself_is_asked_for_decisions(
    served: Served, transport: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    unknown = {"error": {"message": "The model `m` cannot be used here"}}
    routes = {
        "/v1/decisions": httpx2.Response(400, json=unknown),
        "/v1/chat/completions": chat('{"refund": "yes"}'),
    }
    served.will(Routed(routes))
    decision = await decided(endpoint(transport, decides="auto", base_url=None), REFUND)
    assert served.paths == ["/v1/decisions", "/v1/chat/completions"]
    assert decision.answers[0].source == "text"
    monkeypatch.delenv("OPENAI_API_KEY")


async def test_a_named_way_does_not_fall_back(
    served: Served, transport: httpx2.AsyncClient
) -> None:
    served.will(UNSUPPORTED)
    with pytest.raises(EndpointUnsupported):
        await decided(endpoint(transport), REFUND)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx2.Response(400, json={"error": "m does not support decision"}), EndpointUnsupported),
        (httpx2.Response(422, json={"detail": [{"msg": "too long"}]}), EndpointRejected),
    ],
)
async def test_a_model_that_cannot_is_told_from_a_wrong_question(
    served: Served,
    transport: httpx2.AsyncClient,
    answer: httpx2.Response,
    kind: type[EndpointRejected],
) -> None:
    served.will(answer)
    with pytest.raises(EndpointRejected) as caught:
        await decided(endpoint(transport), REFUND)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("decides", "known", "said"),
    [
        ("auto", None, "not known yet"),
        ("auto", VLLM, "natively if it can, else label log-probabilities"),
        ("auto", UNKNOWN, "natively if it can, else written labels, without probabilities"),
        ("text", VLLM, "written labels, without probabilities"),
        ("labels", None, "label log-probabilities"),
        ("decisions", OLLAMA, "by /v1/decisions"),
    ],
)
def test_what_is_said_of_a_server_is_no_more_than_is_known(
    decides: Decides, known: Dialect | None, said: str
) -> None:
    assert way_of(decides, known) == said
