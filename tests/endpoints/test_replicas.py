"""Several servers of one model: balance, deaths and returns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_none

from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    EndpointError,
    EndpointRejected,
    EndpointUnavailable,
)
from moa.core.questions import Option, Question
from moa.endpoints import Completion, Endpoint, Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Wrapping
from moa.testing import ScriptedEndpoint, SimulatedEndpoint
from moa.vllm.replicas import Replicas

from .conftest import REFUSED, Answer, Served, chat
from .servers import server as real_server

PROMPT = Prompt.of("Hello?")
SPAM = Question("spam", "predicate", "Spam?", (Option("yes", True), Option("no", False)))
MOOD = Question("mood", "choice", "Mood?", (Option("good", 1), Option("bad", 2)))


def down(status: int | None = None, retry_after_s: float | None = None) -> EndpointUnavailable:
    return EndpointUnavailable(
        "refused", endpoint="a server", status=status, retry_after_s=retry_after_s
    )


@dataclass
class Clock:
    """Goes on when it is told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Server(Wrapping):
    """Dies and returns when it is told to, also while it works."""

    def __init__(self, name: str) -> None:
        super().__init__(SimulatedEndpoint(name=name, rule=_echo))
        self.up = True
        self.immortal = False
        self.lives = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.inside = 0
        self.answered: list[str] = []
        self.pieces_before_death: int | None = None

    def kill(self) -> None:
        self.up = False
        self.lives += 1

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        lives = self.lives
        self.inside += 1
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if not self.up or lives != self.lives:
                raise down()
            self.answered.append(prompt.messages[-1].content)
            return await super().complete(prompt, context)
        finally:
            self.inside -= 1

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        if not self.up or self.pieces_before_death == 0:
            raise down()
        count = 0
        async for piece in super().stream(prompt, context):
            if count == self.pieces_before_death:
                raise down()
            count += 1
            yield piece


def _echo(text: str) -> str | dict[str, dict[str, float]]:
    return {} if text == "state" else f"{text} indeed"


@dataclass
class Fleet:
    """Some servers, and the replicas over them."""

    count: int = 3
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.servers = [Server(f"m#{i}") for i in range(self.count)]
        self.probed: list[str] = []
        self.all = Replicas("m", self.servers, probe=self.probe, clock=self.clock)

    async def probe(self, endpoint: Endpoint, context: RunContext) -> None:
        del context
        assert isinstance(endpoint, Server)
        self.probed.append(endpoint.name)
        if not endpoint.up:
            raise down()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def kinds(context: RunContext) -> list[tuple[str, str | None]]:
    return [(note.kind, note.endpoint) for note in context.trace]


