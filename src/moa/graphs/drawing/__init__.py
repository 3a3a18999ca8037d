"""Drawing: a graph as Mermaid, SVG, PNG or characters. Nothing is sent anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from moa.errors import ConfigError, MissingDependency
from moa.graphs.engine.drawing import diagram_of, mermaid_of
from moa.graphs.engine.plan import Plan
from moa.graphs.recipe import Recipe


@runtime_checkable
class Drawable(Protocol):
    """A graph, or another node with nodes in it."""

    def draw(self) -> Drawing:
        """Draw what is in it."""
        ...


@dataclass(frozen=True)
class Drawing:
    """A graph, to be looked at. Notebooks show it by themselves."""

    drawn: Plan | Recipe[Any, Any]

    @cached_property
    def mermaid(self) -> str:
        """Mermaid's text; needs nothing installed."""
        return mermaid_of(diagram_of(self.drawn))

    @cached_property
    def svg(self) -> str:
        """An SVG document.

        Raises:
            MissingDependency: `mermaidx` is not installed.
        """
        try:
            import mermaidx
        except ImportError as error:
            raise _missing("mermaidx", "as SVG or PNG") from error
        return cast("Any", mermaidx).render(self.mermaid).svg()

    def png(self, *, width: int | None = None) -> bytes:
        """A PNG picture on white.

        Args:
            width: In pixels, and the height follows; `None` is twice the size of the SVG.

        Raises:
            MissingDependency: `mermaidx` is not installed.
        """
        svg = self.svg
        import mermaidx

        if width is None:
            _, _, natural, _ = re.findall(r"[-\d.]+", svg[svg.index("viewBox") :])[:4]
            width = round(2 * float(natural))
        return mermaidx.svg_to_png(svg, width=width, background="#ffffff")

    @cached_property
    def ascii(self) -> str:
        """A picture of characters, for a terminal; graphs within the graph stay closed.

        Raises:
            MissingDependency: `termaid` is not installed.
        """
        try:
            import termaid
        except ImportError as error:
            raise _missing("termaid", "in characters") from error
        plain = mermaid_of(diagram_of(self.drawn, opened=False), styled=False)
        return termaid.render(plain, padding_x=2, padding_y=0, gap=3)

    def save(self, path: str | Path) -> None:
        """Write a file of the kind that its ending says: `.svg`, `.png`, `.mmd`, `.md` or `.txt`.

        Raises:
            ConfigError: another ending.
            MissingDependency: what draws this kind is not installed.
        """
        path = Path(path)
        match path.suffix.lower():
            case ".svg":
                path.write_text(self.svg, encoding="utf-8")
            case ".png":
                path.write_bytes(self.png())
            case ".mmd":
                path.write_text(self.mermaid, encoding="utf-8")
            case ".md":
                path.write_text(f"```mermaid\n{self.mermaid}```\n", encoding="utf-8")
            case ".txt":
                path.write_text(self.ascii, encoding="utf-8")
            case other:
                raise ConfigError(
                    f"can't draw a {other or 'file without an ending'}: "
                    "give one of .svg, .png, .mmd, .md, .txt"
                )

    def __str__(self) -> str:
        return self.mermaid

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """What a notebook shows: a picture where one can be drawn, else Mermaid's text."""
        shown = {"text/plain": self.mermaid, "text/markdown": f"```mermaid\n{self.mermaid}```"}
        try:
            return {**shown, "image/svg+xml": self.svg}
        except MissingDependency:
            return shown


def _missing(package: str, how: str) -> MissingDependency:
    return MissingDependency(package, extra="draw", purpose=f"to draw a graph {how}")
