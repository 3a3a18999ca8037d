"""Batch: many inputs through one node, some at a time, and what became of each."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import BaseModel, TypeAdapter, ValidationError

from moa._async import beside, cancel, gather, iterated
from moa._frames import Frame, rows_of, widened
from moa.context import RunContext
from moa.errors import ConfigError, InputError, MalformedRow, MoaError, NodeError
from moa.handoffs import Dropped
from moa.node import Node, Result, streamed
from moa.trace import Event, Note
from moa.usage import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from moa.jobs import JobStatus
    from moa.journal import Journal

In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
Status = Literal["answered", "dropped", "failed"]
OnError = Literal["return", "raise"]
"""What a failure of one input is: an item with an `error`, or the end of all."""
Progress = bool | Callable[[int, int | None], None]
"""Whether a bar shows how far a map is; or what is called with how many are done, and of how many,
which is `None` where nobody knows."""
Value = str | dict[str, object]
"""A text, or the row's fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item of input, as `moa.rows.read` gives it."""

    number: int
    """Number of its line, from 1."""
    id: str | int
    """The row's own, else its line number."""
    value: Value
    key: str = field(default="", compare=False)
    """Of the row in what keeps it; see `moa.ledger`."""
    journal: Journal | None = field(default=None, compare=False)
    """What is kept of its calls."""

    @property
    def input(self) -> Value:
        """What is written down of it."""
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A line that is no item."""

    number: int
    error: str
    raw: str
    """The line, as far as it can be shown."""
    key: str = field(default="", compare=False)
    """Of the row in what keeps it."""

    @property
    def id(self) -> int:
        """Its line number."""
        return self.number

    @property
    def input(self) -> Value:
        """What is written down of it."""
        return self.raw


@dataclass(frozen=True, kw_only=True)
class Item(Generic[Out_co]):
    """What became of one input."""

    number: int
    """Place of the input, from 1; of a row, the number of its line."""
    id: str | int
    """The row's own, else `number`."""
    input: object
    key: str = ""
    """Of the row in what keeps it."""
    status: Status
    """Answered, or dropped: the output is a `Dropped`, or its `kept` is false; or failed."""
    result: Result[Out_co] | None = None
    """What the node returned; `None` where it failed."""
    error: MoaError | None = None
    """Why it failed."""
    seconds: float = 0.0
    """Wall time of its run."""
    usage: Usage = field(default_factory=Usage)
    trace: tuple[Note, ...] = ()

    @property
    def output(self) -> Out_co | None:
        """What came out; `None` where it failed."""
        return self.result.output if self.result else None

    @property
    def problem(self) -> str | None:
        """Why it failed, in words; `None` where it didn't."""
        if self.error is None or isinstance(self.error, MalformedRow):
            return self.error and str(self.error)
        return f"{type(self.error).__name__}: {self.error}"

    @property
    def needed_llm(self) -> bool:
        """Whether a large model was asked, or would have been, had there been one."""
        return "llm" in self.usage.by_tier() or any(n.kind == "escalated" for n in self.trace)


def row_text(value: Value) -> str:
    """Give the text of a row.

    Raises:
        InputError: it has none.
    """
    if isinstance(value, str):
        return value
    text = value.get("text")
    if isinstance(text, str):
        return text
    has = ", ".join(repr(key) for key in value) or "nothing"
    raise InputError(f"a row needs a 'text', and this one has {has}")


def reader_of(node: Node[Any, Any]) -> Callable[[Value], Any]:
    """Give the function that turns a row's value into the node's input.

    It is the row's text where the node takes a `str`, and else what pydantic makes of the row.
    The function raises `InputError` where a row does not fit.
    """
    kind: Any = getattr(node, "input_type", object)
    if str in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)):
        return row_text
    if kind is object:
        return lambda value: value
    return partial(_validated, TypeAdapter[object](kind), getattr(kind, "__name__", str(kind)))


def _validated(adapter: TypeAdapter[object], name: str, value: Value) -> object:
    try:
        return adapter.validate_python({"text": value} if isinstance(value, str) else value)
    except ValidationError as error:
        raise InputError(f"the row is no {name}: {faults_of(error)}") from error


