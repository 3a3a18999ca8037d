"""Batch: runs a node on many inputs, some at a time, and returns an item for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from types import UnionType
from typing import Any, Generic, Literal, TypedDict, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from moa.core._async import cancel, closing_stream, gather
from moa.core._text import as_html
from moa.core.context import RunContext
from moa.core.errors import (
    ConfigError,
    EndpointUnauthorized,
    InputError,
    MalformedRow,
    MoaError,
    NodeError,
    QuorumNotMet,
)
from moa.core.journal import Journal
from moa.core.node import (
    SETTLED,
    Dropped,
    Node,
    Outcome,
    Result,
    note_rows,
    output_rows,
    run_alone,
)
from moa.core.questions import is_open
from moa.core.trace import Note
from moa.core.usage import Usage

In = TypeVar("In")
Out = TypeVar("Out")
Out_co = TypeVar("Out_co", covariant=True)
Status = Literal["answered", "dropped", "failed"]
RowState = Literal["due", "leased", "done", "failed", "dead"]
"""State of a row of a job. One that `failed` is tried again; one that is `dead` is not."""
OnError = Literal["return", "raise"]
"""Action if an input fails: return an item with an `error`, or raise and end the run."""
Progress = bool | Callable[[int, int | None], None]
"""True to show a bar; or a function that is called with the number of finished inputs and their
total, which may be `None`."""
_MOST_TOLD, _MOST_LISTED = 20, 1000
"""Maximum faults of an input that are told, and of which these are chosen."""
_REFUSALS = 3
"""Consecutive inputs refused by an endpoint because of its key, after which a map ends."""
Value = str | dict[str, object]
"""A text, or the row's fields."""
Reader = Callable[[Value], object]
"""Turns a row's value into a node's input, or raises an `InputError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item of input, as `moa.rows.read` gives it."""

    number: int
    """Number of its line, from 1."""
    id: str | int
    """The row's own ID, else its line number."""
    value: Value
    key: str = field(default="", compare=False)
    """Key of the row in its store; see `moa.rows`."""
    journal: Journal | None = field(default=None, compare=False)
    """Journal of its calls."""

    @property
    def input(self) -> Value:
        """The input, as result files have it."""
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedLine:
    """A line that isn't an item."""

    number: int
    error: str
    raw: str
    """The line, as far as it can be shown."""
    key: str = field(default="", compare=False)
    """Key of the row in its store."""

    @property
    def id(self) -> int:
        """Its line number."""
        return self.number

    @property
    def input(self) -> Value:
        """The input, as result files have it."""
        return self.raw


@dataclass(frozen=True, kw_only=True)
class Item(Generic[Out_co]):
    """The result of one input."""

    number: int
    """Position of the input, from 1; for a row, its line number."""
    id: str | int
    """The row's own ID, else `number`."""
    input: object
    key: str = ""
    """Key of the row in its store."""
    status: Status
    """`dropped` if the output is a `Dropped`, or its `kept` is false."""
    result: Result[Out_co] | None = None
    """The node's result; `None` if it failed."""
    error: MoaError | None = None
    """The error; `None` if it didn't fail."""
    seconds: float = 0.0
    """Wall time of its run."""
    usage: Usage = field(default_factory=Usage)
    trace: tuple[Note, ...] = ()

    @property
    def output(self) -> Out_co | None:
        """The output; `None` if it failed."""
        return self.result.output if self.result else None

    @property
    def problem(self) -> str | None:
        """The error in words; `None` if it didn't fail."""
        if self.error is None or isinstance(self.error, MalformedRow):
            return self.error and str(self.error)
        return f"{type(self.error).__name__}: {self.error}"

    @property
    def needed_llm(self) -> bool:
        """True if a large model was asked, or would have been if there were one."""
        return "llm" in self.usage.by_tier() or any(n.kind == "escalated" for n in self.trace)

    @property
    def settled(self) -> bool:
        """True if it is done without a large model, and nobody has to read it first.

        An output that tells its outcome has a fixed reply, or is in a queue of people. In any
        other, no answer may be missing, doubtful or not accepted, and no text a draft. What was
        dropped isn't settled, but set aside.
        """
        output = self.output
        if self.result is None or self.needed_llm or isinstance(output, Dropped):
            return False
        if isinstance(output, Outcome):
            return output.became in SETTLED
        return not is_open(output) and all(note.kind != "drafted" for note in self.trace)

    def _repr_html_(self) -> str:
        rows = [(f"item {self.id}", self.status), ("input", str(self.input))]
        rows += output_rows(self.output) if self.result else [("problem", self.problem or "")]
        return as_html([*rows, ("used", self.usage.line()), *note_rows(self.trace)])


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Progress of a job."""

    rows: Mapping[RowState, int]
    """Number of rows by state."""
    calls: int
    """Number of calls of the rows processed so far."""
    cost: float
    """US dollars; endpoints without a price count as 0."""
    needed_llm: int
    """Number of rows for which a large model was asked."""
    causes: Mapping[str, int]
    """Number of failed and dead rows, by the class of their error."""
    is_cancelled: bool = False
    """True from `Job.cancel` until `Job.retry`."""

    @property
    def total(self) -> int:
        """Number of rows."""
        return sum(self.rows.values())

    @property
    def left(self) -> int:
        """Number of rows that are due, leased or to be retried."""
        return sum(self.rows.get(state, 0) for state in ("due", "leased", "failed"))


def row_text(value: Value) -> str:
    """Return the text of a row.

    Raises:
        InputError: it has none.
    """
    if isinstance(value, str):
        return value
    text = value.get("text")
    if isinstance(text, str):
        return text
    if "text" in value:
        raise InputError(f"the 'text' of a row is to be a text, and this is {describe(text)}")
    has = ", ".join(repr(key) for key in value) or "nothing"
    raise InputError(f"a row needs a 'text', and this one has {has}")


_KINDS: dict[type[object], str] = {
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def describe(value: object) -> str:
    """Describe a value that isn't a text, such as `a number: 5`."""
    kind = "empty" if value is None else _KINDS.get(type(value), type(value).__name__)
    return kind if value is None else f"{kind}: {value!r:.40}"


