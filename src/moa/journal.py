"""Journal: what a run keeps of its finished calls, so that one that goes on pays for none again.

A call is found again by where it is made and what it asks, never by when: nodes run side by side,
and end in another order each time. LangGraph's nested tasks are found by the order of calls.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json, to_json

import moa.errors
from moa.context import RunContext
from moa.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    EndpointError,
    MoaError,
    NotResumable,
    OutputError,
    QuorumNotMet,
    StoreError,
)
from moa.trace import Note
from moa.usage import Amount, Part, Usage

T = TypeVar("T")
JSON = Any
"""What JSON can hold."""


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a value is written as JSON, and read back."""

    dump: Callable[[T], JSON]
    load: Callable[[JSON], T]


def form_of(kind: type[T]) -> Form[T]:
    """Write and read values of a type as pydantic does."""

    @cache  # few runs keep anything, and building it takes longer than importing this
    def adapter() -> TypeAdapter[T]:
        return TypeAdapter(kind)

    return Form(
        lambda value: adapter().dump_python(value, mode="json"),
        lambda written: adapter().validate_python(written),
    )


PLAIN: Form[Any] = Form(lambda value: value, lambda value: value)
"""Of what is JSON already."""


class Key:
    """Of a call. It is worked out once it is needed: in a new run of one call it never is."""

    __slots__ = ("_journal", "what", "written")

    def __init__(self, journal: Journal, what: Sequence[object]) -> None:
        self._journal = journal
        self.what = what
        self.written = ""

    def __str__(self) -> str:
        if not self.written:
            self._journal.write_keys()
        return self.written


class Journal:
    """What one run keeps, and what it finds of the run before. Its state belongs to one event loop.

    Args:
        name: Tells the run from any other.
        kept: What was kept of it before, by key.
        write: Keeps a record under a key. One that is there already may stay.
        inside: Entered with the key of each place, while what stands there runs; `None`: nothing.
        context: What is spent in it is counted; `None`: all that is kept.
    """

    def __init__(
        self,
        name: str = "",
        kept: Mapping[str, str] | None = None,
        *,
        write: Callable[[str, str], Awaitable[None]] | None = None,
        inside: Callable[[str], AbstractContextManager[object]] | None = None,
        context: RunContext | None = None,
    ) -> None:
        self.name = name
        self.kept = dict(kept or {})
        self.inside = inside
        self.context = context
        self.root = Place(self)
        self.paid: dict[Key | str, Usage] = {}
        """What the calls took that this run has made or found, by key."""
        self.found = 0
        """How many calls were found."""
        self._write = write
        failures = [key for key in self.kept if key.startswith(_FAILURE)] if kept else []
        self._failures = len(failures)
        self._failed_before = Counter(
            cast("str", call) for key in failures for call in from_json(self.kept[key])
        )
        self._seen: Counter[str] = Counter()
        self._unwritten: list[Key] = []

    def numbered(self, *what: object) -> str:
        """Tell something apart from all else in the run, and from what is equal to it."""
        found = digest(*what)
        self._seen[found] += 1
        return f"{found}.{self._seen[found]}"

    def key(self, *what: object) -> Key:
        """Give the key of a call; one that a run has failed by has another."""
        self._unwritten.append(key := Key(self, what))
        return key

    def write_keys(self) -> None:
        """Work out the keys of calls, in the order in which they were made: equal ones count."""
        for key in self._unwritten:
            found = self.numbered(*key.what)
            key.written = f"{found}.{self._failed_before[found]}"
        self._unwritten.clear()

    async def keep(self, key: str, record: str) -> None:
        """Keep a record."""
        self.kept[key] = record
        if self._write is not None:
            await self._write(key, record)

    async def keep_call(self, key: Key, record: Callable[[], str]) -> None:
        """Keep a finished call."""
        await self.keep(str(key), record())

    async def flush(self) -> None:
        """Write what is kept and not written yet, where that may wait until the next call."""

    def recall(self, inner: RunContext, key: str, usage: Usage, notes: Sequence[Note]) -> None:
        """Count a call that was found in the context that it would have been made in."""
        inner.recall(f"{self.name}/{key}", usage, notes)

    async def fail(self, error: Exception) -> None:
        """Keep that the run has failed, so that what its error came from is asked anew.

        What ended well stays, and so does what failed where something else stood in.
        """
        if blamed := self.root.to_blame(error):
            calls = sorted(str(key).rpartition(".")[0] for key in blamed)
            await self.keep(f"{_FAILURE}{self._failures}", to_json(calls).decode())


_FAILURE = "failure/"


