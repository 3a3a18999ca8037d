"""Speaker: writes the next reply of a conversation, in a persona."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from pydantic import Field

from moa.agents import Agent, Settings
from moa.agents.prompts import TAG, block, system
from moa.chat.conversation import LEFT_OUT, Summary, Turn
from moa.context import RunContext
from moa.endpoints import Completion, Endpoint
from moa.handoffs import Frozen, Reply
from moa.messages import Message

PERSONA = "You are a helpful assistant. Be brief, unless more is asked for."
_LANGUAGE = "Answer the last message of the user, in {language}."


class Exchange(Frozen):
    """What a model reads before it replies."""

    turns: tuple[Turn, ...] = Field(min_length=1)
    """Word for word; the last one is to be answered."""
    summary: Summary | None = None
    """What stands for the turns before."""

    @property
    def message(self) -> str:
        """What is to be answered, with what was said just before and got no answer."""
        return _last_said(self.turns)


class Speaker(Agent[Exchange, Reply]):
    """Replies to the last message of a conversation.

    The turns go out as messages with their roles; the summary of what was said before is data, in
    a block of its own.

    Args:
        endpoint: Who writes.
        persona: Who it is, and how it talks, in words to the model.
        language: The language it answers in, such as "French"; `None`: that of each message.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        persona: str = PERSONA,
        language: str | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        spoken = _LANGUAGE.format(language=language or "its language")
        self.instructions = f"{persona.strip()}\n\n{spoken}"
        super().__init__(endpoint, **settings)

    def messages(self, request: Exchange) -> tuple[Message, ...]:
        """Write persona and summary, then the turns; user and assistant take turns."""
        told = system(self.instructions, None, tag=TAG if request.summary else "")
        if request.summary is not None:
            told += f"\n\nWhat was said before, in short:\n{block(request.summary.text)}"
        return (
            Message("system", told),
            *_said_before(request.turns),
            Message("user", request.message),
        )

    def _unechoed(self, completion: Completion, tag: str, context: RunContext) -> Completion:
        """Let a reply hold the tags of a block: a conversation can be about them."""
        del tag, context
        return completion


def _said_before(turns: Sequence[Turn]) -> Iterator[Message]:
    """Give what was answered; a message without an answer goes with the next one that has one."""
    waiting: list[str] = []
    for turn in turns[:-1]:
        waiting.append(turn.text)
        if turn.unfinished:
            continue
        yield Message("user", "\n\n".join(waiting))
        yield Message("assistant", shown_reply(turn))
        waiting = []


def _last_said(turns: Sequence[Turn]) -> str:
    said = [turns[-1].text]
    for turn in reversed(turns[:-1]):
        if not turn.unfinished:
            break
        said.insert(0, turn.text)
    return "\n\n".join(said)


def shown_reply(turn: Turn) -> str:
    """Give what was replied, marked where it was stopped."""
    return turn.reply if turn.status == "answered" else f"{turn.reply} {LEFT_OUT}".strip()
