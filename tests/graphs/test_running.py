"""How a graph runs: order, skipping, failure, time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any, cast

import pytest

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    EndpointRejected,
    InputError,
    NodeError,
    OutputError,
)
from moa.core.node import Result
from moa.core.questions import Choice
from moa.core.trace import NodeFinished, NodeSkipped, NodeStarted, TextDelta
from moa.graphs import BuiltGraph, Graph, Handle, Skipped
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from . import clock
from .nodes import Asker, Timed, alone, both, first_of


class Topic(Enum):
    CARD = "card"
    LOAN = "loan"


async def shout(text: str) -> str:
    return text.upper()


def wake(text: str) -> bool:
    return text.startswith("!")


async def choose(text: str) -> Choice[Topic | None]:
    found = [topic for topic in Topic if topic.value in text]
    return Choice[Topic | None](label=found[0] if found else None)


class Waits:
    """Waits until it is cancelled, and tells when it began and ended."""

    def __init__(self, name: str = "waits") -> None:
        self.name = name
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return Result(output=request)


def later(text: str):  # without a type: nobody can tell that it has to be waited for
    return shout(text)


@pytest.mark.parametrize("node", [shout, later, str.upper])
async def test_a_function_is_a_node(node: Any) -> None:
    assert (await alone(node).run("hi")).output == "HI"


async def test_a_request_of_another_type_is_refused() -> None:
    with pytest.raises(InputError, match="g:"):
        await alone(shout).run(cast("Any", 3))


async def test_plain_functions_and_lambdas_are_nodes() -> None:
    g = Graph("g", str)
    long = g.add(len, g.add(lambda text: text * 2, g.input, name="twice"))
    assert (await g.build(long).run("abc")).output == 6


@pytest.mark.parametrize(("text", "output"), [("!hi", "!HI"), ("hi", Skipped("its condition"))])
async def test_what_is_skipped_reaches_a_node_that_accepts_it(text: str, output: object) -> None:
    g = Graph("g", str)

    async def accept(value: str | Skipped) -> object:
        return value

    shouted = g.add(shout, g.input, when=g.input.map(wake))
    result = await g.build(g.add(accept, shouted)).run(text)
    assert result.output == output or isinstance(output, Skipped)
    assert isinstance(result.output, Skipped) == isinstance(output, Skipped)


async def test_skipping_is_passed_on_and_said() -> None:
    g = Graph("g", str)
    shouted = g.add(shout, g.input, when=g.input.map(wake))
    graph = g.build(g.add(shout, shouted, name="again", otherwise=g.input))
    result = await graph.run("quiet")
    assert result.output == "quiet"
    assert [(note.node, note.text) for note in result.trace] == [
        ("g/shout", "its condition, 'wake(input)', does not hold"),
        ("g/again", "'shout' was skipped"),
    ]


async def test_an_otherwise_runs_only_where_it_stands_in() -> None:
    ran: list[str] = []

    async def quiet(text: str) -> str:
        ran.append(text)
        return text

    g = Graph("g", str)
    reply = g.add(shout, g.input, when=g.input.map(wake), otherwise=g.add(quiet, g.input))
    graph = g.build(reply)
    loud, soft = await graph.run("!a"), await graph.run("b")
    assert (loud.output, soft.output, ran) == ("!A", "b", ["b"])
    assert loud.trace[0].text == "'shout' ran instead"


async def test_what_only_a_skipped_node_needs_does_not_run() -> None:
    ran: list[str] = []

    async def costly(text: str) -> str:
        ran.append(text)
        return text

    g = Graph("g", str)
    source = g.add(costly, g.input)
    graph = g.build(g.add(shout, source, when=g.input.map(wake), otherwise=g.input))
    result = await graph.run("quiet")
    assert ran == []
    assert result.trace[-1].node == "g/costly"
    assert "only 'shout' needs it" in result.trace[-1].text


@pytest.mark.parametrize(
    ("text", "ran"), [("card", {"card"}), ("loan", {"loan"}), ("rain", {"none"})]
)
async def test_a_match_runs_only_the_chosen_branch(text: str, ran: set[str]) -> None:
    seen: set[str] = set()

    def note(name: str) -> Callable[[str], str]:
        def called(text: str) -> str:
            seen.add(name)
            return name

        return called

    g = Graph("g", str)

    def branch(label: Topic | None) -> Handle[str]:
        match label:
            case Topic.CARD:
                return g.add(note("card"), g.input, name="card")
            case Topic.LOAN:
                return g.add(shout, g.add(note("loan"), g.input, name="loan"))
            case None:
                return g.add(note("none"), g.input, name="none")

    result = await g.build(g.match(g.add(choose, g.input), branch)).run(text)
    assert seen == ran
    assert all("'choose' did not choose" in note.text for note in result.trace)


async def test_what_only_stands_in_under_a_label_does_not_run_though_another_label_needs_it() -> (
    None
):
    ran: list[str] = []

    async def queue(text: str) -> str:
        ran.append(text)
        return text

    g = Graph("g", str)

    def branch(label: Topic | None) -> Handle[str]:
        waiting = g.add(queue, g.input)
        if label is Topic.CARD:
            return waiting
        return g.add(shout, g.input, when=g.input.map(str.islower), otherwise=waiting)

    graph = g.build(g.match(g.add(choose, g.input), branch))
    assert [(await graph.run(text)).output for text in ("loan", "card", "Loan")] == [
        "LOAN",
        "card",
        "Loan",
    ]
    assert ran == ["card", "Loan"]


def failing(error: BaseException) -> Any:
    async def fails(text: str) -> str:
        raise error

    return fails


async def times_out(text: str) -> str:
    raise TimeoutError("mine")


def breaks(text: str) -> str:
    raise ValueError("no vowels")


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (alone(failing(ValueError("no vowels"))), "fails: ValueError: no vowels"),
        (alone(times_out), "times_out: TimeoutError: mine"),
        (alone(breaks), "breaks: ValueError: no vowels"),
        (alone(breaks, thread=True), "breaks: ValueError: no vowels"),
        (both(breaks), "breaks: ValueError: no vowels"),
    ],
    ids=["asynchronous", "a timeout of its own", "quick", "in a thread", "joined"],
)
async def test_a_failing_function_is_named_and_its_error_chained(
    graph: BuiltGraph[str, Any], said: str
) -> None:
    with pytest.raises(NodeError, match=said) as caught:
        await graph.run("x", RunContext(timeout_s=60))
    assert isinstance(caught.value.__cause__, ValueError | TimeoutError)


def invalid(text: str) -> str:
    raise OutputError("not valid", node="n", text="?")


@pytest.mark.parametrize(
    ("node", "error"),
    [
        (failing(OutputError("not valid", node="n", text="?")), OutputError),
        (invalid, OutputError),
        (failing(asyncio.CancelledError()), asyncio.CancelledError),
    ],
)
async def test_errors_of_moa_and_what_cancels_pass_as_they_are(
    node: Any, error: type[BaseException]
) -> None:
    for graph in (alone(node), both(node, later)):
        with pytest.raises(error):
            await graph.run("x")


def test_an_interrupt_from_the_keyboard_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(alone(failing(KeyboardInterrupt())).run("x"))


@pytest.mark.parametrize("order", [1, -1], ids=["in a worker", "in the run's own task"])
@pytest.mark.parametrize("broken", [False, True])
async def test_a_failing_node_cancels_the_others_whatever_they_do_then(
    order: int, broken: bool
) -> None:
    waits = Waits()

    async def beside(text: str) -> str:
        try:
            return (await waits.run(text)).output
        except asyncio.CancelledError as error:
            raise ValueError("broken while it was cancelled") if broken else error from error

    async def fails(text: str) -> str:
        await waits.started.wait()
        raise ValueError("the first")

    with pytest.raises(NodeError, match="the first"):
        await both(*(beside, fails)[::order]).run("x")
    assert waits.cancelled.is_set()


async def test_cancelling_a_run_cancels_its_nodes() -> None:
    nodes = [Waits(name) for name in "ab"]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(both(*nodes).run("x"))
        await nodes[1].started.wait()
        running.cancel()
    assert running.cancelled()
    assert all(node.cancelled.is_set() for node in nodes)


async def test_the_deadline_holds_for_every_function() -> None:
    called = threading.Event()

    def blocks(text: str) -> str:
        called.wait(9)
        return text

    for graph, name in ((alone(Waits()), "waits"), (alone(blocks, thread=True), "blocks")):
        with pytest.raises(DeadlineExceeded, match=f"'{name}' had not finished"):
            await graph.run("x", RunContext(timeout_s=0.01))
    called.set()


async def test_functions_that_hang_hold_up_no_work_of_moa() -> None:
    end = threading.Event()

    def hangs(text: str) -> str:
        end.wait()
        return text

    graph = alone(hangs, thread=True)
    runs = [graph.run("x", RunContext(timeout_s=0.01)) for _ in range(20)]
    try:
        failures = await asyncio.gather(*runs, return_exceptions=True)
        async with asyncio.timeout(9):
            await asyncio.to_thread(str)
    finally:
        end.set()
    assert {type(one) for one in failures} == {DeadlineExceeded}


async def test_a_function_that_blocks_runs_beside_the_loop() -> None:
    called = threading.Event()

    def blocks(text: str) -> str:
        assert called.wait(9)
        return f"{text} {threading.current_thread() is threading.main_thread()}"

    async def calls(text: str) -> str:
        called.set()
        return text

    g = Graph("g", str)
    both = g.join(first_of, g.add(blocks, g.input, thread=True), g.add(calls, g.input))
    assert (await g.build(both).run("x")).output == "x False"


def test_an_eager_node_runs_beside_the_decision_that_it_waits_for() -> None:
    async def main(eager: bool) -> float:
        g = Graph("g", str)
        spam = g.add(Timed("spam", 1), g.input)
        mood = g.add(Timed("mood", 1), g.input, eager=eager)
        reply = g.add(Timed("reply", 1), mood, when=spam.map(bool), otherwise=g.input)
        await g.build(reply).run("x")
        return clock.now()

    assert (clock.run(main(False)), clock.run(main(True))) == (3, 2)


def spam_beside(mood: Any, *, kept: bool) -> BuiltGraph[str, str]:
    """A decision, and beside it a node that only what the decision lets pass needs."""
    g = Graph("g", str)
    spam = g.add(Timed("spam", 0.01), g.input)
    read = g.add(mood, g.input)
    reply = g.add(shout, read, when=spam.map(lambda _: kept), otherwise=g.input)
    return g.build(reply)


def test_a_small_node_does_not_wait_for_the_decision_beside_it() -> None:
    async def main() -> float:
        await spam_beside(Timed("mood", 0.01), kept=True).run("x")
        return clock.now()

    assert clock.run(main()) == pytest.approx(0.01)


async def test_a_large_model_is_not_asked_in_vain() -> None:
    large = SimulatedEndpoint(tier="llm", rule=lambda text: text)
    await spam_beside(Asker("mood", large), kept=False).run("x")
    assert large.prompts == []


async def test_what_only_stands_in_waits_until_it_is_needed() -> None:
    small = SimulatedEndpoint(rule=lambda text: text)
    g = Graph("g", str)
    slow = g.add(Timed("slow", 0.01), g.input)
    instead = g.add(Asker("instead", small), g.input)
    graph = g.build(g.add(shout, slow, when=slow.map(bool), otherwise=instead))
    await graph.run("x")
    assert small.prompts == []


async def test_a_failure_that_nothing_needs_fails_no_run() -> None:
    broken = ScriptedEndpoint([EndpointRejected("no", endpoint="small")])
    result = await spam_beside(Asker("mood", broken), kept=False).run("x")
    assert result.output == "x"
    assert ("failed", "g/mood") in [(note.kind, note.node) for note in result.trace]


async def test_a_failure_ahead_of_its_need_fails_the_run_that_needs_it() -> None:
    broken = ScriptedEndpoint([EndpointRejected("no", endpoint="small")])
    with pytest.raises(EndpointRejected):
        await spam_beside(Asker("mood", broken), kept=True).run("x")


@pytest.mark.parametrize("after", [False, True], ids=["running", "ready with the answer"])
def test_an_eager_node_that_nothing_needs_any_more_is_stopped(after: bool) -> None:
    async def main() -> tuple[float, Result[str]]:
        g = Graph("g", str)
        spam = g.add(Timed("spam", 1), g.input)
        mood = g.add(Timed("mood", 9), spam if after else g.input, eager=True)
        reply = g.add(shout, mood, when=spam.map(lambda _: False), otherwise=g.input)
        result = await g.build(reply).run("x")
        return clock.now(), result

    seconds, result = clock.run(main())
    assert seconds == 1
    assert ("g/mood", "stopped: nothing needed it any more") in [
        (note.node, note.text) for note in result.trace
    ]


async def test_nodes_that_are_ready_together_start_in_one_tick() -> None:
    ticks: list[int] = []
    loop = asyncio.get_running_loop()
    tick = 0

    def count() -> None:
        nonlocal tick
        tick += 1
        loop.call_soon(count)

    async def start(text: str) -> str:
        ticks.append(tick)
        await asyncio.sleep(0)
        return text

    g = Graph("g", str)
    a, b, c = (g.add(start, g.input, name=name) for name in "abc")
    graph = g.build(g.join(first_of, a, b, c))
    loop.call_soon(count)
    await graph.run("x")
    tick = -(10**9)
    assert max(ticks) - min(ticks) <= 1


async def test_a_node_under_another_name_is_charged_under_it() -> None:
    g = Graph("g", str)
    asker = Asker("ask", SimulatedEndpoint())
    a, b = (g.add(asker, g.input, name=name) for name in ("first", "second"))
    result = await g.build(g.join(first_of, a, b)).run("x")
    assert set(result.usage.by_node()) == {"g/first/ask", "g/second/ask"}


async def test_a_budget_covers_the_whole_graph() -> None:
    endpoint = SimulatedEndpoint()
    g = Graph("g", str)
    a, b, c = (g.add(Asker(name, endpoint), g.input) for name in "abc")
    graph = g.build(g.join(first_of, a, b, c))
    with pytest.raises(BudgetExceeded):
        await graph.run("x", RunContext(budget=Budget(calls=2)))
    assert len(endpoint.prompts) <= 3


async def test_one_graph_serves_many_runs_at_once() -> None:
    g = Graph("g", str)
    a = g.add(shout, g.input)
    b = g.add(Asker("ask", SimulatedEndpoint()), g.input)
    graph = g.build(g.join(lambda a, b: f"{a}{b}", a, b))
    results = await asyncio.gather(*(graph.run(f"x{i}") for i in range(20)))
    assert [r.output for r in results] == [f"X{i}x{i}" for i in range(20)]
    assert [r.usage.calls for r in results] == [1] * 20


async def test_a_stream_tells_what_happens_and_ends_with_the_result() -> None:
    async def writes(text: str) -> str:
        return text

    g = Graph("g", str)
    reply = g.add(shout, g.input, when=g.input.map(wake), otherwise=g.add(writes, g.input))
    seen = [event async for event in g.build(reply).stream("x")]
    assert [type(event) for event in seen] == [NodeSkipped, NodeStarted, NodeFinished, Result]
    assert isinstance(seen[0], NodeSkipped)
    assert seen[0].node == "g/shout"
    assert isinstance(seen[2], NodeFinished)
    assert seen[2].output == "x"
    assert isinstance(seen[3], Result)
    assert seen[3].output == "x"


async def test_a_stream_passes_pieces_of_nested_graphs_on() -> None:
    class Writer:
        name = "writer"

        async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
            own = (context or RunContext()).nested(self.name)
            for word in request.split():
                own.emit(TextDelta(own.node, word))
            return Result(output=request)

    inner = Graph("inner", str)
    outer = Graph("outer", str)
    written = outer.add(inner.build(inner.add(Writer(), inner.input)), outer.input)
    pieces = [e async for e in outer.build(written).stream("a b") if isinstance(e, TextDelta)]
    assert pieces == [TextDelta("outer/inner/writer", "a"), TextDelta("outer/inner/writer", "b")]


async def test_leaving_a_stream_cancels_the_run() -> None:
    waits = Waits()
    stream = alone(waits).stream("x")
    async for event in stream:
        assert isinstance(event, NodeStarted)
        break
    del stream
    await asyncio.wait_for(waits.cancelled.wait(), 5)


async def test_an_error_passes_through_a_stream() -> None:
    with pytest.raises(NodeError, match="breaks"):
        async for _ in alone(breaks).stream("x"):
            pass
