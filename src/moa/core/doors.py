"""Doors: what a layer does for the core, loaded by name at first use.

The core imports no layer. Where a method of the core needs one, such as LangGraph to compile a
graph, it opens a door: a module of the layer, known here by its name and a protocol.
"""

from __future__ import annotations

from importlib import import_module
from typing import Generic, TypeVar, cast

T_co = TypeVar("T_co", covariant=True)


class Door(Generic[T_co]):
    """A module of a layer, and what the core asks of it.

    Args:
        module: Its name, such as `moa.rows.door`. It must have the functions of the protocol
            `T_co`; `tests/typed_doors.py` lets the type checker compare them.
    """

    def __init__(self, module: str) -> None:
        self.module = module

    def open(self) -> T_co:
        """Import the module."""
        return cast("T_co", import_module(self.module))
