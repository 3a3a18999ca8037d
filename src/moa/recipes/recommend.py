"""Recommend: finds suitable items of a catalogue by meaning and by words, and gives reasons.

Only the search ranks: a 1.5B model that scored its results ranked worse (see Benchmarks).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.agent import Agent
from moa.agents.base import require
from moa.agents.prompts import block
from moa.core._async import Lock
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.node import Frozen, Reply
from moa.documents import Passage, Passages
from moa.documents.index import BATCH
from moa.documents.retrieval import BM25, Dense, fuse, searched_text
from moa.documents.writing import attempt, attempt_writing, report_step
from moa.endpoints.known import can_write
from moa.graphs.fields import File, Large, NamedEndpoints
from moa.graphs.recipe import Recipe, Sketch
from moa.local.encoders import sentence_encoder
from moa.rows import read_models

_BY_WORDS = "items are found by words alone"
_RECENT = 5
"""Number of latest items of the history that are used."""
_DEPTH = 7
"""Length of each ranking as a multiple of `shown`, so that the fusion has enough candidates."""


class Item(BaseModel):
    """A row of a catalogue. Further columns are kept, and shown to the models."""

    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)

    id: str
    text: str
    """Description of the item."""
    title: str | None = None

    def __str__(self) -> str:
        further: Mapping[str, object] = self.model_extra or {}
        columns = [f"{name}: {value}" for name, value in further.items() if value not in (None, "")]
        return "\n".join([self.title or self.id, self.text, *columns])


class Interests(BaseModel):
    """A person's wish, and their history."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    text: str = ""
    """Wish, in words; may be empty."""
    history: tuple[str, ...] = ()
    """Ids or titles of the items they had or saw, the latest last. None of them is recommended."""

    def __str__(self) -> str:
        return self.text


class Recommendation(Frozen):
    """An item, and the reason for it."""

    item: Item
    reason: str = ""
    """Reason, in words; empty if no model could write it."""


class Shelf(BaseModel):
    """A person's interests, the catalogue items they had, and the items recommended."""

    interests: Interests
    had: tuple[Item, ...]
    items: tuple[Recommendation, ...]
    """Recommendations, the best first."""

    def about(self) -> str:
        """Return the person's interests, in words, for a model."""
        had = "; ".join(item.title or item.text for item in self.had[-_RECENT:])
        wants = [f"Looks for: {self.interests.text}"] if self.interests.text.strip() else []
        return "\n".join([*wants, *([f"Has had: {had}"] if had else [])])


class Recommendations(Reply):
    """A few items, the best first; the text lists them with their reasons."""

    items: tuple[Recommendation, ...]


