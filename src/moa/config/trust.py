"""Trust: limits on a `moa.toml` that was found but not named, and the files that the user trusts.

A file in the working directory may have come with a folder from anybody. Until the user runs
`moa trust`, it runs no code, reaches nothing outside of its folder, and sends texts and keys only
to this machine and to known vendors. A file that the user names is trusted.

Each trusted file has its own entry in the user's data folder, with its SHA-256 and those of the
programs that it names and of the modules beside them that these import.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError

from moa.config.imports import local_modules
from moa.config.tables import (
    AddressConfig,
    Config,
    EndpointConfig,
    EngineConfig,
    ServerConfig,
)
from moa.core._files import replace_text
from moa.core._json import is_mapping, is_sequence, is_table
from moa.core.errors import ConfigError
from moa.endpoints.dialects import VENDORS
from moa.endpoints.transport import is_loopback
from moa.vllm.settings import VLLMConfig

Place = tuple[int | str, ...]
"""Keys and list indices, the outermost first."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_PLAIN = re.compile(r"[!-\[\]-~]+")
"""An address without blanks, line breaks and backslashes, which libraries read in several ways."""
_ONE_NAME = re.compile(r"[^/\\:~\0]*")
"""A text without characters that divide a path or start it elsewhere."""
_NUMBERS = ("VLLM_CPU_KVCACHE_SPACE", "--tensor-parallel-size")
"""`env` and `args` that `moa models add` writes. They need no trust with another number, so that
the file may be edited by hand."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Need(NamedTuple):
    """One thing in a file that needs trust."""

    place: Place
    does: str
    program: Path | None = None
    """The file that it runs, if any."""

    def __str__(self) -> str:
        *table, key = (part for part in self.place if isinstance(part, str))
        return f"[{'.'.join(map(_key, table))}] {_key(key)}: {self.does}"


class Entry(BaseModel):
    """A file that is trusted as long as it, its programs and their modules are unchanged."""

    model_config = ConfigDict(frozen=True)

    file: Path
    sha256: str
    programs: dict[Path, str]
    """SHA-256 of the programs that it names; empty for a missing one."""
    modules: dict[Path, str]
    """SHA-256 of the local modules that these import."""

    @classmethod
    def of(cls, file: Path, data: bytes, programs: Iterable[Path]) -> Self:
        """Return the entry of a file as it, its programs and their modules are now."""
        return cls(
            file=file,
            sha256=_digest(data),
            programs=_digests(programs),
            modules=_digests(local_modules(programs, file.parent)),
        )

    @property
    def state(self) -> str:
        """Trusted, changed or gone, in words."""
        data = _bytes(self.file)
        if data is None:
            return "gone"
        return "trusted" if self.holds(data) else "changed since it was trusted"

    def holds(self, data: bytes) -> bool:
        """Return True if all is unchanged, with contents `data` of the file now."""
        return Entry.of(self.file, data, self.programs) == self


def check(config: Config, data: bytes, *, overrides: Mapping[str, object]) -> None:
    """Refuse a file that was not named and needs trust, unless it is trusted.

    Args:
        config: Its configuration, with the `MOA_…` variables.
        data: Its contents.
        overrides: Tables of the variables, which are the user's own.

    Raises:
        ConfigError: it isn't trusted. The message names each key that needs trust, and the command
            that gives it.
    """
    file, file_needs = config.file, needs(config, overrides=overrides)
    if file is None or not file_needs:
        return
    entry = _entry(file)
    if entry is not None and entry.holds(data):
        return
    changed = " It, or code that it runs, has changed since you trusted it." if entry else ""
    name, lines = shlex.quote(str(file)), "".join(f"\n  {need}" for need in file_needs)
    raise ConfigError(
        f"{file} was found here and not named, and does what needs your trust.{changed}{lines}\n"
        f"If you trust it, run: moa trust {name}\nOr name it: by --config {name}, by "
        f"MOA_CONFIG={name}, or in Python by Endpoints({str(file)!r})"
    )


def needs(config: Config, *, overrides: Mapping[str, object] = MappingProxyType({})) -> list[Need]:
    """List what needs trust in a file.

    Args:
        config: Its configuration.
        overrides: Tables in it that are the user's own, such as those of `MOA_…` variables.
    """
    file_needs = list(_in_graphs(config))
    for name, entry in config.endpoints.items():
        file_needs += _in_endpoint(config.folder, ("endpoints", name), entry)
    return [need for need in file_needs if not _is_in(overrides, need.place)]


def modules_of(config: Config) -> list[Path]:
    """List the local modules that the programs of a file import; they are trusted with it."""
    return local_modules(_programs_of(config), config.folder)


def _programs_of(config: Config) -> list[Path]:
    return sorted({need.program for need in needs(config) if need.program is not None})


def is_trusted(file: Path) -> bool:
    """Return True if a file is trusted with its current contents."""
    entry, data = _entry(file), _bytes(file)
    return entry is not None and data is not None and entry.holds(data)


def trust(config: Config, data: bytes) -> None:
    """Trust the file of a configuration, with contents `data`.

    Read the configuration without variables, since these may change.

    Raises:
        OSError: the entry can't be written.
    """
    assert config.file is not None, "what is trusted is a file"
    entry = Entry.of(_path_of(config.file), data, _programs_of(config))
    entry_file = _entry_path(config.file)
    entry_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_text(entry_file, entry.model_dump_json())


def revoke(file: Path) -> bool:
    """Stop trusting a file; return False if it wasn't trusted."""
    path = _entry_path(file)
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def entries() -> list[Entry]:
    """List the trusted files, sorted by path."""
    candidates = [_read(path) for path in _folder().glob("*.json")]
    return sorted(
        (entry for entry in candidates if entry is not None), key=lambda entry: entry.file
    )


