"""Wire: sends the requests of one event loop to a server and reads the answers.

`Pool` in `pool.py` is the usual one. `ClientWire` in `given.py` uses a client of OpenAI's library.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress

from moa.core.errors import AnswerTooLarge, EndpointError
from moa.endpoints.pacing import Slots
from moa.endpoints.transport import without_key

LARGEST_ANSWER = 128 * 2**20
"""Maximum bytes of an answer or a whole stream, decompressed: about two thousand vectors of 3,000
numbers."""
LONGEST_LINE = 8 * 2**20
"""Maximum bytes of one line of a stream."""
_LINES_AT_ONCE = 32
"""Lines of a stream that may be read without a wait: those of 16 events, some milliseconds."""
_DRAIN_S = 0.1
"""Seconds to wait for the end of a stream after its last event, so that its connection is kept."""


class Reply(ABC):
    """An HTTP answer whose headers have arrived. Its size is limited.

    Args:
        name: Name of the endpoint, for errors.
        url: Address of the request.
        status: HTTP status.
        headers: Headers; names are case-insensitive.
        sent: Number of bytes in the request's body.
    """

    def __init__(
        self, name: str, url: str, status: int, headers: Mapping[str, str], sent: int
    ) -> None:
        self.url = url
        self.status = status
        self.headers = headers
        self.sent_bytes = sent
        self._name = name
        self._size = 0
        self._rest = bytearray()
        """Bytes after the last line."""
        self._lines = 0

    @property
    def streams(self) -> bool:
        """True for a stream of events."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind == "text/event-stream" and self.status < 300

    @abstractmethod
    async def next_piece(self) -> bytes:
        """Wait for the next bytes, decompressed; empty at the end. Raises `EndpointError`."""

    @abstractmethod
    async def close(self) -> None:
        """Release the answer. Its connection is kept if all of it was read."""

    async def read(self) -> bytes:
        """Read the whole answer and release it."""
        pieces: list[bytes] = []
        try:
            while piece := await self._take_piece():
                pieces.append(piece)
        finally:
            await self.close()
        return b"".join(pieces)

    async def line(self) -> bytes:
        """Read a line including its end; empty at the end of the stream."""
        self._lines += 1
        if self._lines % _LINES_AT_ONCE == 0:  # what is here already is read without a wait
            await asyncio.sleep(0)
        seen = 0
        while (end := self._rest.find(b"\n", seen) + 1) == 0:
            seen = len(self._rest)
            if seen > LONGEST_LINE:
                raise self._too_large(LONGEST_LINE, "line of a stream")
            piece = await self._take_piece()
            if not piece:
                end = seen
                break
            self._rest += piece
        line = bytes(self._rest[:end])
        del self._rest[:end]
        return line

    async def drain(self) -> None:
        """Read a stream after its last event to the end, which frees its connection."""
        with suppress(TimeoutError, EndpointError):
            async with asyncio.timeout(_DRAIN_S):
                while await self._take_piece():
                    pass

    async def _take_piece(self) -> bytes:
        piece = await self.next_piece()
        self._size += len(piece)
        if self._size > LARGEST_ANSWER:
            raise self._too_large(LARGEST_ANSWER, "answer")
        return piece

    def _too_large(self, limit: int, unit: str) -> AnswerTooLarge:
        return AnswerTooLarge(
            f"{self.url} sent more than {limit >> 20} MiB in one {unit}. Ask for less at once, "
            "or correct `base_url`",
            endpoint=self._name,
        )


class Wire(ABC):
    """Sends the requests of one event loop to a server.

    Args:
        base_url: Address up to `/v1`, without a final slash.
        slots: Requests of the loop, in flight or waiting.
        secret: API key that is sent, from any source; empty if there is none.
    """

    def __init__(self, base_url: str, slots: Slots, secret: str) -> None:
        self.base_url = base_url
        self.slots = slots
        self.secret = secret

    @abstractmethod
    async def send(
        self,
        path: str,
        body: Mapping[str, object] | None,
        *,
        at_root: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Post a body, or get a path without one. Redirects aren't followed.

        `headers` are extra headers, such as those of a trace that the server continues.

        Raises:
            EndpointError: no headers were received.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connections that it opened."""

    def url(self, path: str, *, at_root: bool = False) -> str:
        """Return the address of a path. With `at_root`, it starts before `/v1`."""
        base = self.base_url.removesuffix("/v1") if at_root else self.base_url
        return f"{base}{path}"

    def without_key(self, answer: object) -> object:
        """Remove the key from an answer, unless it may be a word, such as `anything`."""
        fewest = 16 if self.secret.isalpha() else 8
        return without_key(answer, self.secret) if len(self.secret) >= fewest else answer