async def test_idle_replicas_take_turns() -> None:
    fleet = Fleet()
    for _ in range(6):
        await fleet.all.complete(PROMPT, RunContext())
    assert [len(server.answered) for server in fleet.servers] == [2, 2, 2]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["send", "end"]), st.integers(0, 3)), max_size=60),
)
def test_a_request_goes_to_one_of_the_least_busy(
    count: int, actions: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        fleet = Fleet(count=count)
        gates: list[asyncio.Event] = []
        busy: Counter[str] = Counter()

        class Counting(Wrapping):
            async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
                assert busy[self.name] == min(busy[server.name] for server in fleet.servers)
                busy[self.name] += 1
                gate = asyncio.Event()
                gates.append(gate)
                await gate.wait()
                busy[self.name] -= 1
                return await super().complete(prompt, context)

        balanced = Replicas("m", [Counting(server) for server in fleet.servers])
        async with asyncio.TaskGroup() as group:
            for action, which in actions:
                if action == "send":
                    prompt = Prompt.of("Hello?", system=f"agent {which}" if which else None)
                    group.create_task(balanced.complete(prompt, RunContext()))
                elif gates:
                    gates.pop(which % len(gates)).set()
                await settle()
            for gate in gates:
                gate.set()

    asyncio.run(run())


@pytest.mark.parametrize("status", [None, 502, 503])
async def test_the_request_of_a_dead_replica_goes_to_another_at_once(status: int | None) -> None:
    first = ScriptedEndpoint(name="a", steps=[down(status)])
    second = ScriptedEndpoint(name="b", steps=["hello", "again"])
    endpoint = Replicas("m", [second, first])  # turns begin with the second
    context = RunContext()
    assert (await endpoint.complete(PROMPT, context)).text == "hello"
    assert kinds(context) == [("fell back", "a"), ("answered", "b")]
    assert endpoint.alive == ("b",)
    assert (await endpoint.complete(PROMPT, context)).text == "again"


@pytest.mark.parametrize(
    "error",
    [
        EndpointRejected("HTTP 400", endpoint="a", status=400),
        EndpointUnavailable("HTTP 429", endpoint="a", status=429),
        EndpointUnavailable("HTTP 500", endpoint="a", status=500),
        BudgetExceeded("calls=1 of 0", spent=RunContext().usage),
    ],
)
async def test_an_error_that_is_no_death_is_raised(error: Exception) -> None:
    endpoint = Replicas("m", [ScriptedEndpoint(steps=[error])])
    with pytest.raises(type(error)):
        await endpoint.complete(PROMPT, RunContext())
    assert endpoint.alive == ("scripted",)


async def test_a_stream_that_has_begun_fails_and_is_not_begun_again() -> None:
    fleet = Fleet()
    for server in fleet.servers:
        server.pieces_before_death = 1
    pieces = fleet.all.stream(PROMPT, RunContext())
    assert await anext(pieces) == "Hello?"
    with pytest.raises(EndpointUnavailable):
        await anext(pieces)
    assert len(fleet.all.alive) == 2


async def test_a_stream_that_has_not_begun_goes_to_another() -> None:
    fleet = Fleet()
    fleet.servers[1].pieces_before_death = 0
    context = RunContext()
    *pieces, whole = [piece async for piece in fleet.all.stream(PROMPT, context)]
    assert pieces == ["Hello?", " indeed"]
    assert isinstance(whole, Completion)
    assert kinds(context)[0] == ("fell back", "m#1")


async def test_a_stream_that_is_left_is_no_longer_outstanding() -> None:
    fleet = Fleet(count=2)
    stream = fleet.all.stream(PROMPT, RunContext())
    await anext(stream)
    await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    for _ in range(4):
        await fleet.all.complete(PROMPT, RunContext())
    assert [len(server.answered) for server in fleet.servers] == [2, 2]


async def test_where_all_are_dead_each_reason_is_named_until_one_returns() -> None:
    fleet = Fleet(count=2)
    for server in fleet.servers:
        server.kill()
    for _ in range(2):
        with pytest.raises(EndpointUnavailable, match="m:"):
            await fleet.all.complete(PROMPT, RunContext())
    assert fleet.all.alive == ()
    fleet.servers[1].up = True
    assert (await fleet.all.complete(PROMPT, RunContext())).endpoint == "m#1"


async def test_each_replica_is_tried_once_a_request_though_it_answers_probes() -> None:
    pair = [ScriptedEndpoint(name=name, steps=[down(503)] * 9) for name in "ab"]
    context = RunContext()
    with pytest.raises(EndpointUnavailable):
        await Replicas("m", pair).complete(PROMPT, context)
    assert context.usage.calls == 2


async def test_a_dead_replica_is_probed_after_waits_that_double() -> None:
    fleet = Fleet(count=2)
    fleet.servers[1].kill()
    for _ in range(600):
        await fleet.all.complete(PROMPT, RunContext())
        fleet.clock.now += 0.25
    # After 0.5, 1, 2, 4, 8, 16, 30, 30 and 30 s, of 150.
    assert fleet.probed == ["m#1"] * 9


async def test_a_replica_is_let_in_again_when_a_probe_is_answered() -> None:
    fleet = Fleet(count=2)
    fleet.servers[1].kill()
    await fleet.all.complete(PROMPT, RunContext())
    fleet.servers[1].up = True
    assert fleet.all.alive == ("m#0",)
    fleet.clock.now += 1
    for _ in range(4):
        await fleet.all.complete(PROMPT, RunContext())
    assert fleet.all.alive == ("m#0", "m#1")
    assert len(fleet.servers[1].answered) == 2


async def test_a_server_that_says_when_to_come_back_is_probed_no_sooner() -> None:
    clock, probed = Clock(), list[str]()

    async def probe(endpoint: Endpoint, context: RunContext) -> None:
        del context
        probed.append(endpoint.name)

    first = ScriptedEndpoint(name="a", steps=[down(503, retry_after_s=9), "hello"])
    second = SimulatedEndpoint(name="b", model="scripted-1")
    endpoint = Replicas("m", [second, first], probe=probe, clock=clock)
    for wait_s, expected in ((0, []), (8, []), (1.5, ["a"])):
        clock.now += wait_s
        await endpoint.complete(PROMPT, RunContext())
        assert probed == expected


ACTIONS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 6)),
    st.tuples(st.just("kill"), st.integers(1, 4)),
    st.tuples(st.just("return"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.integers(0, 40)),
    st.tuples(st.just("run"), st.integers(1, 4)),
)