def faults_of(error: ValidationError) -> str:
    """Say what pydantic found wrong, in one line: each field and its fault."""
    faults = (
        (".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, "))
        for fault in error.errors(include_url=False, include_input=False)
    )
    return "; ".join(f"{where}: {what}" if where else what for where, what in faults)


class NodeBase(Generic[In_contra, Out_co]):
    """What every node of `moa` can do beside `run`."""

    def stream(
        self: Node[In_contra, Out_co], request: In_contra, /, context: RunContext | None = None
    ) -> AsyncIterator[Event | Result[Out_co]]:
        """Run, and tell what happens while it happens. The result comes last.

        Leaving the loop early cancels the run.

        Args:
            request: The input.
            context: Budget, deadline and ledger; `None` starts one without limits.

        Raises:
            MoaError: as `run`.
        """
        return streamed(self.run, request, context)

    def run_sync(
        self: Node[In_contra, Out_co], request: In_contra, /, context: RunContext | None = None
    ) -> Result[Out_co]:
        """Run where nothing is awaited: in a script, or in a notebook whose event loop runs.

        All such runs of a process share one event loop, in a thread of its own, so that endpoints
        keep their connections from one to the next. An endpoint has connections of its own in each
        loop, and can be used in several; its `close` closes those of the loop it is awaited in, and
        those of this one are closed with the process.

        Args:
            request: The input.
            context: Budget, deadline and ledger; `None` starts one without limits.

        Raises:
            ConfigError: it is called by what such a run awaits, which would wait for itself.
            MoaError: as `run`.
        """
        return beside(lambda: self.run(request, context))

    def stream_sync(
        self: Node[In_contra, Out_co], request: In_contra, /, context: RunContext | None = None
    ) -> Generator[Event | Result[Out_co]]:
        """As `stream`, where nothing is awaited: in a script, or in a notebook; see `run_sync`."""
        return iterated(streamed(self.run, request, context))

    def map(
        self: Node[In_contra, Out_co],
        inputs: Iterable[In_contra | Row | Malformed] | AsyncIterable[In_contra | Row | Malformed],
        /,
        context: RunContext | None = None,
        *,
        max_concurrency: int = 8,
        on_error: OnError = "return",
        ordered: bool = False,
        progress: Progress = False,
    ) -> AsyncGenerator[Item[Out_co]]:
        """Run on many inputs, or rows of a file, some at a time; see `moa.batch.map_rows`."""
        return map_rows(
            self,
            inputs,
            context,
            max_concurrency=max_concurrency,
            on_error=on_error,
            ordered=ordered,
            progress=progress,
        )

    def map_sync(
        self: Node[In_contra, Out_co],
        inputs: Iterable[In_contra | Row | Malformed],
        /,
        context: RunContext | None = None,
        *,
        max_concurrency: int = 8,
        on_error: OnError = "return",
        progress: Progress = False,
    ) -> list[Item[Out_co]]:
        """Run on many inputs where nothing is awaited, and give their items in the same order.

        It works in a notebook too, whose event loop runs. Where it is interrupted, what was
        finished is lost: with many inputs use `map`, and keep each item.

        Args:
            inputs, context, max_concurrency, on_error, progress: See `moa.batch.map_rows`.

        Raises:
            ConfigError: see `moa.batch.map_rows`; or something that is awaited in such a run calls
                it, and would wait for itself.
            MoaError: as `on_error` says.
        """
        mapped = map_rows(
            self,
            inputs,
            context,
            max_concurrency=max_concurrency,
            on_error=on_error,
            ordered=True,
            progress=progress,
        )
        return beside(lambda: _listed(mapped))

    def map_frame(
        self: Node[In_contra, Out_co],
        frame: Frame,
        /,
        context: RunContext | None = None,
        *,
        column: str | None = "text",
        columns: Sequence[str] | None = None,
        max_concurrency: int = 8,
        on_error: OnError = "return",
        progress: Progress = False,
    ) -> Frame:
        """Run on each row of a DataFrame of pandas or polars, and give it with what came out.

            reviews = Sentiment(endpoint).map_frame(reviews, column="body")

        The new columns are the fields of the outputs, or `output` where they have none, and
        `error`: why a row failed, else `None`. Of a member of an `Enum` its value is written.
        Where the frame has a column of that name, the node's stands before it, as in
        `agent_text`. The frame that was given stays as it is.

        Args:
            frame: A DataFrame of pandas or polars.
            context, max_concurrency, on_error, progress: See `moa.batch.map_rows`.
            column: Where the texts are; a cell that holds none is an error of its row. `None`: each
                row as a whole is what the node takes, its columns the fields.
            columns: Names of the fields to take; `error` comes in any case. `None`: all.

        Raises:
            ConfigError: it is no DataFrame, or has no such column, or the outputs no such field.
            MoaError: as `on_error` says.
        """
        given = [_cell(cell, column, i) for i, cell in enumerate(rows_of(frame, column), 1)]
        names = _names(getattr(self, "output_type", None))
        only = None if columns is None else _chosen(columns, names)
        mapped = map_rows(
            cast("Node[object, Out_co]", self),
            given,
            context,
            max_concurrency=max_concurrency,
            on_error=on_error,
            ordered=True,
            progress=progress,
        )
        items = beside(lambda: _listed(mapped))
        cells = [_cells(item) for item in items]
        return widened(frame, cells, prefix=self.name, names=[*names, "error"], only=only)

    async def run_job(
        self: Node[In_contra, Out_co],
        inputs: Iterable[Value | BaseModel | Row | Malformed],
        /,
        context: RunContext | None = None,
        *,
        store: str | Path,
        max_concurrency: int = 8,
        progress: Progress = False,
    ) -> JobStatus:
        """Run on many inputs as a job that can't be lost: called again, it goes on.

            status = await graph.run_job(rows.read("inbox.jsonl"), store="nightly")
            with Job("nightly") as job:
                job.export(Path("done.jsonl"))

        Args:
            inputs: Texts, models, or the rows of `moa.rows.read`: all of them, each time.
            context: Budget, deadline and ledger over all rows of this call.
            store: See `moa.jobs.Job`.
            max_concurrency: Maximum number of inputs worked on at once.
            progress: See `moa.batch.map_rows`.

        Raises:
            ConfigError: the store can't be used, or holds a job of another graph.
            StoreError: the store fails; what is done is kept.
        """
        from moa.jobs import Job

        with Job(store, graph=self.name) as job:
            job.add(_as_row(number, one) for number, one in enumerate(inputs, start=1))
            return await job.run(self, context, max_concurrency=max_concurrency, progress=progress)

    def __repr__(self: Node[Any, Any]) -> str:
        kinds = [getattr(self, which, None) for which in ("input_type", "output_type")]
        takes, gives = (_short(kind) for kind in kinds)
        types = f", {takes} -> {gives}" if all(kinds) else ""
        endpoint: object = getattr(self, "endpoint", None)
        return f"{type(self).__name__}({self.name!r}{types}{f', {endpoint!r}' if endpoint else ''})"


