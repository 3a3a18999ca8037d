"""Door: what nodes and agents ask of rows. They load it at first use; see `moa.core.doors`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from moa.core.batch import JobStatus, MalformedLine, Progress, Row, Value
from moa.core.context import RunContext
from moa.core.node import Node
from moa.rows.frames import open_frame as open_frame
from moa.rows.jobs import Job
from moa.rows.reading import read_models as read_models


async def run_job(
    node: Node[Any, object],
    inputs: Iterable[Value | BaseModel | Row | MalformedLine],
    context: RunContext | None,
    *,
    store: str | Path,
    max_concurrency: int,
    progress: Progress,
) -> JobStatus:
    """Run a node on many inputs as a job; see `NodeBase.run_job`."""
    with Job(store, graph=node.name) as job:
        job.add(_as_row(number, entry) for number, entry in enumerate(inputs, start=1))
        return await job.run(node, context, max_concurrency=max_concurrency, progress=progress)


def _as_row(number: int, entry: Value | BaseModel | Row | MalformedLine) -> Row | MalformedLine:
    if isinstance(entry, Row | MalformedLine):
        return entry
    value = entry.model_dump(mode="json") if isinstance(entry, BaseModel) else entry
    return Row(number=number, id=number, value=value)
