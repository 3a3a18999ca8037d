"""Writes endpoints and graphs into `moa.toml`, and keeps all its other lines and comments."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moa.config import VARIABLE, config_of, merge, parse, read_text, trust
from moa.config.tables import EMBEDDED, FILE, Config, Toml
from moa.core._files import replace_text
from moa.core._json import is_sequence, is_table, object_of
from moa.core.errors import ConfigError
from moa.core.usage import Tier

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def target(path: str | Path | None = None) -> Path:
    """Return the file to write, which may not exist: `path`, `$MOA_CONFIG` or `./moa.toml`."""
    return Path(path or os.environ.get(VARIABLE) or FILE)


def write_endpoint(
    path: str | Path | None,
    name: str,
    table: Mapping[str, object],
    *,
    tiers: Mapping[Tier, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `[endpoints.NAME]` at the end of a configuration, which is created if missing.

    The file is replaced atomically, and only if `moa.config.load` accepts the result: on an error
    it is unchanged. An overwritten endpoint stays in its place. `tiers` are the endpoints that
    become the defaults of their tiers.
    """
    file = target(path)
    if name == EMBEDDED or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't be the name of an endpoint: letters, digits, '-' and '_' can, "
            f"and {EMBEDDED!r} is the model that is built in"
        )
    before, tables = _read(file)
    endpoints, defaults = object_of(tables.get("endpoints")), object_of(tables.get("tiers"))
    exists = name in endpoints
    if exists and not overwrite:
        raise ConfigError(
            f"{file} has an endpoint {name!r} already. Replace it with --overwrite, "
            "or choose another name"
        )
    new_table = _to_toml(table)
    if exists:
        after = _with_table(before, "endpoints", name, new_table)
    else:
        after = _join(before, {"endpoints": {name: new_table}})
    new_tables = {**tables, "endpoints": {**endpoints, name: new_table}}
    if tiers:
        new_tables["tiers"] = {**defaults, **tiers}
        if "tiers" in tables:
            after = _with_keys(after, ["tiers"], {**tiers})
        else:
            after = _join(after, {"tiers": dict(tiers)})
    places = [("endpoints", name)]
    _replace(file, after, new_tables, added={"endpoints": {name: new_table}}, own=places)
    return file


class SetKeys(NamedTuple):
    """The result of setting keys in a table."""

    file: Path
    changed: Mapping[str, object]
    """Keys that had another value before, with that value."""
    kept: tuple[str, ...]
    """The table's other keys, which are unchanged."""


def set_in_graph(path: str | Path | None, name: str, keys: Mapping[str, object]) -> SetKeys:
    """Set keys of `[graphs.NAME]`, and keep its others. The file is replaced atomically.

    File and table are created if missing.
    """
    file = target(path)
    before, tables = _read(file)
    graphs = object_of(tables.get("graphs"))
    old, new = object_of(graphs.get(name)), _to_toml(keys)
    new_table = {**old, **new}
    if name in graphs:
        after = _with_keys(before, ["graphs", name], new)
    else:
        after = _join(before, {"graphs": {name: new}})
    new_tables = {**tables, "graphs": {**graphs, name: new_table}}
    places = [("graphs", name, key) for key in keys]
    _replace(file, after, new_tables, added={"graphs": {name: new_table}}, own=places)
    changed = {key: old[key] for key in keys if key in old and old[key] != new_table[key]}
    return SetKeys(file, changed, tuple(key for key in old if key not in keys))


def add_block(
    path: str | Path | None, block: str, table_path: Sequence[str], *, overwrite: bool = False
) -> Path:
    """Append tables, with the comments in them, to a configuration.

    The file is created if missing, and replaced atomically. The tables don't become trusted, since
    their texts may be anybody's.

    Args:
        path: The file; see `target`.
        block: The tables, as TOML.
        table_path: Keys of the table that contains them all.
        overwrite: Replace this table if it exists.

    Raises:
        ConfigError: the table exists already, the file can't be written, or is invalid.
    """
    check_block(path, table_path, overwrite=overwrite)
    file = target(path)
    before, tables = _read(file)
    if _at(tables, table_path):
        document = _document(before)
        del _at(document, table_path[:-1])[table_path[-1]]
        before, tables = document.as_string(), document.unwrap()
    after = f"{before.rstrip()}\n\n{block}" if before.strip() else block
    added = parse(block, file)
    _replace(file, after, merge(added, tables), added=added, own=())
    return file