def _as_row(number: int, given: Value | BaseModel | Row | Malformed) -> Row | Malformed:
    if isinstance(given, Row | Malformed):
        return given
    value = given.model_dump(mode="json") if isinstance(given, BaseModel) else given
    return Row(number=number, id=number, value=value)


def _short(kind: object) -> str:
    """Name a type without the modules that its parts are from."""
    return getattr(kind, "__name__", "") or re.sub(r"[\w.]+\.", "", str(kind))


async def _listed(mapped: AsyncGenerator[Item[Out]]) -> list[Item[Out]]:
    async with aclosing(mapped) as items:
        return [item async for item in items]


def _cell(cell: Any, column: str | None, number: int) -> Row | Malformed:
    if column is None or isinstance(cell, str):
        return Row(number=number, id=number, value=cell)
    return Malformed(number=number, error=f"{column!r} is no text: {cell!r}", raw=repr(cell))


def _is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _names(kind: object) -> list[str]:
    """Name what the cells of outputs of a type are called; nothing where it doesn't tell."""
    if get_origin(kind) in (Union, UnionType):
        members = [_names(member) for member in get_args(kind)]
        return [*dict.fromkeys(name for one in members for name in one)] if all(members) else []
    return _columns(kind) if _is_model(kind) else ["output"] if kind is str else []


