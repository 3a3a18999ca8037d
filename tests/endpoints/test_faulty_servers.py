"""What a user sees when a server fails: the right class, and a sentence that helps."""

from __future__ import annotations

import asyncio
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import SecretStr
from tenacity import stop_after_attempt, wait_none

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    EndpointError,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnauthorized,
    EndpointUnavailable,
    EndpointUnsupported,
    InvalidResponse,
    MoaError,
    OutputError,
    may_be_billed,
)
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.transport import map_error

from .conftest import (
    LOST,
    REFUSED,
    Answer,
    Ask,
    Asked,
    Served,
    both_ways,
    chat,
    events,
    piece,
    streamed,
)

KEY = "sk-very-secret"
PROMPT = Prompt.of("Hello?", max_tokens=32)
HTML = Answer(text="<html><body>It works!</body></html>")
UNREADABLE = Answer(headers={"content-type": "text/plain; charset=idna"}, text="ÿ.x")
"""No codec of Python reads it."""


@pytest.fixture
def endpoint() -> OpenAIEndpoint:
    return OpenAIEndpoint(
        "writer", model="m", base_url="http://model.test/v1", api_key=SecretStr(KEY)
    )


async def hang(request: Asked) -> Answer:
    del request
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


FAULTS = pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        pytest.param(REFUSED, EndpointUnavailable, "cannot reach", id="off"),
        pytest.param(Answer(stuck=True), EndpointTimeout, "0.05 s", id="hangs"),
        pytest.param(Answer(text="garbage"), InvalidResponse, "no JSON", id="text"),
        pytest.param(HTML, InvalidResponse, "base_url", id="html"),
        pytest.param(Answer(text='{"choi'), InvalidResponse, "no JSON", id="half"),
        pytest.param(UNREADABLE, InvalidResponse, "no JSON", id="coding"),
        pytest.param(Answer(text="[1]"), InvalidResponse, "no JSON", id="list"),
        pytest.param(Answer(text="[" * 9999), InvalidResponse, "no JSON", id="deep"),
        pytest.param(
            Answer(json={"error": {"message": "out of memory"}}),
            EndpointUnavailable,
            "an error: out of memory",
            id="error-200",
        ),
        pytest.param(
            Answer(500, text="\x1b]52;c;ZXZpbA==\x07it broke"),
            EndpointUnavailable,
            ": ]52;c;ZXZpbA==it broke",
            id="500-steering",
        ),
        pytest.param(Answer(401), EndpointUnauthorized, "key", id="401"),
        pytest.param(Answer(403), EndpointUnauthorized, "key", id="403"),
        pytest.param(
            Answer(404, json={"detail": "Not Found"}),
            EndpointUnsupported,
            "/v1/chat/completions",
            id="404-route",
        ),
        pytest.param(Answer(429), EndpointUnavailable, "concurrency", id="429"),
        pytest.param(Answer(500, text="oops"), EndpointUnavailable, "oops", id="500"),
        pytest.param(Answer(500, text="[" * 9999), EndpointUnavailable, "[[[", id="500-deep"),
        pytest.param(Answer(501), EndpointUnsupported, "cannot do", id="501"),
        pytest.param(
            Answer(422, json={"detail": [{"loc": ["body", "n"], "msg": "is no number"}]}),
            EndpointRejected,
            "body.n: is no number",
            id="422",
        ),
    ],
)


