"""Spans: the waterfall of a row, from the lines that `moa run --trace` wrote, or from its own."""

from __future__ import annotations

import json
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

from pydantic import JsonValue, TypeAdapter

from moa.core._json import object_of
from moa.core.errors import ConfigError
from moa.core.node import Frozen
from moa.core.telemetry import names
from moa.rows.decided import Values
from moa.rows.lines import iter_lines
from moa.studio.book import notes_in, read_number
from moa.studio.data import Bar

_MARKS = ("moa.retried", "moa.waited", "moa.repaired", "moa.fell back", "moa.cached")
_MARKS_OF_NOTES = ("retried", "waited", "repaired", "fell back", "cached", "escalated", "resumed")
_NODES = ("invoke_agent ", "invoke_workflow ", "function ", "person ")
_MOST = 400
"""Bars of a row."""


class _Message(Frozen):
    """A message, as the conventions of OpenTelemetry write it."""

    role: str = ""
    parts: tuple[dict[str, JsonValue], ...] = ()


_MESSAGES = TypeAdapter(tuple[_Message, ...])


class Spans:
    """The spans of rows, found by the id of the row.

    Args:
        path: The file; `None`: there is none.

    Raises:
        ConfigError: it can't be read, or holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: IO[bytes] | None = None
        self._starts: dict[str, list[int]] = defaultdict(list)
        """Offsets of the lines of each trace."""
        self._traces: dict[str, str] = {}
        """The trace of each row; of several runs of it, the last."""
        self._seconds_by_node: dict[str, dict[str, float]] = defaultdict(dict)
        """Seconds of each node of a graph, by trace."""
        if path is not None:
            self._open(path)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def seconds_by_node(self, id: str) -> Mapping[str, float]:
        """Return the seconds of each node that ran for a row; empty if nothing is known."""
        return self._seconds_by_node.get(self._traces.get(id, ""), {})

    def bars(self, id: str) -> tuple[Bar, ...]:
        """Return the waterfall of a row, the outermost span first; empty if there is none."""
        if self._file is None or id not in self._traces:
            return ()
        spans: list[Values] = []
        for start in self._starts[self._traces[id]]:
            self._file.seek(start)
            spans.append(json.loads(self._file.readline()))
        return tuple(islice(_tree(spans), _MOST))

    def _open(self, path: Path) -> None:
        start = 0
        try:
            self._file = path.open("rb")
            weakref.finalize(self, self._file.close)
            for number, raw in enumerate(iter_lines(self._file), start=1):
                self._take(path, number, raw, start)
                start += len(raw)
        except OSError as error:
            raise ConfigError(f"the trace {path} can't be read: {error.strerror}") from error

    def _take(self, path: Path, number: int, raw: bytes, start: int) -> None:
        if not raw.strip():
            return
        try:
            span = json.loads(raw)
            trace, attributes = span["trace"], span["attributes"]
        except (ValueError, KeyError, TypeError) as error:
            if not raw.endswith(b"\n"):  # what a killed process left
                return
            raise ConfigError(
                f"{path}, line {number} is no span: give what moa run --trace wrote"
            ) from error
        self._starts[trace].append(start)
        if (node := _node_of(span)) is not None:
            seconds_by_node = self._seconds_by_node[trace]
            seconds_by_node[node] = (
                seconds_by_node.get(node, 0.0) + float(span["end"]) - float(span["start"])
            )
        if (row := attributes.get(names.ROW)) is not None:
            self._traces[str(row)] = trace


def bars_of_line(line: Values) -> tuple[Bar, ...]:
    """Return the seconds of each node as bars, for a row whose run kept no spans."""
    by_node = object_of(object_of(line.get("usage")).get("by_node"))
    notes = notes_in(line)
    bars: list[Bar] = []
    for path, value in by_node.items():
        spent = object_of(value)
        kinds = [str(note.get("kind")) for note in notes if note.get("node") == path]
        bars.append(
            Bar(
                name=path.rpartition("/")[2],
                kind="agent",
                node=path,
                depth=0,
                start=0.0,
                seconds=read_number(spent.get("seconds")) or 0.0,
                marks=tuple(kind for kind in dict.fromkeys(kinds) if kind in _MARKS_OF_NOTES),
                detail=_amounts(spent.get("input_tokens"), spent.get("output_tokens"), None),
            )
        )
    return tuple(bars[:_MOST])


def _node_of(span: Values) -> str | None:
    """Return the path of the node in a graph that a span belongs to; `None`: there is none."""
    node = str(span["attributes"].get(names.NODE, ""))
    is_node = str(span.get("name", "")).startswith(_NODES)
    return node if is_node and "/" in node else None


def _tree(spans: Sequence[Values]) -> Iterator[Bar]:
    """Yield each span followed by those within it, by their start."""
    ids = {span["span"] for span in spans}
    children: dict[str | None, list[Values]] = defaultdict(list)
    for span in spans:
        parent = span.get("parent")
        children[parent if parent in ids else None].append(span)
    first = min((span["start"] for span in spans), default=0.0)

    def walk(parent: str | None, depth: int) -> Iterator[Bar]:
        for span in sorted(children[parent], key=lambda child: child["start"]):
            yield _bar(span, depth, first)
            yield from walk(span["span"], depth + 1)

    return walk(None, 0)


def _bar(span: Values, depth: int, first: float) -> Bar:
    attributes: Values = span["attributes"]
    events = [str(event["name"]) for event in span.get("events", ())]
    marks = [name.removeprefix("moa.") for name in dict.fromkeys(events) if name in _MARKS]
    if attributes.get("moa.escalated") or attributes.get(names.DECISION_ESCALATED):
        marks.append("escalated")
    kind, _, name = str(span["name"]).partition(" ")
    return Bar(
        name=name or kind,
        kind=str(attributes.get(names.KIND) or _KINDS.get(kind, kind)),
        node=str(attributes.get(names.NODE, "")),
        depth=depth,
        start=round(span["start"] - first, 6),
        seconds=round(span["end"] - span["start"], 6),
        marks=tuple(marks),
        error=str(span.get("error", "")),
        asked=_messages(attributes.get(names.INPUT_MESSAGES)),
        answered=_messages(attributes.get(names.OUTPUT_MESSAGES)),
        detail=_detail(attributes),
    )


_KINDS = {
    "invoke_workflow": "workflow",
    "invoke_agent": "agent",
    "chat": "call",
    "embeddings": "call",
    "execute_tool": "tool",
}


def _detail(attributes: Values) -> str:
    label = attributes.get(names.DECISION_LABEL)
    p = attributes.get(names.DECISION_PROBABILITY)
    if label is not None:
        probability = f" {p:.3f}" if isinstance(p, float) else ""
        accepted = attributes.get(names.DECISION_ACCEPTED)
        return f"{label}{probability}" + (
            "" if accepted is None else f", accepted: {str(accepted).lower()}"
        )
    tokens_in, tokens_out = map(attributes.get, (names.INPUT_TOKENS, names.OUTPUT_TOKENS))
    return _amounts(tokens_in, tokens_out, attributes.get(names.COST))


def _amounts(tokens_in: object, tokens_out: object, cost: object) -> str:
    words: list[str] = []
    if tokens_in or tokens_out:
        words.append(f"{tokens_in or 0} tokens in, {tokens_out or 0} out")
    if isinstance(cost, int | float) and cost:
        words.append(f"US$ {cost:.6f}")
    return ", ".join(words)


def _messages(value: object) -> str:
    """Write the messages of a call one below the other, as OpenTelemetry's JSON has them."""
    if not isinstance(value, str):
        return ""
    try:
        messages = _MESSAGES.validate_json(value)
    except ValueError:
        return value
    return "\n\n".join(_message(message) for message in messages)


def _message(message: _Message) -> str:
    parts = [part.get("content", part) for part in message.parts]
    text = "\n".join(part if isinstance(part, str) else json.dumps(part) for part in parts)
    return f"{message.role}: {text}"