def reader_of(node: object) -> Reader:
    """Return the function that turns a row's value into the node's input.

    The input is the row's text if the node takes a `str`; else pydantic makes it from the row.
    The function raises `InputError` if a row doesn't fit.
    """
    return reader_for(getattr(node, "input_type", object))


def reader_for(kind: Any) -> Reader:
    """Return the function that turns a row's value into an input of a type; see `reader_of`."""
    if str in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)):
        return row_text
    if kind is object:
        return lambda value: value
    return partial(_validate, TypeAdapter[object](kind), getattr(kind, "__name__", str(kind)))


def _validate(adapter: TypeAdapter[object], name: str, value: Value) -> object:
    try:
        return adapter.validate_python({"text": value} if isinstance(value, str) else value)
    except ValidationError as error:
        raise InputError(f"the row is no {name}: {faults_of(error)}") from error


def faults_of(error: ValidationError) -> str:
    """Describe a pydantic error in one line: each field and its fault, of many the first 20."""
    faults, more = told_faults(error)
    places = (".".join(map(str, fault["loc"])) for fault in faults)
    messages = (fault["msg"].removeprefix("Value error, ") for fault in faults)
    told = [
        f"{place:.500}: {message:.500}" if place else message
        for place, message in zip(places, messages, strict=True)
    ]
    return "; ".join([*told, *count_more(more)])


def told_faults(error: ValidationError) -> tuple[list[ErrorDetails], int]:
    """Return the faults of a pydantic error to tell, and the number of further ones.

    At most 20 are told, the deepest ones; of more than 1,000 none, since pydantic can't list some
    without listing all.
    """
    count = error.error_count()
    if count > _MOST_LISTED:
        return [], count
    faults = error.errors(include_url=False, include_input=False)
    deepest = sorted(range(count), key=lambda index: -len(faults[index]["loc"]))[:_MOST_TOLD]
    return [faults[index] for index in sorted(deepest)], max(count - _MOST_TOLD, 0)


def count_more(more: int) -> list[str]:
    """Say that there are further faults, which aren't told, if there are."""
    return [f"{more} faults aren't told"] if more else []


