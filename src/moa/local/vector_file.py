"""Vector file: vectors on disk, for later runs.

It holds no text: the keys are SHA-256 hashes of model and text.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

from moa.adapters.sqlite import SQLite
from moa.core.errors import ConfigError, StoreError
from moa.local.encoding import EncoderText, Vector

_TABLE = "create table if not exists vectors (place integer primary key, key blob unique, v blob)"
_FIND = "select v from vectors where key = ?"
_PUT = "insert or ignore into vectors (key, v) values (?2, ?3)"
_TRIM = "delete from vectors where place <= (select max(place) from vectors) - ?"
_MOST = 20_000
"""Maximum of vectors in a file, of all models, some 40 MB; the oldest are deleted."""
_TRIM_EVERY = 200
"""Number of new vectors after which the oldest are deleted."""
_BUSY_S = 1.0
"""Seconds to wait for another process that writes; then the texts are encoded again."""
_logger = logging.getLogger(__name__)


class VectorFile:
    """The vectors of one model in a file, shared by several models and processes.

    If the file can't be used, nothing is found or stored, and the log says so once. Reading one
    takes some 30 µs, in the thread that would encode the text.

    Args:
        path: Created at first use, readable only by its owner.
        model: The model and its version.
        parts: Length of a vector.
    """

    def __init__(self, path: Path, model: str, *, parts: int) -> None:
        self._path = path
        self._model = model
        self._bytes = 4 * parts
        self._new = 0
        self._lock = threading.Lock()
        self._file: SQLite | None = None
        self._is_off = False

    def find(self, texts: Sequence[EncoderText]) -> dict[EncoderText, Vector]:
        """Return the stored vectors."""
        if (file := self._open()) is None:
            return {}
        try:
            rows = [(text, file.run(_FIND, self._key(text))) for text in texts]
        except StoreError as error:
            self._turn_off(error)
            return {}
        packed_vectors = {text: row[0][0] for text, row in rows if row}
        return {text: _unpack(v) for text, v in packed_vectors.items() if self._is_whole(v)}

    def put(self, vectors: Mapping[EncoderText, Vector]) -> None:
        """Store vectors; delete the oldest if there are too many."""
        if not vectors or (file := self._open()) is None:
            return
        try:
            file.execute_many(_PUT, [(self._key(text), _pack(v)) for text, v in vectors.items()])
            self._new += len(vectors)
            if self._new >= min(_TRIM_EVERY, _MOST):
                self._new = 0
                file.run(_TRIM, _MOST)
        except StoreError as error:
            self._turn_off(error)

    def close(self) -> None:
        """Close the file; it opens again on demand."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _open(self) -> SQLite | None:
        with self._lock:
            if self._file is None and not self._is_off:
                file = SQLite(self._path, _TABLE, what="the file of vectors", busy_s=_BUSY_S)
                try:
                    file.open()
                except ConfigError as error:
                    self._turn_off(error)
                else:
                    self._file = file
            return None if self._is_off else self._file

    def _turn_off(self, error: Exception) -> None:
        if not self._is_off:
            _logger.info("Vectors are not kept for the next run: %s", error)
        self._is_off = True

    def _key(self, text: EncoderText) -> bytes:
        kind = "passage" if text.is_passage else "query"
        return hashlib.sha256(f"{self._model}\0{kind}\0{text.text}".encode()).digest()

    def _is_whole(self, packed: object) -> bool:
        return isinstance(packed, bytes) and len(packed) == self._bytes


def _pack(vector: Vector) -> bytes:
    """Pack a vector as 32-bit numbers, which is lossless."""
    return array("f", vector).tobytes()


def _unpack(packed: bytes) -> Vector:
    return tuple(array("f", packed))
