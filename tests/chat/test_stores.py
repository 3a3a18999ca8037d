"""Stores of a chat: two processes on one thread, and Postgres."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from moa.chat.graph import Chat
from moa.chat.messages import UserMessage
from moa.chat.stores import store_of
from moa.core.context import RunContext
from moa.core.errors import ConfigError, DeadlineExceeded, StoreError
from moa.testing import SimulatedEndpoint

TALKING = """
import asyncio, sys
from moa.chat.messages import UserMessage
from moa.chat.graph import Chat
from moa.testing import SimulatedEndpoint

only = SimulatedEndpoint(name="only", tier="llm", rule=lambda text: f"re: {text}")
talk = Chat(slm=only, llm=only, store=sys.argv[1])

async def main():
    for i in range(int(sys.argv[3])):
        await talk.run(UserMessage(text=f"{sys.argv[2]}{i}", thread="shared"))

asyncio.run(main())
"""
HOLDING = """
import asyncio, sys
from moa.core.context import RunContext
from moa.chat.stores import store_of

async def main():
    async with store_of(sys.argv[1]).lock("shared", RunContext()):
        print("held", flush=True)
        sys.stdin.read()

asyncio.run(main())
"""
EACH = 6


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "chat.sqlite")
    return str(request.getfixturevalue("postgres"))


async def started(script: str, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


def alone(store: Any) -> Chat:
    only = SimulatedEndpoint(name="only", tier="llm", rule=lambda text: f"re: {text}")
    return Chat(slm=only, llm=only, store=store)


async def test_two_processes_on_a_thread_take_turns(store: str) -> None:
    both = [await started(TALKING, store, name, str(EACH)) for name in ("a", "b")]
    assert [await process.wait() for process in both] == [0, 0]
    talk = alone(store)
    turns = (await talk.threads.transcript("shared")).turns
    assert [turn.number for turn in turns] == list(range(1, 2 * EACH + 1))
    assert all(turn.reply == f"re: {turn.text}" for turn in turns)
    for name in ("a", "b"):
        own = [turn.text for turn in turns if turn.text.startswith(name)]
        assert own == [f"{name}{i}" for i in range(EACH)]
    assert (await talk.threads.load("shared")).usage.calls == 2 * EACH


async def test_who_waits_for_a_thread_has_a_deadline_and_a_dead_process_lets_go(store: str) -> None:
    holder = await started(HOLDING, store)
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    with pytest.raises(DeadlineExceeded):
        await alone(store).run(UserMessage(text="x", thread="shared"), RunContext(timeout_s=0.2))
    waiting = asyncio.ensure_future(alone(store).run(UserMessage(text="x", thread="shared")))
    other = await alone(store).run(UserMessage(text="y", thread="another"))
    assert (other.output.text, waiting.done()) == ("re: y", False)
    holder.kill()
    await holder.communicate()
    assert (await waiting).output.turn == 1


@asynccontextmanager
async def saver_of(store: str) -> AsyncGenerator[Any]:
    kind: Any = AsyncPostgresSaver if "://" in store else AsyncSqliteSaver
    async with kind.from_conn_string(store) as saver:
        await saver.setup()
        yield saver


async def holding(store: Any) -> None:
    async with store_of(store).lock("shared", RunContext(timeout_s=0.3)):
        pass


async def test_a_saver_of_ones_own_keeps_others_out_of_a_thread_too(store: str) -> None:
    async with saver_of(store) as mine, saver_of(store) as theirs:
        async with store_of(mine).lock("shared", RunContext()):
            for other in (theirs, store):
                with pytest.raises(DeadlineExceeded):
                    await asyncio.ensure_future(holding(other))
        await holding(theirs)


async def test_a_file_that_is_reached_by_a_link_is_the_same_store(tmp_path: Path) -> None:
    link = tmp_path / "link.sqlite"
    link.symlink_to(tmp_path / "chat.sqlite")
    async with store_of(tmp_path / "chat.sqlite").lock("shared", RunContext()):
        with pytest.raises(DeadlineExceeded):
            await asyncio.ensure_future(holding(link))


async def test_threads_are_listed_found_and_deleted_in_every_store(store: str) -> None:
    talk = alone(store)
    for i, thread in enumerate(("a", "b", "a")):
        await talk.run(UserMessage(text=f"m{i}\x00 and a 'quote'", thread=thread, id=f"i{i}"))
    assert [(t.name, t.turns) for t in await talk.threads.list()] == [("a", 2), ("b", 1)]
    found = await talk.threads.find("a", "i0")
    assert found is not None
    assert found.number == 1
    assert (
        await talk.run(UserMessage(text="m0\x00 and a 'quote'", thread="a", id="i0"))
    ).output.kept
    assert await talk.threads.delete("a")
    assert [t.name for t in await talk.threads.list()] == ["b"]


async def test_a_postgres_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as told:
        await alone(f"postgresql://moa:s3cret@/db?host={tmp_path}").run(UserMessage(text="x"))
    assert "postgres at this machine/db" in str(told.value)
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://moa:s3cret@db/x",
        "sqlite:///s3cret",
        "mysql://moa:s3cret@db/x",
        "postgresql://[::1/s3cret",
        "postgresql://moa:s3/cret@db/x",
        Path("postgresql://moa:s3cret@db/x"),
    ],
)
def test_a_url_of_something_else_is_no_file_and_its_password_is_not_told(
    url: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as told:
        alone(url)
    assert "cret" not in f"{told.value}{told.value.__context__}"
    assert not list(tmp_path.iterdir())


def test_the_scheme_of_a_url_may_have_capitals() -> None:
    pytest.importorskip("psycopg")
    assert alone("POSTGRES://moa:s3cret@db/x").threads.store.shown == "postgres at db/x"


async def test_what_a_saver_of_ones_own_raises_is_an_error_of_the_store() -> None:
    class Closed(InMemorySaver):
        async def aget_tuple(self, config: object) -> None:
            del config
            raise RuntimeError("the connection is closed")

    class Blocking(BaseCheckpointSaver[int]):
        pass

    with pytest.raises(StoreError, match="the connection is closed"):
        await alone(Closed()).run(UserMessage(text="x"))
    with pytest.raises(ConfigError):
        alone(Blocking())


async def test_a_clock_that_is_behind_loses_no_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "chat.sqlite")
    await alone(store).run(UserMessage(text="one"))

    def long_ago() -> Checkpoint:
        made = empty_checkpoint()
        made["id"] = "1e000000-0000-6000-8000-000000000000"
        return made

    monkeypatch.setattr("moa.chat.threads.empty_checkpoint", long_ago)
    assert (await alone(store).run(UserMessage(text="two"))).output.turn == 2
    whole = await alone(store).threads.transcript("default")
    assert [turn.text for turn in whole.turns] == ["one", "two"]


async def test_a_new_file_takes_several_threads_at_once(tmp_path: Path) -> None:
    for new in range(12):
        talk = alone(tmp_path / f"{new}.sqlite")
        said = [UserMessage(text="Hello.", thread=f"t{n}") for n in range(8)]
        replies = await asyncio.gather(*map(talk.run, said))
        assert [reply.output.turn for reply in replies] == [1] * 8


def test_a_file_of_conversations_is_its_owners_alone(tmp_path: Path) -> None:
    asyncio.run(alone(tmp_path / "chat.sqlite").run(UserMessage(text="Hello")))
    made = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
