"""Closing: lets whatever can be closed stand in an `async with`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

from moa.endpoints import Endpoint

T = TypeVar("T")


class Closing(ABC):
    """Is closed at the end of its `async with`. All endpoints of `moa` derive from it.

    It is no part of the `Endpoint` protocol, so that an endpoint of one's own needs only `close`.
    """

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections and processes. Closing twice does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


async def close_all(endpoints: Iterable[Endpoint]) -> None:
    """Close them one after another, also where one can't be; its error is raised at the end."""
    async with AsyncExitStack() as stack:
        for endpoint in endpoints:
            stack.push_async_callback(endpoint.close)


@asynccontextmanager
async def closed_after(pieces: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T], None]:
    """Close a stream at the end, also one that is left early, so that its call is settled then.

    Args:
        pieces: A generator, or an iterator of one's own that needs no closing.
    """
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
