"""Encoders: which model turns texts into vectors for an endpoint, and the heads that come with it.

An encoder is any endpoint that embeds. One that brings heads decides by the words of a question,
without labelled texts. The encoders and heads that ship with `moa` are `moa.local`; here they are
known by protocols alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

from moa.core.context import RunContext
from moa.core.doors import Door
from moa.core.questions import Question
from moa.core.usage import Price
from moa.decisions import PromptVariant
from moa.endpoints import Endpoint
from moa.endpoints.named import as_endpoint
from moa.endpoints.wrappers import innermost

if TYPE_CHECKING:
    from moa.decisions.heads import Head

Curve = tuple[tuple[float, float], ...]
"""Confidences, each with the expected share right of decisions at least as sure."""


class Heads(Protocol):
    """Heads made from the words of a question, on the vectors of one encoder."""

    async def read(
        self,
        vector: tuple[float, ...],
        question: Question,
        context: RunContext,
        *,
        encoder: Endpoint,
        examples: PromptVariant = (),
        left_out: str | None = None,
    ) -> tuple[float, ...]:
        """Return log-probabilities of the options for a text.

        Args:
            vector: The text's vector, by `moa.decisions.heads.encode`.
            question: A question with words; see `moa.decisions.words.has_words`.
            context: Budget, deadline and ledger.
            encoder: Encodes the words and the examples, once for all texts.
            examples: Texts with their labels, of a choice.
            left_out: A text to exclude from the examples, so that a fit doesn't see a text's own
                label.

        Raises:
            CapabilityError: the question has no words to read it by.
        """
        ...

    async def understands(self, question: Question, context: RunContext, /) -> bool:
        """Return True if criteria like that of a yes-or-no question are read well."""
        ...

    def expected_precision(self, question: Question, examples: PromptVariant, /) -> Curve:
        """Return the expected precision of a choice with these examples."""
        ...


@runtime_checkable
class HasHeads(Protocol):
    """An encoder that heads come with, or `None`."""

    @property
    def heads(self) -> Heads | None: ...  # noqa: D102


@runtime_checkable
class HasEncoder(Protocol):
    """An endpoint that chooses its own encoder, or `None`."""

    @property
    def encoder(self) -> Endpoint | None: ...  # noqa: D102


@runtime_checkable
class HasHiddenStates(Protocol):
    """An endpoint in this machine that also gives its model's hidden states as vectors."""

    @property
    def price(self) -> Price: ...  # noqa: D102
    @property
    def hidden_states(self) -> Endpoint: ...  # noqa: D102


@runtime_checkable
class LoadsAhead(Protocol):
    """An encoder that loads its model in threads, and encodes texts in advance."""

    def load(self, texts: Iterable[str]) -> None: ...  # noqa: D102


class LocalEncoders(Protocol):
    """What decisions ask of the encoders in this machine."""

    def joint_encoder(self) -> Endpoint | None:
        """Return the encoder for endpoints that choose none; `None` if it isn't installed."""
        ...

    def small_encoder(self, price: Price, /) -> Endpoint:
        """Return a small sentence encoder. It may lack its packages, and then says so if asked."""
        ...


class ShippedHeads(Protocol):
    """What decisions ask of the heads that ship with `moa`."""

    def shipped_heads(self, name: str, /) -> Mapping[str, Head]:
        """Load the heads of a file, such as `support`, by name of the question."""
        ...

    def shipped_expectations(self) -> Mapping[str, Curve]:
        """Read the expected precision of heads, by file and question."""
        ...


LOCAL: Door[LocalEncoders] = Door("moa.local.encoders")
SHIPPED: Door[ShippedHeads] = Door("moa.local.heads")


def encoder_for(endpoint: Endpoint | str) -> Endpoint | None:
    """Return the encoder to use with an endpoint, or `None`.

    That is the endpoint's attribute `encoder` if it has one, else the joint encoder if both of its
    encoders are installed.
    """
    inner = innermost(as_endpoint(endpoint))
    return inner.encoder if isinstance(inner, HasEncoder) else LOCAL.open().joint_encoder()


def deciding_encoder_for(endpoint: Endpoint | str) -> Endpoint | None:
    """Return the encoder that decides by default for an endpoint, or `None`.

    The built-in model and others with an attribute `encoder` have one. Other endpoints decide
    themselves, models of your own on this machine included.
    """
    inner = innermost(as_endpoint(endpoint))
    if getattr(inner, "decides_itself", False):
        return None
    return inner.encoder if isinstance(inner, HasEncoder) else None


def heads_of(encoder: Endpoint | None) -> Heads | None:
    """Return the heads that come with an encoder, beneath all wrappers."""
    inner = None if encoder is None else innermost(encoder)
    return inner.heads if isinstance(inner, HasHeads) else None


def feeds_heads(encoder: Endpoint | None) -> TypeGuard[Endpoint]:
    """Return True if heads come with this encoder."""
    return heads_of(encoder) is not None


def reads_heads(endpoint: Endpoint | str) -> bool:
    """Return True if heads decide by default for an endpoint."""
    return feeds_heads(deciding_encoder_for(endpoint))
