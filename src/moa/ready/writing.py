"""The ready graphs that write: from a text, from an idea, or from sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from moa.documents.lengths import Length
from moa.endpoints import Endpoint
from moa.endpoints.encoders import SentenceEncoder, missing_for_sentences
from moa.errors import ConfigError
from moa.graphs.brainstorm import PERSONAS, brainstorm
from moa.graphs.recommend import recommend
from moa.graphs.research import research
from moa.graphs.summarize import summarize
from moa.graphs.write import write
from moa.ready.documents import READY as DOCUMENTS
from moa.ready.documents import RagSettings, support_of
from moa.ready.entry import AnyNode, Ready, beside
from moa.ready.shelves import items_of
from moa.tiers import Endpoints


class TwoModels(BaseModel):
    """What the tables of this family share: who decides, and who writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slm: str | None = None
    """Endpoint of the small model; `None`: the default one."""
    llm: str | None = None
    """Endpoint of the large model; `None`: the default one."""


class SummarizeSettings(TwoModels):
    """`[graphs.summarize]`."""

    sentences: int | None = Field(default=None, gt=0)
    """Most sentences of the summary; `None`: 3, unless `words` are given."""
    words: int | None = Field(default=None, gt=0)
    """Words of the summary, about."""
    keep: float = Field(default=0.3, gt=0, le=1)
    """Share of the text that the large model reads, as far as the summary doesn't need more."""
    read_tokens: int = Field(default=3000, gt=0)
    """Most tokens that it reads, whatever the length of the text."""
    chunk_tokens: int = Field(default=800, gt=0)
    """Most tokens of a chunk."""
    condense: bool = False
    """Whether the small model writes down what matters, instead of sentences being kept."""
    encoder: str | None = None
    """Endpoint that turns sentences into vectors; `None`: the built-in one."""


def _summarize(endpoints: Endpoints, settings: SummarizeSettings) -> AnyNode:
    slm, llm = _models(endpoints, settings)
    given = settings.sentences is not None or settings.words is not None
    return summarize(
        slm,
        llm,
        length=Length(sentences=settings.sentences if given else 3, words=settings.words),
        keep=settings.keep,
        read_tokens=settings.read_tokens,
        chunk_tokens=settings.chunk_tokens,
        condense=settings.condense,
        encoder=_encoder(endpoints, settings.encoder),
    )


class BrainstormSettings(TwoModels):
    """`[graphs.brainstorm]`."""

    personas: dict[str, str] = Field(default_factory=lambda: dict(PERSONAS), min_length=1)
    """What each persona looks for, by its name."""
    proposers: list[str] = Field(default_factory=list[str])
    """Endpoints that propose, the personas in turn; none: the large model for all of them."""
    ideas: int = Field(default=5, gt=0)
    """How many each persona proposes."""
    most: int | None = Field(default=None, gt=0)
    """Ideas that are kept, by their score; `None`: all."""
    alike: float = Field(default=0.8, gt=0, le=1)
    """How alike two ideas are that are one: the cosine of their vectors."""
    temperatures: list[float] = Field(default=[1.0], min_length=1)
    """For the personas in turn."""
    encoder: str | None = None
    """Endpoint that turns ideas into vectors; `None`: the built-in one."""


def _brainstorm(endpoints: Endpoints, settings: BrainstormSettings) -> AnyNode:
    slm, llm = _models(endpoints, settings)
    return brainstorm(
        slm,
        llm,
        personas=settings.personas,
        proposers=[endpoints.named(name) for name in settings.proposers],
        ideas=settings.ideas,
        most=settings.most,
        alike=settings.alike,
        temperatures=settings.temperatures,
        encoder=_encoder(endpoints, settings.encoder),
    )


class WriteSettings(BaseModel):
    """`[graphs.write]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    llm: str | None = None
    """Endpoint that outlines and edits; `None`: the default large model."""
    writers: list[str] = Field(default_factory=list[str])
    """Endpoints that write the sections, in turn; none: the one that outlines."""
    words: int = Field(default=600, gt=0)
    """Of the whole text, about."""
    sections: int | None = Field(default=None, gt=0)
    """Most sections; `None`: one for each 100 words, from 2 to 8."""


def _write(endpoints: Endpoints, settings: WriteSettings) -> AnyNode:
    return write(
        endpoints.llm if settings.llm is None else endpoints.named(settings.llm),
        words=settings.words,
        sections=settings.sections,
        writers=[endpoints.named(name) for name in settings.writers],
    )


class RecommendSettings(TwoModels):
    """`[graphs.recommend]`."""

    catalogue: Path | None = None
    """File of the items, `.jsonl` or `.csv`, beside `moa.toml`; each has an `id` and a `text`, and
    may have a `title` and further columns."""
    candidates: int = Field(default=20, gt=0)
    """Most items that the small model scores."""
    shown: int = Field(default=3, gt=0)
    """Most items that are given."""
    least: float = Field(default=0.34, ge=0, le=1)
    """Score under which an item is left out."""
    encoder: str | None = None
    """Endpoint that turns items into vectors; `None`: the built-in one, where it is installed."""


def _recommend(endpoints: Endpoints, settings: RecommendSettings) -> AnyNode:
    slm, llm = _models(endpoints, settings)
    built_in = None if SentenceEncoder.missing() else SentenceEncoder()
    file = settings.catalogue and beside(endpoints, settings.catalogue)
    if file is None and endpoints.to_be_asked:
        raise ConfigError(
            'graphs.recommend: it needs catalogue = "ITEMS.jsonl", a file of items with id and text'
        )
    return recommend(
        slm,
        llm,
        items_of(file) if file else [],
        encoder=_encoder(endpoints, settings.encoder) or built_in,
        candidates=settings.candidates,
        shown=settings.shown,
        least=settings.least,
    )


class ResearchSettings(RagSettings):
    """`[graphs.research]`: how each part is looked up, as in `[graphs.rag]`, and what follows."""

    most: int = Field(default=5, gt=0)
    """Most parts of a question."""
    llm: str | None = None
    """Endpoint that divides, compares and writes the report; `None`: the default large model."""
    report_tokens: int = Field(default=2048, gt=0)
    """Most tokens of the report, reasoning included."""


def _research(endpoints: Endpoints, settings: ResearchSettings) -> AnyNode:
    return research(
        endpoints.llm if settings.llm is None else endpoints.named(settings.llm),
        DOCUMENTS["rag"].build(endpoints, settings),
        most=settings.most,
        max_tokens=settings.report_tokens,
        support=support_of(endpoints, settings),
    )


def _encoder(endpoints: Endpoints, name: str | None) -> Endpoint | None:
    return None if name is None else endpoints.named(name)


def _models(endpoints: Endpoints, settings: TwoModels) -> tuple[Endpoint, Endpoint]:
    """Give the small model and the large one."""
    return (
        endpoints.slm if settings.slm is None else endpoints.named(settings.slm),
        endpoints.llm if settings.llm is None else endpoints.named(settings.llm),
    )


READY: dict[str, Ready[Any]] = {
    "brainstorm": Ready("ideas from several views, sorted", BrainstormSettings, _brainstorm),
    "recommend": Ready("what of a catalogue suits somebody", RecommendSettings, _recommend),
    "research": Ready("a question in parts, from your sources", ResearchSettings, _research),
    "summarize": Ready("a text, in a few sentences", SummarizeSettings, _summarize),
    "write": Ready("an article: outline, sections, one voice", WriteSettings, _write),
}
