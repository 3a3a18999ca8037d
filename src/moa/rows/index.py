"""Row index: the rows that a run has read, their order, and the offsets of their lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from moa.adapters.sqlite import Scratch

_TABLE = """
create table row (
    given text, input text, copy int, place int, start int,
    failed int not null default 0, due int not null default 0,
    primary key (given, input, copy)) without rowid;
create index row_unread on row (given, input, copy) where place is null
"""
# Copies are counted from 1. Lines of earlier runs come below: the failed line of a row is copy 0,
# its good ones are -1, -2 and so on. `place` is null until this run has read the row.


class RowIndex(Scratch):
    """Index of rows by their `name_of`, with copies counted. A million rows take little memory.

    For a row that an earlier run has written, it has the offset of the line.

    Args:
        forgets: True to forget finished rows, unless there are lines of earlier runs. A table of a
            million rows is slower than one of the rows in flight.
    """

    def __init__(self, *, forgets: bool = False) -> None:
        super().__init__(_TABLE)
        self._forgets = forgets
        self.lines = 0
        """Number of lines, including replaced ones."""
        self._read = 0
        self._has_lines = False

    def add_line(self, name: str, start: int, *, failed: bool) -> None:
        """Add the line of an earlier run. It replaces the row's failed line, if any."""
        self._has_lines = True
        self.lines += 1
        self._unfail(name)
        query = "select min(0, coalesce(min(copy), 0)) from row where given = ? and input = ?"
        copy = 0 if failed else self.run(query, *_parts(name))[0][0] - 1
        insert = "insert into row (given, input, copy, start, failed) values (?, ?, ?, ?, ?)"
        self.run(insert, *_parts(name), copy, start, failed)

    def old_lines(self, name: str) -> tuple[bool, bool]:
        """Return whether a row's id has failed lines, and good lines, that no row has claimed."""
        if not self._has_lines:
            return False, False
        query = "select max(failed), min(failed) from row where given = ? and place is null"
        ((highest, lowest),) = self.run(query, name.partition("/")[0])
        return highest == 1, lowest == 0

    def read(self, name: str) -> str | None:
        """Add a row and return its key; `None` if it has a good line, which it claims."""
        start = None
        if self._has_lines:
            claim = (
                "update row set place = ?3 where given = ?1 and input = ?2 and copy = (select "
                "max(copy) from row where given = ?1 and input = ?2 and copy < 0 and place is null)"
                " returning 1"
            )
            if self.run(claim, *_parts(name), self._read + 1):
                self._read += 1
                return None
            start = self._unfail(name)
        return self.add(name, start)

    def add(self, name: str, failed_at: int | None = None) -> str:
        """Add a due row and return its key. `failed_at` is the offset of its failed line."""
        self._read += 1
        ((copy,),) = self.run(
            "insert into row (given, input, copy, place, start, failed, due) "
            "select ?1, ?2, max(0, coalesce(max(copy), 0)) + 1, ?3, ?4, ?4 is not null, 1 "
            "from row where given = ?1 and input = ?2 returning copy",
            *_parts(name),
            self._read,
            failed_at,
        )
        return f"{name}/{copy}"

    def due(self, name: str) -> str | None:
        """Return the key of the first due copy of a row."""
        query = "select min(copy) from row where given = ? and input = ? and due"
        ((copy,),) = self.run(query, *_parts(name))
        return None if copy is None else f"{name}/{copy}"

    def settle(self, key: str, start: int, *, failed: bool) -> None:
        """Record the offset of a due row's line."""
        self.lines += 1
        which = "where given = ? and input = ? and copy = ?"
        if self._forgets and not self._has_lines and not failed:
            self.run(f"delete from row {which}", *_parts(key))
        else:
            update = f"update row set start = ?, failed = ?, due = 0 {which}"
            self.run(update, start, failed, *_parts(key))

    def is_unfinished(self, key: str) -> bool:
        """Return True if a row has no good line."""
        query = "select due or failed from row where given = ? and input = ? and copy = ?"
        return self.run(query, *_parts(key)) == [(1,)]

    def __contains__(self, key: object) -> bool:
        """Return True if a row was read."""
        query = "select 1 from row where given = ? and input = ? and copy = ?"
        return bool(self.run(query, *_parts(str(key))))

    def starts(self, order: Literal["place", "start"]) -> Iterator[int]:
        """Yield the offsets of the lines that count, in the order of the input or of the file.

        Lines of rows that were not read come last. They count until a row with the same id has a
        line: then its input has changed.
        """
        columns = "place is null, place, start" if order == "place" else "start"
        query = (
            "select start from row where start is not null and (place is not null or not exists ("
            "select 1 from row as other where other.given = row.given and other.place is not null "
            f"and other.start is not null and not (other.due and other.failed))) order by {columns}"
        )
        for (start,) in self.iterate(query):
            yield start

    def has_replaced(self) -> bool:
        """Return True if later lines have replaced earlier ones."""
        return self._has_lines and sum(1 for _ in self.starts("start")) < self.lines

    def _unfail(self, name: str) -> int | None:
        """Forget the failed line of a row, and return its offset."""
        delete = "delete from row where given = ? and input = ? and copy = 0 returning start"
        rows = self.run(delete, *_parts(name))
        return rows[0][0] if rows else None


def _parts(name: str) -> list[str]:
    """Split a name, or a key, which also has the copy."""
    return name.split("/")
