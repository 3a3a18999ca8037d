"""The ready graphs that write: from a text, from an idea, or from sources."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from moa.documents.lengths import Length
from moa.endpoints import Endpoint
from moa.graphs.brainstorm import Brainstorm
from moa.graphs.rag import Rag
from moa.graphs.recommend import Recommend
from moa.graphs.research import Research
from moa.graphs.summarize import summarize
from moa.graphs.write import Write
from moa.ready.entry import AnyNode, Ready, recipe
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


def _encoder(endpoints: Endpoints, name: str | None) -> Endpoint | None:
    return None if name is None else endpoints.named(name)


def _models(endpoints: Endpoints, settings: TwoModels) -> tuple[Endpoint, Endpoint]:
    """Give the small model and the large one."""
    return (
        endpoints.slm if settings.slm is None else endpoints.named(settings.slm),
        endpoints.llm if settings.llm is None else endpoints.named(settings.llm),
    )


READY: dict[str, Ready[Any]] = {
    "brainstorm": recipe(Brainstorm),
    "recommend": recipe(Recommend),
    "rag": recipe(Rag),
    "research": recipe(Research),
    "summarize": Ready("a text, in a few sentences", SummarizeSettings, _summarize),
    "write": recipe(Write),
}
