"""Routing rows: a file of recorded answers, and the router's file that fits it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from moa.routing import Router
    from moa.routing.recorded import Case, Recorded
    from moa.rows import Format, Row

T = TypeVar("T")

RouterFile = Annotated[
    Path, typer.Argument(metavar="ROUTER.json", help="Made by moa route fit.", show_default=False)
]


def recorded(source: str, *, format: Format | None, replied: bool | None = None) -> list[Recorded]:
    """Read a file of requests that both models have answered.

    Raises:
        ConfigError: it can't be read, is empty, or a line is no object.
        InputError: something is missing in a row.
    """
    from moa.routing.recorded import read_recorded

    return [
        read_recorded(value, where=where, replied=replied)
        for _, value, where in _values(source, format)
    ]  # fmt: skip


def cases(source: str, router: Router, *, format: Format | None) -> list[tuple[Row, Case]]:
    """Read a file of requests for a router, as many as there are rows.

    Raises:
        ConfigError: it can't be read, is empty, or a line is no object.
        InputError: something that the router looks at is missing in a row.
    """
    from moa.routing.recorded import read_case

    replied = router.kind == "cascade"
    return [
        (row, read_case(value, where=where, replied=replied))
        for row, value, where in _values(source, format)
    ]


def missing_fields(router: Router, found: Sequence[Case]) -> str | None:
    """Say which of the fields that a router uses are missing in how many rows; else `None`."""
    counts = {name: sum(name not in case.fields for case in found) for name in router.fields}
    told = ", ".join(f"{name!r} in {n} of {len(found)}" for name, n in counts.items() if n)
    return f"missing, so done without: {told}" if told else None


def loaded(path: Path) -> Router:
    """Load a router's file.

    Raises:
        ConfigError: it can't be read, or is no router's file.
    """
    from moa.routing import Router

    return Router.load(path)


def with_progress(work: Callable[[Callable[[int, int], None]], T], told: str) -> T:
    """Do something long with a bar on standard error."""
    from moa.cli import screen

    with screen.err().bars() as bar:
        task = bar.add_task(told, total=None)
        return work(lambda done, total: bar.update(task, completed=done, total=total))


def _values(source: str, format: Format | None) -> Iterator[tuple[Row, Mapping[str, object], str]]:
    from moa import rows
    from moa.errors import ConfigError, InputError
    from moa.rows import Malformed

    for row in rows.read(source, format=format):
        where = f"{source}, line {row.number}"
        if isinstance(row, Malformed):
            raise ConfigError(f"{where}: {row.error}")
        if isinstance(row.value, str):
            raise InputError(f"{where}: a row has fields such as 'prompt', and this one is a text")
        yield row, row.value, where