class Recommend(Recipe[Interests, Recommendations], recipe="recommend"):
    """Recommends items of a catalogue, with reasons for the few that it shows.

    Every item is in the catalogue, and none is in the history.

    Raises:
        CapabilityError: `llm` can't complete, or the encoder can't embed.
        ConfigError: two items have the same id, or a file isn't a catalogue.

    Examples:
        >>> from moa.recipes.recommend import Interests, Item, Recommend
        >>> catalogue = [Item(id="1", text="A warm jacket."), Item(id="2", text="Open shoes.")]
        >>> large = ScriptedEndpoint(['{"reasons": [{"item": 1, "reason": "It is warm."}]}'])
        >>> graph = Recommend(llm=large, catalogue=catalogue, shown=1)
        >>> [one.reason for one in graph.run_sync(Interests(text="a warm jacket")).output.items]
        ['It is warm.']
    """

    llm: Large
    """Writes the reasons."""
    catalogue: Sequence[Item] | File
    """All items, with unique ids, or their `.jsonl` or `.csv` file; in a table, relative to
    `moa.toml`. Each row has an `id` and a `text`, and may have a `title` and further columns."""
    encoder: Large | None = None
    """Endpoint that embeds the items at the first run, so that they are found by meaning, too;
    `None`: by words alone. Default in a table: the built-in encoder, if it is installed."""
    shown: int = Field(default=3, ge=1)
    """Maximum number of items shown."""

    @classmethod
    def complete(
        cls, table: Mapping[str, object], endpoints: NamedEndpoints
    ) -> Mapping[str, object]:
        """Use the built-in encoder. To run, a catalogue is required."""
        if "catalogue" not in table and endpoints.can_be_asked:
            raise ConfigError(
                f'graphs.{cls.name}: it needs catalogue = "ITEMS.jsonl", a file of items with id '
                "and text"
            )
        return {"catalogue": (), "encoder": sentence_encoder(), **table}

    def prepare(self) -> None:
        """Read the catalogue, and make the agents."""
        catalogue = self.catalogue
        rows = items_of(Path(catalogue)) if isinstance(catalogue, str | Path) else catalogue
        self.items = {item.id: item for item in rows}
        if len(self.items) < len(rows):
            raise ConfigError(
                f"the catalogue has {len(rows)} rows and {len(self.items)} ids: each item needs "
                "an id of its own"
            )
        self._by_title: dict[str, list[Item]] = {}
        for item in rows:
            self._by_title.setdefault((item.title or item.id).casefold(), []).append(item)
        if self.encoder is not None:
            require(self.encoder, "embed", agent=self.name)
        self.writer = Writer(self.llm, name="writer", max_tokens=1024)
        self._passages = [
            Passage(document=item.id, title=item.title or "", text=str(item)) for item in rows
        ]
        self._by_words = BM25(self._passages)
        self._vectors: list[Sequence[float]] = []
        self._by_meaning: Dense | None = None
        self._lock = Lock()

    async def answer(self, request: Interests, context: RunContext) -> Recommendations:
        """Find matching items, and write the reasons.

        Raises:
            ConfigError: the catalogue is empty.
        """
        if not self.items:
            raise ConfigError("the catalogue is empty: name a file of items")
        shelf = await report_step("candidates", self._find(request, context), context)
        return _list(await report_step("reasons", self._explain(shelf, context), context))

    def sketch(self, sketch: Sketch) -> None:
        """Draw the search, and the reasons."""
        writes = can_write(self.llm.model)
        sketch.chain("candidates", (self.writer, "reasons") if writes else None)

    async def _find(self, request: Interests, context: RunContext) -> Shelf:
        """Search for the wish and the latest items of the history, and fuse the results."""
        had = self._history(request, context)
        queries = [request.text] if request.text.strip() else []
        queries += [str(item) for item in had[-_RECENT:]]
        if not queries:
            message = "nothing is known of what is wanted: the first items are shown"
            context.note("degraded", message)
            passages = self._passages
        else:
            depth = _DEPTH * self.shown + len(had)
            searcher = await self._searcher(context)
            rankings = [await self._search(query, searcher, depth, context) for query in queries]
            passages = fuse(rankings, top_k=depth).passages
        had_ids = {item.id for item in had}
        items = [
            self.items[passage.document] for passage in passages if passage.document not in had_ids
        ]
        if not items:
            context.note("skipped", "nothing in the catalogue is near to what is wanted")
        recommendations = tuple(Recommendation(item=item) for item in items[: self.shown])
        return Shelf(interests=request, had=tuple(had), items=recommendations)

    def _history(self, request: Interests, context: RunContext) -> list[Item]:
        """Look up the history in the catalogue, by ids and by titles."""
        had: dict[str, Item] = {}
        unknown = 0
        for name in request.history:
            item, titled = self.items.get(name), self._by_title.get(name.casefold(), [])
            matches = titled if item is None else [item]
            unknown += not matches
            had |= {item.id: item for item in matches}
        if unknown:
            context.note("skipped", f"{unknown} of the history are not in the catalogue")
        return list(had.values())

    async def _search(
        self, query: str, searcher: Dense | None, depth: int, context: RunContext
    ) -> Passages:
        """Rank the catalogue by words and, if possible, by meaning, and fuse the rankings."""
        rankings = [await asyncio.to_thread(self._by_words.best, query, top_k=depth)]
        if searcher is not None:
            nearest = searcher.nearest(query, context, top_k=depth)
            by_meaning = await attempt(nearest, context, _BY_WORDS, kind="degraded")
            rankings += [] if by_meaning is None else [by_meaning]
        return fuse(rankings, top_k=depth)

    async def _searcher(self, context: RunContext) -> Dense | None:
        """Return the search by meaning. Vectors made before a failure are kept."""
        if self.encoder is None:
            return None
        async with self._lock.hold(context.remaining_s()):
            while len(self._vectors) < len(self._passages):
                begin = len(self._vectors)
                batch = self._passages[begin : begin + BATCH]
                embedding = self.encoder.embed(
                    [searched_text(passage) for passage in batch], context
                )
                result = await attempt(embedding, context, _BY_WORDS, kind="degraded")
                if result is None:
                    return None
                self._vectors[begin:] = result.vectors
            if self._by_meaning is None:
                self._by_meaning = Dense(self._passages, self._vectors, self.encoder)
            return self._by_meaning

    async def _explain(self, shelf: Shelf, context: RunContext) -> Shelf:
        """Write all reasons in one call; if it fails, there are none."""
        if not shelf.items:
            return shelf
        fallback = "no reasons were written"
        output = await attempt_writing(self.writer, shelf, context, fallback)
        if output is None:
            return shelf
        by_number = {reason.item: reason.reason.strip() for reason in output.reasons}
        items = (
            entry.model_copy(update={"reason": by_number[n]})
            for n, entry in enumerate(shelf.items, 1)
        )
        return shelf.model_copy(update={"items": tuple(items)})


class Reason(BaseModel):
    """Why an item suits."""

    item: int
    reason: str = Field(min_length=1, description="one sentence")


class Reasons(BaseModel):
    """A reason for each item."""

    reasons: list[Reason]


class Writer(Agent[Shelf, Reasons]):
    """Writes why each of a few items suits a person."""

    instructions = (
        "Recommend each numbered item to this person: say in one sentence why it suits them. Use "
        "only what the item's description says, and the language of what the person looks for."
    )

    def user_prompt(self, request: Shelf) -> str:
        """Show the person, and the items by number."""
        listing = "\n\n".join(f"[{n}] {entry.item}" for n, entry in enumerate(request.items, 1))
        return "\n\n".join((block(request.about(), "The person"), block(listing, "The items")))

    def check(self, request: Shelf, output: Reasons) -> None:
        """Reject reasons for unknown items, and items without a reason."""
        numbers = [reason.item for reason in output.reasons]
        expected = range(1, len(request.items) + 1)
        if sorted(numbers) != list(expected):
            raise ValueError(
                f"it has reasons for items {numbers}, and one for each of {[*expected]}"
            )


def _list(shelf: Shelf) -> Recommendations:
    lines = [
        f"- {entry.item.title or entry.item.id}{f': {entry.reason}' if entry.reason else ''}"
        for entry in shelf.items
    ]
    return Recommendations(text="\n".join(lines), items=shelf.items)


def items_of(file: Path) -> list[Item]:
    """Read a catalogue from JSON Lines, or from CSV with a header. `id` and `text` are required.

    Raises:
        ConfigError: the file is missing or of another kind, or a row isn't an item.
    """
    if file.suffix.lower() not in (".jsonl", ".csv"):
        raise ConfigError(f"{file} is no catalogue: give a .jsonl or a .csv file")
    return [item for _, item in read_models(file, Item)]
