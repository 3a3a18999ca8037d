"""Drawing: a node of nodes as Mermaid, SVG, PNG or characters, without sending anything.

Each such node sketches itself, a graph by its plan. A sketch becomes a diagram, with the diagrams
of inner nodes, and the diagram becomes text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from moa.core.errors import ConfigError, MissingDependency
from moa.core.usage import Tier
from moa.graphs.engine.nodes import Human
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.sketch import Box, Drawable, Look, Sketch
from moa.graphs.engine.steps import (
    AcceptedStep,
    Branch,
    FunctionStep,
    MatchStep,
    NodeStep,
    Step,
    label_name,
)
from moa.graphs.engine.types import UNKNOWN, describe_type


@dataclass(frozen=True)
class Drawing:
    """Drawing of a graph. Notebooks show it automatically."""

    drawn: Drawable

    @cached_property
    def mermaid(self) -> str:
        """Mermaid's text, which needs no package."""
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

    def png(self) -> bytes:
        """Return a PNG picture on white, twice the size of the SVG.

        Raises:
            MissingDependency: `mermaidx` is not installed.
        """
        svg = self.svg
        import mermaidx

        _, _, natural, _ = re.findall(r"[-\d.]+", svg[svg.index("viewBox") :])[:4]
        return mermaidx.svg_to_png(svg, width=round(2 * float(natural)), background="#ffffff")

    @cached_property
    def ascii(self) -> str:
        """A drawing in characters, for a terminal. Inner graphs stay closed.

        Raises:
            MissingDependency: `termaid` is not installed.
        """
        try:
            import termaid
        except ImportError as error:
            raise _missing("termaid", "in characters") from error
        mermaid = mermaid_of(diagram_of(self.drawn, opened=False), styled=False)
        return termaid.render(mermaid, padding_x=2, padding_y=0, gap=3)

    def save(self, path: str | Path) -> None:
        """Write a file in the format of its suffix: `.svg`, `.png`, `.mmd`, `.md` or `.txt`.

        Raises:
            ConfigError: the suffix is another.
            MissingDependency: the package for this format is not installed.
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
            case suffix:
                raise ConfigError(
                    f"can't draw a {suffix or 'file without an ending'}: "
                    "give one of .svg, .png, .mmd, .md, .txt"
                )

    def __str__(self) -> str:
        return self.mermaid

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Return a picture for a notebook if possible, else Mermaid's text."""
        bundle = {"text/plain": self.mermaid, "text/markdown": f"```mermaid\n{self.mermaid}```"}
        try:
            return {**bundle, "image/svg+xml": self.svg}
        except MissingDependency:
            return bundle


def _missing(package: str, how: str) -> MissingDependency:
    return MissingDependency(package, extra="draw", purpose=f"to draw a graph {how}")


def drawing_of(drawn: Drawable) -> Drawing:
    """Return the drawing of a node of nodes."""
    return Drawing(drawn)


def sketch_plan(plan: Plan, sketch: Sketch) -> None:
    """Draw the steps of a plan.

    A `map` becomes an arrow.
    """
    _PlanSketch(plan, sketch).draw()