def check_block(path: str | Path | None, table_path: Sequence[str], *, overwrite: bool) -> None:
    """Check that `add_block` could add a table.

    Raises:
        ConfigError: the table exists, and `overwrite` is False.
    """
    file = target(path)
    if not overwrite and _at(_read(file)[1], table_path):
        raise ConfigError(
            f"{file} has [{'.'.join(table_path)}] already, and nothing was written: name another "
            "folder, or replace them by --overwrite"
        )


def _at(tables: Toml, path: Sequence[str]) -> Toml:
    """Return the table at a path of keys; an empty one if there is none."""
    for key in path:
        tables = object_of(tables.get(key))
    return tables


def _read(file: Path) -> tuple[str, Toml]:
    """Read the text of a configuration, and the tables in it."""
    text = read_text(file) if file.exists() else ""
    return text, parse(text, file)


def _join(before: str, tables: Mapping[str, object]) -> str:
    """Append tables to a text."""
    import tomlkit

    block = tomlkit.dumps(tables)
    return f"{before.rstrip()}\n\n{block}" if before.strip() else block


def _with_table(before: str, section: str, name: str, table: Mapping[str, object]) -> str:
    """Replace a table in a text. An inline table is left unchanged."""
    document = _document(before)
    addition = _document(_join("", {section: {name: table}}) + "\n")
    with suppress(ValueError):
        _at(document, [section])[name] = _at(addition, [section])[name]
    return f"{document.as_string().rstrip()}\n"


def _with_keys(before: str, path: Sequence[str], keys: Mapping[str, object]) -> str:
    """Set keys of a table in a text, and keep its others."""
    document = _document(before)
    _at(document, path).update(keys)
    return document.as_string()


def _document(text: str) -> TOMLDocument:
    from tomlkit import parse
    from tomlkit.exceptions import TOMLKitError

    try:
        return parse(text)
    except TOMLKitError as error:  # such as too deep nesting
        raise ConfigError(f"the configuration can't be added to by moa: {error}") from error


def _replace(
    file: Path,
    text: str,
    tables: Toml,
    *,
    added: Mapping[str, object],
    own: Sequence[trust.Place],
) -> None:
    """Replace a file by a text, if the text has these `tables`, and `load` would accept it.

    A trusted file stays trusted. A file that needs trust only for moa's `own` places, such as a new
    one, becomes trusted. Any other file doesn't.
    """
    try:
        written_tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        written_tables = None  # such as inline tables, which can't be extended
    if written_tables != tables:
        raise ConfigError(
            f"{file} is laid out so that moa can't add to it. Add this by hand:\n{_join('', added)}"
        )
    try:
        config_of(tables, file)
    except ConfigError as error:
        raise ConfigError(f"{error}\nNothing was written") from error
    config = _to_trust(file, tables, own)
    try:
        replace_text(file, text, private=False)
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}") from error
    if config is not None:
        with suppress(OSError):  # then the next command says how to trust it
            trust.trust(config, text.encode())


def _to_trust(file: Path, tables: Toml, own_places: Sequence[trust.Place]) -> Config | None:
    """Return the configuration to trust once it is written; `None`: don't trust it."""
    try:
        config = config_of(tables, file, variables=False)
    except ConfigError:  # valid only with variables, which may hide something
        return None
    places = [need.place for need in trust.needs(config)]
    foreign_places = [
        place
        for place in places
        if not any(place[: len(prefix)] == prefix for prefix in own_places)
    ]
    return config if places and (not foreign_places or trust.is_trusted(file)) else None


def _to_toml(table: Mapping[str, object]) -> Toml:
    """Convert a table for TOML: tuples become lists, and tables come after plain values."""
    values: Toml = {}
    inner: Toml = {}
    for key, value in table.items():
        if is_table(value):
            inner[key] = _to_toml(value)
        else:
            values[key] = [*value] if is_sequence(value) else value
    return values | inner
