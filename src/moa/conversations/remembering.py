"""Memory: what of a conversation a model reads, a summary of its beginning and the last turns."""

from __future__ import annotations

from moa.context import RunContext
from moa.conversations import Conversation, Summary, Turn
from moa.conversations.handing_over import quiet
from moa.conversations.speaking import Exchange
from moa.conversations.summing_up import Passage
from moa.errors import MoaError
from moa.handoffs import Reply
from moa.node import Node


class Memory:
    """Keeps what is read of a conversation within a limit.

    Args:
        sums_up: Makes the summary.
        history_tokens: From how many tokens on the oldest turns are summed up.
        keep_turns: The last turns before the message, which never are.
    """

    def __init__(
        self, sums_up: Node[Passage, Reply], *, history_tokens: int, keep_turns: int
    ) -> None:
        self.sums_up = sums_up
        self.history_tokens = history_tokens
        self.keep_turns = keep_turns

    async def shortened(
        self, conversation: Conversation, context: RunContext
    ) -> Conversation | None:
        """Sum up the oldest turns where the conversation is over its limit.

        A summary that fails is noted, and the turns stay as they are.

        Returns:
            The conversation with its new summary; `None` where it stays as it is.
        """
        old = self._too_old(conversation)
        if not old:
            return None
        before = conversation.summary
        told = tuple(turn for turn in old if turn.status != "rejected")
        if not told:
            return None
        passage = Passage(turns=told, before=before and before.text)
        try:
            text = (await self.sums_up.run(passage, quiet(context))).output.text
        except MoaError as error:
            context.note("failed", f"no summary, so the turns stay as they are: {error}")
            return None
        summary = Summary(text=text, turns=old[-1].number, by=self.sums_up.name)
        context.note(
            "truncated",
            f"turns 1 to {summary.turns} are read as a summary by {summary.by!r}; those since, "
            "word for word",
        )
        return conversation.summed_up(summary)

    def _too_old(self, conversation: Conversation) -> tuple[Turn, ...]:
        """Pick what is to be summed up: down to half of the limit, so that it is done seldom."""
        left = conversation.tokens
        old: list[Turn] = []
        if left > self.history_tokens:
            for turn in conversation.recent[: -1 - self.keep_turns]:
                if left <= self.history_tokens // 2:
                    break
                left -= turn.tokens
                old.append(turn)
        return tuple(old)

    def exchange(self, conversation: Conversation, context: RunContext) -> Exchange:
        """Give what is read, and say in the trace what isn't.

        Where no summary could be made, the oldest turns over twice the limit are left out; so are
        messages that a server rejected, since it would reject those after them too.
        """
        *before, last = conversation.recent
        read = [turn for turn in before if turn.status != "rejected"]
        tokens = last.tokens + sum(turn.tokens for turn in read)
        while tokens > 2 * self.history_tokens and len(read) > self.keep_turns:
            tokens -= read.pop(0).tokens
        left_out = [str(turn.number) for turn in before if turn not in read]
        if left_out:
            context.note("truncated", f"turns that are not read: {', '.join(left_out)}")
        return Exchange(turns=(*read, last), summary=conversation.summary)
