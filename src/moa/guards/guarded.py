"""Guarded: a node with guards before it, beside it and after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

from moa.agents.base import In, Out, run_off_loop
from moa.agents.filter import Verdict
from moa.core._async import cancel
from moa.core.context import RunContext
from moa.core.errors import WiringError
from moa.core.node import Node, Text, unique_names
from moa.core.telemetry import names
from moa.core.trace import Event, NodeFinished, TextDelta
from moa.graphs.engine.types import UNKNOWN, fits, signature_of, union
from moa.graphs.fields import FROM_GRAPH, NamedEndpoints
from moa.graphs.recipe import Recipe, Sketch
from moa.guards import Blocked, Exchange, Position
from moa.guards.pii import Pii, PiiSession, Restorer
from moa.guards.texts import change_texts, texts_of

T = TypeVar("T")
Check = Node[Any, Verdict]
"""A node that decides whether a text, or an `Exchange`, is kept, such as a `Filter`."""
Guard = Check | Pii


class Guarded(Recipe[In, Out | Blocked], Generic[In, Out], recipe="guarded"):
    """A node with guards before it, beside it and after it.

    A check is any node that returns a `Verdict`. It gets every text of the request (after the node:
    of the output), or its declared input type: the request itself, or an `Exchange` of both. If it
    doesn't keep a text, the run returns `Blocked`. If it fails, the run fails without output.

    `Pii` before the node masks the request, also for the guards after it, and restores the secrets
    in the output, also in streams. After the node it permanently masks secrets that the node added.

    Raises:
        WiringError: a guard returns no `Verdict`, or `Pii` is beside the node.

    Examples:
        >>> small = SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.9}})
        >>> advice = Filter(small, "medical advice", action="drop")
        >>> node = Guarded(node=Agent(ScriptedEndpoint(["Rest."]), "Answer."), before=[advice])
        >>> node.run_sync("What helps against a cold?").output.guard
        'filter'
    """

    node: Annotated[Node[In, Out], FROM_GRAPH]
    """The guarded node. The default `name` is "guarded" and the node's name."""
    before: Sequence[Annotated[Guard, FROM_GRAPH]] = ()
    """Guards that run one after another before the node."""
    beside: Sequence[Annotated[Check, FROM_GRAPH]] = ()
    """Guards that run in parallel with the node. If one stops the text, the node is cancelled. No
    output is shown before all have passed. The run takes as long as the slowest of them, and a
    stopped request may have cost tokens."""
    after: Sequence[Annotated[Guard, FROM_GRAPH]] = ()
    """Guards that run one after another on the output, which streams only after all have passed."""

    @classmethod
    def complete(
        cls, table: Mapping[str, object], endpoints: NamedEndpoints
    ) -> Mapping[str, object]:
        """Guard the default large model, if no node is named."""
        del endpoints
        return {"node": "generator", **table}

    def prepare(self) -> None:
        """Check the positions of the guards."""
        signature = signature_of(self.node)
        self.input_type = object if signature.input(0) is UNKNOWN else signature.input(0)
        self.output_type = union((signature.output, Blocked))
        if self.name == type(self).name:
            self.name = f"guarded {self.node.name}"
        for guard in (*self.before, *self.beside, *self.after):
            output = signature_of(guard).output
            if not isinstance(guard, Pii) and not fits(output, Verdict):
                raise WiringError(
                    f"{self.name!r}: the guard {guard.name!r} gives "
                    f"{getattr(output, '__name__', output)}, and a guard is Pii, or a node that "
                    "gives a Verdict, such as a Filter"
                )
        if any(isinstance(guard, Pii) for guard in self.beside):
            raise WiringError(
                f"{self.name!r}: what masks a text can't stand beside the node, which would have "
                "been given the text as it was: put Pii into before"
            )

    def sketch(self, sketch: Sketch) -> None:
        """Draw the guards and the node in order, with the guards beside it in parallel."""
        guards = (*self.before, *self.beside, self.node, *self.after)
        names = dict(zip(map(id, guards), unique_names([g.name for g in guards]), strict=True))

        def box(node: object) -> str:
            return sketch.box(node, names[id(node)])

        *_, start = first = [sketch.input, *map(box, self.before)]
        last = node = box(self.node)
        sketch.arrow(*first, node)
        if self.beside:
            last = sketch.box(label="hold back")
            for guard in self.beside:
                sketch.arrow(start, box(guard), last)
            sketch.arrow(node, last)
        sketch.arrow(last, *map(box, self.after), sketch.output)

    async def answer(self, request: In, context: RunContext) -> Out | Blocked:
        """Run the guards before the node, the node, and the guards after it."""
        with ExitStack() as open_sessions:
            sessions: list[PiiSession] = []
            for guard in self.before:
                if isinstance(guard, Pii):
                    session = open_sessions.enter_context(guard.session())
                    request = await _mask(session, request, "before", context)
                    sessions.append(session)
                    session.note_found(context, by=f"{guard.name!r} ")
                elif blocked := await _check(guard, request, "before", context):
                    return blocked
            events = _Events(context, sessions[::-1])
            output = await self._run_beside_guards(request, context, events)
            if not isinstance(output, Blocked):
                exchange = Exchange(request=request, output=output)
                output = await self._run_guards_after(exchange, context, sessions, events)
            if isinstance(output, Blocked):
                return output
            for session in reversed(sessions):
                output = session.restore_all(output)
                if session.altered:
                    left = ", ".join(sorted(session.altered))
                    context.note("dropped", f"not put back, since the node altered it: {left}")
            events.end()
            return output

    async def _run_beside_guards(
        self, request: In, context: RunContext, events: _Events
    ) -> Out | Blocked:
        """Start the node at once, and cancel it if a guard beside it stops the text.

        All guards are awaited, even if the node fails first.
        """
        running = asyncio.ensure_future(self.node.run(request, events.context))
        try:
            calls = [_check(guard, request, "beside", context) for guard in self.beside]
            blocked = await _first_blocked(calls)
            if blocked:
                return blocked
            if not self.after:
                events.release()
            return (await running).output
        finally:
            await cancel([running])

    async def _run_guards_after(
        self,
        exchange: Exchange,
        context: RunContext,
        sessions: Sequence[PiiSession],
        events: _Events,
    ) -> Out | Blocked:
        for guard in self.after:
            if isinstance(guard, Pii):
                with guard.session(sessions) as session:
                    output = await _mask(session, exchange.output, "after", context)
                    exchange = Exchange(request=exchange.request, output=output)
                    await run_off_loop(
                        partial(events.change, session.mask), context, characters=None
                    )
                    session.note_found(context, by=f"{guard.name!r} ")
            elif blocked := await _check(guard, exchange, "after", context):
                return blocked
        events.release()
        return exchange.output