async def map_rows(
    node: Node[In, Out],
    inputs: Iterable[In | Row | MalformedLine] | AsyncIterable[In | Row | MalformedLine],
    context: RunContext | None = None,
    /,
    *,
    max_concurrency: int = 8,
    on_error: OnError = "return",
    ordered: bool = False,
    progress: Progress = False,
) -> AsyncGenerator[Item[Out]]:
    """Run a node on many inputs, and yield an item for each as soon as it is finished.

        async with aclosing(map_rows(node, texts)) as items:
            async for item in items:
                print(item.id, item.output or item.error)

    The run ends if three inputs in a row fail because an endpoint refuses its key (401) or its
    account has no credit left; a 403 counts too, if the endpoint has answered nothing before. All
    remaining inputs then fail at once with that error, which is in `context.ended_by`, and nothing
    is asked for them. With a fallback, inputs don't fail, and the run goes on.

    Inputs are taken in order; the next one starts when the loop comes back from an item. If the
    loop is cancelled, as by Ctrl-C, it still gets the finished items. Leaving it early cancels
    running inputs, and closes `inputs` if that is a generator; `aclosing` does so at once.

    Args:
        node: An agent, a graph, or any other node.
        inputs: Inputs of the node, or the rows of `moa.rows.read`, which are converted by
            `reader_of`. A slow iterator, such as one over a pipe, must be asynchronous.
        context: Budget, deadline and ledger over all of them; `None` starts one without limits.
        max_concurrency: Maximum number of inputs worked on at once.
        on_error: `return` yields an item with an `error` for an input that fails; `raise` raises
            the first error, and cancels running inputs.
        ordered: True to yield items in the order of the inputs; items that finish early wait in
            memory.
        progress: `True` shows a bar on standard error, if that is a terminal, or in a notebook's
            cell. A function is called with the number of finished inputs and their total, which is
            `None` if `inputs` has no length.

    Raises:
        ConfigError: `max_concurrency` is not positive, or `inputs` is a single text.
        MoaError: as `on_error` says.
        Exception: any error of `inputs`, once the items finished before it have been yielded.
    """
    if max_concurrency < 1 or isinstance(inputs, str):
        wrong = "one text, not many" if isinstance(inputs, str) else f"{max_concurrency=}"
        raise ConfigError(f"{node.name}: maps many inputs, at least one at once, and got {wrong}")
    total = len(inputs) if isinstance(inputs, Sized) else None
    bar = _open_progress(progress, total, node.name)
    context = context or RunContext(keep_notes=False)
    batch = _Batch(node, enumerate_inputs(inputs), context, on_error, bar)
    working = asyncio.ensure_future(batch.run(max_concurrency))
    waiting, following = dict[int, Item[Out]](), 1
    try:
        while (finished := await batch.done.get()) is not None:
            index, waiting[finished[0]], receipt = finished
            while (item := waiting.pop(following if ordered else index, None)) is not None:
                following += 1
                yield item
            receipt.set()
        for index in sorted(waiting):  # the one whose turn it is won't come
            yield waiting.pop(index)
        await working
    except asyncio.CancelledError:
        await cancel([working])
        waiting |= batch.take_finished()
        for index in sorted(waiting):
            yield waiting[index]
        raise
    finally:
        await cancel([working])
        await batch.inputs.aclose()


def _open_progress(
    progress: Progress, total: int | None, description: str
) -> AbstractContextManager[Callable[[int], None]]:
    if progress is True:
        from moa.core._terminal import show_progress

        return show_progress(total, description)
    return nullcontext(
        (lambda completed: progress(completed, total)) if progress else lambda _: None
    )


@dataclass
class _Batch(Generic[In, Out]):
    """State that the workers of one run share."""

    node: Node[In, Out]
    inputs: AsyncGenerator[tuple[int, In | Row | MalformedLine]]
    context: RunContext
    on_error: OnError
    bar: AbstractContextManager[Callable[[int], None]]
    """Context manager of a function to call with the number of finished inputs."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    done: asyncio.Queue[tuple[int, Item[Out], asyncio.Event] | None] = field(
        default_factory=asyncio.Queue[tuple[int, Item[Out], asyncio.Event] | None]
    )
    """Positions and items, in the order they finish, with an event to set when one is taken."""
    finished: int = 0

    def __post_init__(self) -> None:
        self.read = reader_of(self.node)
        self.refusals = _Refusals()

    async def run(self, max_concurrency: int) -> None:
        """Process all inputs; the last entry of `done` is `None`."""
        try:
            with self.bar as tell:
                await gather(self._work(tell) for _ in range(max_concurrency))
        finally:
            self.done.put_nowait(None)

    async def _work(self, tell: Callable[[int], None]) -> None:
        """Process one input after the other; the next one starts when the last item is taken."""
        while True:
            async with self.turn:
                numbered_input = await anext(self.inputs, None)
            if numbered_input is None:
                return
            item = await self._item(*numbered_input)
            if item.error is not None and self.on_error == "raise":
                raise item.error
            self.finished += 1
            tell(self.finished)
            receipt = asyncio.Event()
            self.done.put_nowait((numbered_input[0], item, receipt))
            await receipt.wait()

    async def _item(self, number: int, item_input: In | Row | MalformedLine) -> Item[Out]:
        """Run the node on one input, unless the run has ended."""
        if (ended_by := self.context.ended_by) is not None:
            return Item(**_origin_of(item_input, number), status="failed", error=ended_by)
        item = await run_one(self.node, item_input, number, self.read, self.context.nested())
        if self.context.ended_by is None:
            self.context.ended_by = self.refusals.add(item)
        return item

    def take_finished(self) -> dict[int, Item[Out]]:
        """Return the finished items that weren't taken."""
        items: dict[int, Item[Out]] = {}
        while not self.done.empty():
            if (finished := self.done.get_nowait()) is not None:
                items[finished[0]] = finished[1]
        return items


