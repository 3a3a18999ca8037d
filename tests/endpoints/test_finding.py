"""Which way to decide a server offers is found out by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from moa.core._async import Lock
from moa.core.context import RunContext
from moa.core.errors import (
    DeadlineExceeded,
    EndpointRejected,
    EndpointUnavailable,
    EndpointUnsupported,
)
from moa.endpoints.decide import Decides, describe_way
from moa.endpoints.dialects import OLLAMA, UNKNOWN, VLLM, Dialect

from .conftest import Answer, Asked, Served, chat
from .decider import ALL, REFUND, decided, endpoint, reply

UNSUPPORTED = Answer(501, json={"error": {"message": "no decisions with Llama"}})
MODELS = Answer(json={"data": [{"id": "m", "owned_by": "vllm"}]})
NOT_FOUND = Answer(404, json={"detail": "Not Found"})


class Routed:
    """Answers by path; what it doesn't know is 404."""

    def __init__(self, routes: Mapping[str, Answer]) -> None:
        self.routes = routes

    def __call__(self, request: Asked) -> Answer:
        return self.routes.get(request.path, NOT_FOUND)


async def test_a_server_that_decides_is_asked_natively(served: Served) -> None:
    served.will(Routed({"/v1/models": MODELS, "/v1/systemone": reply()}))
    decider = endpoint(decides="auto")
    decisions = await asyncio.gather(*(decided(decider, *ALL) for _ in range(3)))
    assert served.paths == ["/v1/models", *["/v1/systemone"] * 3]
    assert all(decision.answers[0].source == "native" for decision in decisions)


async def test_a_server_that_cannot_decide_is_asked_once(served: Served) -> None:
    usage = {"prompt_tokens": 200, "completion_tokens": 4, "total_tokens": 204}
    said = Answer(json={**chat('{"refund": "yes"}').json(), "usage": usage})
    routes = {
        "/v1/models": Answer(json={"data": [{"id": "m", "owned_by": "me"}]}),
        "/v1/systemone": UNSUPPORTED,
        "/v1/chat/completions": said,
    }
    served.will(Routed(routes))
    decider = endpoint(decides="auto")
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


async def test_a_server_that_only_chats_is_tried_once_at_most(served: Served) -> None:
    served.will(Routed({"/v1/chat/completions": chat('{"refund": "yes"}')}))
    decider = endpoint(decides="auto")
    for _ in range(3):
        await decider.decide("text", [REFUND], RunContext())
    chats = ["/v1/chat/completions"] * 3
    assert [path for path in served.paths if path not in chats] == ["/v1/models"]


async def test_two_event_loops_may_find_the_way_at_once(served: Served) -> None:
    both = asyncio.Barrier(2)

    async def serve(request: Asked) -> Answer:
        if request.path == "/v1/models":
            await both.wait()
            return MODELS
        return reply()

    served.will(serve)
    decider = endpoint(decides="auto")
    found = await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, decided(decider, *ALL)) for _ in range(2))
    )
    assert [len(decision.answers) for decision in found] == [3, 3]


async def test_a_server_that_is_down_is_not_taken_for_one_that_cannot_decide(
    served: Served,
) -> None:
    served.will(Answer(503))
    decider = endpoint(decides="auto")
    with pytest.raises(EndpointUnavailable):
        await decided(decider, REFUND)
    served.will(Routed({"/v1/models": MODELS, "/v1/systemone": reply()}))
    assert (await decided(decider, REFUND)).answers[0].source == "native"


async def test_openai_itself_is_asked_for_decisions(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    unknown = {"error": {"message": "The model `m` cannot be used here"}}
    routes = {
        "/v1/decisions": Answer(400, json=unknown),
        "/v1/chat/completions": chat('{"refund": "yes"}'),
    }
    served.will(Routed(routes))
    decision = await decided(endpoint(decides="auto", base_url=None), REFUND)
    assert served.paths == ["/v1/decisions", "/v1/chat/completions"]
    assert decision.answers[0].source == "text"
    monkeypatch.delenv("OPENAI_API_KEY")


async def test_a_named_way_does_not_fall_back(served: Served) -> None:
    served.will(UNSUPPORTED)
    with pytest.raises(EndpointUnsupported):
        await decided(endpoint(), REFUND)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(400, json={"error": "m does not support decision"}), EndpointUnsupported),
        (Answer(422, json={"detail": [{"msg": "too long"}]}), EndpointRejected),
    ],
)
async def test_a_model_that_cannot_is_told_from_a_wrong_question(
    served: Served, answer: Answer, kind: type[EndpointRejected]
) -> None:
    served.will(answer)
    with pytest.raises(EndpointRejected) as caught:
        await decided(endpoint(), REFUND)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("decides", "known", "model", "said"),
    [
        ("auto", None, "m", "not known yet"),
        ("auto", VLLM, "m", "natively if it can, else answers as JSON"),
        ("auto", VLLM, "smollm2-135m", "natively if it can, else label log-probabilities"),
        ("auto", UNKNOWN, "smollm2-135m", "natively if it can, else answers as JSON"),
        ("text", VLLM, "m", "answers as JSON"),
        ("labels", None, "m", "label log-probabilities"),
        ("decisions", OLLAMA, "m", "by /v1/decisions"),
    ],
)
def test_what_is_said_of_a_server_is_no_more_than_is_known(
    decides: Decides, known: Dialect | None, model: str, said: str
) -> None:
    assert describe_way(decides, known, model) == said


async def test_a_run_waits_for_another_that_finds_the_backend_no_longer_than_it_has_time() -> None:
    lock = Lock()
    async with lock.hold(None):
        with pytest.raises(DeadlineExceeded):
            async with lock.hold(0.05):
                raise AssertionError("it is held already")
    async with lock.hold(0.05):
        pass
