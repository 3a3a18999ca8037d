"""NodeBase: the methods of a node besides `run`, to stream and to run on many inputs."""

from __future__ import annotations

import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from pathlib import Path
from typing import Any, Generic, Never, Protocol, TypeVar, cast

from pydantic import BaseModel

from moa.core._async import iterate_sync, run_sync
from moa.core.batch import (
    Item,
    JobStatus,
    MalformedLine,
    OnError,
    Progress,
    Row,
    Value,
    map_rows,
)
from moa.core.context import RunContext
from moa.core.doors import Door
from moa.core.node import Node, Result, stream_run
from moa.core.trace import Event

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
Frame = TypeVar("Frame")
Model = TypeVar("Model", bound=BaseModel)
Out = TypeVar("Out")


class Rows(Protocol):
    """What nodes and agents ask of `moa.rows`."""

    def open_frame(  # noqa: D102
        self, frame: Frame, node: Node[Never, object], column: str | None, /
    ) -> tuple[list[Row | MalformedLine], Callable[[Sequence[Item[object]]], Frame]]: ...

    async def run_job(  # noqa: D102
        self,
        node: Node[Any, object],
        inputs: Iterable[Value | BaseModel | Row | MalformedLine],
        context: RunContext | None,
        /,
        *,
        store: str | Path,
        max_concurrency: int,
        progress: Progress,
    ) -> JobStatus: ...

    def read_models(  # noqa: D102
        self, source: str | Path, model: type[Model], /
    ) -> Iterator[tuple[Row, Model]]: ...


ROWS: Door[Rows] = Door("moa.rows.door")


