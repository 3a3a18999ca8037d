"""Wire: how one event loop sends requests to a server, and reads what comes back.

`Pool` in `pool.py` is the usual one; `GivenClient` in `given.py` sends by a client of OpenAI's.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress

from moa.endpoints.pacing import Slots
from moa.endpoints.transport import without_key
from moa.errors import EndpointError, InvalidResponse

LARGEST_ANSWER = 128 * 2**20
"""Bytes of an answer or a whole stream, decompressed, above which it isn't read on: those of two
thousand vectors of 3,000 numbers."""
LONGEST_LINE = 8 * 2**20
"""Bytes of one line of a stream above which it isn't read on."""
_DRAIN_S = 0.1
"""Seconds to wait for the end of a stream after its last event, so that its connection is kept."""


class Reply(ABC):
    """An answer of HTTP whose headers are there; no more of it is read than may be.

    Args:
        name: The endpoint, for errors.
        url: What was asked.
        status: Of HTTP.
        headers: Their names are found in any case.
        sent: Bytes of the request's body.
    """

    def __init__(
        self, name: str, url: str, status: int, headers: Mapping[str, str], sent: int
    ) -> None:
        self.url = url
        self.status = status
        self.headers = headers
        self.sent = sent
        self._name = name
        self._size = 0
        self._rest = bytearray()
        """What was read after the last line."""

    @property
    def streams(self) -> bool:
        """Whether it is a stream of events."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind == "text/event-stream" and self.status < 300

    @abstractmethod
    async def next_piece(self) -> bytes:
        """Wait for the next bytes, decompressed; none at the end. Raises `EndpointError`."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it; its connection is kept where all of it was read."""

    async def read(self) -> bytes:
        """Read all of it, and let go of it."""
        pieces: list[bytes] = []
        try:
            while piece := await self._take_piece():
                pieces.append(piece)
        finally:
            await self.close()
        return b"".join(pieces)

    async def line(self) -> bytes:
        """Read a line with its end; nothing at the end of the stream."""
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
        """Read a stream past its last event to its end, where its connection is free again."""
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

    def _too_large(self, most: int, what: str) -> InvalidResponse:
        return InvalidResponse(
            f"{self.url} sent more than {most >> 20} MiB in one {what}. Ask for less at once, "
            "or correct `base_url`",
            endpoint=self._name,
        )


class Wire(ABC):
    """What one event loop needs to talk to a server.

    Args:
        base_url: Up to `/v1`, without a slash at its end.
        slots: The requests of the loop that are in flight.
        secret: The key that is sent, wherever it came from; empty where none is.
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
        also: Mapping[str, str] | None = None,
    ) -> Reply:
        """Post a body, or get a path where there is none; redirects aren't followed.

        `also` is sent too: headers by which the server goes on with a trace.

        Raises:
            EndpointError: no headers came back.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connections that it opened itself."""

    def url(self, path: str, *, at_root: bool = False) -> str:
        """Where a path is; with `at_root` it starts at the server's root, before `/v1`."""
        base = self.base_url.removesuffix("/v1") if at_root else self.base_url
        return f"{base}{path}"

    def without_key(self, answer: object) -> object:
        """Take the key out of an answer; one that may be a word stays, such as `anything`."""
        fewest = 16 if self.secret.isalpha() else 8
        return without_key(answer, self.secret) if len(self.secret) >= fewest else answer
