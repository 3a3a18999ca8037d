"""People in a graph: they are asked, answer when they like, and the run goes on from there."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from moa.adapters.langgraph import run_store
from moa.core.context import RunContext
from moa.core.errors import InputError, NodeError, NotResumable, WiringError
from moa.graphs import Graph
from moa.testing import SimulatedEndpoint

from .killed import THREAD
from .nodes import Asker, alone, kept


class Review(BaseModel):
    send: bool
    note: str = ""


def asking(answer: Any = bool, question: Any = "Send it?") -> Any:
    g = Graph("g", str)
    graph = g.build(g.ask_human(question, g.input, answer=answer, name="approve"))
    return graph.compile(checkpointer=InMemorySaver())


def asked(paused: Any) -> Any:
    (question,) = paused["__interrupt__"]
    return question.value


@pytest.mark.parametrize(
    ("answer", "given", "value"),
    [
        (bool, True, True),
        (bool, False, False),
        (str, "", ""),
        (Literal["send", "stop"], "stop", "stop"),
        (Review, {"send": True}, Review(send=True)),
    ],
)
async def test_a_graph_stops_for_an_answer_and_goes_on_with_it(
    answer: Any, given: object, value: object
) -> None:
    compiled = asking(answer)
    assert asked(await compiled.ainvoke("a letter", THREAD)) == "Send it?"
    assert await compiled.ainvoke(Command(resume=given), THREAD) == value


def in_words(text: str) -> str:
    return f"Send {text}?"


def in_fields(text: str) -> dict[str, str]:
    return {"draft": text}


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        (in_words, "Send a letter?"),
        (in_fields, {"draft": "a letter"}),
        ({"ask": "Send it?"}, {"ask": "Send it?"}),
    ],
)
async def test_a_question_is_a_text_or_a_dictionary_or_made_of_the_value(
    question: Any, shown: object
) -> None:
    assert asked(await asking(question=question).ainvoke("a letter", THREAD)) == shown


REASON = "'perhaps' can't be taken: Input should be a valid boolean, unable to interpret input"


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("Send it?", f"Send it?\n{REASON}"),
        ({"draft": "x"}, {"draft": "x", "problem": REASON}),
    ],
)
async def test_a_wrong_answer_is_asked_for_again_with_the_reason(question: Any, shown: Any) -> None:
    compiled = asking(question=question)
    await compiled.ainvoke("a letter", THREAD)
    again = asked(await compiled.ainvoke(Command(resume="perhaps"), THREAD))
    assert again == shown
    assert await compiled.ainvoke(Command(resume=True), THREAD) is True


async def test_who_shows_the_question_is_told_what_answers_there_are() -> None:
    paused = await asking(Literal["send", "stop"]).ainvoke("a letter", THREAD)
    assert paused["__interrupt__"][0].response_schema["enum"] == ["send", "stop"]


async def test_an_interrupt_of_a_node_without_a_checkpointer_says_how_to_run_it() -> None:
    def ask(text: str) -> str:
        return interrupt(text)

    compiled: Any = alone(ask).compiled
    with pytest.raises(NotResumable):
        await compiled.ainvoke("Send it?")


@pytest.mark.parametrize("way", ["run", "compiled", "job"])
async def test_who_may_be_asked_is_missed_before_a_call_is_paid(way: str, tmp_path: Path) -> None:
    large = SimulatedEndpoint(tier="llm")
    inner = Graph("approval", str)
    short = inner.input.map(lambda text: len(text) < 3)
    asked = inner.ask_human("Send it?", inner.input, answer=str, when=short, otherwise=inner.input)
    g = Graph("g", str)
    graph = g.build(g.add(inner.build(asked), g.add(Asker("writer", large), g.input)))
    if way == "job":
        status = await graph.run_job(["a letter"], store=tmp_path / "job")
        assert status.causes == {"NotResumable": 1}
    else:
        run: Any = graph.run if way == "run" else graph.compiled.ainvoke
        with pytest.raises(NotResumable, match="g/human:"):
            await run("a letter")
    assert large.prompts == []


class Blind(dict[str, object]):
    """What is under way in another process is not seen in this one."""

    def get(self, key: str, default: object = None, /) -> object:
        del key
        return default


NO: Any = Command(resume=False)


def acting(acts: list[bool], saver: Any) -> Any:
    """Act by the answer; the first one takes long."""

    async def act(said: bool) -> str:
        acts.append(said)
        await asyncio.sleep(0.3 if len(acts) == 1 else 0)
        return "sent" if said else "stopped"

    g = Graph("g", str)
    asked = g.ask_human("Send it?", g.input, answer=bool, name="approve")
    return g.build(g.add(act, asked)).compile(checkpointer=saver)


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_two_that_answer_at_once_one_is_told_that_the_other_has(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[bool] = []
    if processes == 2:
        monkeypatch.setattr(run_store, "_running", Blind())
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        one, other = acting(acts, saver), acting(acts, saver)
        await one.ainvoke("a letter", THREAD)
        both = (one.ainvoke(Command(resume=True), THREAD), other.ainvoke(NO, THREAD))
        said = cast("list[object]", await asyncio.gather(*both, return_exceptions=True))
        assert sorted(type(each).__name__ for each in said) == ["NotResumable", "str"]
        assert len(acts) == 1
        (output,) = [each for each in said if isinstance(each, str)]
        assert output == ("sent" if acts[0] else "stopped")
        with pytest.raises(NotResumable):
            await one.ainvoke(Command(resume=True), THREAD)
        assert await one.ainvoke(None, THREAD) == output


async def test_an_answer_that_a_killed_run_took_is_not_replaced_by_another() -> None:
    compiled = acting([], InMemorySaver())
    await compiled.ainvoke("a letter", THREAD)
    with suppress(TimeoutError):
        await asyncio.wait_for(compiled.ainvoke(Command(resume=True), THREAD), 0.1)
    with pytest.raises(NotResumable):
        await compiled.ainvoke(Command(resume=False), THREAD)
    assert await compiled.ainvoke(None, THREAD) == "sent"


@pytest.mark.parametrize("given", [None, Command(resume=True)], ids=["an error", "a person"])
async def test_a_thread_without_a_run_is_named_when_one_goes_on_in_it(given: Any) -> None:
    compiled = asking()
    nothing = "there is no run to go on with in thread 'none'"
    thread = {"configurable": {"thread_id": "none"}}
    with pytest.raises(NotResumable, match=nothing):
        await compiled.ainvoke(given, thread)
    with pytest.raises(NotResumable, match=nothing):
        list(compiled.stream(given, thread))


async def test_a_thread_that_is_not_named_is_missed_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="thread_id"):
        await asking().ainvoke("a letter")


async def test_a_request_that_does_not_fit_a_compiled_graph_is_an_error_of_moa() -> None:
    with pytest.raises(InputError):
        await asking().ainvoke(["a letter"], THREAD)


def improved(endpoint: SimulatedEndpoint) -> Any:
    """A draft that is revised until a person likes it, in a graph in a graph."""

    def text_of(draft: str, liked: bool) -> str:
        return draft if liked else f"{draft}?"

    inner = Graph("revise", str)
    revised = inner.add(Asker("write", endpoint), inner.input)
    liked = inner.ask_human(lambda text: f"Like {text}?", revised, answer=bool, name="likes")
    revise = inner.build(inner.join(text_of, revised, liked))

    async def until_liked(text: str, context: RunContext) -> str:
        text = (await revise.run(text, context)).output
        while text.endswith("?"):
            text = (await revise.run(text, context)).output
        return text

    outer = Graph("outer", str)
    return outer.build(outer.add(until_liked, outer.input))


async def test_people_are_asked_in_each_pass_of_a_loop_however_deep_and_across_restarts(
    tmp_path: Path,
) -> None:
    endpoint = SimulatedEndpoint(rule=lambda text: f"{text.rstrip('?')}.")
    told: list[Any] = []
    for answer in (None, False, "hm", True):  # each time as a new process would
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "kept.db")) as saver:
            compiled: Any = improved(endpoint).compile(checkpointer=saver)
            request: Any = "x" if answer is None else Command(resume=answer)
            told.append(await compiled.ainvoke(request, THREAD))
    questions = [asked(paused) for paused in told[:-1]]
    assert [question.splitlines()[0] for question in questions] == [
        "Like x.?",
        "Like x..?",
        "Like x..?",
    ]
    assert told[-1] == "x.."
    assert len(endpoint.prompts) == 2


async def test_a_person_is_not_asked_in_vain() -> None:
    def chosen(text: str, liked: bool) -> str:
        return f"{text} {liked}"

    async def slow(text: str) -> str:
        return text

    g = Graph("g", str)
    spam = g.add(slow, g.input)
    liked = g.ask_human("Like it?", g.input, answer=bool)
    reply = g.add(
        slow, g.join(chosen, g.input, liked), when=spam.map(bool), otherwise=g.input, name="reply"
    )
    compiled = kept(g.build(reply))
    assert await compiled.ainvoke("", THREAD) == ""
    assert asked(await compiled.ainvoke("x", {"configurable": {"thread_id": "2"}})) == "Like it?"


def always(text: str) -> bool:
    return True


async def test_a_person_is_asked_only_where_a_condition_holds() -> None:
    g = Graph("g", str)
    yes = g.input.map(always)
    liked = g.ask_human("?", g.input, answer=bool, when=g.input.map(bool), otherwise=yes)
    compiled = kept(g.build(liked))
    assert await compiled.ainvoke("", THREAD) is True
    assert asked(await compiled.ainvoke("x", THREAD)) == "?"


async def test_the_trace_says_that_a_person_answered() -> None:
    compiled, context = asking(), RunContext()
    await compiled.ainvoke("x", THREAD)
    await compiled.ainvoke(Command(resume=True), THREAD, context=context)
    assert [(note.node, note.text) for note in context.trace] == [("g/approve", "by a person")]


def tenth(text: str) -> str:
    return text[9]


async def test_a_question_that_cannot_be_made_is_an_error_of_its_node() -> None:
    with pytest.raises(NodeError, match="approve:"):
        await asking(question=tenth).ainvoke("x", THREAD)


def test_a_question_that_does_not_fit_does_not_build() -> None:
    def of_a_number(number: int) -> str:
        return str(number)

    async def slow(text: str) -> str:
        return text

    def all_of(first: bool, second: bool, third: bool) -> bool:
        return first and second and third

    def of_two(text: str, other: str) -> str:
        return text + other

    g: Any = Graph("g", str)
    first = g.ask_human(of_a_number, g.input, answer=bool)
    second = g.ask_human(slow, g.input, answer=bool, name="second")
    third = g.ask_human(of_two, g.input, answer=bool, name="third")
    with pytest.raises(WiringError) as caught:
        g.build(g.join(all_of, first, second, third))
    assert all(f"'{name}'" in str(caught.value) for name in ("human", "second", "third"))


def test_a_person_is_drawn() -> None:
    g = Graph("g", str)
    drawing = g.build(g.ask_human("Send it?", g.input, answer=bool, name="approve")).draw()
    assert '[/"approve<br/><small>a person · bool</small>"\\]:::person' in drawing.mermaid
    assert "a person · bool" in drawing.svg
