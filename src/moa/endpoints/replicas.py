"""Replicas: spreads requests over several servers of one model, and does without dead ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from hashlib import blake2b
from typing import TypeVar

from moa.context import RunContext
from moa.endpoints import (
    Capability,
    Completion,
    Decision,
    Embeddings,
    Endpoint,
    Example,
    Prompt,
    close_all,
    closed_after,
)
from moa.endpoints.health import Patience, Probe, Replica, list_models
from moa.endpoints.wrappers import Wrapping
from moa.errors import ConfigError, EndpointUnavailable
from moa.questions import Question

T = TypeVar("T")


class Replicas(Wrapping):
    """Several servers of one model behind one name.

    A request goes to the replica with the fewest outstanding requests, unless it has a stable
    prefix: the system message of a prompt, or the questions and examples of a decision. Those with
    the same prefix go to the same replica, whose cache of prompts holds it, as long as that one has
    at most `slack` more outstanding than the least busy; then to the next in the order of that
    prefix (rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit
    rates", 1998). So where a replica comes or goes, only its own share of the prefixes moves.

    One that can't be reached, or that answers 502 or 503, is taken out, and its request goes to
    another at once. A stream whose first piece has come fails instead, since a part of its answer
    has been given. A replica that is out is probed by the next request after a wait, which doubles
    up to `longest_wait_s` until the replica answers, and is let in again. Where all are out, each
    request probes them.

    Each replica has a name of its own: the trace and the usage say who answered.

    Args:
        name: Name of them all.
        replicas: The servers, with different names.
        slack: Outstanding requests more than the least busy one has, up to which a prefix stays.
        first_wait_s: Seconds until a replica that died is probed.
        longest_wait_s: Most seconds between two probes.
        probe_timeout_s: Seconds that a probe may take; the request that makes it waits for it.
        probe: How a replica is probed.
        clock: Tells the seconds.

    Raises:
        ConfigError: there is no replica, two have one name, they differ in model or tier, or a
            number can't work.
    """

    def __init__(
        self,
        name: str,
        replicas: Sequence[Endpoint],
        *,
        slack: int = 4,
        first_wait_s: float = 0.5,
        longest_wait_s: float = 30.0,
        probe_timeout_s: float = 1.0,
        probe: Probe = list_models,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(name, replicas)
        if slack < 0 or min(first_wait_s, longest_wait_s, probe_timeout_s) <= 0:
            raise ConfigError(f"{name}: slack must not be negative, and waits must be positive")
        super().__init__(replicas[0])
        patience = Patience(
            first_wait_s=first_wait_s,
            longest_wait_s=longest_wait_s,
            probe_timeout_s=probe_timeout_s,
            probe=probe,
            clock=clock,
        )
        self._name = name
        self._replicas = tuple(Replica(endpoint, patience) for endpoint in replicas)
        self._slack = slack
        self._turn = 0

    @property
    def name(self) -> str:
        """Name of them all."""
        return self._name

    @property
    def replicas(self) -> tuple[Endpoint, ...]:
        """All of them."""
        return tuple(replica.endpoint for replica in self._replicas)

    @property
    def alive(self) -> tuple[str, ...]:
        """Names of those that requests go to."""
        return tuple(replica.name for replica in self._replicas if replica.is_in)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What all of them can do."""
        shared = self.endpoint.capabilities
        for other in self.replicas[1:]:
            shared &= other.capabilities
        return shared

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`; raises `EndpointUnavailable` where all replicas are gone."""
        return await self._ask(lambda one: one.complete(prompt, context), _prefix(prompt), context)

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """See `Endpoint.stream`; another replica takes over only before the first piece."""
        tried: list[Replica] = []
        begun = False
        while True:
            replica = await self._next(_prefix(prompt), tried, context)
            stream = replica.endpoint.stream(prompt, context)
            try:
                with replica.counted():
                    async with closed_after(stream) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                return
            except EndpointUnavailable as error:
                replica.lost(error)
                if begun:
                    raise _broken_off(replica, error) from error
                self._go_on(replica, error, tried, context)

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        """See `Endpoint.decide`; raises `EndpointUnavailable` where all replicas are gone."""

        def ask(one: Endpoint) -> Awaitable[Decision]:
            return one.decide(state, questions, context, examples=examples)

        return await self._ask(ask, _asked(questions, examples), context)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`; raises `EndpointUnavailable` where all replicas are gone."""
        return await self._ask(lambda one: one.embed(texts, context), None, context)

    async def close(self) -> None:
        """Close all of them, also where one can't be; its error is raised at the end."""
        await close_all(self.replicas)

    async def _ask(
        self, ask: Callable[[Endpoint], Awaitable[T]], prefix: str | None, context: RunContext
    ) -> T:
        tried: list[Replica] = []
        while True:
            replica = await self._next(prefix, tried, context)
            try:
                with replica.counted():
                    return await ask(replica.endpoint)
            except EndpointUnavailable as error:
                replica.lost(error)
                self._go_on(replica, error, tried, context)

    async def _next(
        self, prefix: str | None, tried: Collection[Replica], context: RunContext
    ) -> Replica:
        """Choose a replica, none of those that failed this request already."""
        await self._let_in(tried, context)
        able = [one for one in self._replicas if one.is_in and one not in tried]
        if not able:
            raise self._all_gone()
        least = min(one.outstanding for one in able)
        if prefix is None:
            self._turn += 1  # of equally busy ones not always the first
            equals = [one for one in able if one.outstanding == least]
            return equals[self._turn % len(equals)]
        able.sort(key=lambda one: _weight(prefix, one.name), reverse=True)
        return next(one for one in able if one.outstanding <= least + self._slack)

    async def _let_in(self, tried: Collection[Replica], context: RunContext) -> None:
        """Probe those whose wait is over; where nobody is left, all but those just tried."""
        left = [one for one in self._replicas if one not in tried]
        alone = not any(one.is_in for one in left)
        due = [one for one in left if alone or one.is_due]
        if due:
            await asyncio.gather(*(one.probe(context) for one in due))

    def _go_on(
        self,
        replica: Replica,
        error: EndpointUnavailable,
        tried: list[Replica],
        context: RunContext,
    ) -> None:
        """Say why another is asked; raise where there is none."""
        tried.append(replica)
        if len(tried) == len(self._replicas):
            raise self._all_gone() from error
        text = f"to another replica of {self.name}: {error}"
        context.note("fell back", text, endpoint=replica.name)

    def _all_gone(self) -> EndpointUnavailable:
        reasons = "; ".join(one.reason for one in self._replicas if one.reason)
        count = len(self._replicas)
        return EndpointUnavailable(
            f"none of its {count} replicas answers: {reasons}", endpoint=self.name
        )


def _check(name: str, replicas: Sequence[Endpoint]) -> None:
    if not replicas:
        raise ConfigError(f"{name}: there are no replicas")
    names = [one.name for one in replicas]
    if len(set(names)) < len(names):
        raise ConfigError(f"{name}: each replica needs a name of its own, not {', '.join(names)}")
    if len({(one.model, one.tier) for one in replicas}) > 1:
        served = ", ".join(f"{one.name}: {one.model} ({one.tier})" for one in replicas)
        raise ConfigError(f"{name}: replicas are of one model and one tier, not {served}")


def _broken_off(replica: Replica, error: EndpointUnavailable) -> EndpointUnavailable:
    return EndpointUnavailable(
        "the stream broke off, and as a part of its answer was given, no other replica was "
        f"asked: {error.message}",
        endpoint=replica.name,
        status=error.status,
    )


def _prefix(prompt: Prompt) -> str | None:
    """Give what the prompts of one agent share: the system message, or else the first example."""
    first, *others = prompt.messages
    return first.content if others else None


def _asked(questions: Sequence[Question], examples: Sequence[Example]) -> str:
    """Give what the decisions of one agent share."""
    asked = [(q.kind, q.text, [(o.name, o.description) for o in q.options]) for q in questions]
    return repr((asked, [(shown.text, sorted(shown.labels.items())) for shown in examples]))


def _weight(prefix: str, name: str) -> bytes:
    text = f"{name}\n{prefix}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=8).digest()
