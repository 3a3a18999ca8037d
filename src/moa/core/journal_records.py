"""Journal records: writing finished calls to the journal of a run, and finding them there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import TracebackType
from typing import Generic, TypeVar

from pydantic import TypeAdapter

import moa.core.errors
from moa.core._json import JSON, JSONValue
from moa.core.context import RunContext
from moa.core.errors import EndpointError, MoaError, OutputError
from moa.core.journal import Key
from moa.core.trace import Note
from moa.core.usage import Amount, Part, Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """Functions that write a value as JSON and read it back."""

    dump: Callable[[T], JSONValue]
    load: Callable[[JSONValue], T]


def form_of(kind: type[T]) -> Form[T]:
    """Return the form that pydantic has for a type."""

    @cache  # few runs store anything, and building it takes longer than importing this
    def adapter() -> TypeAdapter[T]:
        return TypeAdapter(kind)

    return Form(
        lambda value: adapter().dump_python(value, mode="json"),
        lambda data: adapter().validate_python(data),
    )


PLAIN: Form[JSONValue] = Form(lambda value: value, lambda value: value)
"""Form of a value that is JSON already."""
_Error = tuple[str, str, JSON]
"""Class, text and attributes."""


@dataclass(frozen=True, slots=True)
class _Record:
    value: JSONValue
    error: _Error | None
    usage: Sequence[tuple[Part, Amount]]
    notes: Sequence[Note]
    calls: Sequence[str]
    numbered: Sequence[str] = ()
    """Numbers of what was begun in a node; empty for a call, and in records of
    journals from before it was kept."""

    @property
    def spent(self) -> Usage:
        return Usage(dict(self.usage))


@cache
def _records() -> TypeAdapter[_Record]:
    return TypeAdapter(_Record)


@dataclass(frozen=True, slots=True)
class _FinishedCall(Generic[T]):
    """A call made earlier, as read from the journal."""

    record: _Record
    outcome: T | MoaError
    """Its answer, or its error."""
    paid: Mapping[str, Usage]
    """Usage of the calls in it, by key."""


class Call:
    """A call in a resumable run: found in the journal, or made in `inner` and stored.

    As a context manager around the call itself, it stores the error of an endpoint or model.

    Args:
        context: Context of the caller, which has a `journal`.
        what: Kind of the call, and who is asked.
        request: What is asked.
        of_calls: True for a node, whose own calls are stored too.
    """

    def __init__(
        self, context: RunContext, what: str, request: object, *, of_calls: bool = False
    ) -> None:
        assert context.journal is not None, "calls are kept in a journal"
        self.place = context.journal
        self.key: Key = self.place.journal.key(context.node, what, request)
        self.place.note_number(self.key)
        if not of_calls:
            self.place.own_calls.append(self.key)
        self.inner = context.nested()
        """Context of the call. It counts all usage, and stores nothing a second time."""
        self.inner.journal = None

    def find(self, form: Form[T], *, may_repeat: bool = True) -> _FinishedCall[T] | None:
        """Find the call if it was made before, for `reuse`.

        Raises:
            StoreError: the record can't be read, and the journal doesn't let the call be made
                again. No journal does if `may_repeat` is false.
        """
        journal = self.place.journal
        if not journal.kept or (own_key := str(self.key)) not in journal.kept:
            return None
        try:
            return self._read(own_key, form)
        except (AttributeError, LookupError, TypeError, ValueError) as fault:
            journal.lose(own_key, fault, may_repeat=may_repeat)
            return None

    def _read(self, own_key: str, form: Form[T]) -> _FinishedCall[T]:
        records = self.place.journal.kept
        record = _records().validate_json(records[own_key])
        paid = {
            key: (record if key == own_key else _records().validate_json(records[key])).spent
            for key in record.calls
        }
        outcome = _rebuild_error(*record.error) if record.error else form.load(record.value)
        return _FinishedCall(record, outcome, paid)

    @property
    def _is_counted(self) -> bool:
        run = self.place.journal.context
        return run is None or self.inner.is_within(run)

    def reuse(self, finished: _FinishedCall[T]) -> T:
        """Return the answer that `find` has read, and charge its usage.

        Raises:
            MoaError: the call ended with this error.
        """
        record, outcome = finished.record, finished.outcome
        self._charge(record, finished.paid)
        self.place.journal.found += len(record.calls)
        inner = record.numbered or [call for call in record.calls if call != str(self.key)]
        self.place.journal.pass_over(inner)
        for number in inner:
            self.place.note_number(number)
        if self._is_counted:
            self.place.count(record.calls)
        if isinstance(outcome, MoaError):
            self.place.failed_calls.append((outcome, self.key))
            raise outcome
        return outcome

    def _charge(self, record: _Record, paid: Mapping[str, Usage]) -> None:
        journal, run = self.place.journal, self.place.journal.context
        if run is None or not self._is_counted:
            self.inner.recall(record.spent, record.notes)
        elif not journal.charges_all:
            self.inner.recall(record.spent, record.notes, below=run.parent)
        else:  # the run's context may have been charged in an earlier part of the run
            own_key = str(self.key)
            new = [usage for key, usage in paid.items() if key not in journal.counted]
            self.inner.recall(record.spent, record.notes, below=run)
            run.recall(sum(new, Usage()), () if own_key in journal.counted else record.notes)
            journal.counted |= {own_key, *paid}

    async def keep(
        self,
        value: JSONValue,
        *,
        calls: Sequence[Key | str] | None = None,
        numbered: Sequence[Key | str] = (),
    ) -> None:
        """Store its answer.

        Args:
            value: The answer.
            calls: Keys of the calls within it, already counted; `None`: it is a single call.
            numbered: Numbers of all that was begun within it; see `Journal.pass_over`.
        """
        await self._keep(value, None, calls, numbered)

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
            await self._keep(None, (type(error).__name__, str(error), vars(error)))

    async def _keep(
        self,
        value: JSONValue,
        error: _Error | None,
        calls: Sequence[Key | str] | None = None,
        numbered: Sequence[Key | str] = (),
    ) -> None:
        journal, usage, notes = self.place.journal, self.inner.usage, self.inner.trace
        is_single = calls is None
        if calls is None:
            calls = [self.key]
        if journal.charges_all and self._is_counted:
            journal.counted.add(str(self.key))
        await journal.keep_call(
            self.key, partial(_write_record, value, error, usage, notes, calls, numbered)
        )
        if is_single and self._is_counted:  # outer places may name only stored calls
            self.place.count(calls)


async def call_once(
    context: RunContext,
    what: str,
    request: object,
    form: Form[T],
    ask: Callable[[RunContext], Awaitable[T]],
) -> T:
    """Make a call, or return its stored answer or raise its stored error."""
    call = Call(context, what, request)
    if finished := call.find(form):
        return call.reuse(finished)
    async with call:
        answer = await ask(call.inner)
    await call.keep(form.dump(answer))
    return answer


async def run_once(
    context: RunContext,
    path: str,
    request: object,
    form: Form[T] | None,
    run: Callable[[RunContext], Awaitable[T]],
) -> T:
    """Run a node of a graph at its own place, or return its stored output.

    Without a `form` its calls are stored, but not its output.
    """
    call = Call(context, path, request, of_calls=True)
    if form and (finished := call.find(form)):
        return call.reuse(finished)
    with call.place.enter(path, request) as place:
        call.inner.journal = place
        output = await run(call.inner)
    if form:
        await call.keep(form.dump(output), calls=place.calls, numbered=place.numbered)
    return output


def _write_record(
    value: JSONValue,
    error: _Error | None,
    usage: Usage,
    notes: Sequence[Note],
    calls: Sequence[Key | str],
    numbered: Sequence[Key | str],
) -> str:
    spent, keys, numbers = [*usage.parts.items()], map(str, calls), map(str, numbered)
    record = _Record(value, error, spent, notes, [*keys], [*numbers])
    return _records().dump_json(record).decode()


def _is_known(error: MoaError) -> bool:
    return getattr(moa.core.errors, type(error).__name__, None) is type(error)


def _rebuild_error(kind: str, text: str, attributes: JSON) -> MoaError:
    error: MoaError = getattr(moa.core.errors, kind).__new__(getattr(moa.core.errors, kind), text)
    vars(error).update(attributes)
    return error