class _PlanSketch:
    def __init__(self, plan: Plan, sketch: Sketch) -> None:
        self._plan = plan
        self._sketch = sketch
        self._keys: dict[Step, str] = {plan.steps[0]: sketch.input}
        """Keys of the steps that have a box."""

    def draw(self) -> None:
        """Draw boxes first, so that both ends of each arrow exist."""
        plan, joins = self._plan, _joins(self._plan)
        for index, step in enumerate(plan.steps):
            if isinstance(step, NodeStep):
                box = Box(step.name, step.node, waits=index in plan.waits)
            elif step in joins:
                box = Box(_function_name(step) or "join", look="join")
            else:
                continue
            self._keys[step] = str(index)
            self._sketch.boxes[str(index)] = box
        for step in plan.steps:
            if isinstance(step, NodeStep):
                self._point_at_node(step)
            elif isinstance(step, MatchStep):
                self._point_at_branches(step)
            elif step in joins:
                self._point(step.sources, self._keys[step])
        self._point([plan.steps[plan.output]], self._sketch.output)

    def _point(
        self, sources: Iterable[Step], end: str, label: str = "", *, decides: bool = False
    ) -> None:
        for start in self._origins(*sources):
            self._sketch.arrow(start, end, label=label, decides=decides)

    def _point_at_node(self, step: NodeStep) -> None:
        key = self._keys[step]
        self._point(step.sources, key)
        if step.when is not None:
            self._point([step.when], key, _condition(step.when), decides=True)
        if isinstance(step.otherwise, NodeStep):
            stand_in = self._keys[step.otherwise]
            for start in [key] if step.when is None else self._origins(step.when):
                if start != stand_in:  # no arrow to itself: its answer was enough
                    self._sketch.arrow(start, stand_in, label="else", decides=True)

    def _point_at_branches(self, match: MatchStep) -> None:
        for step in self._plan.steps:
            for branch in step.branches if isinstance(step, NodeStep) else ():
                if branch and branch.match is match and not _follows(step, branch):
                    label = label_name(branch.label)
                    self._point(match.sources, self._keys[step], label, decides=True)

    def _origins(self, *steps: Step) -> list[str]:
        """Return the boxes that the values of steps can come from."""
        keys: list[str] = []
        for step in steps:
            if step in self._keys:
                keys.append(self._keys[step])
            if isinstance(step, NodeStep | MatchStep):
                keys += self._origins(*step.may_need)
            elif step not in self._keys:
                keys += self._origins(*step.sources)
        return list(dict.fromkeys(keys))


def _condition(step: Step) -> str:
    if isinstance(step, AcceptedStep):
        return "if accepted"
    return f"if {_function_name(step)}".strip()


def _function_name(step: Step) -> str:
    """Return the name of a function on other steps; empty if it has none."""
    if not isinstance(step, FunctionStep):
        return ""
    name = getattr(step.function, "__name__", "<lambda>").lstrip("_")
    return "" if name == "<lambda>" else name


def _joins(plan: Plan) -> set[Step]:
    return {step for step in plan.steps if isinstance(step, FunctionStep) and len(step.sources) > 1}


def _follows(step: Step, branch: Branch) -> bool:
    """Return True if another node of the branch comes before a step."""
    return any(
        branch in source.branches if isinstance(source, NodeStep) else _follows(source, branch)
        for source in step.needs
    )


@dataclass(slots=True)
class Arrow:
    """An arrow for values or decisions that pass from one box to another."""

    start: str
    end: str
    labels: list[str] = field(default_factory=list[str])
    decides_only: bool = True
    """True if only decisions pass. Drawn dashed."""


@dataclass(slots=True)
class Diagram:
    """A sketch with the looks of its boxes, and the diagrams of inner nodes of nodes."""

    key: str
    boxes: dict[str, Box] = field(default_factory=dict[str, Box])
    """Boxes by key. The first is the input, the last the output."""
    inner: list[Diagram] = field(default_factory=list["Diagram"])
    arrows: dict[tuple[str, str], Arrow] = field(default_factory=dict[tuple[str, str], Arrow])

    def walk(self) -> Iterator[Diagram]:
        """Yield this diagram and all inside it."""
        yield self
        for inner in self.inner:
            yield from inner.walk()


def diagram_of(graph: Drawable, key: str = "g", *, opened: bool = True) -> Diagram:
    """Build the diagram of a graph.

    Args:
        graph: A node of nodes.
        key: Prefix of the keys of all boxes.
        opened: True to draw the contents of inner nodes of nodes too.
    """
    sketch, diagram = Sketch(), Diagram(key)
    graph.sketch(sketch)
    input_key, output_key = f"{key}_in", f"{key}_out"
    ends = {sketch.input: (input_key, input_key), sketch.output: (output_key, output_key)}
    diagram.boxes[input_key] = Box(describe_type(graph.input_type), look="terminal")
    for name, box in sketch.boxes.items():
        box_key = f"{key}_{name}"
        if opened and isinstance(box.node, Drawable):
            inner = diagram_of(box.node, box_key)
            ends[name] = f"{box_key}_in", f"{box_key}_out"
            entry = inner.boxes[f"{box_key}_in"]
            new_entry = replace(entry, label=f"{box.label} · {entry.label}", waits=box.waits)
            inner.boxes[f"{box_key}_in"] = _dressed(new_entry)
            diagram.inner.append(inner)
        else:
            ends[name] = box_key, box_key
            diagram.boxes[box_key] = _dressed(box)
    output = "output" if graph.output_type is UNKNOWN else describe_type(graph.output_type)
    diagram.boxes[output_key] = Box(output, look="terminal")
    for start, end, label, decides in sketch.arrows:  # a second arrow adds its label
        pair = ends[start][1], ends[end][0]
        arrow = diagram.arrows.setdefault(pair, Arrow(*pair))
        arrow.decides_only = arrow.decides_only and decides
        if label and label not in arrow.labels:
            arrow.labels.append(label)
    return diagram


