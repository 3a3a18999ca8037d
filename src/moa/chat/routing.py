"""Chat routing: who replies, the small model or the large one, and why."""

from __future__ import annotations

from dataclasses import dataclass

from moa.agents.filter import Filter, Verdict
from moa.calibration.acceptance import Policy
from moa.chat.speaker import Exchange, Speaker
from moa.context import RunContext, counted, quiet
from moa.decisions import Adaptation
from moa.endpoints import Endpoint, Example
from moa.errors import (
    BudgetExceeded,
    EndpointError,
    EndpointRejected,
    EndpointUnauthorized,
    EndpointUnsupported,
    MoaError,
    OutputError,
    Unanswered,
)
from moa.handoffs import Reply
from moa.node import Node
from moa.trace import TextDelta

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
"""What one model can fail with, and another may not."""


def small_talk(slm: Endpoint, *, threshold: float = 0.8) -> Filter:
    """Build the filter that keeps for the small model what needs no large one.

    Args:
        slm: Decides.
        threshold: Probability from which on a message is small talk. Nothing is promised of it.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: the threshold is not between 0 and 1.
    """
    shown = tuple(Example(text, {"small_talk": label}) for text, label in _EXAMPLES)
    adaptation = Adaptation(prompt_variants=(shown,), origin="as the chat ships it")
    return Filter(
        slm,
        _CRITERION,
        action="keep",
        threshold=threshold,
        name="small_talk",
        adaptation=adaptation,
    )


@dataclass(frozen=True, slots=True)
class Spoken:
    """A reply, and who gave it."""

    text: str
    speaker: Speaker
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRouter:
    """Lets the small model reply where it can, and the large one elsewhere.

    It fails expensive: where it can't be told, or the small model fails, the large one is asked. A
    message that the large one refuses is answered by nobody: all later prompts would hold it.
    """

    large: Speaker
    small: Speaker | None
    """`None`: the large one replies to everything."""
    alone: str = ""
    """Why there is no small one."""
    keeps: Node[str, Verdict] | None = None
    """Tells which messages the small model is let to reply to; `None`: it tries all."""
    accept: Policy | None = None
    """Judges what the small model wrote, which is shown only then; `None`: it is shown at once."""

    async def reply(self, exchange: Exchange, context: RunContext) -> Spoken:
        """Have the last message answered.

        Raises:
            EndpointError, OutputError, BudgetExceeded: nobody could answer, or who did broke off;
                see `is_refusal` for a message that the large model would not take.
            DeadlineExceeded: the time is up.
        """
        if self.small is None:
            return await self._by(self.large, exchange, self.alone, context)
        kept, reason = await self._kept(exchange, context)
        if kept:
            spoken, reason = await self._tried(self.small, exchange, reason, context)
            if spoken is not None:
                return spoken
        context.note("escalated", f"to {self.large.name!r}: {reason}")
        return await self._by_the_large(self.small, exchange, reason, context)

    async def _kept(self, exchange: Exchange, context: RunContext) -> tuple[bool, str]:
        if self.keeps is None:
            return True, "the small model tries every message"
        try:
            verdict = (await self.keeps.run(exchange.message, quiet(context))).output
        except _PASSING as error:
            context.note("failed", f"{self.keeps.name!r}, so the large model is asked: {error}")
            return False, "it could not be told whether the small model can answer"
        return verdict.kept, f"it {verdict.reason}"

    async def _tried(
        self, small: Speaker, exchange: Exchange, reason: str, context: RunContext
    ) -> tuple[Spoken | None, str]:
        """Let the small model reply; `None` with the reason where that isn't taken."""
        shown, heard = counted(context)
        try:
            if self.accept is None:
                return await self._by(small, exchange, reason, heard), ""
            text = (await small.run(exchange, quiet(context))).output.text
            judged = await self.accept.judge(exchange.message, Reply(text=text), quiet(context))
        except _PASSING as error:
            if shown():
                raise  # nobody can take back what was shown
            context.note("failed", f"{small.name!r}, so the large model is asked: {error}")
            return None, "the small model gave no answer"
        why = ", ".join(judged.reasons)
        if not judged.accepted:
            return None, f"the small model's answer was not accepted: {why}"
        context.emit(TextDelta(context.node, text))
        return Spoken(text, small, f"its answer was accepted: {why}"), ""

    async def _by_the_large(
        self, small: Speaker, exchange: Exchange, reason: str, context: RunContext
    ) -> Spoken:
        shown, heard = counted(context)
        try:
            return await self._by(self.large, exchange, reason, heard)
        except (EndpointError, BudgetExceeded) as error:
            if shown() or is_refusal(error):
                raise
            context.note(
                "degraded", f"{small.name!r} answers, as {self.large.name!r} can't: {error}"
            )
            try:
                why = "the large model could not be asked"
                return await self._by(small, exchange, why, context)
            except EndpointRejected as refused:
                context.note("failed", f"{small.name!r} took it neither: {refused}")
                raise error from refused  # the large one may take the message another time

    @staticmethod
    async def _by(speaker: Speaker, exchange: Exchange, reason: str, context: RunContext) -> Spoken:
        return Spoken((await speaker.run(exchange, context)).output.text, speaker, reason)


def is_refusal(error: MoaError) -> bool:
    """Whether it is the message that a server would not take; a wrong key can be mended."""
    mendable = (EndpointUnauthorized, EndpointUnsupported)
    return isinstance(error, EndpointRejected) and not isinstance(error, mendable)
