"""Memory: what of a conversation a model reads, a summary of its beginning and the last turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from moa.agents.splitting import excerpt
from moa.chat.conversation import LEFT_OUT, Conversation, Summary, Turn
from moa.chat.routing import is_refusal
from moa.chat.speaker import Exchange
from moa.chat.summaries import Extract, Passage
from moa.context import RunContext, quiet
from moa.errors import EndpointRejected, MoaError
from moa.handoffs import Reply
from moa.node import Node


class Memory:
    """Keeps what is read of a conversation within a limit.

    Args:
        sums_up: Makes the summary. It reads about `history_tokens` at once, and the summary so far:
            what is more comes in batches, and of a message or reply that is longer than half of
            that, it reads the opening and the end.
        history_tokens: From how many tokens on the oldest turns are summed up.
        keep_turns: The last turns before the message, which never are.
        instead: Makes the summary of what `sums_up` refuses; `None`: an `Extract`.
    """

    def __init__(
        self,
        sums_up: Node[Passage, Reply],
        *,
        history_tokens: int,
        keep_turns: int,
        instead: Node[Passage, Reply] | None = None,
    ) -> None:
        self.sums_up = sums_up
        self._instead = instead or Extract()
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
        shorter = None
        for batch in self._batches(turn for turn in old if turn.status != "rejected"):
            made = await self._summed_up(batch, shorter or conversation, context)
            if made is None:
                break
            shorter = made
        if shorter is not None and shorter.summary is not None:
            context.note(
                "truncated",
                f"turns 1 to {shorter.summary.turns} are read as a summary by "
                f"{shorter.summary.by!r}; those since, word for word",
            )
        return shorter

    async def _summed_up(
        self, turns: Sequence[Turn], conversation: Conversation, context: RunContext
    ) -> Conversation | None:
        """Let a new summary stand for turns and the summary so far; `None`: nobody made one."""
        before = conversation.summary
        passage = Passage(
            turns=tuple(self._cut(turn) for turn in turns), before=before and before.text
        )
        node = self.sums_up
        try:
            try:
                text = (await node.run(passage, quiet(context))).output.text
            except EndpointRejected as error:
                if not is_refusal(error):
                    raise
                node = self._instead
                context.note("degraded", f"{node.name!r} makes the summary: {error}")
                text = (await node.run(passage, quiet(context))).output.text
        except MoaError as error:
            context.note("failed", f"no summary, so the turns stay as they are: {error}")
            return None
        return conversation.summed_up(Summary(text=text, turns=turns[-1].number, by=node.name))

    def _batches(self, turns: Iterable[Turn]) -> Iterator[list[Turn]]:
        """Group turns so that each group is within the limit, or is one turn."""
        batch: list[Turn] = []
        left = self.history_tokens
        for turn in turns:
            tokens = self._cut(turn).tokens
            if batch and tokens > left:
                yield batch
                batch, left = [], self.history_tokens
            batch.append(turn)
            left -= tokens
        if batch:
            yield batch

    def _cut(self, turn: Turn) -> Turn:
        most = max(1, self.history_tokens // 2)
        text, reply = (
            excerpt(said, max_tokens=most, left_out=LEFT_OUT) for said in (turn.text, turn.reply)
        )
        return turn.model_copy(update={"text": text, "reply": reply})

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