class Place:
    """Where in a run something is done: a node, and what it is given. Equal ones are counted.

    `RunContext.journal` is the place that a node runs in.
    """

    def __init__(
        self, journal: Journal, path: str = "", request: object = None, around: Place | None = None
    ) -> None:
        self.journal = journal
        self.path = path
        self.request = request
        self.around = around
        self.calls: list[Key | str] = []
        """Keys of the calls that were made or found in it, at any depth."""
        self.own_calls: list[Key] = []
        """Keys of those that were made or found in no place within."""
        self.failed_calls: list[tuple[BaseException, Key]] = []
        """Errors that own calls ended with, and the key of each."""
        self._failed: list[tuple[Exception, Set[Key]]] = []
        """Errors that left places within, and what is to blame for each."""

    def inside(self, path: str, request: object) -> AbstractContextManager[Place]:
        """Enter a place in this one, unless it is the same.

        Args:
            path: Of the node that runs there.
            request: What it is given.
        """
        if path == self.path and (
            request is self.request or digest(request) == digest(self.request)
        ):
            return nullcontext(self)
        return self._entered(path, request)

    @contextmanager
    def _entered(self, path: str, request: object) -> Generator[Place]:
        place, inside = Place(self.journal, path, request, self), self.journal.inside
        try:
            with inside(self.journal.numbered(digest(path, request))) if inside else nullcontext():
                yield place
        except Exception as error:
            self._failed.append((error, place.to_blame(error)))
            raise

    def to_blame(self, error: Exception) -> Set[Key]:
        """Give the keys of the calls whose answers may be why it ended with an error.

        Where the error came from one of its own calls, that is it alone: what was answered before
        stays, above all what tools did. Else they are all that it made itself, and those to blame
        in the places that the error came from; where it came from none of them, in all that failed.
        """
        if isinstance(error, BudgetExceeded | DeadlineExceeded) or interrupts_of(error):
            return frozenset()  # what mends that is a larger limit, or a person, and no new answer
        chain = behind(error)
        if own := {key for one, key in self.failed_calls if one in chain}:
            return own
        within = [calls for one, calls in self._failed if one in chain]
        return {*self.own_calls}.union(*(within or [calls for _, calls in self._failed]))

    def call(self, context: RunContext, what: str, request: object) -> Call:
        """Look a call up, before it is made.

        Args:
            context: Of who makes it.
            what: Its kind, and who is asked.
            request: What is asked.
        """
        key = self.journal.key(context.node, what, request)
        self.own_calls.append(key)
        return Call(self, context, key)

    async def once(
        self,
        context: RunContext,
        what: str,
        request: object,
        form: Form[T],
        ask: Callable[[RunContext], Awaitable[T]],
    ) -> T:
        """Make a call, or give what is kept of it: its answer, or the error that it ended with.

        Args:
            context: Of who makes it.
            what: Its kind, and who is asked.
            request: What is asked.
            form: Of the answer.
            ask: Makes it, in the context that it is given.
        """
        call = self.call(context, what, request)
        if call.is_kept:
            return call.found(form)
        async with call:
            answer = await ask(call.inner)
        await call.keep(form.dump(answer))
        return answer

    async def run(
        self,
        path: str,
        request: object,
        context: RunContext,
        form: Form[T] | None,
        node: Callable[[RunContext], Awaitable[T]],
    ) -> T:
        """Run a node of a graph in a place of its own, or give what is kept of its output.

        Args:
            path: Of the node.
            request: What it is given.
            context: What it runs in.
            form: Of its output; `None`: what it asks is kept, and the output is not.
            node: Runs it, in the context that it is given.
        """
        call = Call(self, context, self.journal.key(context.node, path, request))
        if form and call.is_kept:
            return call.found(form)
        with self._entered(path, request) as place:
            call.inner.journal = place
            output = await node(call.inner)
        if form:
            await call.keep(form.dump(output), calls=place.calls)
        return output

    def count(self, keys: Sequence[Key | str]) -> None:
        """Count calls as made in this place, and so in those around it."""
        place: Place | None = self
        while place is not None:
            place.calls += keys
            place = place.around


class Call:
    """One call, as it is kept. Around the call itself, it keeps the error of an endpoint or model.

    Args:
        place: Where it is made.
        context: Of who makes it.
        key: Under which it is kept.
    """

    def __init__(self, place: Place, context: RunContext, key: Key) -> None:
        self.place = place
        self.key = key
        self.inner = context.nested()
        """What it is made in, so that all of it is counted, and nothing in it kept once more."""
        self.inner.journal = None

    @property
    def is_kept(self) -> bool:
        """Whether it was made before."""
        kept = self.place.journal.kept
        return bool(kept) and str(self.key) in kept

    @property
    def _is_counted(self) -> bool:
        run = self.place.journal.context
        return run is None or self.inner.is_within(run)

    def found(self, form: Form[T]) -> T:
        """Give its answer, and count what it took.

        Raises:
            StoreError: what is kept can't be read.
            MoaError: it ended with that.
        """
        journal, own = self.place.journal, str(self.key)
        try:
            record = _RECORD.validate_json(journal.kept[own])
            value = None if record.error else form.load(record.value)
            error = record.error and _error_of(*record.error)
        except (ValueError, TypeError) as fault:
            raise StoreError(f"what the thread keeps can't be read: {fault}") from fault
        journal.recall(self.inner, own, record.spent, record.notes)
        journal.found += len(record.calls)
        if self._is_counted:
            for key in record.calls:
                journal.paid[key] = record.spent if key == own else _spent(journal.kept[key])
            self.place.count(record.calls)
        if error:
            self.place.failed_calls.append((error, self.key))
            raise error
        return cast("T", value)

    async def keep(self, value: JSON, *, calls: Sequence[Key | str] | None = None) -> None:
        """Keep its answer.

        Args:
            value: The answer.
            calls: Keys of the calls in it, which are counted already; `None`: it is one itself.
        """
        await self._keep(value, None, calls)

    async def __aenter__(self) -> Call:
        await self.place.journal.flush()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, EndpointError | OutputError) and _is_known(error):
            self.place.failed_calls.append((error, self.key))
            await self._keep(None, (type(error).__name__, str(error), vars(error)), None)

    async def _keep(
        self, value: JSON, error: _Error | None, calls: Sequence[Key | str] | None
    ) -> None:
        journal, usage, notes = self.place.journal, self.inner.usage, self.inner.trace
        own = calls is None
        if calls is None:
            calls = [self.key]
            if self._is_counted:
                journal.paid[self.key] = usage
        await journal.keep_call(self.key, partial(_written, value, error, usage, notes, calls))
        if own and self._is_counted:  # the places around it may name only what is kept
            self.place.count(calls)


