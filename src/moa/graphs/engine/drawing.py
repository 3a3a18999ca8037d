"""Drawing: a graph as Mermaid, SVG, PNG or characters. Nothing is sent anywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

from moa.errors import ConfigError, MissingDependency
from moa.graphs.engine.handles import (
    AcceptedStep,
    Branch,
    FunctionStep,
    InputStep,
    MatchStep,
    NodeStep,
    Step,
    label_name,
)
from moa.graphs.engine.human import Human
from moa.graphs.engine.loop import Loop
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.types import UNKNOWN, picked, shown
from moa.graphs.recipe import Recipe, Sketch
from moa.usage import Tier


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


Look = Literal["terminal", "join", "function", "agent", "person", "slm", "llm"]


@dataclass(frozen=True, slots=True)
class Box:
    """A node, or an end: the input and the output."""

    key: str
    label: str
    detail: str
    """A second, smaller line; may be empty."""
    look: Look
    waits: bool = False
    """Whether it starts only when it is certain that something needs it; drawn dashed."""


@dataclass(slots=True)
class Arrow:
    """Something passes from one box to another, or decides about it."""

    start: str
    end: str
    labels: list[str] = field(default_factory=list[str])
    decides_only: bool = True
    """Whether nothing but a decision passes; drawn dashed."""


@dataclass(slots=True)
class Diagram:
    """A graph, and the graphs inside it."""

    key: str
    boxes: list[Box] = field(default_factory=list[Box])
    inner: list[Diagram] = field(default_factory=list["Diagram"])
    arrows: dict[tuple[str, str], Arrow] = field(default_factory=dict[tuple[str, str], Arrow])

    @property
    def input(self) -> str:
        """Key of the box of the input."""
        return f"{self.key}_in"

    @property
    def output(self) -> str:
        """Key of the box of the output."""
        return f"{self.key}_out"

    def point(self, start: str, end: str, label: str = "", *, decides: bool = False) -> None:
        """Draw an arrow; a second one between the same boxes adds its label."""
        arrow = self.arrows.setdefault((start, end), Arrow(start, end))
        arrow.decides_only = arrow.decides_only and decides
        if label and label not in arrow.labels:
            arrow.labels.append(label)


def diagram_of(drawn: Plan | Recipe[Any, Any], key: str = "g", *, opened: bool = True) -> Diagram:
    """Find out what there is to draw.

    A `map` becomes an arrow, and so does a `join` that one node takes.

    Args:
        drawn: The plan of a graph, or a recipe.
        key: Starts the keys of all boxes.
        opened: Whether the insides of graphs within the graph are drawn.
    """
    if isinstance(drawn, Plan):
        return _Drawer(drawn, key, opened=opened).draw()
    return _sketched(drawn, key, opened=opened)


def _sketched(recipe: Recipe[Any, Any], key: str, *, opened: bool) -> Diagram:
    """Draw a recipe's own sketch."""
    sketch, diagram = Sketch(), Diagram(key)
    recipe.sketch(sketch)
    ends = {sketch.input: (diagram.input, diagram.input)}
    diagram.boxes.append(Box(diagram.input, shown(recipe.input_type), "", "terminal"))
    for name, (label, node) in sketch.boxes.items():
        place = f"{key}_{name}"
        ends[name] = place, place
        inner = _inner(node, place, label) if opened else None
        if inner is None:
            diagram.boxes.append(_box(place, label, node))
        else:
            diagram.inner.append(inner)
            ends[name] = inner.input, inner.output
    diagram.boxes.append(Box(diagram.output, shown(recipe.output_type), "", "terminal"))
    ends[sketch.output] = diagram.output, diagram.output
    for start, end, label, decides in sketch.arrows:
        diagram.point(ends[start][1], ends[end][0], label, decides=decides)
    return diagram


def _inner(node: object, key: str, label: str) -> Diagram | None:
    """Draw what is in a node; `None` where nothing is."""
    if isinstance(node, Loop):
        return _inner(node.body, key, label)
    if isinstance(plan := getattr(node, "plan", None), Plan):
        inner = diagram_of(plan, key)
    elif isinstance(node, Recipe):
        inner = diagram_of(cast("Recipe[Any, Any]", node), key)
    else:
        return None
    first = inner.boxes[0]
    inner.boxes[0] = replace(first, label=f"{label} · {first.label}")
    return inner


