"""Mermaid: a diagram as text that Markdown pages, notebooks and wikis draw by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

from moa.graphs.engine.drawing import Arrow, Box, Diagram

_HEAD = """\
---
config:
  theme: base
  themeVariables:
    fontFamily: Helvetica, Arial, sans-serif
    lineColor: "#64748b"
    edgeLabelBackground: "#ffffff"
    clusterBkg: "#f8fafc"
    clusterBorder: "#cbd5e1"
---
flowchart TD"""
_LOOKS = {
    "terminal": "fill:#f1f5f9,stroke:#94a3b8,color:#334155",
    "join": "fill:#ffffff,stroke:#cbd5e1,color:#64748b",
    "function": "fill:#ffffff,stroke:#94a3b8,color:#1e293b",
    "agent": "fill:#fef9ec,stroke:#d4a72c,color:#1e293b",
    "slm": "fill:#e3f5ea,stroke:#2f855a,color:#14532d",
    "llm": "fill:#e4e8fd,stroke:#4353c4,color:#1e1b6b",
}

_SHAPES = {"terminal": ("([", "])"), "join": ("(", ")")}


def mermaid_of(diagram: Diagram, *, styled: bool = True) -> str:
    """Write a diagram as Mermaid.

    Args:
        diagram: What to draw.
        styled: Whether colours and second lines come with it.
    """
    lines = [_HEAD if styled else "flowchart TD", *_body(diagram, 1, styled=styled)]
    lines += [f"    {_arrow(arrow)}" for arrow in _arrows(diagram)]
    if styled:
        lines += [f"    classDef {look} {style}" for look, style in _LOOKS.items()]
    return "\n".join(lines) + "\n"


def _body(diagram: Diagram, depth: int, *, styled: bool) -> Iterator[str]:
    indent = "    " * depth
    for box in diagram.boxes:
        yield f"{indent}{_box(box, styled=styled)}"
    for inner in diagram.inner:
        yield f'{indent}subgraph {inner.key}[" "]'  # its input says its name: no arrow crosses that
        yield from _body(inner, depth + 1, styled=styled)
        yield f"{indent}end"


def _arrows(diagram: Diagram) -> Iterator[Arrow]:
    yield from diagram.arrows.values()
    for inner in diagram.inner:
        yield from _arrows(inner)


def _box(box: Box, *, styled: bool) -> str:
    label = _escaped(box.label)
    if styled and box.detail:
        label += f"<br/><small>{_escaped(box.detail)}</small>"
    opening, closing = _SHAPES.get(box.look, ("[", "]"))
    return f'{box.key}{opening}"{label}"{closing}' + (f":::{box.look}" if styled else "")


def _arrow(arrow: Arrow) -> str:
    line = "-.->" if arrow.decides_only else "-->"
    label = _escaped(", ".join(arrow.labels))
    return f"{arrow.start} {line}" + (f'|"{label}"|' if label else "") + f" {arrow.end}"


def _escaped(text: str) -> str:
    """What means something to Mermaid, HTML or Markdown becomes an entity of Mermaid's."""
    return re.sub(r"[^\w ·.,:|/()…-]", lambda found: f"#{ord(found[0])};", text)