def _columns(kind: type[BaseModel]) -> list[str]:
    aliased = kind.model_config.get("serialize_by_alias")
    fields = kind.model_fields.items()
    names = [(aliased and field.serialization_alias) or name for name, field in fields]
    return [*names, *kind.model_computed_fields]


def _chosen(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Take some of the fields of an output, which are known if there are any names."""
    if isinstance(columns, str):
        raise ConfigError(f"columns={columns!r} is one text: give a list of names")
    unknown = [name for name in columns if name not in names]
    if names and unknown:
        raise ConfigError(f"the outputs have no {unknown[0]!r}: choose columns of {list(names)}")
    return [*columns, "error"]


def _cells(item: Item[Any]) -> dict[str, object]:
    output, fields = item.output, dict[str, object]()
    if isinstance(output, BaseModel):
        fields = output.model_dump()
    elif is_dataclass(output) and not isinstance(output, type):
        fields = asdict(output)
    elif isinstance(output, Mapping):
        fields = {str(name): value for name, value in cast("Mapping[Any, Any]", output).items()}
    elif item.error is None:
        fields = {"output": output}
    return {**fields, "error": item.problem}


async def map_rows(
    node: Node[In, Out],
    inputs: Iterable[In | Row | Malformed] | AsyncIterable[In | Row | Malformed],
    context: RunContext | None = None,
    /,
    *,
    max_concurrency: int = 8,
    on_error: OnError = "return",
    ordered: bool = False,
    progress: Progress = False,
) -> AsyncGenerator[Item[Out]]:
    """Run a node on many inputs, and give an item for each as soon as it is finished.

        async with aclosing(map_rows(node, texts)) as items:
            async for item in items:
                print(item.id, item.output or item.error)

    Inputs are taken in their order, each when there is room for it: the next one begins once the
    loop has come back from an item. Where the loop is cancelled, as by Ctrl-C, it still gets what
    was finished by then. Leaving it early cancels what runs and closes `inputs`, where that is a
    generator: at once where this one is closed, as by `aclosing`.

    Args:
        node: An agent, a graph, or any other node.
        inputs: What the node takes, or the rows of `moa.rows.read`, which are read as `reader_of`
            says. An iterator that can take long, such as one of a pipe, is to be an async one.
        context: Budget, deadline and ledger over all of them; `None` starts one without limits.
        max_concurrency: Maximum number of inputs worked on at once.
        on_error: `return` gives an item with an `error` for an input that fails; `raise` raises
            the first error, and cancels what runs.
        ordered: Whether items come in the order of the inputs; those that are finished before
            their turn wait in memory.
        progress: `True` shows a bar on standard error, where that is a terminal, or in the cell of
            a notebook; a function is called with how many are finished, and of how many, which is
            `None` where `inputs` has no length.

    Raises:
        ConfigError: `max_concurrency` is not positive, or `inputs` is a single text.
        MoaError: as `on_error` says.
        Exception: whatever `inputs` raises, once what was finished before it has been given.
    """
    if max_concurrency < 1 or isinstance(inputs, str):
        wrong = "one text, not many" if isinstance(inputs, str) else f"{max_concurrency=}"
        raise ConfigError(f"{node.name}: maps many inputs, at least one at once, and got {wrong}")
    total = len(inputs) if isinstance(inputs, Sized) else None
    told = _told(progress, total, node.name)
    context = context or RunContext(keep_notes=False)
    batch = _Batch(node, _numbered(inputs), context, on_error, told)
    working = asyncio.ensure_future(batch.run(max_concurrency))
    waiting, following = dict[int, Item[Out]](), 1
    try:
        while (finished := await batch.done.get()) is not None:
            place, waiting[finished[0]], taken = finished
            while (item := waiting.pop(following if ordered else place, None)) is not None:
                following += 1
                yield item
            taken.set()
        for place in sorted(waiting):  # the one whose turn it is won't come
            yield waiting.pop(place)
        await working
    except asyncio.CancelledError:
        await cancel([working])
        waiting |= batch.left()
        for place in sorted(waiting):
            yield waiting[place]
        raise
    finally:
        await cancel([working])
        await batch.inputs.aclose()


def _told(
    progress: Progress, total: int | None, what: str
) -> AbstractContextManager[Callable[[int], None]]:
    if progress is True:
        from moa._terminal import shown

        return shown(total, what)
    return nullcontext((lambda done: progress(done, total)) if progress else lambda _: None)


@dataclass
class _Batch(Generic[In, Out]):
    """What the workers of one run share."""

    node: Node[In, Out]
    inputs: AsyncGenerator[tuple[int, In | Row | Malformed]]
    context: RunContext
    on_error: OnError
    told: AbstractContextManager[Callable[[int], None]]
    """Gives what is told how many are finished."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    done: asyncio.Queue[tuple[int, Item[Out], asyncio.Event] | None] = field(
        default_factory=asyncio.Queue[tuple[int, Item[Out], asyncio.Event] | None]
    )
    """Places and items that are finished, in that order, and what says that one was taken."""
    finished: int = 0

    def __post_init__(self) -> None:
        self.read = reader_of(self.node)

    async def run(self, max_concurrency: int) -> None:
        """Work on all inputs; `None` is the last of `done`."""
        try:
            with self.told as tell:
                await gather(self._work(tell) for _ in range(max_concurrency))
        finally:
            self.done.put_nowait(None)

    async def _work(self, tell: Callable[[int], None]) -> None:
        """Work on one input after the other; the next one begins when the last item was taken."""
        while True:
            async with self.turn:
                given = await anext(self.inputs, None)
            if given is None:
                return
            item = await _item(self.node, given[1], given[0], self.read, self.context.nested())
            if item.error is not None and self.on_error == "raise":
                raise item.error
            self.finished += 1
            tell(self.finished)
            taken = asyncio.Event()
            self.done.put_nowait((given[0], item, taken))
            await taken.wait()

    def left(self) -> dict[int, Item[Out]]:
        """Give what was finished, and not yet taken."""
        found: dict[int, Item[Out]] = {}
        while not self.done.empty():
            if (finished := self.done.get_nowait()) is not None:
                found[finished[0]] = finished[1]
        return found