def _box(key: str, label: str, node: object) -> Box:
    if isinstance(node, Loop):
        return _box(key, label, node.body)
    if isinstance(node, Human):
        return Box(key, label, f"a person · {shown(node.output_type)}", "person")
    endpoint: Any = getattr(node, "endpoint", None)
    tier: Tier | None = getattr(endpoint, "tier", None)
    detail = f"{tier.upper()} · {getattr(endpoint, 'name', '')}" if tier else ""
    return Box(key, label, detail, tier or ("agent" if hasattr(node, "run") else "function"))


class _Drawer:
    def __init__(self, plan: Plan, key: str, *, opened: bool) -> None:
        self._plan = plan
        self._opened = opened
        self._joins = _shared_joins(plan)
        self._drawn = Diagram(key)
        self._inner: dict[Step, Diagram] = {}

    def draw(self) -> Diagram:
        """Boxes first, so that arrows find both of their ends."""
        drawn, end = self._drawn, self._plan.steps[self._plan.output]
        for step in self._plan.steps:
            self._add_box(step)
        label = "output" if end.type is UNKNOWN else shown(end.type)
        drawn.boxes.append(Box(drawn.output, label, "", "terminal"))
        for step in self._plan.steps:
            self._add_arrows(step)
        for start in self._origins(end):
            drawn.point(start, drawn.output)
        return drawn

    def _add_box(self, step: Step) -> None:
        if isinstance(step, InputStep):
            self._drawn.boxes.append(Box(self._drawn.input, shown(step.type), "", "terminal"))
        elif isinstance(step, NodeStep):
            self._add_node(step)
        elif step in self._joins:
            label = _function_name(step) or "join"
            self._drawn.boxes.append(Box(self._key(step), label, "", "join"))

    def _add_arrows(self, step: Step) -> None:
        if isinstance(step, NodeStep):
            self._point_at_node(step)
        elif isinstance(step, MatchStep):
            self._point_at_branches(step)
        elif step in self._joins:
            for start in self._all_origins(step.needs):
                self._drawn.point(start, self._key(step))

    def _add_node(self, step: NodeStep) -> None:
        inner = _inner(step.node, self._key(step), step.name) if self._opened else None
        box = inner.boxes[0] if inner else _box(self._key(step), step.name, step.node)
        if self._plan.steps.index(step) in self._plan.waits:
            detail = " · ".join(filter(None, (box.detail, "waits until needed")))
            box = replace(box, detail=detail, waits=True)
        if inner is None:
            self._drawn.boxes.append(box)
        else:
            inner.boxes[0] = box
            self._inner[step] = inner
            self._drawn.inner.append(inner)

    def _point_at_node(self, step: NodeStep) -> None:
        entry = self._entry(step)
        if isinstance(step.node, Loop):
            until = f"again until {step.node.goal}" if step.node.goal else "again"
            label = f"{until}, at most {step.node.at_most} passes"
            self._drawn.point(self._exit(step), entry, label)
        for start in self._origins(step.source):
            self._drawn.point(start, entry)
        deciders = [] if step.when is None else self._origins(step.when)
        for start in deciders:
            self._drawn.point(start, entry, _condition(step.when), decides=True)
        if isinstance(step.otherwise, NodeStep):
            stand_in = self._entry(step.otherwise)
            for start in deciders or [self._exit(step)]:
                if start not in (stand_in, self._exit(step.otherwise)):  # its answer was enough
                    self._drawn.point(start, stand_in, "else", decides=True)

    def _point_at_branches(self, match: MatchStep) -> None:
        for step in self._plan.steps:
            if not isinstance(step, NodeStep):
                continue
            for branch in step.branches:
                if branch is None or branch.match is not match or self._follows(step, branch):
                    continue
                for start in self._origins(match.source):
                    label = label_name(branch.label)
                    self._drawn.point(start, self._entry(step), label, decides=True)

    def _follows(self, step: NodeStep, branch: Branch) -> bool:
        """Whether something else in the branch comes before a node."""
        return any(branch in _nodes_before(source) for source in step.needs)

    def _origins(self, step: Step | None) -> list[str]:
        """The boxes that what a step holds can come from."""
        found: Iterable[str] = ()
        if isinstance(step, InputStep):
            found = (self._drawn.input,)
        elif isinstance(step, NodeStep):
            found = (self._exit(step), *self._origins(step.otherwise))
        elif step in self._joins:
            found = (self._key(step),)
        elif isinstance(step, FunctionStep | AcceptedStep):
            found = self._all_origins(step.needs)
        elif isinstance(step, MatchStep):
            found = self._all_origins(step.cases.values())
        return list(dict.fromkeys(found))

    def _all_origins(self, steps: Iterable[Step]) -> list[str]:
        return [box for step in steps for box in self._origins(step)]

    def _entry(self, step: NodeStep) -> str:
        return self._inner[step].input if step in self._inner else self._key(step)

    def _exit(self, step: NodeStep) -> str:
        return self._inner[step].output if step in self._inner else self._key(step)

    def _key(self, step: Step) -> str:
        return f"{self._drawn.key}_{self._plan.steps.index(step)}"