class NodeBase(Generic[In_contra, Out_co]):
    """Base class of the nodes of `moa`, with their methods besides `run`."""

    def stream(
        self: Node[In_contra, Out_co], request: In_contra, /, context: RunContext | None = None
    ) -> AsyncIterator[Event | Result[Out_co]]:
        """Run, and yield events as they happen. The result comes last.

        Leaving the loop early cancels the run.

        Args:
            request: The input.
            context: Budget, deadline and ledger; `None` starts one without limits.

        Raises:
            MoaError: as `run`.
        """
        return stream_run(self.run, request, context)

    def run_sync(
        self: Node[In_contra, Out_co], request: In_contra, /, context: RunContext | None = None
    ) -> Result[Out_co]:
        """Run from synchronous code: a script, or a notebook with a running event loop.

        All such runs of a process share one event loop, in its own thread, so that endpoints keep
        their connections from run to run. An endpoint has separate connections in each loop, and
        can be used in several. Its `close` closes those of the loop it is awaited in. Those of the
        shared loop are closed with the process.

        Args:
            request: The input.
            context: Budget, deadline and ledger; `None` starts one without limits.

        Raises:
            ConfigError: it is called in code that such a run awaits, and would wait for itself.
            MoaError: as `run`.
        """
        return run_sync(lambda: self.run(request, context))

    def stream_sync(
        self: Node[In_contra, Out_co], request: In_contra, /, context: RunContext | None = None
    ) -> Generator[Event | Result[Out_co]]:
        """Stream from synchronous code, also in a notebook; see `stream` and `run_sync`."""
        return iterate_sync(stream_run(self.run, request, context))

    def map(
        self: Node[In_contra, Out_co],
        inputs: Iterable[In_contra | Row | MalformedLine]
        | AsyncIterable[In_contra | Row | MalformedLine],
        /,
        context: RunContext | None = None,
        *,
        max_concurrency: int = 8,
        on_error: OnError = "return",
        ordered: bool = False,
        progress: Progress = False,
    ) -> AsyncGenerator[Item[Out_co]]:
        """Run on many inputs, or rows of a file; see `moa.core.batch.map_rows`."""
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
        inputs: Iterable[In_contra | Row | MalformedLine],
        /,
        context: RunContext | None = None,
        *,
        max_concurrency: int = 8,
        on_error: OnError = "return",
        progress: Progress = False,
    ) -> list[Item[Out_co]]:
        """Run on many inputs from synchronous code; return their items in the same order.

        It also works in a notebook with a running event loop. If it is interrupted, finished items
        are lost: for many inputs use `map`, and keep each item.

        Args:
            inputs, context, max_concurrency, on_error, progress: See `moa.core.batch.map_rows`.

        Raises:
            ConfigError: see `moa.core.batch.map_rows`; or it is called in code that such a run
                awaits, and would wait for itself.
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
        return run_sync(lambda: _collect(mapped))

    def map_frame(
        self: Node[In_contra, Out_co],
        frame: Frame,
        /,
        context: RunContext | None = None,
        *,
        column: str | None = "text",
        max_concurrency: int = 8,
        on_error: OnError = "return",
        progress: Progress = False,
    ) -> Frame:
        """Run on each row of a pandas or polars DataFrame; return it with columns of the outputs.

            reviews = Sentiment(endpoint).map_frame(reviews, column="body")

        The new columns are the fields of the outputs, or `output` if they have none, and `error`:
        why a row failed, else `None`. An `Enum` member is written as its value. If the frame has a
        column of that name, the new one has the node's name in front, as in `agent_text`. The given
        frame stays as it is.

        Args:
            frame: A pandas or polars DataFrame.
            context, max_concurrency, on_error, progress: See `moa.core.batch.map_rows`.
            column: Column with the texts. A cell without text is an error of its row. `None`: the
                node takes whole rows, with the columns as fields.

        Raises:
            ConfigError: it isn't a DataFrame, or has no such column.
            MoaError: as `on_error` says.
        """
        node = cast("Node[object, Out_co]", self)
        rows, widened = ROWS.open().open_frame(frame, node, column)
        mapped = map_rows(
            node,
            rows,
            context,
            max_concurrency=max_concurrency,
            on_error=on_error,
            ordered=True,
            progress=progress,
        )
        return widened(run_sync(lambda: _collect(mapped)))

    async def run_job(
        self: Node[In_contra, Out_co],
        inputs: Iterable[Value | BaseModel | Row | MalformedLine],
        /,
        context: RunContext | None = None,
        *,
        store: str | Path,
        max_concurrency: int = 8,
        progress: Progress = False,
    ) -> JobStatus:
        """Run on many inputs as a job that can't be lost. Call it again to go on.

            status = await graph.run_job(rows.read("inbox.jsonl"), store="nightly")
            with Job("nightly") as job:
                job.export(Path("done.jsonl"))

        Args:
            inputs: Texts, models, or the rows of `moa.rows.read`. Pass all of them on each call.
            context: Budget, deadline and ledger for all rows of this call.
            store: See `moa.rows.jobs.Job`.
            max_concurrency: Maximum number of inputs processed at once.
            progress: See `moa.core.batch.map_rows`.

        Raises:
            ConfigError: the store can't be used, or holds a job of another graph.
            StoreError: the store fails; finished rows are kept.
        """
        return await ROWS.open().run_job(
            self, inputs, context, store=store, max_concurrency=max_concurrency, progress=progress
        )

    def __repr__(self: Node[Never, object]) -> str:
        kinds = [getattr(self, which, None) for which in ("input_type", "output_type")]
        takes, gives = (_short(kind) for kind in kinds)
        types = f", {takes} -> {gives}" if all(kinds) else ""
        endpoint: object = getattr(self, "endpoint", None)
        return f"{type(self).__name__}({self.name!r}{types}{f', {endpoint!r}' if endpoint else ''})"


async def _collect(mapped: AsyncGenerator[Item[Out]]) -> list[Item[Out]]:
    async with aclosing(mapped) as items:
        return [item async for item in items]


def _short(kind: object) -> str:
    """Return the name of a type, without modules."""
    return getattr(kind, "__name__", "") or re.sub(r"[\w.]+\.", "", str(kind))
