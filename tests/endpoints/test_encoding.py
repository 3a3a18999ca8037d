"""How texts wait for an engine: once each, on all threads, the loop never held up."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence

import pytest

from moa.local.encoding import EncodedText, EncoderText, EncodingQueue

LONG = "x" * 4000


class Gated:
    """An engine that notes what it is given, and waits for a sign where it is told to."""

    def __init__(self, *waits_at: str) -> None:
        self.given: list[list[str]] = []
        self.waits_at = waits_at
        self.has_begun = threading.Event()
        self.may_go = threading.Event()
        self.failure: Exception | None = None

    def __call__(self, texts: Sequence[EncoderText]) -> list[EncodedText]:
        words = [text.text for text in texts]
        self.given.append(words)
        if any(word in self.waits_at for word in words):
            self.has_begun.set()
            assert self.may_go.wait(20)
        if self.failure is not None:
            raise self.failure
        return [EncodedText((float(len(word)),), len(word)) for word in words]

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.has_begun.wait, 20)


def texts(*words: str) -> list[EncoderText]:
    return [EncoderText(word) for word in words]


async def test_a_text_that_several_ask_for_at_once_is_encoded_once() -> None:
    engine = Gated("a")
    encoding = EncodingQueue(engine, threads=2)
    first = asyncio.ensure_future(encoding.read(texts("a", "a")))
    await engine.begun()
    second = asyncio.ensure_future(encoding.read(texts("a")))
    await asyncio.sleep(0)
    engine.may_go.set()
    one, two = await first, await second
    assert engine.given == [["a"]]
    assert (one.vectors, two.vectors) == (((1.0,), (1.0,)), ((1.0,),))
    assert (one.tokens, two.tokens, two.seconds) == (1, 0, 0.0)


async def test_texts_of_one_call_are_encoded_on_several_threads() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def engine(given: Sequence[EncoderText]) -> list[EncodedText]:
        meeting.wait()
        return [EncodedText((1.0,), 1) for _ in given]

    assert len((await EncodingQueue(engine, threads=2).read(texts("a", "b"))).vectors) == 2


async def test_long_texts_leave_a_thread_to_the_others() -> None:
    engine = Gated(LONG + "1", LONG + "2")
    encoding = EncodingQueue(engine, threads=2)
    long = asyncio.ensure_future(encoding.read(texts(LONG + "1", LONG + "2")))
    await engine.begun()
    assert (await asyncio.wait_for(encoding.read(texts("short")), 20)).vectors == ((5.0,),)
    assert not long.done()
    engine.may_go.set()
    assert len((await long).vectors) == 2


async def test_what_waits_meanwhile_is_encoded_together() -> None:
    engine = Gated("first")
    encoding = EncodingQueue(engine, threads=1, batch=2)
    calls = [asyncio.ensure_future(encoding.read(texts("first")))]
    await engine.begun()
    calls += [asyncio.ensure_future(encoding.read(texts(word))) for word in "abc"]
    await asyncio.sleep(0)
    engine.may_go.set()
    await asyncio.gather(*calls)
    assert engine.given == [["first"], ["a", "b"], ["c"]]


async def test_what_nobody_waits_for_any_more_is_not_encoded() -> None:
    engine = Gated("first")
    encoding = EncodingQueue(engine, threads=1)
    first = asyncio.ensure_future(encoding.read(texts("first")))
    await engine.begun()
    wanted = asyncio.ensure_future(encoding.read(texts("both")))
    left = asyncio.ensure_future(encoding.read(texts("both", "mine")))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    engine.may_go.set()
    await first
    await wanted
    assert engine.given == [["first"], ["both"]]
    assert (await encoding.read(texts("mine"))).vectors == ((4.0,),)


async def test_a_failure_is_raised_and_not_kept() -> None:
    engine = Gated()
    encoding = EncodingQueue(engine, threads=1)
    engine.failure = MemoryError("no room")
    with pytest.raises(MemoryError, match="no room"):
        await encoding.read(texts("a"))
    engine.failure = None
    assert (await encoding.read(texts("a"))).vectors == ((1.0,),)


async def test_the_loop_goes_on_while_an_engine_works() -> None:
    engine = Gated("a")
    reading = asyncio.ensure_future(EncodingQueue(engine, threads=1).read(texts("a")))
    await engine.begun()
    began = time.monotonic()
    await asyncio.sleep(0.01)
    assert time.monotonic() - began < 5
    engine.may_go.set()
    await reading


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_encodes_too() -> None:
    engine = Gated("a")
    encoding = EncodingQueue(engine, threads=1)
    encoding.prefetch(texts("a"))
    assert engine.has_begun.wait(20)
    child = os.fork()
    if not child:
        engine.may_go.set()
        found = asyncio.run(encoding.read(texts("b")))
        os._exit(0 if found.vectors == ((1.0,),) else 1)
    engine.may_go.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Full:
    """A store that has everything."""

    def find(self, texts: Sequence[EncoderText]) -> dict[EncoderText, tuple[float, ...]]:
        return dict.fromkeys(texts, (0.0,))

    def put(self, vectors: object) -> None:
        raise AssertionError("nothing is new")


async def test_an_engine_is_loaded_for_what_will_come_whatever_is_kept() -> None:
    engine = Gated()
    encoding = EncodingQueue(engine, threads=1)
    encoding.store = Full()
    encoding.prefetch(texts(""))
    assert (await encoding.read(texts("kept"))).vectors == ((0.0,),)
    assert engine.given == [[""]]
