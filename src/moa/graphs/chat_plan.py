"""The plan of a chat, to be drawn: who reads what, and who answers."""

from __future__ import annotations

from moa.agents.filter import Verdict
from moa.conversations.handing_over import HandingOver
from moa.conversations.messages import Said
from moa.conversations.speaking import Exchange
from moa.conversations.summing_up import Passage
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.building.skipped import Skipped
from moa.handoffs import Reply
from moa.node import Node


def chat_plan(replies: HandingOver, sums_up: Node[Passage, Reply]) -> Plan:
    """Wire who takes part in a chat; it runs otherwise."""
    g = Graph("chat", Said)
    thread = g.add(recall, g.input)
    summary = g.add(sums_up, thread, when=thread.map(too_long))
    exchange = g.join(read, thread, summary)
    if replies.small is None:
        return g.build(g.add(replies.large, exchange)).plan
    if replies.keeps is None:
        small = g.add(replies.small, exchange)
        doubtful = small.map(not_accepted)
        return g.build(g.add(replies.large, exchange, when=doubtful, otherwise=small)).plan
    verdict = g.add(replies.keeps, exchange.map(message_of))
    first = g.add(replies.small, exchange, when=verdict.map(kept))
    if replies.accept is None:
        second = g.add(replies.large, exchange, when=verdict.map(not_kept), eager=False)
    else:
        handed = g.join(handed_over, verdict, first)
        second = g.add(replies.large, exchange, when=handed, eager=False)
    return g.build(g.join(given, first, second)).plan


async def recall(said: Said) -> Passage:
    """Stand for the thread that is read; it is not run."""
    raise NotImplementedError(said)


def too_long(passage: Passage) -> bool:
    """Stand for the limit; it is not run."""
    raise NotImplementedError(passage)


def read(passage: Passage, summary: Reply | Skipped) -> Exchange:
    """Stand for what is read; it is not run."""
    raise NotImplementedError(passage, summary)


def message_of(exchange: Exchange) -> str:
    """Give the message."""
    return exchange.message


def kept(verdict: Verdict) -> bool:
    """Whether the small model answers."""
    return verdict.kept


def not_accepted(reply: Reply) -> bool:
    """Stand for the policy; it is not run."""
    raise NotImplementedError(reply)


def not_kept(verdict: Verdict) -> bool:
    """Whether the large model answers."""
    return not verdict.kept


def handed_over(verdict: Verdict, reply: Reply | Skipped) -> bool:
    """Stand for the policy; it is not run."""
    raise NotImplementedError(verdict, reply)


def given(first: Reply | Skipped, second: Reply | Skipped) -> Reply:
    """Stand for the one of both that answered; it is not run."""
    raise NotImplementedError(first, second)
