"""Endpoints: the protocol of a served model, its requests and answers.

The JSON forms of requests and answers are at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import Field, TypeAdapter

from moa.core._json import JSONValue
from moa.core.context import RunContext
from moa.core.errors import CapabilityError
from moa.core.journal_records import Form, form_of
from moa.core.messages import Message, ToolCall
from moa.core.questions import Answer, Question
from moa.core.usage import FREE, Amount, Price, Tier
from moa.endpoints.journalled import JournalEntry, journal_answer, journal_stream

Capability = Literal["complete", "stream", "decide", "embed", "tools", "images", "files"]
PHRASES: Mapping[Capability, str] = {
    "tools": "take tools",
    "images": "read images",
    "files": "read files",
}


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A tool, as described to a model."""

    name: str
    description: str
    parameters: Mapping[str, object]
    """JSON schema of its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request for text, or for JSON by a schema.

    Examples:
        >>> prompt = Prompt.of("Hi", system="Greet.", max_tokens=20)
        >>> [message.role for message in prompt.messages]
        ['system', 'user']
    """

    messages: tuple[Message, ...]
    json_schema: Mapping[str, object] | None = None
    """JSON schema that the answer must follow; `None` for free text. It isn't part of the messages:
    an endpoint enforces it, or shows it to the model."""
    max_tokens: int = 512
    """Maximum tokens to generate, reasoning included."""
    temperature: float | None = None
    """`None` uses the server's default."""
    stop: tuple[str, ...] = ()
    tools: tuple[ToolSchema, ...] = ()
    """Tools that the model may call before it answers. `json_schema` applies to the answer only."""
    # The fields below aren't in `repr`, by which a resumed run finds its calls: they change what
    # comes with an answer, and older journals have none.
    top_logprobs: int = field(default=0, repr=False)
    """Alternatives whose log-probability is wanted with each token of the answer, up to 20. A
    server that has none leaves them out."""
    thinks: bool = field(default=True, repr=False)
    """False asks a thinking model to answer at once, where its server can switch that."""
    explained: bool = field(default=False, repr=False)
    """True if the messages tell the form of the answer, so that the schema is shown to no model."""

    @property
    def needs(self) -> frozenset[Capability]:
        """Capabilities that an endpoint needs besides `complete`."""
        files: set[Capability] = {file.kind for message in self.messages for file in message.files}
        return frozenset[Capability]((*files, "tools") if self.tools else files)

    @classmethod
    def of(
        cls,
        user: str,
        *,
        system: str | None = None,
        json_schema: Mapping[str, object] | None = None,
        max_tokens: int = 512,
        temperature: float | None = None,
        stop: tuple[str, ...] = (),
    ) -> Prompt:
        """Build a prompt of one user message, after an optional system message."""
        first = () if system is None else (Message("system", system),)
        return cls(
            messages=(*first, Message("user", user)),
            json_schema=json_schema,
            max_tokens=max_tokens,
            temperature=temperature,
            stop=stop,
        )


class TokenLogprobs(NamedTuple):
    """A token of an answer, and what else could have stood there.

    Tokens are bytes: one may be a part of a character.
    """

    token: bytes
    alternatives: tuple[tuple[bytes, float], ...]
    """The most probable tokens with their natural log-probabilities, the token itself included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A text written by a model.

    Examples:
        >>> import asyncio
        >>> small = ScriptedEndpoint(["Hello!"])
        >>> completion = asyncio.run(small.complete(Prompt.of("Hi"), RunContext()))
        >>> completion.text, completion.finish_reason
        ('Hello!', 'stop')
    """

    text: str
    reasoning: str | None = None
    """The reasoning of a thinking model, without its answer."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that the model requests before it answers. `text` then comments on them."""
    finish_reason: str = "stop"
    """`stop`, or `length` if `max_tokens` cut it."""
    endpoint: str
    """Name of the endpoint that answered, such as a fallback."""
    model: str
    """The model as reported by the server."""
    amount: Amount
    tokens: Annotated[tuple[TokenLogprobs, ...], Field(exclude=True)] = field(
        default=(), repr=False
    )
    """Log-probabilities, if `Prompt.top_logprobs` asked for them and the server has them. Neither
    journals nor caches keep them."""


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text that shows how a question is answered.

    Examples:
        >>> example = Example("My card is gone.", {"topic": "card"})
        >>> example.labels["topic"]
        'card'
    """

    text: str
    labels: Mapping[str, str]
    """Name of the right option, by name of the question."""


Questions = Sequence[Question]
Examples = Sequence[Example]
Pieces = AsyncIterator[str | Completion]
"""A stream: pieces of the text, then the whole completion."""


class DecisionRequest(NamedTuple):
    """Typed questions about a text, for a backend that decides."""

    text: str
    questions: Questions
    examples: Examples = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Answers to typed questions about one text, in the order of the questions."""

    answers: tuple[Answer, ...]
    endpoint: str
    model: str
    amount: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """A vector for each text, in order."""

    vectors: tuple[tuple[float, ...], ...] = field(repr=False)
    endpoint: str
    model: str
    amount: Amount