@both_ways
@FAULTS
async def test_a_fault_is_named(
    served: Served,
    endpoint: OpenAIEndpoint,
    ask: Ask,
    answer: Answer,
    kind: type[EndpointError],
    words: str,
) -> None:
    served.will(answer)
    if answer.stuck:
        endpoint.client.timeout_s = 0.05
    context = RunContext()
    with pytest.raises(EndpointError) as caught:
        await ask(endpoint, PROMPT, context)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert str(caught.value).startswith("writer: ")
    assert context.usage.calls == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(json={"choices": []}), InvalidResponse),
        (Answer(json={}), InvalidResponse),
        (chat(None), InvalidResponse),
        (chat(""), InvalidResponse),
        (chat(None, finish_reason="length"), OutputError),
        (chat("<think>hm", finish_reason="length"), OutputError),
        (chat(None, reasoning_content="hm", finish_reason="length"), OutputError),
        (chat(None, refusal="I can't help with that"), OutputError),
        (chat(None, finish_reason="content_filter"), OutputError),
        (chat("Mix one part", finish_reason="content_filter"), OutputError),
    ],
)
async def test_what_is_no_answer_is_an_error_that_says_why(
    served: Served, endpoint: OpenAIEndpoint, answer: Answer, kind: type[MoaError]
) -> None:
    served.will(answer)
    with pytest.raises(kind):
        await endpoint.complete(PROMPT, RunContext())


@pytest.mark.parametrize(
    ("header", "value", "least", "most"),
    [
        ("retry-after", format_datetime(datetime.now(UTC) + timedelta(hours=1)), 1800, 3600),
        ("retry-after", format_datetime(datetime.now(UTC) - timedelta(hours=1)), 0, 0),
        ("retry-after", "Fri, 31 Dec 9999 23:59:59 -1200", 2e11, 3e11),
    ],
    ids=["in an hour", "an hour ago", "at the end of time"],
)
async def test_a_server_says_when_to_come_back(
    served: Served, endpoint: OpenAIEndpoint, header: str, value: str, least: float, most: float
) -> None:
    served.will(Answer(429, headers={header: value}))
    with pytest.raises(EndpointUnavailable) as caught:
        await endpoint.complete(PROMPT, RunContext())
    assert caught.value.retry_after_s is not None
    assert least <= caught.value.retry_after_s <= most


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("retry-after", "soon"),
        ("retry-after", "1e999"),
        ("retry-after", "nan"),
        ("retry-after", f"Mon, 01 Jan 2024 00:00:00 +{'9' * 20}"),
        ("retry-after-ms", "9" * 400),
        ("retry-after-ms", "9" * 5000),
        ("x-ratelimit-reset-tokens", f"{'9' * 400}s"),
    ],
)
async def test_an_unreadable_time_to_come_back_is_none(
    served: Served, endpoint: OpenAIEndpoint, header: str, value: str
) -> None:
    headers = {header: value, "x-ratelimit-remaining-tokens": "0"}
    served.will(Answer(429, headers=headers))
    with pytest.raises(EndpointUnavailable) as caught:
        await endpoint.complete(PROMPT, RunContext())
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('{"detail": [{"loc": 5, "msg": "is no number"}]}', "5: is no number"),
        ('{"detail": [{"loc": "body", "msg": "is no number"}]}', "body: is no number"),
        ('{"error": ' * 5000 + '"deep"' + "}" * 5000, "error"),
        ('{"error": ' * 500 + '"deep"' + "}" * 500, "error"),
        ("[" * 500 + "]" * 500, "["),
        ('{"error": "' + "[" * 9000 + '"}', "["),
    ],
)
async def test_an_explanation_of_any_shape_is_one_sentence(
    served: Served, endpoint: OpenAIEndpoint, said: str, shown: str
) -> None:
    served.will(Answer(422, text=said))
    with pytest.raises(EndpointRejected) as caught:
        await endpoint.complete(PROMPT, RunContext())
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(401, json={"error": {"message": f"No: {KEY}"}}), id="401"),
        pytest.param(Answer(500, text=f"{'.' * 295}{KEY}"), id="cut in the middle"),
        pytest.param(Answer(text=f"<p>You sent {KEY}"), id="html"),
        pytest.param(Answer(text=f"{'.' * 75}{KEY}"), id="cut short"),
        pytest.param(Answer(307, headers={"location": f"https://other.test/?key={KEY}"}), id="307"),
        pytest.param(
            Answer(text=chat(None, refusal=KEY).text.replace("sk", r"\u0073k")), id="escaped"
        ),
        pytest.param(chat(None, finish_reason=KEY), id="finish reason"),
        pytest.param(events({"error": {"message": f"No: {KEY}"}}), id="in a stream"),
        pytest.param(events(piece(refusal=KEY, finish_reason="stop")), id="streamed refusal"),
    ],
)
async def test_an_error_never_holds_the_key(
    served: Served, endpoint: OpenAIEndpoint, answer: Answer
) -> None:
    served.will(answer)
    context = RunContext()
    with pytest.raises(MoaError) as caught:
        await streamed(endpoint, PROMPT, context)
    served.will(answer)
    with pytest.raises(MoaError) as whole:
        await endpoint.complete(PROMPT, context)
    assert "***" in f"{caught.value}{whole.value}"
    for error in (caught.value, whole.value):
        assert KEY[:8] not in repr(error) + "".join(traceback.format_exception(error))
    assert KEY not in repr(context.trace)
    assert served.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_model_that_is_named_like_the_key_stands_in_no_trace(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    answer = chat()
    served.will(Answer(text=answer.text.replace("served-1", KEY)))
    context = RunContext()
    assert (await endpoint.complete(PROMPT, context)).model == "***"
    assert KEY not in repr(context.trace)


async def test_a_key_that_is_a_word_leaves_answers_as_they_are(served: Served) -> None:
    endpoint = OpenAIEndpoint(
        "writer", model="m", base_url="http://model.test/v1", api_key=SecretStr("anything")
    )
    served.will(chat("Ask me anything"))
    assert (await endpoint.complete(PROMPT, RunContext())).text == "Ask me anything"


@both_ways
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_neither_prompt_nor_key_follow_a_redirect(
    served: Served, endpoint: OpenAIEndpoint, ask: Ask, status: int
) -> None:
    moved = Answer(status, headers={"location": "https://other.test/v1/chat/completions"})
    served.will(moved, chat())
    with pytest.raises(EndpointRejected, match=r"other\.test"):
        await ask(endpoint, PROMPT, RunContext())
    assert [request.host for request in served.requests] == ["model.test"]


async def test_a_message_never_holds_a_key_of_the_environment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    served.will(Answer(401, json={"error": {"message": f"Incorrect key: {KEY}"}}))
    hosted = OpenAIEndpoint("writer", model="m")
    with pytest.raises(EndpointUnauthorized) as caught:
        await hosted.complete(PROMPT, RunContext())
    assert served.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)
    monkeypatch.delenv("OPENAI_API_KEY")


