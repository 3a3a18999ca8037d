"""Journal: finished calls of a run, stored so that a resumed run doesn't pay for them again.

A call is identified by where it is made and what it asks, not by when: nodes run in parallel, and
end in another order each time. LangGraph, in contrast, identifies nested tasks by their order.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from moa.core._async import is_group
from moa.core._json import is_mapping, is_sequence, is_set, list_of
from moa.core.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    NotResumable,
    QuorumNotMet,
    StoreError,
)

if TYPE_CHECKING:
    from moa.core.context import RunContext


class Key:
    """Key of a call, computed on first use: a new run with a single call needs none."""

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
    """Records of one run, and of the run that it resumes. Its state belongs to one event loop.

    Args:
        name: Identifies the run.
        texts: Records stored earlier, by key.
        write: Stores a record under a key. It may leave an existing record as it is.
        inside: Returns a context manager for the key of a place, entered while the place runs;
            `None`: nothing is entered.
        context: Only calls within this context are counted; `None`: all stored calls.
    """

    charges_all = True
    """True if a found call is charged to all contexts; False if only up to `context`."""

    def __init__(
        self,
        name: str = "",
        texts: Mapping[str, str] | None = None,
        *,
        write: Callable[[str, str], Awaitable[None]] | None = None,
        inside: Callable[[str], AbstractContextManager[object]] | None = None,
        context: RunContext | None = None,
    ) -> None:
        self.name = name
        self.kept = dict(texts or {})
        self.inside = inside
        self.context = context
        self.root = Place(self)
        self.counted = set(context.counted.get(name, ())) if context else set[str]()
        """Keys of the calls that `context` has paid for, here or in an earlier part of the run."""
        self.found = 0
        """Number of calls found."""
        self._write = write
        failures = [key for key in self.kept if key.startswith(_FAILURE)] if texts else []
        self._failures = len(failures)
        self._failed_before = Counter(call for key in failures for call in self._read_blamed(key))
        self._seen: Counter[str] = Counter()
        self._unwritten: list[Key] = []

    def _read_blamed(self, key: str) -> Sequence[str]:
        """Return the calls blamed for an earlier failure."""
        try:
            calls: object = from_json(self.kept[key])
        except ValueError as fault:
            self.lose(key, fault)
            return ()
        return [str(call) for call in list_of(calls)]

    def lose(self, key: str, fault: Exception, *, may_repeat: bool = True) -> None:
        """Discard an unreadable record, if its call may be made again.

        Raises:
            StoreError: it may not. In this class no call may, since a person may have answered.
        """
        del key
        reason = "" if may_repeat else ", and what a tool did is not done twice"
        raise StoreError(f"what the thread keeps can't be read{reason}: {fault}") from fault

    def number(self, *what: object) -> str:
        """Return an id that is unique in the run, even among equal calls."""
        key = digest(*what)
        self._seen[key] += 1
        return f"{key}.{self._seen[key]}"

    def pass_over(self, numbers: Iterable[str]) -> None:
        """Count what was numbered in a node that was found, so that equal later ones get others."""
        # A function may ask a graph the same twice. If the first answer is found as a whole,
        # nothing in it is numbered again, and the second would be given the first's records.
        self._seen.update(number.partition(".")[0] for number in numbers)

    def key(self, *what: object) -> Key:
        """Return a call's key.

        A call blamed for an earlier failure gets a new key, so it is made again.
        """
        self._unwritten.append(key := Key(self, what))
        return key

    def write_keys(self) -> None:
        """Compute the pending keys in the order of the calls, numbering equal calls."""
        for key in self._unwritten:
            number = self.number(*key.what)
            key.written = f"{number}.{self._failed_before[number]}"
        self._unwritten.clear()

    async def keep(self, key: str, record: str) -> None:
        """Store a record."""
        self.kept[key] = record
        if self._write is not None:
            await self._write(key, record)

    async def keep_call(self, key: Key, record: Callable[[], str]) -> None:
        """Store a finished call."""
        await self.keep(str(key), record())

    async def flush(self) -> None:
        """Write pending records; here there are none, since `keep` writes at once."""

    async def fail(self, error: Exception) -> None:
        """Record that the run failed, so that the calls that may have caused it are made again.

        Successful calls stay, and so do failed calls that something else replaced.
        """
        if blamed := self.root.find_blamed(error):
            calls = sorted(str(key).rpartition(".")[0] for key in blamed)
            await self.keep(f"{_FAILURE}{self._failures}", to_json(calls).decode())


_FAILURE = "failure/"


class Place:
    """A place in a run: a node and its input. Equal ones are numbered.

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
        """Keys of the calls made or found in it, at any depth."""
        self.numbered: list[Key | str] = []
        """Numbers of all calls, nodes and places begun in it, at any depth; see
        `Journal.pass_over`."""
        self.own_calls: list[Key] = []
        """Keys of the calls made or found directly in it."""
        self.failed_calls: list[tuple[BaseException, Key]] = []
        """Errors of its own calls, each with the call's key."""
        self._failed: list[tuple[Exception, Set[Key]]] = []
        """Errors raised by inner places, each with the keys of the calls to blame."""

    def inside(self, path: str, request: object) -> AbstractContextManager[Place]:
        """Enter the place of a node and its input, unless it is this place."""
        if path == self.path and (
            request is self.request or digest(request) == digest(self.request)
        ):
            return nullcontext(self)
        return self.enter(path, request)

    @contextmanager
    def enter(self, path: str, request: object) -> Generator[Place]:
        """Enter a place within this one."""
        place, inside = Place(self.journal, path, request, self), self.journal.inside
        try:
            with inside(self._number_place(path, request)) if inside else nullcontext():
                yield place
        except Exception as error:
            self._failed.append((error, place.find_blamed(error)))
            raise

    def _number_place(self, path: str, request: object) -> str:
        number = self.journal.number(digest(path, request))
        self.note_number(number)
        return number

    def find_blamed(self, error: Exception) -> Set[Key]:
        """Return the keys of the calls whose answers may have caused an error.

        If the error came from one of its own calls, only that call is blamed. Earlier answers stay,
        above all what tools did. Otherwise all its own calls are blamed, and the blamed calls of
        the inner places that the error came from, or of all failed inner places if it came from
        none.
        """
        if isinstance(error, BudgetExceeded | DeadlineExceeded) or interrupts_of(error):
            return frozenset()  # a larger limit or a person mends that, not a new answer
        chain = list_causes(error)
        if own_keys := {key for failure, key in self.failed_calls if failure in chain}:
            return own_keys
        inner_calls = [calls for failure, calls in self._failed if failure in chain]
        return {*self.own_calls}.union(*(inner_calls or [calls for _, calls in self._failed]))

    def count(self, keys: Sequence[Key | str]) -> None:
        """Count calls as made in this place and in all outer ones."""
        place: Place | None = self
        while place is not None:
            place.calls += keys
            place = place.around

    def note_number(self, number: Key | str) -> None:
        """Note a number as given in this place and in all outer ones."""
        place: Place | None = self
        while place is not None:
            place.numbered.append(number)
            place = place.around