class _Refusals:
    """Counts consecutive inputs that failed because an endpoint refused its key."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._answered: set[str] = set()
        """Endpoints that have answered in this run."""

    def add(self, item: Item[object]) -> EndpointUnauthorized | None:
        """Count an item; return the error that ends the run if there were enough."""
        error = refusal_of(item.error)
        refused = "" if error is None else error.endpoint
        for part, amount in item.usage.parts.items():
            if amount.tokens:
                self._answered.add(part.endpoint)
                if part.endpoint != refused:
                    self._count.pop(part.endpoint, None)
        # A 403 may be due to one input's content; a refused key never is.
        if error is None or (error.status == 403 and refused in self._answered):
            return None
        self._count[refused] = self._count.get(refused, 0) + 1
        if self._count[refused] < _REFUSALS:
            return None
        message = f"the run has ended, as {_REFUSALS} inputs in a row were refused: {error.message}"
        return type(error)(message, endpoint=error.endpoint, status=error.status)


def refusal_of(error: BaseException | None) -> EndpointUnauthorized | None:
    """Find the refusal of a key, or of an account without credit, that caused an error.

    Refusals with a fallback, such as a small model's that a large one replaced, don't count.
    """
    if error is None or isinstance(error, EndpointUnauthorized):
        return error
    causes: Sequence[BaseException | None] = [error.__cause__]
    if isinstance(error, QuorumNotMet):
        causes = [*causes, *error.causes.values()]
    return next((refusal for cause in causes if (refusal := refusal_of(cause))), None)


async def enumerate_inputs(
    inputs: Iterable[In] | AsyncIterable[In],
) -> AsyncGenerator[tuple[int, In]]:
    """Number inputs from 1. Closing it closes `inputs`, if that is a generator."""
    numbers = count(1)
    if isinstance(inputs, AsyncIterable):
        async with closing_stream(aiter(inputs)) as items:
            async for item in items:
                yield next(numbers), item
        return
    items = iter(inputs)
    try:
        for item in items:
            yield next(numbers), item
    finally:
        if isinstance(items, Generator):
            items.close()


class _Origin(TypedDict):
    """The fields of an item that identify its input."""

    number: int
    id: str | int
    input: object
    key: str


def _origin_of(item_input: object, number: int) -> _Origin:
    if isinstance(item_input, Row | MalformedLine):
        return _Origin(
            number=item_input.number, id=item_input.id, input=item_input.input, key=item_input.key
        )
    return _Origin(number=number, id=number, input=item_input, key="")


async def run_one(
    node: Node[Any, Out],
    payload: object,
    number: int,
    read: Reader,
    context: RunContext,
) -> Item[Out]:
    """Run the node on one input; an error fails only this item.

    Args:
        node: The node.
        payload: Its input, or a row, which is converted by `read`.
        number: Number of the item, and its ID if it isn't a row.
        read: See `reader_of`.
        context: Context of this run alone.
    """
    row = payload if isinstance(payload, Row | MalformedLine) else None
    origin = _origin_of(payload, number)
    if isinstance(row, MalformedLine):
        error = MalformedRow(f"line {row.number} is malformed: {row.error}")
        return Item(**origin, status="failed", error=error)
    journal = row and row.journal
    if journal is not None:
        context.journal, journal.context = journal.root, context
    start = time.perf_counter()
    try:
        value = read(row.value) if row else payload
        result = await run_alone(node, value, context, journal, row=row and row.id)
    except MoaError as problem:
        error = problem
        if journal is not None:
            await journal.fail(problem)
    except asyncio.CancelledError as problem:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        error = NodeError(node.name, problem)  # raised inside: this task isn't cancelled
    except Exception as problem:  # noqa: BLE001  a bug in a user's node must not stop the others
        error = NodeError(node.name, problem)
        error.__cause__ = problem
    else:
        dropped = isinstance(result.output, Dropped) or (
            getattr(result.output, "kept", None) is False  # as a filter's verdict says
        )
        return Item(
            **origin,
            status="dropped" if dropped else "answered",
            result=result,
            seconds=result.seconds,
            usage=result.usage,
            trace=result.trace,
        )
    try:
        return Item(
            **origin,
            status="failed",
            error=error,
            seconds=time.perf_counter() - start,
            usage=context.usage,
            trace=context.trace,
        )
    finally:
        del error  # it leads to this frame, and both would wait for a garbage collection
