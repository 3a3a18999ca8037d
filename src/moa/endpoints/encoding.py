"""Encoding: how texts wait for an engine that encodes, and how what it gave is kept.

A text that several ask for is encoded once. The threads of an engine take the oldest texts first;
of long ones so few at once that a thread is left for the others.
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
"""Vectors of an engine that are kept in memory."""
_LONG = 1000
"""Characters from which on a text is long."""


class Text(NamedTuple):
    """What is encoded."""

    text: str
    is_passage: bool = False
    """Whether it is what is looked for, instead of what looks for it."""


class EncodedText(NamedTuple):
    """The vector of a text, and the tokens that were read for it."""

    vector: Vector
    tokens: int


class Readings(NamedTuple):
    """The vectors of some texts, and what it took to make those that were new."""

    vectors: tuple[Vector, ...]
    tokens: int
    seconds: float
    """Seconds of one core."""


class Store(Protocol):
    """Keeps vectors over runs. It is used in the threads of an engine."""

    def find(self, texts: Sequence[Text]) -> Mapping[Text, Vector]: ...  # noqa: D102
    def put(self, vectors: Mapping[Text, Vector]) -> None: ...  # noqa: D102


Engine = Callable[[Sequence[Text]], Sequence[EncodedText]]
"""Turns some texts into vectors, in a thread, and blocks."""


class _Job:
    """A text that waits for its vector, or has it."""

    def __init__(self, text: Text, number: int) -> None:
        self.text = text
        self.number = number
        """Its place among all that came."""
        self.future = Future[EncodedText]()
        self.seconds = 0.0
        self.waiters = 0

    @property
    def is_long(self) -> bool:
        return len(self.text.text) >= _LONG


class Encoding:
    """The texts of an engine: those that wait, and the last ones with their vectors.

    Args:
        engine: Called from as many threads at once as there are.
        threads: How many encode at once. All but one may read long texts, so that others needn't
            wait for these; a single one reads all, in their order.
        batch: How many texts are given to the engine together, of those that wait.
    """

    def __init__(self, engine: Engine, *, threads: int, batch: int = 1) -> None:
        self.engine = engine
        self._threads = threads
        self._batch = batch
        self.store: Store | None = None
        """Where vectors are looked for first, and kept for later runs."""
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Begin with nothing: a forked process has none of the threads, and a lock may be held."""
        self._lock = threading.Lock()
        self._jobs: OrderedDict[Text, _Job] = OrderedDict()
        self._short, self._long = deque[_Job](), deque[_Job]()
        self._came = self._at_work = self._at_long = 0

    def clear(self) -> None:
        """Forget the vectors that are kept."""
        with self._lock:
            self._jobs.clear()

    def start(self, texts: Iterable[Text]) -> None:
        """Have texts encoded that will be asked for."""
        self._join(texts)

    async def read(self, texts: Sequence[Text]) -> Readings:
        """Give the vectors of texts; the event loop goes on meanwhile.

        Where the caller is cancelled, what nobody else waits for is not encoded.
        """
        jobs, new = self._join(dict.fromkeys(texts))
        try:
            await _wait_for([job.future for job in jobs.values()])
        finally:
            self._leave(jobs.values())
        found = {text: job.future.result() for text, job in jobs.items()}
        return Readings(
            vectors=tuple(found[text].vector for text in texts),
            tokens=sum(found[job.text].tokens for job in new),
            seconds=sum(job.seconds for job in new),
        )

    def _join(self, texts: Iterable[Text]) -> tuple[dict[Text, _Job], list[_Job]]:
        """Find the job of each text, or make it; those that were made come again beside them."""
        with self._lock:
            jobs, new = dict[Text, _Job](), list[_Job]()
            for text in texts:
                if text not in self._jobs:
                    self._came += 1
                    self._jobs[text] = job = _Job(text, self._came)
                    (self._long if job.is_long else self._short).append(job)
                    new.append(job)
                jobs[text] = self._jobs[text]
                jobs[text].waiters += 1
                self._jobs.move_to_end(text)
            while len(self._jobs) > max(_KEPT, len(jobs)):
                self._jobs.popitem(last=False)
            wait = len(self._short) + len(self._long)
            idle = min(self._threads - self._at_work, -(-wait // self._batch))
            self._at_work += idle
        for _ in range(idle):
            threading.Thread(target=self._work, name="moa encoding").start()
        return jobs, new

    def _leave(self, jobs: Collection[_Job]) -> None:
        """Drop what failed, and what nobody waits for any more."""
        with self._lock:
            for job in jobs:
                job.waiters -= 1
                goes = job.future.cancel() if not job.waiters else False
                failed = job.future.done() and not goes and job.future.exception() is not None
                if (goes or failed) and self._jobs.get(job.text) is job:
                    del self._jobs[job.text]

    def _work(self) -> None:
        """Encode what waits, until nothing is left that this thread may take."""
        while jobs := self._take():
            began = time.thread_time()
            try:
                found = self._encode([job.text for job in jobs])
                pairs = list(zip(jobs, found, strict=True))
            except BaseException as error:  # noqa: BLE001  those who wait for the texts raise it
                for job in jobs:
                    job.future.set_exception(error)
            else:
                for job, encoded in pairs:
                    job.seconds = (time.thread_time() - began) / len(jobs)
                    job.future.set_result(encoded)
            with self._lock:
                self._at_long -= any(job.is_long for job in jobs)

    def _encode(self, texts: Sequence[Text]) -> list[EncodedText]:
        """Look texts up in the store, and encode those that it lacks.

        An empty one alone is always encoded, which loads the engine for those that will come.
        """
        if self.store is None or not any(text.text for text in texts):
            return list(self.engine(texts))
        found = {text: EncodedText(v, tokens=0) for text, v in self.store.find(texts).items()}
        if lacking := [text for text in texts if text not in found]:
            new = dict(zip(lacking, self.engine(lacking), strict=True))
            self.store.put({text: encoded.vector for text, encoded in new.items()})
            found |= new
        return [found[text] for text in texts]

    def _take(self) -> list[_Job]:
        """Take the oldest texts that still are wanted; none: the thread ends."""
        jobs = list[_Job]()
        with self._lock:
            may_be_long = self._at_long < max(1, self._threads - 1)
            while len(jobs) < self._batch:
                heads = [q for q in (self._short, self._long if may_be_long else ()) if q]
                if not heads:
                    break
                job = min(heads, key=lambda queue: queue[0].number).popleft()
                if job.future.set_running_or_notify_cancel():
                    jobs.append(job)
            self._at_long += any(job.is_long for job in jobs)
            self._at_work -= not jobs
        return jobs


async def _wait_for(futures: Collection[Future[EncodedText]]) -> None:
    """Wait until all are done; to be cancelled here cancels none of them."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    lock = threading.Lock()
    left = len(futures)

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    def count(_: Future[EncodedText]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = not left
        if last:
            with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(finish)

    for future in futures:
        future.add_done_callback(count)
    if futures:
        await done
