"""The ready graphs that reason."""

from __future__ import annotations

from typing import Any

from moa.graphs.code import Code
from moa.graphs.solve import Solve
from moa.ready.entry import Ready, recipe

READY: dict[str, Ready[Any]] = {"code": recipe(Code), "solve": recipe(Solve)}