def digest(*what: object) -> str:
    """Tell apart what is asked, in every process alike."""
    try:
        ordered = _ordered(what)
        written = to_json(ordered, fallback=lambda one: type(one).__qualname__, bytes_mode="base64")
    except ValueError:  # half a character, which no JSON holds
        written = repr(what).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(written, digest_size=16).hexdigest()


def _ordered(value: object) -> object:
    """Put sets in an order, since each process has its own."""
    match value:
        case set() | frozenset():
            return sorted(digest(one) for one in cast("Set[object]", value))
        case BaseModel():
            # Fields alone: what else an object holds isn't there when it comes back from JSON.
            held = {name: getattr(value, name) for name in type(value).model_fields}
            return {name: _ordered(one) for name, one in (held | (value.model_extra or {})).items()}
        case Mapping():
            named = cast("Mapping[object, object]", value)
            return {str(name): _ordered(one) for name, one in named.items()}
        case list() | tuple():
            return [_ordered(one) for one in cast("Sequence[object]", value)]
        case _:
            return value


def interrupts_of(error: BaseException) -> Sequence[Any]:
    """Give what a node asks people, where that is why it stopped; LangGraph raises it so."""
    kind = type(error)
    if kind.__name__ != "GraphInterrupt" or not kind.__module__.startswith("langgraph."):
        return ()
    return cast("Sequence[Any]", error.args[0])


def behind(error: BaseException) -> Sequence[BaseException]:
    """Give an error, and all that it was raised from, or put together of."""
    found = [error]
    for one in found:
        around = [each for each in (one.__cause__, one.__context__) if each is not None]
        if isinstance(one, QuorumNotMet):
            around += one.causes.values()
        elif isinstance(one, BaseExceptionGroup):
            around += cast("BaseExceptionGroup[BaseException]", one).exceptions
        found += [each for each in around if each not in found]
    return found


def explained(error: Exception, node: str) -> Exception:
    """Say what to do where a node asks people in a run that can't be resumed.

    Any other error is given back.
    """
    outside = isinstance(error, RuntimeError) and str(error).startswith("Called get_config outside")
    if outside or (isinstance(error, KeyError) and error.args == ("__pregel_scratchpad",)):
        return not_resumable(node)
    return error


def not_resumable(who: str) -> NotResumable:
    """Say what to do where people are asked in a run of which nothing is kept.

    Args:
        who: Asks, or what is asked.
    """
    return NotResumable(
        f"{who}: people may be asked, and nothing of this run is kept until they answer. "
        "Run it as graph.compile(checkpointer=…).ainvoke(request, "
        '{"configurable": {"thread_id": …}}), and go on by Command(resume=answer)'
    )


def together(errors: Sequence[Exception]) -> Exception:
    """Make one of several errors by which nodes ask people."""
    return type(errors[0])(tuple(asked for error in errors for asked in interrupts_of(error)))


_Error = tuple[str, str, dict[str, Any]]
"""Class, text and attributes."""


@dataclass(frozen=True, slots=True)
class _Record:
    value: JSON
    error: _Error | None
    usage: Sequence[tuple[Part, Amount]]
    notes: Sequence[Note]
    calls: Sequence[str]

    @property
    def spent(self) -> Usage:
        return Usage(dict(self.usage))


_RECORD = TypeAdapter(_Record)


def _written(
    value: JSON,
    error: _Error | None,
    usage: Usage,
    notes: Sequence[Note],
    calls: Sequence[Key | str],
) -> str:
    record = _Record(value, error, [*usage.parts.items()], notes, [str(key) for key in calls])
    return _RECORD.dump_json(record).decode()


def _spent(record: str) -> Usage:
    return _RECORD.validate_json(record).spent


def _is_known(error: MoaError) -> bool:
    return getattr(moa.errors, type(error).__name__, None) is type(error)


def _error_of(kind: str, text: str, attributes: Mapping[str, Any]) -> MoaError:
    error: MoaError = getattr(moa.errors, kind).__new__(getattr(moa.errors, kind), text)
    vars(error).update(attributes)
    return error
