"""Encoding: queues texts for an encoder's threads, and caches the vectors.

A text requested several times is encoded once. Threads take the oldest texts first, and one thread
is kept free of long texts.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple, Protocol

Vector = tuple[float, ...]
_KEPT = 2048
"""Maximum number of vectors cached in memory for each engine."""
_LONG = 1000
"""Minimum characters of a long text."""


class EncoderText(NamedTuple):
    """A text to encode."""

    text: str
    is_passage: bool = False
    """True for a passage to search, not a query."""


class EncodedText(NamedTuple):
    """The vector of a text, and its number of tokens."""

    vector: Vector
    tokens: int


class EncodedBatch(NamedTuple):
    """Vectors of texts, with the tokens and time of those newly encoded."""

    vectors: tuple[Vector, ...]
    tokens: int
    seconds: float
    """Seconds of one core."""


class Store(Protocol):
    """Stores vectors across runs. Called in the threads of an engine."""

    def find(self, texts: Sequence[EncoderText]) -> Mapping[EncoderText, Vector]: ...  # noqa: D102
    def put(self, vectors: Mapping[EncoderText, Vector]) -> None: ...  # noqa: D102


Engine = Callable[[Sequence[EncoderText]], Sequence[EncodedText]]
"""Encodes texts. It blocks, and is called in a thread."""


class _Job:
    """A text, and its vector once encoded."""

    def __init__(self, text: EncoderText, number: int) -> None:
        self.text = text
        self.number = number
        """Order of arrival."""
        self.future = Future[EncodedText]()
        self.seconds = 0.0
        self.waiters = 0

    @property
    def is_long(self) -> bool:
        return len(self.text.text) >= _LONG


class EncodingQueue:
    """Texts waiting for an engine, and the latest vectors.

    Args:
        engine: Called from all threads at once.
        threads: Number of threads. All but one may read long texts, so that short ones needn't
            wait. A single thread reads all in order.
        batch: Maximum number of waiting texts passed to the engine at once.
    """

    def __init__(self, engine: Engine, *, threads: int, batch: int = 1) -> None:
        self.engine = engine
        self._threads = threads
        self._batch = batch
        self.store: Store | None = None
        """Store of vectors across runs, searched first."""
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Start empty: a forked process has no threads, and a lock may be held."""
        self._lock = threading.Lock()
        self._jobs: OrderedDict[EncoderText, _Job] = OrderedDict()
        self._short, self._long = deque[_Job](), deque[_Job]()
        self._arrived = self._busy = self._busy_with_long = 0

    def clear(self) -> None:
        """Clear the cached vectors."""
        with self._lock:
            self._jobs.clear()

    def prefetch(self, texts: Iterable[EncoderText]) -> None:
        """Encode texts in advance."""
        self._join(texts)

    async def read(self, texts: Sequence[EncoderText]) -> EncodedBatch:
        """Return the vectors of texts without blocking the event loop.

        If the caller is cancelled, texts that no other caller waits for are not encoded.
        """
        jobs, new = self._join(dict.fromkeys(texts))
        try:
            await _wait_for([job.future for job in jobs.values()])
        finally:
            self._leave(jobs.values())
        encoded_by_text = {text: job.future.result() for text, job in jobs.items()}
        return EncodedBatch(
            vectors=tuple(encoded_by_text[text].vector for text in texts),
            tokens=sum(encoded_by_text[job.text].tokens for job in new),
            seconds=sum(job.seconds for job in new),
        )

    def _join(self, texts: Iterable[EncoderText]) -> tuple[dict[EncoderText, _Job], list[_Job]]:
        """Find or create the job of each text. Return all jobs, and the new ones."""
        with self._lock:
            jobs, new = dict[EncoderText, _Job](), list[_Job]()
            for text in texts:
                if text not in self._jobs:
                    self._arrived += 1
                    self._jobs[text] = job = _Job(text, self._arrived)
                    (self._long if job.is_long else self._short).append(job)
                    new.append(job)
                jobs[text] = self._jobs[text]
                jobs[text].waiters += 1
                self._jobs.move_to_end(text)
            while len(self._jobs) > max(_KEPT, len(jobs)):
                self._jobs.popitem(last=False)
            wait = len(self._short) + len(self._long)
            idle = min(self._threads - self._busy, -(-wait // self._batch))
            self._busy += idle
        for _ in range(idle):
            threading.Thread(target=self._work, name="moa encoding").start()
        return jobs, new

    def _leave(self, jobs: Collection[_Job]) -> None:
        """Drop failed jobs, and those without waiters."""
        with self._lock:
            for job in jobs:
                job.waiters -= 1
                was_cancelled = job.future.cancel() if not job.waiters else False
                has_failed = (
                    job.future.done() and not was_cancelled and job.future.exception() is not None
                )
                if (was_cancelled or has_failed) and self._jobs.get(job.text) is job:
                    del self._jobs[job.text]

    def _work(self) -> None:
        """Encode waiting texts until none is left for this thread."""
        while jobs := self._take():
            start = time.thread_time()
            try:
                encoded_texts = self._encode([job.text for job in jobs])
                pairs = list(zip(jobs, encoded_texts, strict=True))
            except BaseException as error:  # noqa: BLE001  raised where the texts are awaited
                for job in jobs:
                    job.future.set_exception(error)
            else:
                for job, encoded in pairs:
                    job.seconds = (time.thread_time() - start) / len(jobs)
                    job.future.set_result(encoded)
            with self._lock:
                self._busy_with_long -= any(job.is_long for job in jobs)

    def _encode(self, texts: Sequence[EncoderText]) -> list[EncodedText]:
        """Look up texts in the store, and encode the missing ones.

        A single empty text is always encoded, which loads the engine in advance.
        """
        if self.store is None or not any(text.text for text in texts):
            return list(self.engine(texts))
        encoded_by_text = {
            text: EncodedText(v, tokens=0) for text, v in self.store.find(texts).items()
        }
        if missing_texts := [text for text in texts if text not in encoded_by_text]:
            new = dict(zip(missing_texts, self.engine(missing_texts), strict=True))
            self.store.put({text: encoded.vector for text, encoded in new.items()})
            encoded_by_text |= new
        return [encoded_by_text[text] for text in texts]

    def _take(self) -> list[_Job]:
        """Take the oldest texts still wanted. An empty list ends the thread."""
        jobs = list[_Job]()
        with self._lock:
            may_be_long = self._busy_with_long < max(1, self._threads - 1)
            while len(jobs) < self._batch:
                heads = [q for q in (self._short, self._long if may_be_long else ()) if q]
                if not heads:
                    break
                job = min(heads, key=lambda queue: queue[0].number).popleft()
                if job.future.set_running_or_notify_cancel():
                    jobs.append(job)
            self._busy_with_long += any(job.is_long for job in jobs)
            self._busy -= not jobs
        return jobs


async def _wait_for(futures: Collection[Future[EncodedText]]) -> None:
    """Wait until all are done. Cancelling the wait cancels none of them."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    lock = threading.Lock()
    left = len(futures)

    def finish() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def count(_: Future[EncodedText]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = not left
        if last:
            with suppress(RuntimeError):  # the loop is closed: nothing waits
                loop.call_soon_threadsafe(finish)

    for future in futures:
        future.add_done_callback(count)
    if futures:
        await waiter
