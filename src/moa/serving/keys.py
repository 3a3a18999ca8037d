"""Keys: who asks, what it may run, and what it may spend."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from moa.context import Reference, RunContext


class Caller:
    """Who asks. This one is anyone: it may run all that is served, without a limit."""

    name = ""
    """What is kept of its runs, jobs and threads is kept under this name."""

    def may_run(self, name: str) -> bool:
        """Whether it may know of, and run, what is served under a name."""
        del name
        return True

    @asynccontextmanager
    async def admit(
        self, name: str, *, timeout_s: float | None = None, reference: Reference | None = None
    ) -> AsyncGenerator[RunContext]:
        """Open the context of one run: its budget is what this caller has left.

        What the run has used is `context.usage` when the block ends, however it ends; it is
        settled then.

        Args:
            name: What is run.
            timeout_s: Seconds until the run's deadline.
            reference: The large model to compare the cost with.

        Raises:
            RequestRefused: it may not run it (403), has nothing left (402), or runs too much at
                once or in a minute (429).
        """
        del name
        yield RunContext(timeout_s=timeout_s, reference=reference, keep_notes=False)


ANYONE = Caller()


class Keys:
    """The keys of a server. This one has none: whoever asks is `ANYONE`."""

    async def caller(self, authorization: str | None) -> Caller:
        """Say who sends a request, by its `Authorization` header.

        Raises:
            RequestRefused: the key is missing, unknown or revoked (401).
        """
        del authorization
        return ANYONE

    def named(self, name: str) -> Caller | None:
        """Give a caller by its name, to go on with its jobs; `None`: there is none any longer."""
        return ANYONE if name == ANYONE.name else None

    async def open(self) -> None:
        """Open what is needed, when the server starts."""

    async def close(self) -> None:
        """Close it, when the server ends."""


def keys_in(address: str | None) -> Keys:
    """Give the keys in a file, or in a table of Postgres; `None`: none are needed.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    del address
    return Keys()
