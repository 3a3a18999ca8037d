"""Stream buffer: what a guarded node tells while it runs, held back until it may be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from moa.context import RunContext
from moa.guards.pii import Restoring
from moa.guards.walking import changed
from moa.trace import Event, NodeFinished, TextDelta


class StreamBuffer:
    """Holds events back until they are released, and puts secrets back into their texts.

    Args:
        outer: Whose listener is told; where it has none, nothing is held.
        restoring: Each opens what puts secrets back into one text, in the order to apply them.
    """

    def __init__(
        self, outer: RunContext, restoring: Sequence[Callable[[], Restoring]] = ()
    ) -> None:
        self._outer = outer
        self._open = restoring
        self._streams: dict[str, list[Restoring]] = {}
        self._held: list[Event] = []
        self._released = False
        self.context = outer.nested()
        """What the node runs in."""
        self.context.listener = self._take if outer.listener is not None else None

    def change(self, change: Callable[[str], str]) -> None:
        """Change the texts that are held, each node's as a whole."""
        texts: dict[str, str] = {}
        for event in self._held:
            if isinstance(event, TextDelta):
                texts[event.node] = texts.get(event.node, "") + event.text
        held: list[Event] = []
        for event in self._held:
            if not isinstance(event, TextDelta):
                held.append(_changed(event, change))
            elif event.node in texts:
                held.append(TextDelta(event.node, change(texts.pop(event.node))))
        self._held = held

    def release(self) -> None:
        """Tell what was held, and from now on everything at once."""
        self._released = True
        held, self._held = self._held, []
        for event in held:
            self._tell(event)

    def end(self) -> None:
        """Tell what is left of each text: what began like a placeholder, and was none."""
        for node in list(self._streams):
            self._end(node)

    def _end(self, node: str) -> None:
        text = ""
        for stage in self._streams.pop(node, ()):
            text = stage.feed(text) + stage.close()
        if text:
            self._outer.emit(TextDelta(node, text))

    def _take(self, event: Event) -> None:
        if self._released:
            self._tell(event)
        else:
            self._held.append(event)

    def _tell(self, event: Event) -> None:
        if not isinstance(event, TextDelta):
            if isinstance(event, NodeFinished):
                self._end(event.node)
            self._outer.emit(_changed(event, self._restored))
            return
        if event.node not in self._streams:
            self._streams[event.node] = [open_one() for open_one in self._open]
        text = event.text
        for stage in self._streams[event.node]:
            text = stage.feed(text)
        if text:
            self._outer.emit(TextDelta(event.node, text))

    def _restored(self, text: str) -> str:
        for open_one in self._open:
            stage = open_one()
            text = stage.feed(text) + stage.close()
        return text


def _changed(event: Event, change: Callable[[str], str]) -> Event:
    if not isinstance(event, NodeFinished):
        return event
    output: Any = changed(event.output, change, strict=False)
    return replace(event, output=output)
