"""Thinking models: keeps what a model thought apart from what it answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_OPEN = "<think>"
_CLOSE = "</think>"


def split_thinking(text: str) -> tuple[str, str | None]:
    """Split a whole text into the answer and the reasoning before it.

    Servers without a reasoning parser leave `<think>…</think>` in the text; where the chat
    template itself wrote the opening tag, only the closing one is there. An unclosed thought has
    no answer.
    """
    start = text.lstrip()
    thought, closed, answer = start.removeprefix(_OPEN).partition(_CLOSE)
    if closed and (start.startswith(_OPEN) or _OPEN not in thought):
        return answer.lstrip(), thought.strip()
    if start.startswith(_OPEN):
        return "", thought.strip()
    return text, None


@dataclass(slots=True)
class ThinkingSplitter:
    """Splits a text that comes in pieces. Thoughts must open with their tag at the start."""

    reasoning: str = ""
    text: str = ""
    _held: str = ""
    _thought: bool = False
    _state: Literal["start", "thinking", "answering"] = "start"

    def feed(self, piece: str) -> str:
        """Take the next piece; return what belongs to the answer."""
        if self._state == "answering":
            return self._answer(piece)
        self._held += piece
        if self._state == "start":
            start = self._held.lstrip()
            if len(start) < len(_OPEN) and _OPEN.startswith(start):
                return ""
            if not start.startswith(_OPEN):
                self._state = "answering"
                return self._answer(self._take())
            self._state = "thinking"
            self._thought = True
            self._held = start.removeprefix(_OPEN)
        thought, closed, answer = self._held.partition(_CLOSE)
        if not closed:
            return ""
        self._held = ""
        self.reasoning += thought.strip()
        self._state = "answering"
        return self._answer(answer.lstrip())

    def finish(self) -> str:
        """Say that no piece is left; return what was held back and belongs to the answer."""
        if self._state == "thinking":
            self.reasoning += self._take().strip()
            return ""
        return self._answer(self._take())

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held

    def _answer(self, piece: str) -> str:
        if self._thought and not self.text:
            piece = piece.lstrip()
        self.text += piece
        return piece
