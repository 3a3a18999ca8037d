"""A graph is run by its name: JSON in, output, usage and the id of its trace out."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel

from moa import Choice, Decider, Graph, Result, RunContext, choice
from moa.core.errors import EndpointUnavailable
from moa.core.usage import Price
from moa.serving.keys import ANYONE
from moa.testing import SimulatedEndpoint

from .harness import Ledger, SomeKeys, client_of, greeter, server_with


class Order(BaseModel):
    item: str
    count: int


class Total(BaseModel):
    euros: float


def priced() -> Any:
    def price(order: Order) -> Total:
        return Total(euros=2.5 * order.count)

    g = Graph("priced", Order)
    return g.build(g.add(price, g.input))


def events_in(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Read server-sent events: their names and what they hold."""
    found: list[tuple[str, dict[str, Any]]] = []
    for block in text.replace("\r\n", "\n").strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_a_text_is_a_json_string_and_the_answer_has_output_usage_and_trace() -> None:
    _, app = server_with(greeter("Hello!", price=Price(input=Decimal(1), output=Decimal(2))))
    async with client_of(app) as client:
        answer = await client.post("/run/greeter", json="Hi")
    said = answer.json()
    assert answer.status_code == 200
    assert said["output"] == {"text": "Hello!"}
    assert said["usage"]["calls"] == 1
    assert said["usage"]["cost"] == 0.00002
    assert answer.headers["x-moa-trace"] == said["trace"]
    assert answer.headers["x-moa-cost"] == "0.00002"
    assert answer.headers["x-moa-decided-by"] == "scripted"


async def test_a_typed_input_is_json_by_its_schema_and_a_misfit_names_the_field() -> None:
    _, app = server_with(priced())
    async with client_of(app) as client:
        schema = (await client.get("/schema/priced")).json()
        fits = await client.post("/run/priced", json={"item": "pen", "count": 4})
        misfit = await client.post("/run/priced", json={"item": "pen", "count": "many"})
    assert {*schema["input"]["properties"]} == {"item", "count"}
    assert schema["output"]["properties"]["euros"]["type"] == "number"
    assert fits.json()["output"] == {"euros": 10.0}
    assert misfit.status_code == 400
    assert "count" in misfit.json()["error"]["message"]


async def test_events_and_text_come_as_they_happen_and_then_the_result() -> None:
    g = Graph("twice", str)
    greeting = g.add(greeter("Good morning"), g.input)
    graph = g.build(g.add(str.upper, greeting.map(str)))
    _, app = server_with(graph)
    async with client_of(app) as client:
        answer = await client.post("/run/twice", json="Hi", headers={"accept": "text/event-stream"})
    events = events_in(answer.text)
    names = [name for name, _ in events]
    assert names[0] == "node_started"
    assert "".join(said["text"] for name, said in events if name == "text") == "Good morning"
    assert names[-1] == "result"
    assert events[-1][1]["output"] == "GOOD MORNING"
    assert events[-1][1]["trace"] == answer.headers["x-moa-trace"]


async def test_a_run_that_fails_in_a_stream_says_so_as_the_last_event() -> None:
    down = EndpointUnavailable("connection refused by 10.0.0.7", endpoint="large")
    _, app = server_with(greeter(down))
    async with client_of(app) as client:
        answer = await client.post(
            "/run/greeter", json="Hi", headers={"accept": "text/event-stream"}
        )
    [(name, said)] = events_in(answer.text)
    assert name == "error"
    assert said["error"]["code"] == "unavailable"
    assert "10.0.0.7" not in answer.text


class Mood(BaseModel):
    mood: Choice[Literal["glad", "sad"]] = choice("What does the writer feel?")


async def test_headers_say_how_surely_it_was_decided() -> None:
    small = SimulatedEndpoint(name="small", rule=lambda _: {"mood": {"glad": 0.9}})
    _, app = server_with(Decider(small, Mood, name="mood"))
    async with client_of(app) as client:
        answer = await client.post("/run/mood", json="Lovely!")
    assert answer.headers["x-moa-decided-by"] == "small"
    assert answer.headers["x-moa-confidence"] == "0.9000"
    assert "x-moa-accepted" not in answer.headers  # nothing calibrated says so
    assert answer.json()["output"]["mood"]["label"] == "glad"