async def _numbered(inputs: Iterable[In] | AsyncIterable[In]) -> AsyncGenerator[tuple[int, In]]:
    place = 0
    try:
        if isinstance(inputs, AsyncIterable):
            async for one in inputs:
                place += 1
                yield place, one
        else:
            for one in inputs:
                place += 1
                yield place, one
    finally:
        if isinstance(inputs, AsyncGenerator):
            await cast("AsyncGenerator[In]", inputs).aclose()
        elif isinstance(inputs, Generator):
            cast("Generator[In]", inputs).close()


async def _item(
    node: Node[Any, Out],
    given: object,
    place: int,
    read: Callable[[Value], Any],
    context: RunContext,
) -> Item[Out]:
    """Run the node on one input; whatever goes wrong is this item's alone."""
    item = partial(Item[Out], number=place, id=place, input=given)
    if isinstance(given, Row | Malformed):
        item = partial(
            Item[Out], number=given.number, id=given.id, input=given.input, key=given.key
        )
    if isinstance(given, Malformed):
        error = MalformedRow(f"line {given.number} is malformed: {given.error}")
        return item(status="failed", error=error)
    journal = given.journal if isinstance(given, Row) else None
    if journal is not None:
        context.journal, journal.context = journal.root, context
    start = time.perf_counter()
    try:
        result = await node.run(read(given.value) if isinstance(given, Row) else given, context)
    except MoaError as problem:
        error = problem
        if journal is not None:
            await journal.fail(problem)
    except asyncio.CancelledError as problem:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        error = NodeError(node.name, problem)  # from within: nobody has cancelled this
    except Exception as problem:  # noqa: BLE001  a bug in a user's node must not stop the others
        error = NodeError(node.name, problem)
        error.__cause__ = problem
    else:
        dropped = isinstance(result.output, Dropped) or (
            getattr(result.output, "kept", None) is False  # as a filter's verdict says
        )
        return item(
            status="dropped" if dropped else "answered",
            result=result,
            seconds=result.seconds,
            usage=result.usage,
            trace=result.trace,
        )
    return item(
        status="failed",
        error=error,
        seconds=time.perf_counter() - start,
        usage=context.usage,
        trace=context.trace,
    )