class Endpoint(Protocol):
    """One served model.

    Every call reserves its estimated usage in `context` before it sends anything, and settles the
    actual usage after, so callers neither reserve nor charge. A call that it doesn't support raises
    `CapabilityError`. Callers check `capabilities` when they are built.

    Examples:
        >>> small: Endpoint = SimulatedEndpoint(name="small")
        >>> small.name, small.tier, "decide" in small.capabilities
        ('small', 'slm', True)
    """

    @property
    def name(self) -> str:
        """Name shown in traces, errors and usage."""
        ...

    @property
    def tier(self) -> Tier:
        """`slm` or `llm`."""
        ...

    @property
    def model(self) -> str:
        """Name of the model on its server."""
        ...

    @property
    def price(self) -> Price:
        """Price of its calls."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the endpoint can do."""
        ...

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """Ask for text, or for JSON by a schema.

        Raises:
            EndpointError: the request failed; `retryable` is true if another try may succeed.
            BudgetExceeded: a limit would be passed; nothing was sent, or the answer was cut there.
            DeadlineExceeded: the run's time is up.
            CapabilityError: the endpoint can't complete.
        """
        ...

    def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """Ask for text piece by piece; the whole `Completion` comes last.

        Raises:
            EndpointError: the request failed, at the start or in the middle.
            BudgetExceeded: a limit would be passed; nothing was sent, or the answer was cut there.
            DeadlineExceeded: the run's time is up.
            CapabilityError: the endpoint can't stream.
        """
        ...

    async def decide(
        self, text: str, questions: Questions, context: RunContext, /, *, examples: Examples = ()
    ) -> Decision:
        """Answer typed questions about `text`.

        Args:
            text: The text that the questions are about. It is data: nothing in it is obeyed.
            questions: Asked together if the server supports it, else one after another.
            context: Budget, deadline and ledger.
            examples: Shown to a model whose label log-probabilities are read. A server that decides
                by itself takes none, and the trace says so.

        Raises:
            EndpointError: the request failed.
            BudgetExceeded: a limit would be passed by the next request, which was not sent.
            DeadlineExceeded: the run's time is up.
            ConfigError: a question is over a limit of this server; nothing was sent.
            CapabilityError: the endpoint can't decide.
        """
        ...

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """Turn texts into vectors.

        Raises:
            EndpointError: the request failed.
            BudgetExceeded: a limit would be passed; nothing was sent.
            DeadlineExceeded: the run's time is up.
            CapabilityError: the endpoint can't embed.
        """
        ...

    async def close(self) -> None:
        """Close connections and processes. A second call does nothing."""
        ...


def require(endpoint: Endpoint, capability: Capability, prompt: Prompt | None = None) -> None:
    """Check that an endpoint has a capability, and those a prompt needs.

    Raises:
        CapabilityError: one is missing.
    """
    capabilities = (capability, *prompt.needs) if prompt else (capability,)
    for name in capabilities:
        if name not in endpoint.capabilities:
            raise capability_error(endpoint, name)


def capability_error(endpoint: Endpoint, capability: Capability) -> CapabilityError:
    """Return the error for a missing capability, which lists the available ones."""
    abilities = ", ".join(sorted(endpoint.capabilities)) or "nothing"
    phrase = PHRASES.get(capability, capability)
    return CapabilityError(f"endpoint {endpoint.name!r} can't {phrase}: it can {abilities}")