Answered = Completion | EndpointError


async def happened(fleet: Fleet, actions: list[tuple[str, int]]) -> dict[str, Answered]:
    """Let servers die and return under requests; give what came of each request."""
    results: dict[str, Answered] = {}

    async def ask(text: str, system: str) -> None:
        try:
            prompt = Prompt.of(text, system=system)
            results[text] = await fleet.all.complete(prompt, RunContext())
        except EndpointError as error:
            results[text] = error

    sent = 0
    async with asyncio.TaskGroup() as group:
        for action, number in actions:
            server = fleet.servers[number % fleet.count]
            match action:
                case "send":
                    for _ in range(number):
                        sent += 1
                        group.create_task(ask(f"request {sent}", f"agent {sent % 3}"))
                case "kill" if not server.immortal:
                    server.kill()
                case "return":
                    server.up = True
                case "wait":
                    fleet.clock.now += number
                case _:
                    for _ in range(number):
                        await asyncio.sleep(0)
    assert len(results) == sent
    return results


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 5), st.lists(ACTIONS, max_size=40))
def test_no_request_is_lost_or_answered_twice_whoever_dies(
    count: int, actions: list[tuple[str, int]]
) -> None:
    """As long as one replica lives, every request is answered, and exactly once."""
    fleet = Fleet(count=count)
    fleet.servers[0].immortal = True
    results = asyncio.run(happened(fleet, actions))
    answered = Counter(text for server in fleet.servers for text in server.answered)
    assert answered == Counter(results.keys())
    for text, result in results.items():
        assert isinstance(result, Completion)
        assert result.text == f"{text} indeed"


