"""A chat: what is kept, who answers, and what happens where something breaks off."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from moa.agents.filter import Verdict
from moa.chat.graph import Chat
from moa.chat.memory import Summariser
from moa.chat.messages import ChatReply, UserMessage
from moa.core._async import closing_stream
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    EndpointRejected,
    EndpointUnavailable,
    InputError,
    StoreError,
)
from moa.core.node import Result
from moa.core.trace import TextDelta
from moa.core.usage import Price
from moa.endpoints import Completion, Prompt
from moa.guards.verifiers import Length
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step

DOWN = EndpointUnavailable("refused", endpoint="large")
YES: Mapping[str, Mapping[str, float]] = {"small_talk": {"yes": 0.95}}
NO: Mapping[str, Mapping[str, float]] = {"small_talk": {"yes": 0.05}}


def small(*steps: Step) -> ScriptedEndpoint:
    return ScriptedEndpoint(name="small", steps=steps)


def large(*steps: Step) -> ScriptedEndpoint:
    return ScriptedEndpoint(name="large", tier="llm", steps=steps)


def echo(**more: Any) -> SimulatedEndpoint:
    return SimulatedEndpoint(
        name="only", tier="llm", rule=lambda text: f"re: {text.splitlines()[-1]}", **more
    )


def alone(endpoint: Any, store: Any = ":memory:", **more: Any) -> Chat:
    return Chat(slm=endpoint, llm=endpoint, store=store, **more)


def both(slm: Any, llm: Any, store: Any = ":memory:", **more: Any) -> Chat:
    return Chat(slm=slm, llm=llm, store=store, **more)


async def say(talk: Chat, text: str, context: RunContext | None = None, **more: Any) -> Any:
    return await talk.run(UserMessage(text=text, **more), context)


async def last(talk: Chat) -> Any:
    return (await talk.threads.load("default")).last


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "chat.sqlite"


class Hanging(SimulatedEndpoint):
    """Writes two words, then nothing more."""

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        self.prompts.append(prompt)
        yield "two"
        yield " words"
        await asyncio.Event().wait()


@asynccontextmanager
async def half_written(talk: Chat, text: str) -> AsyncGenerator[None]:
    """In the middle of an answer, which is stopped at the end of the block."""
    async with closing_stream(talk.stream(UserMessage(text=text))) as events:
        async for event in events:
            if isinstance(event, TextDelta) and event.text == " words":
                break
        yield


def hanging() -> Hanging:
    return Hanging(name="only", tier="llm")


def roles(prompt: Prompt) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.messages[1:]]


async def test_small_talk_is_answered_by_the_small_model_and_the_rest_by_the_large_one() -> None:
    first, second = small(YES, "Hi!", NO), large("Because of Rayleigh scattering.")
    talk = both(first, second)
    hello = (await say(talk, "Hello")).output
    asked = (await say(talk, "Why is the sky blue?")).output
    assert (hello.text, hello.by, hello.endpoint) == ("Hi!", "slm", "small")
    assert "it is small talk" in hello.reason
    assert (asked.by, asked.endpoint, asked.turn) == ("llm", "large", 2)
    assert "it is not small talk" in asked.reason
    first.assert_used_up()
    assert roles(second.prompts[0]) == [
        ("user", "Hello"),
        ("assistant", "Hi!"),
        ("user", "Why is the sky blue?"),
    ]


async def test_a_policy_hands_over_what_the_small_model_wrote_and_it_is_not_shown() -> None:
    talk = Chat(
        slm=small("far too long an answer for this policy", "Short."),
        llm=large("The large one's."),
        store=":memory:",
        accept=Length(most=2),
    )
    shown: list[str] = []
    context = RunContext(
        listener=lambda e: shown.append(e.text) if isinstance(e, TextDelta) else None
    )
    handed = await say(talk, "one", context)
    assert (handed.output.by, "".join(shown)) == ("llm", "The large one's.")
    assert any(note.kind == "escalated" for note in handed.trace)
    shown.clear()
    accepted = await say(talk, "two", context)
    assert (accepted.output.by, shown) == ("slm", ["Short."])


async def test_a_node_of_ones_own_says_what_the_small_model_answers() -> None:
    class Short:
        name = "short"

        async def run(self, request: str, context: RunContext | None = None, /) -> Result[Verdict]:
            kept = len(request) < 10
            return Result(output=Verdict(kept=kept, reason="is short", confidence=None, met=kept))

    talk = both(small("Yes."), large("A long one."), keeps=Short())
    assert (await say(talk, "Really?")).output.by == "slm"
    assert (await say(talk, "And what follows from that?")).output.by == "llm"


@pytest.mark.parametrize(
    ("slm", "llm", "by", "note"),
    [
        ([DOWN], ["Here."], "llm", "failed"),  # it can't be told whether it is small talk
        ([NO, "A guess."], [DOWN], "slm", "degraded"),
    ],
)
async def test_where_one_model_is_down_the_other_answers_and_says_so(
    slm: Sequence[Step], llm: Sequence[Step], by: str, note: str
) -> None:
    result = await say(both(small(*slm), large(*llm)), "Why?")
    assert result.output.by == by
    assert note in [one.kind for one in result.trace]


async def test_a_model_that_writes_too_badly_answers_only_where_it_is_alone() -> None:
    bad = ScriptedEndpoint(name="embedded", model="SmolLM2-135M-Instruct.Q4_1", steps=["Hm."])
    reply = (await say(both(bad, large("Hello.")), "Hi")).output
    assert (reply.by, reply.reason) == ("llm", "the small model writes too badly")
    assert (await say(alone(bad), "Hi")).output.by == "slm"


async def test_threads_are_kept_apart_and_go_on_in_another_chat_on_the_same_file(
    file: Path,
) -> None:
    first = alone(echo(), file)
    await first.run(UserMessage(text="I am Ann", thread="ann"))
    await first.run(UserMessage(text="I am Bob", thread="bob"))
    endpoint = echo()
    reply = (await say(alone(endpoint, file), "Who am I?", thread="ann")).output
    assert (reply.turn, reply.thread) == (2, "ann")
    assert roles(endpoint.prompts[0])[0] == ("user", "I am Ann")
    assert "Bob" not in str(endpoint.prompts)


async def test_threads_are_listed_deleted_and_written_as_json(file: Path) -> None:
    talk = alone(echo(), file)
    for text, thread in (("one", "a"), ("two", "b"), ("three", "a")):
        await say(talk, text, thread=thread)
    listed = await talk.threads.list()
    assert [(t.name, t.turns, t.opening, t.unfinished) for t in listed] == [
        ("a", 2, "one", False),
        ("b", 1, "two", False),
    ]
    written = (await talk.threads.transcript("a")).model_dump(mode="json")
    assert [(t["text"], t["reply"], t["by"]) for t in written["turns"]] == [
        ("one", "re: one", "llm"),
        ("three", "re: three", "llm"),
    ]
    assert await talk.threads.delete("a")
    assert not await talk.threads.delete("a")
    assert [thread.name for thread in await talk.threads.list()] == ["b"]
    assert (await say(talk, "anew", thread="a")).output.turn == 1


async def test_usage_of_a_thread_adds_up_over_restarts(file: Path) -> None:
    for text in ("one", "two", "three"):
        talk = alone(echo(tokens=(100, 10), price=Price(input=Decimal(1), output=Decimal(1))), file)
        result = await say(talk, text)
        assert result.usage.calls == 1
    usage = (await alone(echo(), file).threads.load("default")).usage
    assert (usage.calls, usage.input_tokens, usage.output_tokens) == (3, 300, 30)
    assert float(usage.cost or 0) == pytest.approx(330 / 1e6)


async def test_a_thread_has_a_budget_over_all_its_turns(file: Path) -> None:
    for _ in range(2):
        await say(alone(echo(), file, thread_budget=Budget(calls=2)), "on")
    talk = alone(echo(), file, thread_budget=Budget(calls=2))
    with pytest.raises(BudgetExceeded):
        await say(talk, "and on")
    await say(talk, "another thread", thread="b")
    with pytest.raises(BudgetExceeded):
        await say(alone(echo(), file, budget=Budget(calls=0)), "x", thread="c")


async def test_what_is_over_the_limit_is_summed_up_once_and_the_last_turns_stay_as_they_are(
    file: Path,
) -> None:
    settings: Any = {"history_tokens": 60, "keep_turns": 1}
    words = "word " * 20
    second = SimulatedEndpoint(name="large", tier="llm", rule=lambda _: words)

    def slm(text: str) -> Step:
        return "Ann talks." if "<data>" in text else NO

    first = SimulatedEndpoint(name="small", rule=slm)
    summariser = Summariser(first, name="summary")
    talk = Chat(slm=first, llm=second, store=file, sums_up=summariser, **settings)
    traces = [(await say(talk, f"message {i}")).trace for i in range(4)]
    reply = (await say(talk, "last")).output
    kept = await talk.threads.load("default")
    assert kept.summary is not None
    assert (kept.summary.text, kept.summary.by) == ("Ann talks.", "summary")
    assert reply.summarised == kept.summary.turns == kept.recent[0].number - 1
    prompt = second.prompts[-1]
    assert "What was said before, in short:\n<data>\nAnn talks.\n</data>" in (
        prompt.messages[0].content
    )
    assert roles(prompt)[0] == ("user", f"message {reply.summarised}")
    assert any("are read as a summary" in n.text for t in traces for n in t)
    whole = await talk.threads.transcript("default")
    assert [turn.text for turn in whole.turns] == [*(f"message {i}" for i in range(4)), "last"]


async def test_without_a_summary_the_history_stays_whole_or_is_cut_with_a_note() -> None:
    words = "word " * 20

    def slm(text: str) -> Step:
        return DOWN if "<data>" in text else NO

    second = SimulatedEndpoint(name="large", tier="llm", rule=lambda _: words)
    first = SimulatedEndpoint(name="small", rule=slm)
    settings: Any = {"history_tokens": 60, "keep_turns": 1, "sums_up": Summariser(first)}
    talk = both(first, second, **settings)
    await say(talk, "message 0")
    await say(talk, "message 1")
    result = await say(talk, "message 2")
    assert any("no summary" in note.text for note in result.trace)
    assert roles(second.prompts[-1])[0] == ("user", "message 0")
    await say(talk, "message 3")
    result = await say(talk, "message 4")
    assert any(
        "not read: 0" not in note.text and "not read: 1" in note.text for note in result.trace
    )
    assert roles(second.prompts[-1])[0] != ("user", "message 0")
    assert (await talk.threads.load("default")).recent[0].text == "message 0"


async def test_an_answer_that_is_stopped_is_kept_as_far_as_it_was_written(file: Path) -> None:
    talk = alone(hanging(), file)
    async with half_written(talk, "Tell me"):
        pass
    turn = await last(talk)
    assert (turn.status, turn.reply) == ("stopped", "two words")
    assert await talk.unfinished() is None
    endpoint = echo()
    await say(alone(endpoint, file), "Go on")
    assert roles(endpoint.prompts[0]) == [
        ("user", "Tell me"),
        ("assistant", "two words […]"),
        ("user", "Go on"),
    ]


async def test_a_message_whose_answer_failed_is_answered_anew_and_not_doubled(file: Path) -> None:
    with pytest.raises(EndpointUnavailable):
        await say(alone(large(DOWN), file), "Why?")
    talk = alone(large("So."), file)
    left = await talk.unfinished()
    assert left is not None
    assert left.text == "Why?"
    result = await talk.run(left)
    assert (result.output.turn, result.output.unfinished_before) == (1, True)
    assert any("written anew" in note.text for note in result.trace)
    assert len((await talk.threads.transcript("default")).turns) == 1
    again = await talk.run(left)
    assert (again.output.text, again.output.kept, again.usage.calls) == ("So.", True, 0)


async def test_after_a_failed_answer_another_message_is_answered_together_with_it() -> None:
    second = large(DOWN, "Both.")
    talk = alone(second)
    with pytest.raises(EndpointUnavailable):
        await say(talk, "Why?")
    result = await say(talk, "And how?")
    assert result.output.turn == 2
    assert roles(second.prompts[-1]) == [("user", "Why?\n\nAnd how?")]
    assert any("answers both" in note.text for note in result.trace)


async def test_a_message_that_a_server_rejects_does_not_spoil_the_next_one() -> None:
    second = large(EndpointRejected("too long", endpoint="large"), "Here.")
    talk = alone(second)
    with pytest.raises(EndpointRejected):
        await say(talk, "word " * 100)
    assert await talk.unfinished() is None
    result = await say(talk, "In short: why?")
    assert roles(second.prompts[-1]) == [("user", "In short: why?")]
    assert any(note.text == "turns that are not read: 1" for note in result.trace)


async def test_what_the_large_model_refuses_the_small_one_does_not_keep_in_the_thread() -> None:
    refused = EndpointRejected("content policy", endpoint="large")
    second = large(refused, "Here.")
    talk = both(small(NO, NO), second)
    with pytest.raises(EndpointRejected):
        await say(talk, "something it won't take")
    turn = await last(talk)
    assert turn.status == "rejected"
    await say(talk, "Why?")
    assert roles(second.prompts[-1]) == [("user", "Why?")]


async def test_a_small_model_that_takes_a_message_neither_leaves_it_for_the_large_one() -> None:
    too_long = EndpointRejected("too long", endpoint="small")
    talk = both(small(NO, too_long), large(DOWN, "Here."))
    with pytest.raises(EndpointUnavailable):
        await say(talk, "Why?")
    assert await talk.unfinished() is not None


async def test_a_turn_that_waits_for_another_of_its_thread_has_a_deadline() -> None:
    talk = alone(hanging())
    async with half_written(talk, "one"):
        with pytest.raises(DeadlineExceeded):
            await say(talk, "two", RunContext(timeout_s=0.05))
    turn = await last(talk)
    assert (turn.text, turn.status) == ("one", "stopped")


async def test_a_message_with_an_id_is_answered_once(file: Path) -> None:
    rows = [UserMessage(text=f"message {i}", id=str(i)) for i in range(3)]
    first = [(await alone(echo(), file).run(row)).output for row in rows]
    second = [(await alone(echo(), file).run(row)).output for row in rows]
    assert [reply.text for reply in second] == [reply.text for reply in first]
    assert all(reply.kept for reply in second)
    with pytest.raises(InputError):
        await say(alone(echo(), file), "something else", id="1")


async def test_turns_that_come_at_once_are_answered_in_their_order(file: Path) -> None:
    talk = alone(echo(latency_s=0.001), file)
    said = [UserMessage(text=f"{t}{i}", thread=t) for i in range(5) for t in ("a", "b")]
    replies = await asyncio.gather(*(talk.run(message) for message in said))
    assert [r.output.turn for r in replies if r.output.thread == "a"] == [1, 2, 3, 4, 5]
    for name in ("a", "b"):
        whole = await talk.threads.transcript(name)
        assert [turn.text for turn in whole.turns] == [f"{name}{i}" for i in range(5)]


async def test_an_empty_message_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        await say(alone(echo()), " \n")


async def test_persona_and_language_are_told_and_the_reply_is_streamed() -> None:
    endpoint = echo()
    talk = alone(endpoint, persona="You are a pirate.", language="French")
    *pieces, result = [event async for event in talk.stream(UserMessage(text="one two"))]
    told = endpoint.prompts[0].messages[0].content
    assert told.startswith("You are a pirate.")
    assert "in French" in told
    assert "".join(p.text for p in pieces if isinstance(p, TextDelta)) == "re: one two"
    assert isinstance(result, Result)
    assert isinstance(result.output, ChatReply)


async def test_without_a_language_the_persona_says_all() -> None:
    endpoint = echo()
    await say(alone(endpoint, persona="You are a pirate."), "Hello! I'm Pavel.")
    assert endpoint.prompts[0].messages[0].content == "You are a pirate."


async def test_a_saver_of_ones_own_keeps_it_too_but_not_under_the_name_of_another_graph() -> None:
    saver = InMemorySaver()
    await say(alone(echo(), saver), "one")
    assert (await say(alone(echo(), saver), "two")).output.turn == 2
    other: RunnableConfig = {"configurable": {"thread_id": "other", "checkpoint_ns": ""}}
    saver.put(other, empty_checkpoint(), {"source": "loop"}, {})
    with pytest.raises(StoreError):
        await say(alone(echo(), saver), "Hi", thread="other")


class State(TypedDict):
    conversation: dict[str, Any]


async def test_a_graph_of_langgraph_on_the_same_saver_reads_a_thread_and_its_history() -> None:
    saver = InMemorySaver()
    for text in ("one", "two"):
        await say(alone(echo(), saver), text)
    builder: Any = StateGraph(State)
    graph = builder.add_node("turn", print).add_edge(START, "turn").compile(checkpointer=saver)
    config: RunnableConfig = {"configurable": {"thread_id": "default"}}
    recent = (await graph.aget_state(config)).values["conversation"]["recent"]
    assert [(turn["text"], turn["reply"]) for turn in recent] == [
        ("one", "re: one"),
        ("two", "re: two"),
    ]
    assert [state.metadata["step"] async for state in graph.aget_state_history(config)] == [
        2,
        2,
        1,
        1,
    ]


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("something else, and long enough to be no database at all" * 20)
    with pytest.raises(StoreError, match=r"notes\.txt"):
        await say(alone(echo(), file), "Hi")


def changed(file: Path, change: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"UPDATE checkpoints SET {change}")


@pytest.mark.parametrize(
    "change",
    [
        "checkpoint = '[]'",
        "checkpoint = 5",
        "checkpoint = NULL",
        "checkpoint = '{}'",
        f"checkpoint = '{'[' * 3000}{']' * 3000}'",
        """checkpoint = json_set(checkpoint, '$.id', 7)""",
        """checkpoint = json_set(checkpoint, '$.channel_values', json('[]'))""",
        """checkpoint = json_set(checkpoint, '$.channel_values.conversation.recent', json('[]'))""",
        """checkpoint = json_set(checkpoint, '$.channel_values.conversation.recent[0].text', 5)""",
    ],
)
async def test_a_checkpoint_of_other_types_is_told(file: Path, change: str) -> None:
    talk = alone(echo(), file)
    await say(talk, "Hi")
    changed(file, change)
    for ask in (talk.threads.list, lambda: talk.threads.transcript("default")):
        with pytest.raises(StoreError, match=r"chat\.sqlite"):
            await ask()
    with pytest.raises(StoreError, match=r"chat\.sqlite"):
        await say(talk, "Hi")


async def test_a_checkpoint_that_names_a_class_revives_nothing(file: Path) -> None:
    await say(alone(echo(), file), "Hi")
    changed(file, "type = 'msgpack', checkpoint = X'C7'")
    with pytest.raises(StoreError):
        await alone(echo(), file).threads.list()


def test_it_is_drawn_with_who_is_asked(tmp_path: Path) -> None:
    drawn = Chat(slm=small(), llm=large(), store=tmp_path / "none.sqlite").draw().mermaid
    assert "small_talk" in drawn
    assert "LLM · large" in drawn
    assert "not_accepted" in both(small(), large(), accept=Length(most=9)).draw().mermaid
    assert not list(tmp_path.iterdir())
