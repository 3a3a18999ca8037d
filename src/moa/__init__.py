"""Mixtures of agents: small models decide, large ones write, typed end to end.

Every public name is loaded at first use, so `import moa` is quick and opens nothing. The
names and their modules are listed in `__init__.pyi`.
"""

from __future__ import annotations

import logging
import re
from importlib import import_module
from pkgutil import get_data

logging.getLogger(__name__).addHandler(logging.NullHandler())

_LIST = (get_data(__name__, "__init__.pyi") or b"").decode()
_HOMES = {name: home for home, name in re.findall(r"(?m)^from (moa\.\S+) import (\w+)", _LIST)}
_EXTRAS = ("moa.calibration.fit", "moa.serving.app")
"""They import an extra. `import *` loads all that it names, so it leaves these out."""
__all__ = sorted(name for name, home in _HOMES.items() if home not in _EXTRAS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name == "vllm":
        return import_module("moa.vllm")
    if name not in _HOMES:
        raise AttributeError(f"module 'moa' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOMES)
