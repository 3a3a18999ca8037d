"""Chat routing: which model replies, the small or the large one, and how a reply is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

from pydantic import Field

from moa.agents.agent import Agent, Settings
from moa.agents.filter import Filter, Verdict
from moa.agents.prompts import TAG, block, system
from moa.chat.messages import LEFT_OUT, Summary, Turn
from moa.core.context import RunContext, count_text_deltas, quiet
from moa.core.errors import (
    BudgetExceeded,
    EndpointError,
    EndpointRejected,
    EndpointUnauthorized,
    EndpointUnsupported,
    MoaError,
    OutputError,
    Unanswered,
)
from moa.core.messages import Message
from moa.core.node import Frozen, Node, Reply
from moa.core.trace import TextDelta
from moa.decisions.acceptance import Policy
from moa.decisions.defaults import make_unfitted
from moa.endpoints import Completion, Endpoint, Example

PERSONA = "You are a helpful assistant. Be brief, unless more is asked for."
_LANGUAGE = "Answer in {language}."
"""Used only if a language is set. Models answer in the language of the message anyway, and a 1.5B
model told to answer "the last message in its language" repeated an introduction word for word."""
_CRITERION = (
    "small talk, such as a greeting, thanks or a goodbye, or a request to repeat what was just said"
)
_EXAMPLES = (
    ("Hello, how are you?", "yes"),
    ("Explain the difference between a virus and a bacterium.", "no"),
    ("Thanks, that helped!", "yes"),
    ("Write a function that sorts a list of dates.", "no"),
    ("Merci beaucoup, à demain.", "yes"),
    ("Was kostet der Versand nach Norwegen?", "no"),
    ("Sorry, what did you just say?", "yes"),
    ("Why is that, and what would you do instead?", "no"),
)
_PASSING = (EndpointError, OutputError, Unanswered, BudgetExceeded)
"""Errors of one model after which another may still answer."""


def small_talk(slm: Endpoint, *, threshold: float = 0.8) -> Filter:
    """Build the filter that selects messages for the small model: those that need no large one."""
    examples = tuple(Example(text, {"small_talk": label}) for text, label in _EXAMPLES)
    talk_filter = Filter(slm, _CRITERION, action="keep", threshold=threshold, name="small_talk")
    (question,) = talk_filter.questions
    talk_filter.use_calibrations({question.name: make_unfitted(question, examples)})
    return talk_filter


class ChatContext(Frozen):
    """The part of a conversation that a model reads before it replies."""

    turns: tuple[Turn, ...] = Field(min_length=1)
    """Turns, word for word; the last one is to be answered."""
    summary: Summary | None = None
    """Summary of the turns before."""
    rules: str = ""
    """Instructions of the caller, in addition to the persona."""

    @property
    def message(self) -> str:
        """The message to answer, after those just before it that got no answer."""
        texts = [self.turns[-1].text]
        for turn in reversed(self.turns[:-1]):
            if not turn.unfinished:
                break
            texts.insert(0, turn.text)
        return "\n\n".join(texts)


class Speaker(Agent[ChatContext, Reply]):
    """Replies to the last message of a conversation.

    The turns are sent as messages with their roles, and the summary of earlier turns as data, in a
    separate block. `persona` and `language` are those of `Chat`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        persona: str = PERSONA,
        language: str | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        language_rules = [] if language is None else [_LANGUAGE.format(language=language)]
        self.instructions = "\n\n".join([persona.strip(), *language_rules])
        super().__init__(endpoint, **settings)

    def messages(self, request: ChatContext) -> tuple[Message, ...]:
        """Return persona and summary, then the turns; user and assistant alternate."""
        rules = "\n\n".join(filter(None, (self.instructions, request.rules)))
        system_prompt = system(rules, None, tag=TAG if request.summary else "")
        if request.summary is not None:
            system_prompt += f"\n\nWhat was said before, in short:\n{block(request.summary.text)}"
        return (
            Message("system", system_prompt),
            *_earlier_messages(request.turns),
            Message("user", request.message),
        )

    def _without_echo(self, completion: Completion, tag: str, context: RunContext) -> Completion:
        """Keep the tags of a block in a reply: a conversation can be about them."""
        del tag, context
        return completion