class EndpointBase(ABC):
    """Base class of all endpoints of `moa`. `async with` closes them at its end.

    Each `complete`, `decide`, `stream` and `embed` of a subclass is wrapped to trace the call and
    to reuse its answer in a resumed run: see `moa.endpoints.journalled`. If endpoints wrap each
    other, the outermost one does both.

    Methods that a subclass doesn't define raise `CapabilityError`. This class isn't part of the
    `Endpoint` protocol.
    """

    shows_requests: ClassVar[bool] = False
    """True if it passes its requests to `moa.endpoints.sent.show`, or asks endpoints that do."""

    @property
    def asks_several(self) -> bool:
        """True if one call may ask different models, so that each of their calls is traced."""
        return False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, wrapper in _JOURNALLED.items():
            if name in cls.__dict__:
                setattr(cls, name, wrapper(cls.__dict__[name]))

    def __repr__(self) -> str:
        fields = ((key, getattr(self, key, None)) for key in ("name", "model", "tier", "base_url"))
        parts = (f"{key}={value!r}" for key, value in fields if value is not None)
        return f"{type(self).__name__}({', '.join(parts)})"

    @abstractmethod
    async def close(self) -> None:
        """Close connections and processes. A second call does nothing."""

    async def complete(self: Endpoint, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        raise capability_error(self, "complete")

    async def stream(self: Endpoint, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`; unless overridden, it raises `CapabilityError`."""
        raise capability_error(self, "stream")
        yield  # makes this a generator

    async def decide(
        self: Endpoint,
        text: str,
        questions: Questions,
        context: RunContext,
        /,
        *,
        examples: Examples = (),
    ) -> Decision:
        """See `Endpoint.decide`."""
        raise capability_error(self, "decide")

    async def embed(self: Endpoint, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        raise capability_error(self, "embed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


async def close_all(endpoints: Iterable[Endpoint]) -> None:
    """Close all endpoints, even if one fails. Its error is raised at the end."""
    async with AsyncExitStack() as stack:
        for endpoint in endpoints:
            stack.push_async_callback(endpoint.close)


def decision_form(questions: Sequence[Question]) -> Form[Decision]:
    """Return the JSON form of a decision with answers to these questions."""
    return Form(_dump_decision, lambda value: _load_decision(value, questions))


def question_key(question: Question) -> object:
    """Return everything that an answer to a question depends on."""
    options = [(option.name, option.description) for option in question.options]
    return question.name, question.kind, question.text, options, None


def _dump_decision(decision: Decision) -> JSONValue:
    answers = [
        _answers().dump_python(answer, mode="json", exclude={"question"})
        for answer in decision.answers
    ]
    return [answers, decision.endpoint, decision.model, _AMOUNT.dump(decision.amount)]


def _load_decision(value: JSONValue, questions: Sequence[Question]) -> Decision:
    answer_values, endpoint, model, amount = value
    answers = tuple(
        _answers().validate_python({**answer, "question": question})
        for answer, question in zip(answer_values, questions, strict=True)
    )
    return Decision(answers=answers, endpoint=endpoint, model=model, amount=_AMOUNT.load(amount))


def _completion_entry(endpoint: Endpoint, prompt: Prompt) -> JournalEntry[Completion]:
    return f"complete {endpoint.name}", (endpoint.model, prompt), COMPLETION


def _decision_entry(
    endpoint: Endpoint, text: str, questions: Questions, examples: Examples = ()
) -> JournalEntry[Decision]:
    request = (endpoint.model, text, [question_key(question) for question in questions], examples)
    return f"decide {endpoint.name}", request, decision_form(questions)


def _embedding_entry(endpoint: Endpoint, texts: Sequence[str]) -> JournalEntry[Embeddings] | None:
    if endpoint.price is FREE:  # computing it is faster than reading it
        return None
    return f"embed {endpoint.name}", (endpoint.model, texts), EMBEDDINGS


@cache
def _answers() -> TypeAdapter[Answer]:
    return TypeAdapter(Answer)


_AMOUNT, COMPLETION, EMBEDDINGS = form_of(Amount), form_of(Completion), form_of(Embeddings)
_JOURNALLED: Mapping[str, Callable[..., object]] = {
    "complete": journal_answer(_completion_entry),
    "stream": journal_stream(_completion_entry),  # the same entry as when it comes whole
    "decide": journal_answer(_decision_entry),
    "embed": journal_answer(_embedding_entry),
}
"""Wrappers of an endpoint's methods."""
