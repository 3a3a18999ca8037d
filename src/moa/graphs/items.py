"""Items: those of a catalogue that may suit somebody, scored, with a reason for the few shown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field

from moa._async import gather
from moa.agents import Agent
from moa.agents.boundary import TypedNode, require
from moa.agents.decider import Decider
from moa.agents.prompts import block
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.bm25 import BM25
from moa.documents.dense import Dense
from moa.documents.index import BATCH
from moa.documents.retrieval import fused, searched
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.errors import ConfigError, Unanswered
from moa.graphs.notes import AT_ONCE, FAILURES
from moa.questions import Score, score

_LEVELS = ["not at all", "a little", "well", "very well"]
_RECENT = 5
"""Items of the history that are searched for, the latest."""


class Item(BaseModel):
    """A row of a catalogue. Further columns are kept, and shown to the models."""

    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)

    id: str
    text: str
    """What it is."""
    title: str | None = None

    def __str__(self) -> str:
        further: dict[str, Any] = self.model_extra or {}
        columns = [f"{name}: {value}" for name, value in further.items() if value not in (None, "")]
        return "\n".join([self.title or self.id, self.text, *columns])


class Interests(BaseModel):
    """What somebody looks for, and what they had."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    text: str = ""
    """What they look for, in words; it may be empty."""
    history: tuple[str, ...] = ()
    """Ids, or titles, of what they had or saw, the latest last. None of it is recommended."""

    def __str__(self) -> str:
        return self.text


class Recommended(BaseModel):
    """An item, and why it is shown."""

    model_config = ConfigDict(frozen=True)

    item: Item
    score: float | None = None
    """How well it suits, from 0 to 1; `None` where it could not be scored."""
    reason: str = ""
    """In words; empty where no model could write it."""


class Shelf(BaseModel):
    """Somebody's interests, what of the catalogue they had, and what may suit them."""

    interests: Interests
    had: tuple[Item, ...]
    items: tuple[Recommended, ...]
    """The best first."""

    def about(self) -> str:
        """Somebody's interests, in words, for a model."""
        had = "; ".join(item.title or item.text for item in self.had[-_RECENT:])
        wants = [f"Looks for: {self.interests.text}"] if self.interests.text.strip() else []
        return "\n".join([*wants, *([f"Has had: {had}"] if had else [])])


class Candidates(TypedNode[Interests, Shelf]):
    """Finds what is near to somebody's interests, and was not theirs yet.

    Args:
        catalogue: All items.
        encoder: Turns items into vectors, at the first run; `None` searches by words alone.
        most: Most items to give.

    Raises:
        CapabilityError: the encoder can't embed.
        ConfigError: two items have the same id.
    """

    def __init__(self, catalogue: Sequence[Item], encoder: Endpoint | None, *, most: int) -> None:
        super().__init__(name="candidates")
        self.endpoint = None if encoder is None else require(encoder, "embed", agent=self.name)
        self.most = most
        self.items = {item.id: item for item in catalogue}
        if len(self.items) < len(catalogue):
            raise ConfigError(
                f"the catalogue has {len(catalogue)} rows and {len(self.items)} ids: each item "
                "needs an id of its own"
            )
        self._passages = [
            Passage(document=item.id, title=item.title or "", text=str(item)) for item in catalogue
        ]
        self._by_words = BM25(self._passages)
        self._vectors: list[Sequence[float]] = []
        self._by_meaning: Dense | None = None
        # A lock belongs to one event loop, and a node to none.
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )

    async def answer(self, request: Interests, context: RunContext) -> Shelf:
        """Search for what is wanted, and for each of the latest items of the history; fuse."""
        if not self.items:
            raise ConfigError("the catalogue is empty: name a file of items")
        had = self._had(request, context)
        queries = [request.text] if request.text.strip() else []
        queries += [str(item) for item in had[-_RECENT:]]
        if not queries:
            context.note(
                "degraded", "nothing is known of what is wanted: the first items are shown"
            )
            found = self._passages
        else:
            depth = self.most + len(had)
            near = await self._searcher(context)
            ranked = [await self._ranked(query, near, depth, context) for query in queries]
            found = fused(ranked, top_k=depth).passages
        theirs = {item.id for item in had}
        items = [self.items[each.document] for each in found if each.document not in theirs]
        if not items:
            context.note("skipped", "nothing in the catalogue is near to what is wanted")
        shown = tuple(Recommended(item=item) for item in items[: self.most])
        return Shelf(interests=request, had=tuple(had), items=shown)

    def _had(self, request: Interests, context: RunContext) -> list[Item]:
        by_title: dict[str, list[Item]] = {}
        for item in self.items.values():
            by_title.setdefault((item.title or item.id).casefold(), []).append(item)
        had: dict[str, Item] = {}
        unknown = 0
        for name in request.history:
            found = [self.items[name]] if name in self.items else by_title.get(name.casefold(), [])
            unknown += not found
            had |= {item.id: item for item in found}
        if unknown:
            context.note("skipped", f"{unknown} of the history are not in the catalogue")
        return list(had.values())

    async def _ranked(
        self, query: str, near: Dense | None, depth: int, context: RunContext
    ) -> Passages:
        found = [await asyncio.to_thread(self._by_words.best, query, top_k=depth)]
        if near is not None:
            try:
                found.append(await near.nearest(query, context, top_k=depth))
            except FAILURES as error:
                context.note("degraded", f"items are found by words alone: {error}")
        return fused(found, top_k=depth)

    async def _searcher(self, context: RunContext) -> Dense | None:
        """Give what searches by meaning; the vectors that are made stay, whatever fails later."""
        if self.endpoint is None:
            return None
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            while len(self._vectors) < len(self._passages):
                begin = len(self._vectors)
                batch = self._passages[begin : begin + BATCH]
                try:
                    made = await self.endpoint.embed([searched(each) for each in batch], context)
                except FAILURES as error:
                    context.note("degraded", f"items are found by words alone: {error}")
                    return None
                self._vectors[begin:] = made.vectors
            if self._by_meaning is None:
                self._by_meaning = Dense(self._passages, self._vectors, self.endpoint)
            return self._by_meaning


