"""Thinking models: keeps what a model thought apart from what it answered."""

from __future__ import annotations

from dataclasses import dataclass, field
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

    _blanks: list[str] = field(default_factory=list[str])
    """What stands before the first word, until it is known whether that opens a thought."""
    _held: str = ""
    """What may be the start of a tag."""
    _thought: list[str] = field(default_factory=list[str])
    _text: list[str] = field(default_factory=list[str])
    _closing: str = ""
    _state: Literal["start", "thinking", "answering"] = "start"

    @property
    def reasoning(self) -> str:
        """What was thought so far."""
        return "".join(self._thought).strip()

    @property
    def text(self) -> str:
        """What was answered so far."""
        return "".join(self._text)

    def feed(self, piece: str) -> str:
        """Take the next piece; return what belongs to the answer."""
        if self._state == "start":
            if not self._held:
                start = piece.lstrip()
                self._blanks.append(piece[: len(piece) - len(start)])
                piece = start
            self._held += piece
            if any(len(self._held) < len(tag) and tag.startswith(self._held) for tag in _TAGS):
                return ""
            piece = self._begun()
        return self._think(piece) if self._state == "thinking" else self._answer(piece)

    def finish(self) -> str:
        """Say that no piece is left; return what was held back and belongs to the answer."""
        if self._state == "thinking":
            self._thought.append(self._held)
            return ""
        return self._answer(self._take())

    def _begun(self) -> str:
        """Find out whether a thought begins; return what follows its tag, or everything."""
        opening = _opening(self._held)
        if opening is None:
            self._state = "answering"
            return self._take()
        self._state, self._closing = "thinking", _TAGS[opening]
        return self._take().lstrip().removeprefix(opening)

    def _think(self, piece: str) -> str:
        thought, closed, answer = (self._held + piece).partition(self._closing)
        if closed:
            self._thought.append(thought)
            self._state, self._held = "answering", ""
            return self._answer(answer)
        end = max(0, len(thought) - len(self._closing) + 1)
        self._thought.append(thought[:end])
        self._held = thought[end:]
        return ""

    def _take(self) -> str:
        held = "".join(self._blanks) + self._held
        self._blanks, self._held = [], ""
        return held

    def _answer(self, piece: str) -> str:
        if self._closing and not self._text:
            piece = piece.lstrip()
        if piece:
            self._text.append(piece)
        return piece


def _opening(start: str) -> str | None:
    return next((tag for tag in _TAGS if start.startswith(tag)), None)
