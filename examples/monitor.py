"""A stream that is watched: a report is written where the share of a label changes.

    moa run examples/monitor.py:graph inbox.jsonl --out decided.jsonl

The small model decides on every item. Four windows of 50 items are the reference. Fisher's exact
test compares each later window with it, and only where a share has changed is the large model
asked, once. Then a new reference begins. Items are taken for independent of each other: a
newsletter, or one angry customer, is a change too. What is counted ends with the process.
"""

from __future__ import annotations

from collections import Counter
from math import comb

from pydantic import BaseModel

from moa import Agent, Classifier, Endpoints, Graph, Node, Reply, RunContext
from moa.core.errors import MoaError

TOPICS = {"delivery": "where an order is", "refund": "money back", "app": "trouble with the app"}
WINDOW, REFERENCE = 50, 4
ALPHA = 0.001
"""Largest share of windows with a false report: one in 1,000."""
EXAMPLES = 3
REPORT = (
    "Something changed in a stream of messages: the share of a label. Report it in a few sentences "
    "to whoever is in charge: what changed and by how much, by the figures, and what the examples "
    "of the latest window have in common. Say nothing that the figures and examples don't."
)


class Decided(BaseModel):
    """An item, and its label."""

    text: str
    label: str


class Observed(BaseModel):
    """What comes out: the label, and a report if the item ended a window with a change."""

    label: str
    report: str = ""


class Windows:
    """Counts the labels, in the order in which items are decided."""

    def __init__(self, writer: Node[str, Reply] | None) -> None:
        self.writer = writer
        self.reference: Counter[str] = Counter()
        self.window: list[Decided] = []

    async def count(self, item: Decided, context: RunContext) -> Observed:
        """Count an item; at the end of a window, compare it with the reference."""
        self.window.append(item)
        moved = self.moved() if len(self.window) == WINDOW else ""
        report = await self.report(moved, context) if moved else ""
        return Observed(label=item.label, report=report)

    def moved(self) -> str:
        """Close the window. Describe the labels whose share has changed, with examples."""
        window, self.window = self.window, []
        counts, before = Counter(item.label for item in window), self.reference
        if before.total() < WINDOW * REFERENCE:
            self.reference = before + counts
            return ""
        lines: list[str] = []
        for label in TOPICS:
            now, then = counts[label], before[label]
            if p_value(now, WINDOW, then, before.total()) <= ALPHA / len(TOPICS):
                shares = f"{now / WINDOW:.0%}, and {then / before.total():.0%} in the reference"
                texts = [item.text[:300] for item in window if item.label == label][:EXAMPLES]
                lines += [f"{label}: {shares}", *(f"- {text}" for text in texts)]
        if lines:
            self.reference = Counter()
        return "\n".join(lines)

    async def report(self, moved: str, context: RunContext) -> str:
        """Let the large model write; without it, the figures are the report."""
        if self.writer is None:
            return moved
        try:
            return (await self.writer.run(moved, context)).output.text
        except MoaError as error:
            context.note("degraded", f"the report holds the figures alone: {error}")
            return moved


def p_value(count: int, total: int, before: int, before_total: int) -> float:
    """Fisher's exact test of two counts: twice the smaller tail, at most 1."""
    both, everything = count + before, total + before_total
    ways = [comb(both, k) * comb(everything - both, total - k) for k in range(total + 1)]
    tail = min(sum(ways[: count + 1]), sum(ways[count:]))
    return min(1.0, 2 * tail / comb(everything, total))


def graph(endpoints: Endpoints) -> Node[str, Observed]:
    """Declare the graph: the small model decides, and the large one writes reports."""
    writer = Agent(endpoints.llm, REPORT, name="report") if endpoints.has_llm else None
    g = Graph("monitor", str)
    topic = g.add(Classifier(endpoints.slm, TOPICS, name="topic"), g.input)
    decided = g.join(lambda text, topic: Decided(text=text, label=topic.label), g.input, topic)
    return g.build(g.add(Windows(writer).count, decided))