def digest(*what: object) -> str:
    """Return a digest of a request. It is the same in every process."""
    try:
        data = to_json(
            _order(what), fallback=lambda value: type(value).__qualname__, bytes_mode="base64"
        )
    except ValueError:  # a lone surrogate, which JSON can't hold
        data = repr(what).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _order(value: object) -> object:
    """Sort the sets in a value, since each process orders them differently."""
    if is_set(value):
        return sorted(digest(item) for item in value)
    if isinstance(value, BaseModel):
        # Only fields: other attributes are lost on the way through JSON.
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _order(field) for name, field in (fields | (value.model_extra or {})).items()}
    if is_mapping(value):
        return {str(name): _order(item) for name, item in value.items()}
    if is_sequence(value):
        return [_order(item) for item in value]
    return value


def list_causes(error: BaseException) -> Sequence[BaseException]:
    """Return an error, and all errors that it was raised from or groups."""
    causes = [error]
    for cause in causes:
        origins = [origin for origin in (cause.__cause__, cause.__context__) if origin is not None]
        if isinstance(cause, QuorumNotMet):
            origins += cause.causes.values()
        elif is_group(cause):
            origins += cause.exceptions
        causes += [origin for origin in origins if origin not in causes]
    return causes


def interrupts_of(error: BaseException) -> Sequence[Any]:
    """Return the questions to people in a LangGraph interrupt; empty for any other error."""
    errors = sys.modules.get("langgraph.errors")  # if not imported, nobody asks people
    return error.args[0] if errors and isinstance(error, errors.GraphInterrupt) else ()


def join_interrupts(errors: Sequence[Exception]) -> Exception:
    """Join the interrupts of several nodes that ask people."""
    return type(errors[0])(tuple(question for error in errors for question in interrupts_of(error)))


def explain(error: Exception, node: str) -> Exception:
    """Return `NotResumable` if a node asked people in a run that can't be resumed, else the error.

    LangGraph's `interrupt` can't stop the run there, and fails with an unrelated error.
    """
    types = sys.modules.get("langgraph.types")
    if types is None or not isinstance(error, RuntimeError | KeyError):
        return error
    code = types.interrupt.__code__
    has_asked = any(frame.f_code is code for frame, _ in walk_tb(error.__traceback__))
    return not_resumable_error(node) if has_asked else error


def not_resumable_error(who: str) -> NotResumable:
    """Make the error of a run that asks people and can't be resumed."""
    return NotResumable(
        f"{who}: people may be asked, and nothing of this run is kept until they answer. "
        "Run it as graph.compile(checkpointer=…).ainvoke(request, "
        '{"configurable": {"thread_id": …}}), and go on by Command(resume=answer)'
    )
