"""Configuration: finds, reads and validates `moa.toml` and the environment variables.

`moa.config.tables` has the models of a file. Variables such as `MOA_ENDPOINTS__SMALL__BASE_URL`
override it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError, create_model

from moa.config import trust
from moa.config.faults import explain
from moa.config.tables import FILE, Config, Toml
from moa.core._json import is_table
from moa.core.errors import ConfigError

VARIABLE = "MOA_CONFIG"
VARIABLES = (VARIABLE, "MOA_CACHE", "MOA_KEYS", "MOA_MODEL", "MOA_VECTORS")
"""All variables that are read, in addition to those of the fields of `Config`."""
_PREFIX = "MOA_"
_MOST_BYTES = 2 << 20
"""Maximum size of a configuration, since each text in it is checked before anything runs."""


def find(path: str | Path | None = None) -> Path | None:
    """Find the configuration file: `path`, else `$MOA_CONFIG`, else `./moa.toml`.

    Raises:
        ConfigError: the file that `path` or the variable names doesn't exist.
    """
    name, source = (path, "--config") if path else (os.environ.get(VARIABLE), f"${VARIABLE}")
    if name:
        if not Path(name).is_file():
            raise ConfigError(f"{source} names {str(name)!r}, and there is no such file")
        return Path(name)
    return Path(FILE) if Path(FILE).is_file() else None


def load(path: str | Path | None = None) -> Config:
    """Read the configuration that `find` finds; without one, only the environment variables.

    Raises:
        ConfigError: the file is missing or not TOML, a key or a value in it is wrong, or it was not
            named and needs trust; see `moa.config.trust`.
    """
    file = find(path)
    if file is None:
        return config_of({}, None)
    config, data = read(file)
    if not (path or os.environ.get(VARIABLE)):
        trust.check(config, data, overrides=_variables())
    return config


def read(file: Path, *, variables: bool = True) -> tuple[Config, bytes]:
    """Read a file; return its configuration and its contents.

    With `variables`, `MOA_…` variables override it. Trust is not checked; see `load`.
    """
    text = read_text(file)
    return config_of(parse(text, file), file, variables=variables), text.encode()


def read_text(file: Path) -> str:
    """Read a file as UTF-8, with its line ends unchanged, unless it is larger than 2 MiB."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(
                f"{file} can't be read: it has more than {_MOST_BYTES >> 20} MiB. Put a catalogue "
                "or other data into a file of its own, and name that"
            )
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} can't be read: it is no UTF-8 text") from error


def parse(text: str, file: Path) -> Toml:
    """Parse the tables of a configuration."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is nested too deep to be read") from error


def config_of(tables: Mapping[str, object], file: Path | None, *, variables: bool = True) -> Config:
    """Validate the tables of a file.

    With `variables`, `MOA_…` variables override them. Trust is not checked; see `load`.

    Raises:
        ConfigError: they are wrong. Each fault has its own line.
    """
    source = str(file) if file else f"the {_PREFIX}… variables"
    if variables:
        tables = merge(_variables(), tables)
    try:
        config = Config.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(explain(error, Config, path=source)) from error
    config._file = file  # pyright: ignore[reportPrivateUsage]
    return config


def misspelt_variables() -> dict[str, str]:
    """Find unknown `MOA_…` variables that resemble a known one; return its name for each."""
    names = [name.removeprefix(_PREFIX) for name in VARIABLES]
    names += [field.upper() for field in Config.model_fields]
    corrections: dict[str, str] = {}
    for name in sorted(os.environ):
        head, *rest = name.upper().removeprefix(_PREFIX).split("__")
        if name.upper().startswith(_PREFIX) and head not in names:
            for right in get_close_matches(head, names, n=1, cutoff=0.75):
                corrections[name] = _PREFIX + "__".join([right, *rest])
    return corrections


def _variables() -> Toml:
    """Read tables from `MOA_…` variables; pydantic-settings is imported only if there are any."""
    starts = tuple(f"{_PREFIX}{field}".lower() for field in Config.model_fields)
    if not any(name.lower().startswith(starts) for name in os.environ):
        return {}
    from pydantic_settings import BaseSettings, EnvSettingsSource

    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in Config.model_fields.items()
    }
    settings = create_model("Variables", __base__=BaseSettings, **fields)
    try:
        return EnvSettingsSource(settings, env_prefix=_PREFIX, env_nested_delimiter="__")()
    except ValueError as error:
        raise ConfigError(
            f"the {_PREFIX}… variables: {error}. A table, or a list, is written as JSON"
        ) from error


def merge(first: Mapping[str, object], second: Mapping[str, object]) -> Toml:
    """Merge tables recursively; if both have a value, the first one counts."""
    tables = {**second, **first}
    for key in first.keys() & second.keys():
        left, right = first[key], second[key]
        if is_table(left) and is_table(right):
            tables[key] = merge(left, right)
    return tables
