"""Writing: what became of rows, as lines of JSON as each is done, gone on with; or as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from moa._files import Existing, LineFile, dumped, jsonable, replacing
from moa.batch import Item, Malformed, Row
from moa.context import RunContext
from moa.errors import ConfigError, InputError
from moa.rows._stores import Scratch, SQLite
from moa.rows.loop import CALLS, Calls, Fate, fate_of
from moa.usage import Amount, Usage


def line(item: Item[object]) -> dict[str, object]:
    """Write an item as what `json` can write."""
    written: dict[str, object] = {
        "id": item.id,
        "input": jsonable(item.input),
        "output": jsonable(item.output),
        "status": item.status,
    }
    if item.problem is not None:
        written["error"] = item.problem
    return written | taken(item)


def taken(item: Item[object]) -> dict[str, object]:
    """Write what an item took: `seconds`, `usage` and `trace`.

    Usage is by tier, node and endpoint; a cost of `null` is unknown.
    """
    usage = item.usage
    estimate = item.result.llm_alone if item.result else None
    return {
        "seconds": round(item.seconds, 4),
        "usage": {
            **_amount(usage.total),
            "by_tier": _split(usage.by_tier()),
            "by_node": _split(usage.by_node()),
            "by_endpoint": _split(usage.by_endpoint()),
            "llm_alone_estimate": estimate
            and {"cost": _dollars(estimate.cost), "how": estimate.how},
        },
        "trace": [jsonable(note) for note in item.trace],
    }


def _split(parts: Mapping[Any, Usage]) -> dict[str, object]:
    return {name: _amount(usage.total) for name, usage in parts.items()}


def _amount(amount: Amount) -> dict[str, object]:
    return {
        "calls": amount.calls,
        "input_tokens": amount.input_tokens,
        "cached_input_tokens": amount.cached_input_tokens,
        "output_tokens": amount.output_tokens,
        "cost": _dollars(amount.cost),
        "seconds": round(amount.seconds, 4),
    }


def _dollars(cost: Decimal | None) -> float | None:
    return None if cost is None else float(cost)


def _digest(value: object) -> bytes:
    """Tell an input from others, whatever the order of its fields."""
    if isinstance(value, dict):
        value = sorted(cast("dict[str, object]", value).items())
    return hashlib.sha256(dumped(value).encode()).digest()[:16]


def name_of(id: object, input: object) -> str:
    """Tell a row from all but its copies, by its id and its content."""
    return f"{_digest(id).hex()}/{_digest(input).hex()}"


class RowFile(LineFile):
    """A file of what became of rows, in the order in which they were done, to be resumed.

    A line has `id` and `input`, and `error` where its row failed. With `resume`, `left` passes over
    the rows that have a good line. Rows that failed are due again, and so are those whose input has
    changed under the same id; the lines that they had are removed when the file is closed after all
    rows were read. Until then the last line of an id counts.

    Finished calls of rows that are not done stand beside it, in a file whose name ends in `.calls`:
    with `resume` they are found and not made again. It goes when all rows are done.

    Args:
        path: Made where it isn't there. Its name ends in `.jsonl`.
        existing: What is done with lines that are there: `refuse` raises, `resume` goes on with
            them, `overwrite` drops them when the first line is written.
        source: The file that the rows are read from; `None`: from elsewhere.
        line: Writes what became of a row, for `take`.

    Raises:
        ConfigError: when it is entered: another process writes it, it has lines that are to be
            refused, or that are none of rows, it is `source`, or it can't be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        existing: Existing = "refuse",
        source: str | None = None,
        line: Callable[[Item[Any]], Mapping[str, object]] = line,
    ) -> None:
        super().__init__(path, existing=existing, source=source)
        self.result = self.path
        """The file that was asked for."""
        self.there = 0
        """Rows so far that had a good line."""
        self.failed = 0
        """Rows so far that had failed, and are due again."""
        self.changed = 0
        """Rows so far that had another input, and are due again."""
        self._line = line
        self._old: _OldLines | None = None
        self._kept = _CallFile(self.path, resumes=existing == "resume")
        self._calls = Calls(self._kept)
        self._in_hand: dict[str, set[int]] = {}
        """Copies of each row that are worked on, by its id and input."""
        self._all_read = False
        self._some_failed = False

    @property
    def lost(self) -> int:
        """Finished calls so far that were kept damaged, and that are made again."""
        return self._calls.lost

    def __enter__(self) -> Self:
        """Open and lock it, and read what is there."""
        super().__enter__()
        try:
            for number, start, values in self.lines():
                given = values.get("id")
                if not isinstance(given, str | int) or "input" not in values:
                    raise self.unreadable(number)
                self._old = self._old or _OldLines()
                old = _Old(_digest(values["input"]), start, "error" in values)
                self._old.add(_digest(given), old)
            if self._existing != "overwrite":
                self._kept.begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the lines that others have replaced, and close it.

        Raises:
            ConfigError: the disk has no room for that; the lines are all there.
            StoreError: it has none for finished calls of rows that aren't done.
        """
        try:
            self._calls.close()
            if self._all_read and not self._in_hand and not self._some_failed:
                self._kept.empty()  # a killed process may have left calls of rows that it had done
            self._remove_replaced()
            self._finish()
        except OSError as problem:
            raise self._unwritable(problem) from problem
        finally:
            self.close()

    def close(self) -> None:
        """Close it, and with that free its lock; an empty one is removed."""
        try:
            self._kept.end()
        finally:
            if self._old is not None:
                self._old.close()
                self._old = None
            super().close()

    def left(
        self, found: Iterable[Row | Malformed], *, all_rows: bool = True
    ) -> Iterator[Row | Malformed]:
        """Give the rows that are to be done: those without a good line for their id and input.

        Args:
            found: The rows.
            all_rows: Whether they are all that there are; else no line is removed, since it may
                be that of a row with the same id which is still to come.
        """
        for row in found:
            given = _digest(row.id) if self._old else b""
            old = self._old.of(given) if self._old else []
            digest = _digest(row.input) if old else b""
            same = next((o for o in old if o.digest == digest and not o.failed), None)
            if self._old is None or same is None:
                self.failed += any(o.failed for o in old)
                self.changed += any(not o.failed for o in old)
                yield self._taken_up(row)
            else:
                self._old.claim(given, same)  # so that of copies each has its own line
                self.there += 1
        self._all_read = all_rows

    async def take(self, item: Item[Any], context: RunContext, /) -> None:
        """Write the line of a row, by `line`; see `write`.

        Finished calls of one that has failed are kept, unless the row itself is at fault.

        Raises:
            StoreError: the disk has no room for them.
        """
        self._write(self._line(item), item.key, fate_of(item, context))

    def write(self, values: Mapping[str, object]) -> None:
        """Write the line of a row: it has left this process when this returns.

        Raises:
            InputError: `id` or `input` is missing.
            ConfigError: the disk is full, or gone; the lines before it are whole.
        """
        if not values.keys() >= {"id", "input"}:
            raise InputError(f"a line needs 'id' and 'input', and this one has {list(values)}")
        name = name_of(values["id"], values["input"])
        copies = self._in_hand.get(name, {1})
        self._write(values, f"{name}/{min(copies)}", "failed" if "error" in values else "done")

    def _write(self, values: Mapping[str, object], key: str, fate: Fate) -> None:
        if self._existing == "overwrite":
            self._kept.begin()
        self.add(values)
        if self._old is not None:
            self._old.settle(_digest(values["id"]))
        name, _, copy = key.rpartition("/")
        if copies := self._in_hand.get(name):
            copies.discard(int(copy))
            if not copies:
                del self._in_hand[name]
        self._some_failed |= fate in ("due", "failed")
        self._calls.settle(key, fate)

    def _taken_up(self, row: Row | Malformed) -> Row | Malformed:
        name = name_of(row.id, row.input)
        copies, copy = self._in_hand.setdefault(name, set()), 1
        while copy in copies:
            copy += 1
        copies.add(copy)
        key = f"{name}/{copy}"
        if isinstance(row, Malformed):
            return replace(row, key=key)
        journal = self._calls.journals([key])[0]
        return Row(number=row.number, id=row.id, value=row.value, key=key, journal=journal)

    def _finish(self) -> None:
        """Make what else is made of the lines, before others may write them."""

    def _remove_replaced(self) -> None:
        if self._old is None or not self._all_read:
            return
        gone = self._old.replaced()
        following = next(gone, None)
        if following is None:
            return
        start = 0
        with self.path.open("rb") as old, replacing(self.path) as new:
            for raw in old:
                if start == following:
                    following = next(gone, None)
                else:
                    new.write(raw)
                start += len(raw)


class _Old(NamedTuple):
    """A line of an earlier run."""

    digest: bytes
    """Of its input."""
    start: int
    failed: bool


class _OldLines(Scratch):
    """Lines of earlier runs, which may be a million; by the digest of their id."""

    def __init__(self) -> None:
        super().__init__(
            "create table old (id blob, start int, digest blob, failed int, "
            "settled int default 0, primary key (id, start)) without rowid"
        )

    def add(self, given: bytes, old: _Old) -> None:
        """Add a line."""
        self.run("insert into old (id, digest, start, failed) values (?, ?, ?, ?)", given, *old)

    def of(self, given: bytes) -> list[_Old]:
        """Give those of an id that no row has claimed."""
        asked = "select digest, start, failed from old where id = ? order by start"
        return [_Old(*old) for old in self.run(asked, given)]

    def claim(self, given: bytes, old: _Old) -> None:
        """Let one be that of a row; others of its id are of no use, unless they are claimed too."""
        self.run("delete from old where id = ? and start = ?", given, old.start)
        self.settle(given)

    def settle(self, given: bytes) -> None:
        """Let those of an id go that no row claims."""
        self.run("update old set settled = 1 where id = ?", given)

    def replaced(self) -> Iterator[int]:
        """Give where those start that may go, in the order of the file."""
        for (start,) in self.run("select start from old where settled = 1 order by start"):
            yield start


class _CallFile(SQLite):
    """Finished calls beside a file of lines, made once there is one to be kept."""

    def __init__(self, lines: Path, *, resumes: bool) -> None:
        path = lines.with_name(f"{lines.name}.calls")
        super().__init__(path, CALLS, what=f"{path}, which keeps finished calls,", alone=True)
        self._resumes = resumes
        self._is_open = False
        self.is_new = True

    def begin(self) -> None:
        """Open what an earlier run has left, or drop it where that is not gone on with."""
        if self._resumes and self.path.exists():
            self.open()
            self.is_new = False
        elif not self._resumes and not self._is_open:
            self._remove()

    def open(self) -> None:
        try:
            super().open()
        except ConfigError as error:
            raise ConfigError(
                f"{error}. Without it, its calls are made and paid again: remove it for that"
            ) from error
        self._is_open = True

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return super().run(sql, *values) if self._is_open else []

    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        if not self._is_open:
            self.begin()
            self.open()
        super().many(sql, values)

    def empty(self) -> None:
        """Drop what it keeps."""
        self.run("delete from moa_calls")

    def end(self) -> None:
        """Close it, and remove it where it keeps nothing."""
        if self._is_open:
            self._is_open = False
            empty = not super().run("select 1 from moa_calls limit 1")
            self.close()
            if empty:
                self._remove()

    def _remove(self) -> None:
        for end in ("", "-wal", "-shm", "-journal"):
            with suppress(FileNotFoundError):
                self.path.with_name(f"{self.path.name}{end}").unlink()