class Suits(BaseModel):
    """What is asked about each item."""

    suits: Score = score("How well does the item suit this person?", levels=_LEVELS)


class Scores(TypedNode[Shelf, Shelf]):
    """Scores each item by a small model, and leaves out what suits too little.

    Args:
        slm: Decides.
        least: Score under which an item is left out.
        most: Most items to give.

    Raises:
        CapabilityError: `slm` can't decide.
    """

    def __init__(self, slm: Endpoint, *, least: float, most: int) -> None:
        super().__init__(name="scores")
        self.endpoint = slm
        self.least = least
        self.most = most
        self.decider = Decider(slm, Suits, name="score")

    async def answer(self, request: Shelf, context: RunContext) -> Shelf:
        """Score all, some at a time. What can't be scored stands behind what is, in its order."""
        gate = asyncio.Semaphore(AT_ONCE)
        about = request.about()
        if not about:
            return request.model_copy(update={"items": request.items[: self.most]})

        async def scored(each: Recommended) -> Recommended:
            async with gate:
                try:
                    text = f"The person:\n{about}\n\nThe item:\n{each.item}"
                    value = (await self.decider.run(text, context)).output.suits.value
                except (*FAILURES, Unanswered) as error:
                    context.note("failed", f"no score for {each.item.id!r}: {error}")
                    return each
            return each.model_copy(update={"score": round(value / (len(_LEVELS) - 1), 4)})

        items = await gather(scored(each) for each in request.items)
        kept = [each for each in items if each.score is None or each.score >= self.least]
        if len(kept) < len(items):
            context.note(
                "dropped", f"{len(items) - len(kept)} of {len(items)} items suit too little"
            )
        kept.sort(key=lambda each: -1.0 if each.score is None else each.score, reverse=True)
        return request.model_copy(update={"items": tuple(kept[: self.most])})


class Reason(BaseModel):
    """Why an item suits."""

    item: int
    reason: str = Field(min_length=1, description="one sentence")


class Reasons(BaseModel):
    """A reason for each item."""

    reasons: list[Reason]


class Writer(Agent[Shelf, Reasons]):
    """Writes why each of a few items suits somebody."""

    instructions = (
        "Recommend each numbered item to this person: say in one sentence why it suits them. Use "
        "only "
        "what the item's description says, and the language of what the person looks for."
    )

    def prompt(self, request: Shelf) -> str:
        """Show the person, and the items by number."""
        listed = "\n\n".join(f"[{n}] {each.item}" for n, each in enumerate(request.items, 1))
        return "\n\n".join((block(request.about(), "The person"), block(listed, "The items")))

    def check(self, request: Shelf, output: Reasons) -> None:
        """Refuse reasons for what was not given, and items without a reason."""
        given = [each.item for each in output.reasons]
        wanted = range(1, len(request.items) + 1)
        if sorted(given) != list(wanted):
            raise ValueError(f"it has reasons for items {given}, and one for each of {[*wanted]}")


class WithReasons(TypedNode[Shelf, Shelf]):
    """Has a large model write the reasons, in one call. Where it fails, there are none.

    Args:
        llm: Writes. One that is too small to write isn't asked.

    Raises:
        CapabilityError: `llm` can't complete.
    """

    def __init__(self, llm: Endpoint) -> None:
        super().__init__(name="reasons")
        self.endpoint = llm
        self.writer = Writer(llm, name="writer", max_tokens=1024)

    async def answer(self, request: Shelf, context: RunContext) -> Shelf:
        """Write."""
        if not request.items:
            return request
        if not can_write(self.endpoint.model):
            context.note("degraded", f"no reasons: {self.endpoint.model} is too small to write")
            return request
        try:
            written = (await self.writer.run(request, context)).output
        except FAILURES as error:
            context.note("failed", f"no reasons were written: {error}")
            return request
        by_number = {each.item: each.reason.strip() for each in written.reasons}
        items = tuple(
            each.model_copy(update={"reason": by_number[n]})
            for n, each in enumerate(request.items, 1)
        )
        return request.model_copy(update={"items": items})