async def test_a_trace_is_had_by_its_id_for_a_while_by_whoever_ran_it() -> None:
    ann, bob = Ledger("ann"), Ledger("bob")
    _, app = server_with(greeter(), keys=SomeKeys(ann, bob), kept=2)
    async with client_of(app) as client:
        client.headers["authorization"] = "Bearer ann"
        ids = [(await client.post("/run/greeter", json="Hi")).json()["trace"] for _ in range(3)]
        kept = await client.get(f"/traces/{ids[2]}")
        gone = await client.get(f"/traces/{ids[0]}")
        client.headers["authorization"] = "Bearer bob"
        others = await client.get(f"/traces/{ids[2]}")
    assert kept.json()["trace"][0]["kind"] == "answered"
    assert kept.json()["usage"]["calls"] == 1
    assert gone.status_code == others.status_code == 404


async def test_a_caller_knows_only_what_it_may_run() -> None:
    ann = Ledger("ann", may=["greeter"])
    _, app = server_with(greeter(), greeter(name="secret"), keys=SomeKeys(ann))
    async with client_of(app, headers={"authorization": "Bearer ann"}) as client:
        hidden = await client.post("/run/secret", json="Hi")
        document = (await client.get("/openapi.json")).text
    assert hidden.status_code == 404
    assert "secret" not in hidden.text.replace("'secret'", "")
    assert "secret" not in document


class Broken:
    name = "broken"

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[float]:
        if request == "fail":
            raise ValueError("postgres://user:password@host")
        return Result(output=float("nan"))


async def test_what_a_users_code_raises_reaches_the_log_and_no_client() -> None:
    _, app = server_with(Broken())
    async with client_of(app) as client:
        failed = await client.post("/run/broken", json="fail")
    assert failed.status_code == 500
    assert "password" not in failed.text
    assert failed.headers["x-should-retry"] == "false"


async def test_a_number_that_is_none_is_null_in_json() -> None:
    _, app = server_with(Broken())
    async with client_of(app) as client:
        assert (await client.post("/run/broken", json="nan")).json()["output"] is None


async def test_threads_of_a_chat_belong_to_a_caller() -> None:
    from moa import Chat

    small = SimulatedEndpoint(rule=lambda _: {"small_talk": {"yes": 0.1}})
    seen: list[str] = []

    def reply(text: str, asked: Any) -> str:
        seen.append(str([one.content for one in asked.prompt.messages]))
        return "Noted."

    large = SimulatedEndpoint(rule=reply, tier="llm")
    chat = Chat(slm=small, llm=large, store=":memory:")
    _, app = server_with(chat, keys=SomeKeys(Ledger("ann"), Ledger("bob")))
    async with client_of(app) as client:
        for who, text in (("ann", "My pin is 4711."), ("bob", "What is my pin?")):
            answer = await client.post(
                "/run/chat",
                json={"text": text, "thread": "t"},
                headers={"authorization": f"Bearer {who}"},
            )
            assert answer.json()["output"]["thread"] == "t"
    assert "4711" not in seen[1]


async def test_a_kept_note_has_no_text_since_it_may_quote_a_model_s_server() -> None:
    class Retrying:
        name = "retrying"
        input_type = output_type = str

        async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
            assert context is not None
            context.note("retried", "after 0.3 s: HTTP 500: no db at 10.0.0.7", endpoint="large")
            return Result(output=request, usage=context.usage, trace=context.trace)

    _, app = server_with(Retrying())
    async with client_of(app) as client:
        id = (await client.post("/run/retrying", json="Hi")).headers["x-moa-trace"]
        kept = await client.get(f"/traces/{id}")
    (note,) = kept.json()["trace"]
    assert (note["kind"], note["endpoint"]) == ("retried", "large")
    assert "10.0.0.7" not in kept.text


async def test_what_is_kept_of_a_run_holds_neither_its_texts_nor_its_error() -> None:
    server, app = server_with(greeter("A secret.", EndpointUnavailable("down", endpoint="large")))
    async with client_of(app) as client:
        ids = [
            (await client.post("/run/greeter", json="Who?")).headers["x-moa-trace"]
            for _ in range(2)
        ]
        failed = (await client.get(f"/traces/{ids[1]}")).json()
    kept = [server.runs.trace(id, ANYONE).record for id in ids]
    assert not any(text in record for text in (b"Who?", b"A secret.", b"down") for record in kept)
    assert (failed["status"], failed["error"]) == ("failed", "EndpointUnavailable")