def object_in(text: str) -> tuple[Path, str] | None:
    """Parse `FILE.py:OBJECT`; return `None` for another text."""
    file, colon, attribute = text.rpartition(":")
    return (Path(file), attribute) if colon and file.endswith(".py") else None


_ENDPOINT = frozenset(
    (
        *("tier", "model", "serve", "served_by", "vllm", "base_url", "api_key_env", "cache"),
        *("fallback", "decide", "priority", "context_window", "concurrency", "timeout_s"),
        *("input_price", "cached_input_price", "output_price"),
    )
)
_SERVER = frozenset(
    (
        *("python", "args", "env", "lora", "port", "replicas", "dtype", "quantization", "priority"),
        *("max_model_len", "gpu_memory_utilization", "block_size", "max_num_seqs"),
    )
)
"""Reviewed keys of an endpoint, and of its table `vllm`: they are harmless, or checked below. Any
other key needs trust."""


def _in_endpoint(folder: Path, place: Place, entry: EndpointConfig) -> Iterator[Need]:
    yield from _unknown(place, entry, _ENDPOINT)
    for url in entry.urls:
        if not _is_near(url):
            yield Need((*place, "base_url"), f"sends texts to {_server(url)}")
    if entry.cache not in (None, "memory") and _leads_out(folder, entry.cache):
        does = f"reads and writes {entry.cache!r}, outside of the file's folder"
        yield Need((*place, "cache"), does)
    # A file of the hub is data, is only fetched by a command, and is stored in moa's cache.
    is_hub = isinstance(entry, EngineConfig) and entry.model.startswith("hf:")
    is_here = isinstance(entry, ServerConfig | EngineConfig) and not is_hub
    if is_here and _leads_out(folder, entry.model):
        yield Need((*place, "model"), f"loads {entry.model!r}, outside of the file's folder")
    if isinstance(entry, ServerConfig):
        yield from _in_server(folder, (*place, "vllm"), entry.vllm)
    yield from _key_needs(place, entry)


def _in_server(folder: Path, place: Place, server: VLLMConfig) -> Iterator[Need]:
    yield from _unknown(place, server, _SERVER)
    if server.args and not _is_number(*server.args):
        does = f"gives vLLM the arguments {shlex.join(server.args)!r}"
        yield Need((*place, "args"), does)
    for name, value in server.env.items():
        if not _is_number(name, value):
            yield Need((*place, "env", name), f"sets a variable of the servers to {value!r}")
    for name, adapter in server.lora.items():
        if _leads_out(folder, adapter):
            yield Need((*place, "lora", name), f"loads {adapter!r}, outside of the file's folder")
    if server.python is not None:
        path = folder / Path(server.python).expanduser()
        is_inside = path.is_file() and not _leads_out(folder, server.python)
        does = f"runs the program {server.python!r}"
        yield Need((*place, "python"), does, path if is_inside else None)


def _unknown(place: Place, table: BaseModel, known_keys: frozenset[str]) -> Iterator[Need]:
    for key in sorted(table.model_fields_set - known_keys):
        yield Need((*place, key), "is a key of which it isn't known what it may do")


def _is_number(name: str, *values: str) -> bool:
    """Return True for a number that moa itself gives vLLM: it only takes memory or GPUs."""
    return name in _NUMBERS and len(values) == 1 and re.fullmatch("[0-9]+", values[0]) is not None


def _key_needs(place: Place, entry: EndpointConfig) -> Iterator[Need]:
    """Check where keys go: a vendor's to that vendor, others to this machine or known vendors."""
    if not isinstance(entry, AddressConfig) or (variable := entry.key_variable) is None:
        return
    key = "base_url" if entry.api_key_env is None else "api_key_env"
    origins = {
        _origin(vendor.base_url) for vendor in VENDORS if vendor.api_key_env == variable.upper()
    }
    usual = (entry.vendor.base_url,) if entry.vendor else ()
    for url in entry.urls or usual:
        if not (_origin(url) in origins if origins else _is_near(url)):
            does = f"sends the variable {_key(variable)} to {_server(url)}"
            yield Need((*place, key), does)


