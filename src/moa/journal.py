"""Journal: what a run keeps of its finished calls, so that one that goes on pays for none again.

A call is found again by where it is made and what it asks, never by when: nodes run in parallel,
and end in another order each time. LangGraph's nested tasks are found by the order of calls.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from moa._async import is_group
from moa._json import is_mapping, is_sequence, is_set, list_of
from moa.errors import BudgetExceeded, DeadlineExceeded, NotResumable, QuorumNotMet, StoreError

if TYPE_CHECKING:
    from moa.context import RunContext


class Key:
    """The key of a call, computed when it is first needed: a new run of one call needs none."""

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
    """The records of one run, and of the run before it. Its state belongs to one event loop.

    Args:
        name: Tells the run from any other.
        texts: What was kept of it before, by key.
        write: Keeps a record under a key. One that is there already may stay.
        inside: Entered with the key of each place, while what is there runs; `None`: nothing.
        context: What is spent in it is counted; `None`: all that is kept.
    """

    charges_all = True
    """True if a call that is found is charged to all contexts, or up to `context` alone."""

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
        """Keys of what `context` has paid for, here or in an earlier part of the run."""
        self.found = 0
        """How many calls were found."""
        self._write = write
        failures = [key for key in self.kept if key.startswith(_FAILURE)] if texts else []
        self._failures = len(failures)
        self._failed_before = Counter(call for key in failures for call in self._read_blamed(key))
        self._seen: Counter[str] = Counter()
        self._unwritten: list[Key] = []

    def _read_blamed(self, key: str) -> Sequence[str]:
        """Read which calls a run has failed by."""
        try:
            calls: object = from_json(self.kept[key])
        except ValueError as fault:
            self.lose(key, fault)
            return ()
        return [str(call) for call in list_of(calls)]

    def lose(self, key: str, fault: Exception, *, may_repeat: bool = True) -> None:
        """Do without what is kept under a key, which can't be read, if that may be made again.

        Raises:
            StoreError: it may not; here nothing may, since a person may have answered before.
        """
        del key
        reason = "" if may_repeat else ", and what a tool did is not done twice"
        raise StoreError(f"what the thread keeps can't be read{reason}: {fault}") from fault

    def number(self, *what: object) -> str:
        """Return an id that tells a call from all others in the run, and from equal ones."""
        key = digest(*what)
        self._seen[key] += 1
        return f"{key}.{self._seen[key]}"

    def key(self, *what: object) -> Key:
        """Return a call's key. One that is blamed for an earlier failure gets a new one."""
        self._unwritten.append(key := Key(self, what))
        return key

    def write_keys(self) -> None:
        """Work out the keys of calls, in the order in which they were made: equal ones count."""
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
        """Write what is kept and not written yet, where that may wait until the next call."""

    async def fail(self, error: Exception) -> None:
        """Record that the run has failed, so that the call that caused it is made again.

        What ended well stays, and so does what failed where something else stood in.
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
        """Keys of the calls that were made or found in it, at any depth."""
        self.own_calls: list[Key] = []
        """Keys of those that were made or found in no place within."""
        self.failed_calls: list[tuple[BaseException, Key]] = []
        """Errors that own calls ended with, and the key of each."""
        self._failed: list[tuple[Exception, Set[Key]]] = []
        """Errors that left places within, and what is to blame for each."""

    def inside(self, path: str, request: object) -> AbstractContextManager[Place]:
        """Enter the place of a node and what it is given, unless it is this one."""
        if path == self.path and (
            request is self.request or digest(request) == digest(self.request)
        ):
            return nullcontext(self)
        return self.enter(path, request)

    @contextmanager
    def enter(self, path: str, request: object) -> Generator[Place]:
        """Enter a place in this one."""
        place, inside = Place(self.journal, path, request, self), self.journal.inside
        try:
            with inside(self.journal.number(digest(path, request))) if inside else nullcontext():
                yield place
        except Exception as error:
            self._failed.append((error, place.find_blamed(error)))
            raise

    def find_blamed(self, error: Exception) -> Set[Key]:
        """Return the keys of the calls whose answers may have caused an error.

        If the error came from one of its own calls, that is it alone: what was answered before
        stays, above all what tools did. Else they are all that it made itself, and those to blame
        in the places that the error came from; where it came from none of them, in all that failed.
        """
        if isinstance(error, BudgetExceeded | DeadlineExceeded) or interrupts_of(error):
            return frozenset()  # what mends that is a larger limit, or a person, and no new answer
        chain = list_causes(error)
        if own_keys := {key for failure, key in self.failed_calls if failure in chain}:
            return own_keys
        inner_calls = [calls for failure, calls in self._failed if failure in chain]
        return {*self.own_calls}.union(*(inner_calls or [calls for _, calls in self._failed]))

    def count(self, keys: Sequence[Key | str]) -> None:
        """Count calls as made in this place, and so in those around it."""
        place: Place | None = self
        while place is not None:
            place.calls += keys
            place = place.around


def digest(*what: object) -> str:
    """Return a digest of a request, which is the same in every process."""
    try:
        data = to_json(
            _order(what), fallback=lambda value: type(value).__qualname__, bytes_mode="base64"
        )
    except ValueError:  # half a character, which no JSON holds
        data = repr(what).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _order(value: object) -> object:
    """Order sets, since each process orders them differently."""
    if is_set(value):
        return sorted(digest(item) for item in value)
    if isinstance(value, BaseModel):
        # Fields alone: what else an object holds isn't there when it comes back from JSON.
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _order(field) for name, field in (fields | (value.model_extra or {})).items()}
    if is_mapping(value):
        return {str(name): _order(item) for name, item in value.items()}
    if is_sequence(value):
        return [_order(item) for item in value]
    return value


def list_causes(error: BaseException) -> Sequence[BaseException]:
    """Return an error, and all that it was raised from, or put together of."""
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
    """Return a node's questions to people, if it stopped for them; LangGraph raises them."""
    errors = sys.modules.get("langgraph.errors")  # not imported: then nobody asks people
    return error.args[0] if errors and isinstance(error, errors.GraphInterrupt) else ()


def join_interrupts(errors: Sequence[Exception]) -> Exception:
    """Join several errors by which nodes ask people."""
    return type(errors[0])(tuple(question for error in errors for question in interrupts_of(error)))


def explain(error: Exception, node: str) -> Exception:
    """Replace the error of a node that asks people in a run that can't be resumed.

    LangGraph's `interrupt` finds nobody to stop for there, and fails by whatever it misses first.
    """
    types = sys.modules.get("langgraph.types")
    if types is None or not isinstance(error, RuntimeError | KeyError):
        return error
    code = types.interrupt.__code__
    has_asked = any(frame.f_code is code for frame, _ in walk_tb(error.__traceback__))
    return not_resumable_error(node) if has_asked else error


def not_resumable_error(who: str) -> NotResumable:
    """Return the error of a run that asks people and can't be resumed."""
    return NotResumable(
        f"{who}: people may be asked, and nothing of this run is kept until they answer. "
        "Run it as graph.compile(checkpointer=…).ainvoke(request, "
        '{"configurable": {"thread_id": …}}), and go on by Command(resume=answer)'
    )
