"""Thinking models: keeps what a model thought apart from what it answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_TAGS = {
    "<think>": "</think>",
    "<thought>": "</thought>",  # Gemini's compatible endpoint
    "[THINK]": "[/THINK]",  # Magistral, where the server has no parser for it
}
"""What closes a thought, by what opens it."""
_CLOSE = "</think>"
"""What closes a thought that the chat template opened."""


def split_thinking(text: str) -> tuple[str, str | None]:
    """Split a whole text into the answer and the reasoning before it.

    Servers without a reasoning parser leave `<think>…</think>`, or the like, in the text; where
    the chat template itself wrote that opening tag, only the closing one is there. An unclosed
    thought has no answer.
    """
    start = text.lstrip()
    opening = _opening(start)
    if opening is not None:
        thought, _, answer = start.removeprefix(opening).partition(_TAGS[opening])
        return answer.lstrip(), thought.strip()
    thought, closed, answer = start.partition(_CLOSE)
    if closed and "<think>" not in thought:
        return answer.lstrip(), thought.strip()
    return text, None


@dataclass(slots=True)
class ThinkingSplitter:
    """Splits a text that comes in pieces. Thoughts must open with their tag at the start."""

    reasoning: str = ""
    text: str = ""
    _held: str = ""
    _closing: str = ""
    _state: Literal["start", "thinking", "answering"] = "start"

    def feed(self, piece: str) -> str:
        """Take the next piece; return what belongs to the answer."""
        if self._state == "answering":
            return self._answer(piece)
        self._held += piece
        if self._state == "start":
            start = self._held.lstrip()
            if any(len(start) < len(tag) and tag.startswith(start) for tag in _TAGS):
                return ""
            opening = _opening(start)
            if opening is None:
                self._state = "answering"
                return self._answer(self._take())
            self._state = "thinking"
            self._closing = _TAGS[opening]
            self._held = start.removeprefix(opening)
        thought, closed, answer = self._held.partition(self._closing)
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
        if self._closing and not self.text:
            piece = piece.lstrip()
        self.text += piece
        return piece


def _opening(start: str) -> str | None:
    return next((tag for tag in _TAGS if start.startswith(tag)), None)
