"""Answer file: answers that are kept, for an endpoint's cache that outlives its process."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from moa._files import make_private
from moa.errors import StoreError

_WAIT_S = 5.0
"""Seconds to wait while another process writes, a moment; the event loop stands still meanwhile."""
_SCHEMA = """
pragma journal_mode = wal;
pragma synchronous = off;  -- it is a cache
create table if not exists answers (key blob primary key, answer text) without rowid;
"""


class AnswerFile:
    """Answers in one SQLite file, by what was asked. Several processes may share it.

    The file is made where it isn't there, readable by its owner alone, and holds answers, but no
    prompts. Nothing in it goes: delete it to start anew. Where it is broken, or can't be used, each
    call raises `StoreError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def get(self, key: str) -> Any:
        """Give the answer to what was asked; `None`: there is none."""
        found = self._execute("select answer from answers where key = ?", key)
        return json.loads(found[0][0]) if found else None

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer."""
        self._execute("insert or replace into answers values (?, ?)", key, json.dumps(answer))

    def close(self) -> None:
        """Close the file; it is opened again where it is needed."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _execute(self, statement: str, key: str, *values: object) -> list[tuple[str]]:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        try:
            with self._lock:
                if self._connection is None:
                    make_private(self.path)
                    self._connection = sqlite3.connect(
                        self.path, timeout=_WAIT_S, check_same_thread=False, isolation_level=None
                    )
                    self._connection.executescript(_SCHEMA)
                return self._connection.execute(statement, (digest, *values)).fetchall()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(
                f"the cache {self.path} can't be used ({error}): delete it, or name another file"
            ) from error
