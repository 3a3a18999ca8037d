"""What a drawing of a graph shows, and that it is a picture."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from decisions.moods import Headed
from hypothesis import given
from hypothesis import strategies as st

from moa.adapters.drawing import Drawing, diagram_of
from moa.agents.filter import Filter
from moa.core.errors import ConfigError, MissingDependency
from moa.core.questions import Choice
from moa.core.trace import NodeStarted
from moa.graphs import BuiltGraph, Graph, Handle
from moa.testing import SimulatedEndpoint

from .nodes import Asker, Timed


async def clean(text: str) -> str:
    return text


async def choose(text: str) -> Choice[str | None]:
    return Choice[str | None](label=text)


def short(text: str) -> bool:
    return len(text) < 9


def drawn(name: str = "writer") -> BuiltGraph[str, Any]:
    inner = Graph("research", str)
    read = inner.build(inner.add(clean, inner.input, name="read"))
    g = Graph("g", str)
    text = g.add(clean, g.input)
    found = g.add(read, text)
    llm = Asker(name, SimulatedEndpoint(name="gpt", tier="llm"))
    reply = g.add(llm, found, when=text.map(short), otherwise=g.add(clean, text, name="drop"))

    def branch(label: str | None) -> Handle[str]:
        return reply if label is None else g.add(clean, reply, name=f"desk {label}")

    return g.build(g.match(g.add(choose, text), branch, labels=["card", "loan"]))


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    """One for all, since a picture takes a second to draw."""
    return drawn().draw()


@pytest.fixture
def mermaid(drawing: Drawing) -> str:
    return drawing.mermaid


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('(["str"]):::terminal', id="the input"),
        pytest.param('["clean"]:::function', id="a function"),
        pytest.param('["writer<br/><small>LLM · gpt ·', id="a tier and its endpoint"),
        pytest.param(' · waits until needed</small>"]:::llm', id="what waits until it is needed"),
        pytest.param("stroke-dasharray", id="its border"),
        pytest.param('-.->|"if short"|', id="a condition"),
        pytest.param('-->|"else"|', id="an otherwise"),
        pytest.param('-.->|"card"|', id="a label"),
        pytest.param('(["research · str"]):::terminal', id="a graph in the graph"),
    ],
)
def test_mermaid_shows(mermaid: str, line: str) -> None:
    assert line in mermaid


async def test_what_is_drawn_to_wait_is_what_does_not_run_in_vain() -> None:
    g = Graph("g", str)
    spam = g.add(Timed("spam", 0.01), g.input)
    ends = [
        g.add(Timed("starts", 0.0), g.input),
        g.add(Timed("told to wait", 0.0), g.input, eager=False),
        g.add(Asker("large", SimulatedEndpoint(tier="llm", rule=str)), g.input),
        g.add(Asker("told to start", SimulatedEndpoint(tier="llm", rule=str)), g.input, eager=True),
    ]
    instead = g.add(clean, g.input, name="instead")
    read = g.join(lambda a, b, c, d: a, *ends)
    reply = g.add(clean, read, when=spam.map(lambda _: False), otherwise=spam, name="reply")
    graph = g.build(g.add(clean, reply, when=spam.map(bool), otherwise=instead, name="last"))
    ran: set[str] = set()
    async for event in graph.stream("x"):
        if isinstance(event, NodeStarted):
            ran.add(event.node.split("/")[-1])
    boxes = [
        box for box in diagram_of(graph).boxes.values() if box.look not in ("terminal", "join")
    ]
    assert {box.label for box in boxes if box.waits} == {"told to wait", "large", "instead"}
    assert ran == {box.label for box in boxes if not box.waits} - {"reply"}


def test_a_graph_in_the_graph_is_drawn_to_wait() -> None:
    inner = Graph("research", str)
    asked = inner.add(Asker("large", SimulatedEndpoint(tier="llm")), inner.input)
    g = Graph("g", str)
    found = g.add(inner.build(asked), g.input)
    graph = g.build(g.add(clean, found, when=g.input.map(bool), otherwise=g.input))
    assert '(["research · str<br/><small>waits until needed</small>"])' in graph.draw().mermaid


def test_every_arrow_meets_two_boxes(mermaid: str) -> None:
    lines = [line.strip() for line in mermaid.splitlines()]
    boxes = {line.split("(")[0].split("[")[0] for line in lines if ":::" in line}
    arrows = [line.split() for line in lines if line.startswith("g_") and "->" in line]
    assert len(arrows) > 5
    assert {end for arrow in arrows for end in (arrow[0], arrow[-1])} == boxes


def test_a_drawing_is_an_svg_with_every_name(drawing: Drawing) -> None:
    root = ElementTree.fromstring(drawing.svg)
    text = " ".join(root.itertext())
    assert root.tag.endswith("svg")
    for word in ("clean", "writer", "LLM", "if short", "else", "card", "research"):
        assert word in text


def test_a_drawing_is_a_png(drawing: Drawing) -> None:
    assert drawing.png().startswith(b"\x89PNG")


def test_a_drawing_in_characters_has_every_name_and_graphs_closed(drawing: Drawing) -> None:
    text = drawing.ascii
    for word in ("clean", "writer", "research", "drop"):
        assert word in text
    assert "read" not in text


@pytest.mark.parametrize(
    ("ending", "start"),
    [
        (".svg", b"<svg"),
        (".png", b"\x89PNG"),
        (".mmd", b"---\nconfig"),
        (".md", b"```mermaid"),
        (".txt", b" "),
    ],
)
def test_a_drawing_is_saved_by_its_ending(
    drawing: Drawing, tmp_path: Path, ending: str, start: bytes
) -> None:
    path = tmp_path / f"graph{ending}"
    drawing.save(path)
    assert path.read_bytes().startswith(start)


def test_another_ending_says_which_there_are(drawing: Drawing, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        drawing.save(tmp_path / "graph.bmp")


def test_nothing_is_sent_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a drawing opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert drawn().draw().png()


def test_without_the_extra_only_mermaid_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mermaidx", None)
    drawing = drawn().draw()
    with pytest.raises(MissingDependency, match=r"mixture-of-agents\[draw\]"):
        drawing.png()
    assert set(drawing._repr_mimebundle_()) == {"text/plain", "text/markdown"}  # pyright: ignore[reportPrivateUsage]


def test_a_notebook_shows_a_picture(drawing: Drawing) -> None:
    assert "image/svg+xml" in drawing._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]


@given(st.text(min_size=1).filter(str.strip))
def test_no_name_breaks_out_of_its_label(name: str) -> None:
    lines = drawn(name).draw().mermaid.split("\n")
    boxes = [line.strip() for line in lines if line.endswith(":::llm")]
    assert len(boxes) == 1
    assert boxes[0].count('"') == 2


def test_names_with_signs_of_mermaid_are_drawn_as_they_are() -> None:
    names = ['"]; click x "y', "<b>&</b>", "a\nb", "`md`", "end", "#35;", "1. x"]
    g = Graph("g", str)
    handle = g.input
    for name in names:
        handle = g.add(clean, handle, name=name)
    svg = g.build(handle).draw().svg
    text = " ".join(" ".join(ElementTree.fromstring(svg).itertext()).split())
    for name in names:
        assert " ".join(name.split()) in text


def test_a_drawing_is_its_mermaid() -> None:
    graph = drawn()
    assert str(Drawing(graph)) == graph.draw().mermaid


def test_a_join_that_only_the_output_takes_is_drawn() -> None:
    g = Graph("g", str)
    ends = g.add(clean, g.input, name="one"), g.add(clean, g.input, name="two")
    lines = g.build(g.join(lambda one, two: one + two, *ends)).draw().mermaid
    assert '("join"):::join' in lines


def test_the_box_of_an_agent_says_that_a_head_decides() -> None:
    encoder = Headed(name="vectors")
    model = SimulatedEndpoint(name="small", encoder=encoder)
    g = Graph("g", str)
    spam = Filter(model, "an ad", action="drop", name="spam").with_shipped_head("spam")
    text = g.build(g.add(spam, g.input)).draw().mermaid
    assert "vectors with a head" in text
    assert "SLM" not in text