def _condition(step: Step | None) -> str:
    if isinstance(step, AcceptedStep):
        return "if accepted"
    if not isinstance(step, FunctionStep):
        return "if"
    return f"if {_function_name(step)}".strip()


def _function_name(step: Step) -> str:
    assert isinstance(step, FunctionStep)
    name = getattr(step.function, "__name__", "<lambda>")
    return name if name != "<lambda>" else ".".join(picked(step.function))


def _shared_joins(plan: Plan) -> set[Step]:
    """Joins that several steps take: drawn, or each source would point at each taker."""
    takers = Counter(other for step in plan.steps for other in (*step.needs, *step.may_need))
    return {
        step
        for step in plan.steps
        if isinstance(step, FunctionStep) and len(step.sources) > 1 and takers[step] > 1
    }


def _nodes_before(step: Step) -> set[Branch | None]:
    """The branches of the nodes that a step comes from."""
    if isinstance(step, NodeStep):
        return set(step.branches)
    return {branch for source in step.needs for branch in _nodes_before(source)}


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
    """Write a diagram as Mermaid.

    Args:
        diagram: What to draw.
        styled: Whether colours and second lines come with it.
    """
    lines = [_HEAD if styled else "flowchart TD", *_body(diagram, 1, styled=styled)]
    lines += [f"    {_arrow_line(arrow)}" for arrow in _arrows(diagram)]
    if styled:
        lines += [f"    classDef {look} {style}" for look, style in _LOOKS.items()]
        lines += [f"    style {key} stroke-dasharray:5 4" for key in _waiting(diagram)]
    return "\n".join(lines) + "\n"


def _body(diagram: Diagram, depth: int, *, styled: bool) -> Iterator[str]:
    indent = "    " * depth
    for box in diagram.boxes:
        yield f"{indent}{_box_line(box, styled=styled)}"
    for inner in diagram.inner:
        yield f'{indent}subgraph {inner.key}[" "]'  # its input says its name: no arrow crosses that
        yield from _body(inner, depth + 1, styled=styled)
        yield f"{indent}end"


def _arrows(diagram: Diagram) -> Iterator[Arrow]:
    yield from diagram.arrows.values()
    for inner in diagram.inner:
        yield from _arrows(inner)


def _waiting(diagram: Diagram) -> Iterator[str]:
    """Keys of the boxes of nodes that wait until they are needed."""
    yield from (box.key for box in diagram.boxes if box.waits)
    for inner in diagram.inner:
        yield from _waiting(inner)


def _box_line(box: Box, *, styled: bool) -> str:
    label = _escaped(box.label)
    if styled and box.detail:
        label += f"<br/><small>{_escaped(box.detail)}</small>"
    opening, closing = _SHAPES.get(box.look, ("[", "]"))
    return f'{box.key}{opening}"{label}"{closing}' + (f":::{box.look}" if styled else "")


def _arrow_line(arrow: Arrow) -> str:
    line = "-.->" if arrow.decides_only else "-->"
    label = _escaped(", ".join(arrow.labels))
    return f"{arrow.start} {line}" + (f'|"{label}"|' if label else "") + f" {arrow.end}"


def _escaped(text: str) -> str:
    """What means something to Mermaid, HTML or Markdown becomes an entity of Mermaid's."""
    return re.sub(r"[^\w ·.,:|/()…-]", lambda found: f"#{ord(found[0])};", text)