def _dressed(box: Box) -> Box:
    """Return the same box, with the look of its node and the whole second line."""
    look, detail = (box.look, box.detail) if box.look else _look(box.node)
    lines = (detail, "waits until needed" if box.waits else "")
    return replace(box, look=look, detail=" · ".join(filter(None, lines)))


def _look(node: object) -> tuple[Look, str]:
    """Return the look of a node, and the second line of its box."""
    if isinstance(node, Human):
        return "person", f"a person · {describe_type(node.output_type)}"
    endpoint: object = getattr(node, "endpoint", None)
    tier: Tier | None = getattr(endpoint, "tier", None)
    if tier:
        by_head: str = getattr(node, "decided_by", "")
        return tier, by_head or f"{tier.upper()} · {getattr(endpoint, 'name', '')}"
    return "agent" if hasattr(node, "run") else "function", ""


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
    "person": "fill:#fdecec,stroke:#c2410c,color:#1e293b",
    "slm": "fill:#e3f5ea,stroke:#2f855a,color:#14532d",
    "llm": "fill:#e4e8fd,stroke:#4353c4,color:#1e1b6b",
}

_SHAPES = {"terminal": ("([", "])"), "join": ("(", ")"), "person": ("[/", "\\]")}


def mermaid_of(diagram: Diagram, *, styled: bool = True) -> str:
    """Write a diagram as Mermaid. `styled` adds colours and second lines."""
    lines = [_HEAD if styled else "flowchart TD", *_body(diagram, 1, styled=styled)]
    diagrams = [*diagram.walk()]
    lines += [f"    {_arrow_line(arrow)}" for part in diagrams for arrow in part.arrows.values()]
    if styled:
        lines += [f"    classDef {look} {style}" for look, style in _LOOKS.items()]
        boxes = [item for part in diagrams for item in part.boxes.items()]
        lines += [f"    style {key} stroke-dasharray:5 4" for key, box in boxes if box.waits]
    return "\n".join(lines) + "\n"


def _body(diagram: Diagram, depth: int, *, styled: bool) -> Iterator[str]:
    indent = "    " * depth
    for key, box in diagram.boxes.items():
        yield f"{indent}{_box_line(key, box, styled=styled)}"
    for inner in diagram.inner:
        yield f'{indent}subgraph {inner.key}[" "]'  # its input shows its name: no arrow crosses it
        yield from _body(inner, depth + 1, styled=styled)
        yield f"{indent}end"


def _box_line(key: str, box: Box, *, styled: bool) -> str:
    label = _escape(box.label)
    if styled and box.detail:
        label += f"<br/><small>{_escape(box.detail)}</small>"
    opening, closing = _SHAPES.get(box.look or "", ("[", "]"))
    return f'{key}{opening}"{label}"{closing}' + (f":::{box.look}" if styled else "")


def _arrow_line(arrow: Arrow) -> str:
    line = "-.->" if arrow.decides_only else "-->"
    label = _escape(", ".join(arrow.labels))
    return f"{arrow.start} {line}" + (f'|"{label}"|' if label else "") + f" {arrow.end}"


def _escape(text: str) -> str:
    """Escape characters that Mermaid, HTML or Markdown would interpret, as entities."""
    return re.sub(r"[^\w ·.,:|/()…-]", lambda match: f"#{ord(match[0])};", text)
