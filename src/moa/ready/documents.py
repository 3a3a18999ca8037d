"""The ready graph that answers from documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moa.documents.answering import Answerer
from moa.documents.chunking import MAX_TOKENS
from moa.documents.extracting import LEAST, Extractive
from moa.documents.grading import RELEVANT, SUPPORTED, Grader
from moa.documents.index import Index
from moa.documents.indexed import Indexed
from moa.documents.rewriting import Rewriter
from moa.endpoints import Endpoint
from moa.endpoints.encoders import SentenceEncoder, missing_for_sentences
from moa.endpoints.known import can_write
from moa.errors import ConfigError
from moa.graphs.rag import rag
from moa.ready.entry import AnyNode, Mark, Ready, beside
from moa.tiers import Endpoints


class DocumentSettings(BaseModel):
    """Where passages come from, and how they are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: Path | tuple[Path, ...] | None = None
    """Files and folders of text, Markdown, HTML and PDF, beside `moa.toml`; `None`: what the index
    holds already."""
    index: Annotated[Path | None, Mark.WRITTEN] = None
    """Folder that keeps what was read, beside `moa.toml`; `None` reads it anew in each process."""
    search: Literal["words", "meaning", "both"] = "both"
    """How passages are found. Without an endpoint that embeds it is by words."""
    embedder: str | None = None
    """Name of an endpoint that turns texts into vectors; `None`: the built-in sentence encoder,
    where its packages are installed."""
    passage_tokens: int = Field(default=MAX_TOKENS, gt=0)
    """Most tokens of a passage."""
    top_k: int = Field(default=5, gt=0)
    """Most passages that the writer is given."""


class RagSettings(DocumentSettings):
    """`[graphs.rag]`."""

    writer: str | None = None
    """Name of the endpoint that answers; `None`: the large model. A model that is too small to
    write gives the nearest sentence instead."""
    small: str | None = None
    """Name of the endpoint that rewrites, filters and checks; `None`: the small model."""
    rewrite: bool = False
    """Whether the question is also searched for as the small model rewrites it, a call each."""
    filter: bool | Path = False
    """Whether the small model is asked of each passage whether it helps, a call each, or a
    calibration of it for that; else the search ranks them alone."""
    relevant: float = Field(default=0.2, gt=0, lt=1)
    """Probability of helping under which a passage is left out, where there is no calibration."""
    check: bool | Path = False
    """Whether the small model checks each sentence against the passages that it cites, a call
    each, or a calibration of it for that."""
    supported: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which on a sentence is supported, where there is no calibration."""
    near: float = Field(default=LEAST, ge=0, le=1)
    """Likeness to the question under which a sentence is no answer, where no model writes."""
    max_tokens: int = Field(default=512, gt=0)
    """Most tokens of an answer."""


def _rag(endpoints: Endpoints, settings: RagSettings) -> AnyNode:
    small = _small(endpoints, settings)
    large = endpoints.named(settings.writer) if settings.writer else endpoints.llm
    embedder = embedder_of(endpoints, settings)
    writes = can_write(large.model)
    return rag(
        retriever_of(endpoints, settings),
        Answerer(large, max_tokens=settings.max_tokens)
        if writes
        else Extractive(embedder, least=settings.near),
        rewriter=Rewriter(small) if settings.rewrite else None,
        relevance=_grader(
            endpoints, small, settings.filter, RELEVANT, threshold=settings.relevant, name="filter"
        ),
        support=support_of(endpoints, settings) if writes else None,
        top_k=settings.top_k,
    )


def support_of(endpoints: Endpoints, settings: RagSettings) -> Grader | None:
    """Give what checks sentences against the passages that they cite; `None` where none does.

    Raises:
        ConfigError: the endpoint that is named isn't configured.
        CalibrationError: the calibration can't be read, or is for something else.
    """
    return _grader(
        endpoints,
        _small(endpoints, settings),
        settings.check,
        SUPPORTED,
        threshold=settings.supported,
        name="check",
    )


def _small(endpoints: Endpoints, settings: RagSettings) -> Endpoint:
    return endpoints.named(settings.small) if settings.small else endpoints.slm


def _grader(
    endpoints: Endpoints,
    small: Endpoint,
    wanted: bool | Path,
    question: str,
    *,
    threshold: float,
    name: str,
) -> Grader | None:
    if wanted is False:
        return None
    calibration = None
    if isinstance(wanted, Path):
        from moa.calibration.file import Calibration

        calibration = Calibration.load(beside(endpoints, wanted))
    return Grader(small, question, threshold=threshold, calibration=calibration, name=name)


def embedder_of(endpoints: Endpoints, settings: DocumentSettings) -> Endpoint | None:
    """Give the endpoint that turns texts into vectors; `None` where there is none.

    Raises:
        ConfigError: the one that is named isn't configured.
    """
    if settings.embedder is not None:
        return endpoints.named(settings.embedder)
    return None if SentenceEncoder.missing() else SentenceEncoder()


def retriever_of(endpoints: Endpoints, settings: DocumentSettings) -> Indexed:
    """Build the retriever over the documents that the settings name.

    Raises:
        ConfigError: neither documents nor an index are named, or the embedder that is named isn't
            configured.
        CapabilityError: it can't embed.
    """
    given = settings.documents
    if given is None and settings.index is None and endpoints.to_be_asked:
        raise ConfigError(
            'there is nothing to search in: name files or folders by documents = ["docs"], or what '
            "moa index made by index, in the graph's table of moa.toml, such as [graphs.rag]"
        )
    paths = (given,) if isinstance(given, Path) else given
    sources = None if paths is None else [beside(endpoints, path) for path in paths]
    folder = settings.index and beside(endpoints, settings.index)
    return Indexed(
        sources,
        Index(folder, max_tokens=settings.passage_tokens),
        endpoint=None if settings.search == "words" else embedder_of(endpoints, settings),
        by_words=settings.search != "meaning",
        top_k=settings.top_k,
        name="passages",
    )


READY: dict[str, Ready[Any]] = {
    "rag": Ready("answers from your documents, with citations", RagSettings, _rag),
}