@settings(max_examples=100, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_where_all_may_die_a_request_is_answered_once_or_fails_clearly(
    actions: list[tuple[str, int]],
) -> None:
    fleet = Fleet()
    results = asyncio.run(happened(fleet, actions))
    answered = Counter(text for server in fleet.servers for text in server.answered)
    for text, result in results.items():
        assert answered[text] == isinstance(result, Completion)
        assert isinstance(result, Completion) or "none of its 3 replicas" in str(result)


async def test_retries_around_replicas_outlast_a_restart_of_all() -> None:
    fleet = Fleet(count=2)
    for server in fleet.servers:
        server.kill()
    restarting = fleet.servers[0]

    class Restart(Wrapping):
        tries = 0

        async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
            Restart.tries += 1
            restarting.up = Restart.tries == 3
            return await super().complete(prompt, context)

    endpoint = Retried(Restart(fleet.all), wait=wait_none())
    assert (await endpoint.complete(PROMPT, RunContext())).endpoint == "m#0"


async def test_a_real_server_is_probed_for_its_models(served: Served) -> None:
    clock = Clock()
    models = Answer(json={"data": []})
    served.will(REFUSED, chat("from b"), models, chat(), chat())
    pair = [
        OpenAIEndpoint(name, model="m", base_url=f"http://{name}.test/v1") for name in ("b", "a")
    ]
    endpoint = Replicas("m", pair, clock=clock)
    assert (await endpoint.complete(PROMPT, RunContext())).endpoint == "b"
    clock.now += 1
    await endpoint.complete(PROMPT, RunContext())
    hosts = [(request.host, request.path) for request in served.requests]
    assert hosts[:2] == [("b.test", "/v1/chat/completions"), ("a.test", "/v1/models")]
    assert endpoint.alive == ("b", "a")


async def test_no_decision_is_lost_where_a_real_server_is_killed_under_load() -> None:
    with real_server("jevcompat.cli", "mock") as kept, ExitStack() as killed:
        urls = (kept, killed.enter_context(real_server("jevcompat.cli", "mock")))
        pair = [
            OpenAIEndpoint(name, model="jev-latest", base_url=url, decides="systemone")
            for name, url in zip("ab", urls, strict=True)
        ]
        async with Replicas("m", pair) as endpoint:

            async def ask(number: int) -> str:
                return (await endpoint.decide(f"text {number}", [SPAM], RunContext())).endpoint

            answered: list[str] = []
            for done in asyncio.as_completed([ask(number) for number in range(32)]):
                answered.append(await done)
                if answered[-1] == "b":
                    killed.close()  # the first time, with most of its requests in flight
            answered += await asyncio.gather(*(ask(number) for number in range(32)))
            assert len(answered) == 64
            assert "b" in answered
            assert endpoint.alive == ("a",)


def run_of(owner: str) -> RunContext:
    context = RunContext()
    context.owner = owner
    return context


class Gateway(SimulatedEndpoint):
    """Answers 502 to poison, and to all while it is away."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, rule=_echo)
        self.away = False
        self.asked: list[str] = []

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        text = prompt.messages[-1].content
        self.asked.append(text)
        if self.away or text == "poison":
            raise EndpointUnavailable("bad gateway", endpoint=self.name, status=502, begun=True)
        return await super().complete(prompt, context)


async def _no_list(endpoint: Endpoint, context: RunContext) -> None:
    """A list of models that is never answered."""
    del context
    raise EndpointUnavailable("no list", endpoint=endpoint.name, status=502)


async def test_one_owners_poison_takes_no_replica_out_for_others() -> None:
    pair = [Gateway("a"), Gateway("b")]
    endpoint = Replicas("m", pair, probe=_no_list, clock=Clock())
    for _ in range(3):
        with pytest.raises(EndpointUnavailable, match="bad gateway"):
            await endpoint.complete(Prompt.of("poison"), run_of("mallory"))
    assert endpoint.alive == ("a", "b")
    await endpoint.complete(PROMPT, run_of("alice"))


async def test_poison_is_told_as_the_requests_own_failure_where_the_others_are_out() -> None:
    pair = [Gateway("a"), Gateway("b")]
    pair[1].away = True
    endpoint = Replicas("m", pair, probe=_no_list, clock=Clock())
    for owner in ("alice", "bob", "alice"):
        await endpoint.complete(PROMPT, run_of(owner))
    with pytest.raises(EndpointUnavailable) as failed:
        await endpoint.complete(Prompt.of("poison"), run_of("mallory"))
    assert failed.value.status == 502
    assert failed.value.begun


async def test_a_replica_that_fails_a_neutral_probe_is_out_until_it_answers_one() -> None:
    clock, pair = Clock(), [Gateway("a"), Gateway("b")]
    pair[1].away = True
    endpoint = Replicas("m", pair, probe=_no_list, clock=clock)
    for _ in range(3):
        await endpoint.complete(PROMPT, run_of("alice"))
    assert endpoint.alive == ("a",)
    assert pair[1].asked == ["Hello?", "Hi"]
    pair[1].away = False
    clock.now += 1
    await endpoint.complete(PROMPT, run_of("alice"))
    assert endpoint.alive == ("a", "b")


async def test_failures_of_two_owners_take_a_replica_out() -> None:
    one = Gateway("a")
    endpoint = Replicas("m", [one], clock=Clock())
    one.away = True
    for owner in ("alice", "bob"):
        with pytest.raises(EndpointUnavailable):
            await endpoint.complete(PROMPT, run_of(owner))
    assert endpoint.alive == ()


async def test_a_list_that_is_refused_with_a_status_of_its_own_shows_a_server_there(
    served: Served,
) -> None:
    served.will(Answer(502), Answer(500), chat("back"))
    one = OpenAIEndpoint("a", model="m", base_url="http://a.test/v1")
    endpoint = Replicas("m", [one])
    with pytest.raises(EndpointUnavailable):
        await endpoint.complete(PROMPT, RunContext())
    assert (await endpoint.complete(PROMPT, RunContext())).text == "back"


def test_replicas_that_cannot_work_are_refused() -> None:
    one, other = ScriptedEndpoint(name="a"), ScriptedEndpoint(name="b", model="another")
    for wrong in ([], [one, one], [one, other], [one, ScriptedEndpoint(name="b", tier="llm")]):
        with pytest.raises(ConfigError, match="m: "):
            Replicas("m", wrong)


def test_replicas_can_do_what_all_of_them_can() -> None:
    narrow = ScriptedEndpoint(name="b", capabilities=frozenset(("complete", "embed")))
    assert Replicas("m", [ScriptedEndpoint(name="a"), narrow]).capabilities == {"complete", "embed"}


async def test_all_replicas_are_closed() -> None:
    pair = [ScriptedEndpoint(name="a"), ScriptedEndpoint(name="b")]
    async with Replicas("m", pair):
        pass
    assert all(one.closed for one in pair)