async def test_the_deadline_of_the_run_is_not_a_timeout_of_the_endpoint(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(hang)
    with pytest.raises(DeadlineExceeded):
        await endpoint.complete(PROMPT, RunContext(timeout_s=0.1))


@both_ways
async def test_a_call_that_never_got_a_slot_is_no_call(served: Served, ask: Ask) -> None:
    endpoint = OpenAIEndpoint("writer", model="m", base_url="http://m.test/v1", concurrency=1)
    reached = asyncio.Event()

    async def busy(request: Asked) -> Answer:
        reached.set()
        return await hang(request)

    served.will(busy)
    context = RunContext()
    waiting = context.nested("waiting", timeout_s=0.2)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(endpoint.complete(PROMPT, RunContext()))
        await reached.wait()
        with pytest.raises(DeadlineExceeded):
            await ask(endpoint, PROMPT, waiting)
        first.cancel()
    assert (context.usage.calls, context.usage.cost) == (0, 0)


async def test_a_stream_that_stops_before_its_end_is_an_error(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(events(piece("Good "), piece("morn"), done=False))
    context = RunContext()
    pieces = endpoint.stream(PROMPT, context)
    assert [await anext(pieces), await anext(pieces)] == ["Good ", "morn"]
    with pytest.raises(InvalidResponse):
        await anext(pieces)
    assert context.usage.output_tokens == PROMPT.max_tokens


@pytest.mark.parametrize("event", ['{"choices": [', "[" * 99_999], ids=["half", "deep"])
async def test_what_is_no_json_inside_a_stream_is_garbled(
    served: Served, endpoint: OpenAIEndpoint, event: str
) -> None:
    served.will(events(piece("Good "), event, done=False))
    with pytest.raises(InvalidResponse, match="no JSON"):
        await streamed(endpoint, PROMPT, RunContext())


async def test_a_stream_that_the_content_filter_stopped_is_a_refusal(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(events(piece("Mix one part"), piece(finish_reason="content_filter")))
    context = RunContext()
    with pytest.raises(OutputError, match="content filter") as caught:
        await streamed(endpoint, PROMPT, context)
    assert caught.value.text == "Mix one part"
    assert "refused" in [note.kind for note in context.trace]


async def test_a_stream_that_hangs_in_the_middle_times_out(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(events(piece("Good"), done=False, stuck=True))
    endpoint.client.timeout_s = 0.05
    with pytest.raises(EndpointTimeout, match=r"0\.05 s"):
        await streamed(endpoint, PROMPT, RunContext())


@pytest.mark.parametrize("answer", [Answer(400), Answer(500), Answer(502), Answer(503), REFUSED])
async def test_what_the_server_refused_or_never_saw_costs_nothing(
    served: Served, endpoint: OpenAIEndpoint, answer: Answer
) -> None:
    served.will(answer)
    context = RunContext()
    with pytest.raises((EndpointRejected, EndpointUnavailable)):
        await endpoint.complete(PROMPT, context)
    assert (context.usage.calls, context.usage.total.tokens, context.usage.cost) == (1, 0, 0)


@both_ways
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(stuck=True), id="timeout"),
        pytest.param(LOST, id="lost"),
        pytest.param(Answer(504), id="a gateway's timeout"),
        pytest.param(Answer(524), id="another gateway's timeout"),
        pytest.param(Answer(text='{"choi'), id="half"),
        pytest.param(events(piece("Good "), {"error": {"message": "failed"}}), id="broken-off"),
    ],
)
async def test_what_may_have_been_answered_is_charged_as_estimated(
    served: Served, endpoint: OpenAIEndpoint, answer: Answer, ask: Ask
) -> None:
    served.will(answer)
    if answer.stuck:
        endpoint.client.timeout_s = 0.05
    context = RunContext()
    with pytest.raises(EndpointError):
        await ask(endpoint, PROMPT, context)
    assert context.usage.output_tokens == PROMPT.max_tokens


async def test_each_try_that_a_gateway_gave_up_is_charged_as_estimated(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(Answer(504), Answer(503), Answer(504), chat("Hello"))
    context = RunContext()
    await Retried(endpoint, stop=stop_after_attempt(4), wait=wait_none()).complete(PROMPT, context)
    assert context.usage.calls == 4
    assert context.usage.output_tokens == 2 * PROMPT.max_tokens + 4


async def test_a_gateway_that_always_gives_up_stops_at_the_limit(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(Answer(504))
    context = RunContext(budget=Budget(tokens=200))
    with pytest.raises(BudgetExceeded):
        await Retried(endpoint, stop=stop_after_attempt(9), wait=wait_none()).complete(
            PROMPT, context
        )
    assert len(served.requests) == context.usage.calls < 9


class ReadError(Exception):
    """As httpx names it."""


class APIConnectionError(Exception):
    """As the clients of vendors name what they couldn't send or read."""


@pytest.mark.parametrize(
    ("cause", "billed"),
    [(ReadError(), True), (ConnectionResetError(), True), (ConnectionRefusedError(), False)],
)
def test_what_another_client_lost_after_it_had_asked_may_be_billed(
    cause: Exception, *, billed: bool
) -> None:
    raised = APIConnectionError("Connection error.")
    raised.__cause__ = cause
    error = map_error(raised, endpoint="e", model="m", who="e")
    assert isinstance(error, EndpointUnavailable)
    assert may_be_billed(error) == billed