def _in_graphs(config: Config) -> Iterator[Need]:
    """Check every text in the tables of graphs, since only a graph knows which are paths."""
    stack: list[tuple[Place, object]] = [(("graphs",), config.graphs)]
    while stack:  # not by recursion, which deep nesting would break
        place, value = stack.pop()
        inner: list[tuple[Place, object]] = []
        if is_table(value):
            for key, child in value.items():
                yield from _in_text(config, (*place, key), key)
                inner.append(((*place, key), child))
        elif is_sequence(value):
            inner += (((*place, number), child) for number, child in enumerate(value))
        elif isinstance(value, str):
            yield from _in_text(config, place, value)
        stack += reversed(inner)


def _in_text(config: Config, place: Place, text: str) -> Iterator[Need]:
    code = object_in(text)
    if code is not None:
        yield Need(place, f"runs the code of {str(code[0])!r}", config.folder / code[0])
    elif _is_database(text) and not _is_local_database(text):
        suffix = ", or where what stands behind its '?' says" if "?" in text else ""
        yield Need(place, f"keeps texts at {_server(text)}{suffix}")
    elif _leads_out(config.folder, text):
        yield Need(place, f"may reach {text!r}, outside of the file's folder")


def _is_database(text: str) -> bool:
    """Return True for a URL that a graph may connect to; links of the web are only texts to it."""
    scheme = _URL.match(text)
    return scheme is not None and scheme[0].lower() not in ("http://", "https://")


def _is_local_database(url: str) -> bool:
    """Return True if a database is on this machine; a query after `?` could name another host."""
    try:
        is_local = urlsplit(url).netloc in ("", "localhost") or is_loopback(url)
    except ValueError:
        return False
    return is_local and "?" not in url and _PLAIN.fullmatch(url) is not None


def _is_near(url: str) -> bool:
    """Return True if an address is that of this machine, or of a known vendor."""
    origin = _origin(url)
    return origin is not None and (
        is_loopback(url) or origin in {_origin(vendor.base_url) for vendor in VENDORS}
    )


def _origin(url: str) -> str | None:
    """Return scheme, host and port of an address, with the user name and password, if any.

    It is `None` if libraries could read it in several ways.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if _PLAIN.fullmatch(url) is None:
        return None
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(':443')}"


def _server(url: str) -> str:
    """Return scheme, host and port of an address in words, without a password."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that can't be read"
    if _PLAIN.fullmatch(url) is None:
        return "an address that can be read in several ways"
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def _leads_out(folder: Path, text: str) -> bool:
    """Return True if a text, read as a path, leads out of a folder, itself or by a link in it.

    `~` and `..` are resolved in every way that some code may resolve them.
    """
    if _ONE_NAME.fullmatch(text) and text != ".." and not os.path.lexists(folder / text):
        return False  # the quick case of nearly all texts: a catalogue in a table has thousands
    root = Path(os.path.realpath(folder))
    paths = {str(folder / text), str(folder / os.path.expanduser(text))}
    paths |= {os.path.abspath(path) for path in paths}
    try:
        real = [os.path.realpath(path) for path in paths]
    except ValueError:  # it has a NUL, which no path can
        return False
    real += [os.path.realpath(link) for path in real for link in _links_in(path)]
    return not all(Path(path).is_relative_to(root) for path in real)


def _links_in(folder: str) -> list[str]:
    """List the links in a folder that lead to a file, or to nothing yet."""
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_symlink() and not entry.is_dir()]
    except OSError:  # it isn't a folder, or can't be read
        return []


def _is_in(tables: object, place: Place) -> bool:
    """Return True if tables set the value at a place, or a list that contains it."""
    for part in place:
        if not is_mapping(tables):
            return True
        if part not in tables:
            return False
        tables = tables[part]
    return not isinstance(tables, Mapping)


def _key(name: str) -> str:
    """Quote a key as TOML does, so that it can't look like something else."""
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _folder() -> Path:
    return platformdirs.user_data_path("moa", appauthor=False) / "trusted"


def _entry_path(file: Path) -> Path:
    name = hashlib.sha256(os.fsencode(_path_of(file))).hexdigest()
    return _folder() / f"{name}.json"


def _path_of(file: Path) -> Path:
    """Return the path of a file, resolved in its folder only, where its relative paths start."""
    return file.absolute().parent.resolve() / file.name


def _entry(file: Path) -> Entry | None:
    entry = _read(_entry_path(file))
    return entry if entry is not None and entry.file == _path_of(file) else None


def _read(path: Path) -> Entry | None:
    data = _bytes(path)
    try:
        return None if data is None else Entry.model_validate_json(data)
    except ValidationError:
        return None  # what can't be read trusts nothing


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


def _digests(paths: Iterable[Path]) -> dict[Path, str]:
    return {path: _digest(_bytes(path)) for path in paths}


def _digest(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha256(data).hexdigest()