def _earlier_messages(turns: Sequence[Turn]) -> Iterator[Message]:
    """Yield the answered messages. A message without an answer joins the next that has one."""
    waiting: list[str] = []
    for turn in turns[:-1]:
        waiting.append(turn.text)
        if turn.unfinished:
            continue
        yield Message("user", "\n\n".join(waiting))
        yield Message("assistant", shown_reply(turn))
        waiting = []


def shown_reply(turn: Turn) -> str:
    """Return the reply of a turn, marked if it was stopped."""
    return turn.reply if turn.status == "answered" else f"{turn.reply} {LEFT_OUT}".strip()


@dataclass(frozen=True, slots=True)
class SpokenReply:
    """A reply, and who gave it."""

    text: str
    speaker: Speaker
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRouter:
    """Lets the small model reply if it can, and otherwise the large one.

    If the filter or the small model fails, the large one is asked. If the large one refuses a
    message, no model answers it: all later prompts would contain it.
    """

    large: Speaker
    small: Speaker | None
    """The small model; `None`: the large one replies to everything."""
    why_alone: str = ""
    """Why there is no small model."""
    keeps: Node[str, Verdict] | None = None
    """Decides which messages the small model may answer; `None`: it tries all."""
    accept: Policy | None = None
    """Judges the small model's reply, which is shown only if accepted; `None`: shown at once."""

    async def reply(self, chat: ChatContext, context: RunContext) -> SpokenReply:
        """Answer the last message; see `is_refusal` for a message that a server rejects."""
        if self.small is None:
            return await self._speak(self.large, chat, self.why_alone, context)
        is_for_small, reason = await self._is_for_small(chat, context)
        if is_for_small:
            reply, reason = await self._try_small(self.small, chat, reason, context)
            if reply is not None:
                return reply
        context.note("escalated", f"to {self.large.name!r}: {reason}")
        return await self._ask_large(self.small, chat, reason, context)

    async def _is_for_small(self, chat: ChatContext, context: RunContext) -> tuple[bool, str]:
        if self.keeps is None:
            return True, "the small model tries every message"
        try:
            verdict = (await self.keeps.run(chat.message, quiet(context))).output
        except _PASSING as error:
            context.note("failed", f"{self.keeps.name!r}, so the large model is asked: {error}")
            return False, "it could not be told whether the small model can answer"
        return verdict.kept, f"it {verdict.reason}"

    async def _try_small(
        self, small: Speaker, chat: ChatContext, reason: str, context: RunContext
    ) -> tuple[SpokenReply | None, str]:
        """Let the small model reply; return `None` and the reason if its reply isn't used."""
        count_pieces, inner = count_text_deltas(context)
        try:
            if self.accept is None:
                return await self._speak(small, chat, reason, inner), ""
            text = (await small.run(chat, quiet(context))).output.text
            judgement = await self.accept.judge(chat.message, Reply(text=text), quiet(context))
        except _PASSING as error:
            if count_pieces():
                raise  # shown text can't be taken back
            context.note("failed", f"{small.name!r}, so the large model is asked: {error}")
            return None, "the small model gave no answer"
        reasons = ", ".join(judgement.reasons)
        if not judgement.accepted:
            return None, f"the small model's answer was not accepted: {reasons}"
        context.emit(TextDelta(context.node, text))
        return SpokenReply(text, small, f"its answer was accepted: {reasons}"), ""

    async def _ask_large(
        self, small: Speaker, chat: ChatContext, reason: str, context: RunContext
    ) -> SpokenReply:
        count_pieces, inner = count_text_deltas(context)
        try:
            return await self._speak(self.large, chat, reason, inner)
        except (EndpointError, BudgetExceeded) as error:
            if count_pieces() or is_refusal(error):
                raise
            context.note(
                "degraded", f"{small.name!r} answers, as {self.large.name!r} can't: {error}"
            )
            try:
                small_reason = "the large model could not be asked"
                return await self._speak(small, chat, small_reason, context)
            except EndpointRejected as refused:
                context.note("failed", f"{small.name!r} took it neither: {refused}")
                raise error from refused  # the large one may accept the message another time

    @staticmethod
    async def _speak(
        speaker: Speaker, chat: ChatContext, reason: str, context: RunContext
    ) -> SpokenReply:
        return SpokenReply((await speaker.run(chat, context)).output.text, speaker, reason)


def is_refusal(error: MoaError) -> bool:
    """Return True if a server rejected the message itself, not for example a wrong key."""
    mendable = (EndpointUnauthorized, EndpointUnsupported)
    return isinstance(error, EndpointRejected) and not isinstance(error, mendable)