async def _check(
    guard: Check, value: object, position: Position, context: RunContext
) -> Blocked | None:
    inner = context if context.tracer is None else context.nested()
    with inner.span("guard", guard.name) as span:
        result = await guard.run(_adapt(guard, value), inner)
        verdict = result.output
        if span is not None:
            span.set(names.GUARD_POSITION, position)
            span.set(names.GUARD_KEPT, verdict.kept)
    if verdict.kept:
        return None
    if all((note.kind, note.text) != ("dropped", verdict.reason) for note in result.trace):
        # A `Filter` has said so itself.
        context.note("dropped", f"stopped by {guard.name!r}, {position} the node: {verdict.reason}")
    return Blocked(reason=verdict.reason, guard=guard.name, place=position)


async def _mask(session: PiiSession, value: T, position: Position, context: RunContext) -> T:
    """Mask every text in a value."""
    inner = context if context.tracer is None else context.nested()
    with inner.span("guard", session.pii.name) as span:
        masked = await session.mask_all(value, inner)
        if span is not None:
            span.set(names.GUARD_POSITION, position)
            span.set(names.GUARD_MASKED, sum(session.found.values()))
    return masked


def _adapt(guard: Check, value: object) -> object:
    """Adapt a value to a guard: its texts, unless the guard declares another input."""
    input_type = signature_of(guard).input(0)
    if fits(type(value), input_type) and input_type is not UNKNOWN:
        return value
    if isinstance(value, Exchange):
        return _adapt(guard, value.output)
    text = "\n".join(texts_of(value))
    return text if fits(str, input_type) else Text(text=text)


async def _first_blocked(calls: Sequence[Awaitable[Blocked | None]]) -> Blocked | None:
    """Return the first block, and cancel the other checks."""
    running = [asyncio.ensure_future(call) for call in calls]
    try:
        for future in asyncio.as_completed(running):
            blocked = await future
            if blocked is not None:
                return blocked
        return None
    finally:
        await cancel(running)


class _Events:
    """Holds back the node's events until they are released, and restores secrets in them.

    Without a listener nothing is held. Sessions are applied one after another.
    """

    def __init__(self, outer: RunContext, sessions: Sequence[PiiSession]) -> None:
        self._outer = outer
        self._sessions = sessions
        self._streams: dict[str, list[Restorer]] = {}
        self._held: list[Event] = []
        self._released = False
        self.context = outer.nested()
        """The context that the node runs in."""
        self.context.listener = self._take if outer.listener is not None else None

    def change(self, change: Callable[[str], str]) -> None:
        """Change the held texts, each node's as a whole."""
        texts: dict[str, str] = {}
        for event in self._held:
            if isinstance(event, TextDelta):
                texts[event.node] = texts.get(event.node, "") + event.text
        events: list[Event] = []
        for event in self._held:
            if not isinstance(event, TextDelta):
                events.append(_change_output(event, change))
            elif event.node in texts:
                events.append(TextDelta(event.node, change(texts.pop(event.node))))
        self._held = events

    def release(self) -> None:
        """Emit the held events, and later events at once."""
        self._released = True
        events, self._held = self._held, []
        for event in events:
            self._tell(event)

    def end(self) -> None:
        """Emit the rest of each text: starts of placeholders that were never completed."""
        for node in list(self._streams):
            self._end(node)

    def _end(self, node: str) -> None:
        text = ""
        for stage in self._streams.pop(node, ()):
            text = stage.feed(text) + stage.close()
        if text:
            self._outer.emit(TextDelta(node, text))

    def _take(self, event: Event) -> None:
        if self._released:
            self._tell(event)
        else:
            self._held.append(event)

    def _tell(self, event: Event) -> None:
        if not isinstance(event, TextDelta):
            if isinstance(event, NodeFinished):
                self._end(event.node)
            self._outer.emit(_change_output(event, self._restore))
            return
        if event.node not in self._streams:
            self._streams[event.node] = [session.restorer() for session in self._sessions]
        text = event.text
        for stage in self._streams[event.node]:
            text = stage.feed(text)
        if text:
            self._outer.emit(TextDelta(event.node, text))

    def _restore(self, text: str) -> str:
        for session in self._sessions:
            stage = session.restorer()
            text = stage.feed(text) + stage.close()
        return text


def _change_output(event: Event, change: Callable[[str], str]) -> Event:
    if not isinstance(event, NodeFinished):
        return event
    return replace(event, output=change_texts(event.output, change, strict=False))
