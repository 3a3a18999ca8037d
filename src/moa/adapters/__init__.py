"""Adapters: code of other frameworks as nodes, with its calls in the budget and the ledger.

    moa.adapters              FunctionNode(ask)        an asynchronous function that calls a client
    moa.adapters.langchain    LangChainNode(runnable)  a chain, or an agent or graph of LangGraph
    moa.adapters.pydantic_ai  PydanticAINode(agent)    an agent of pydantic-ai
    moa.adapters.dspy         DSPyNode(module)         a module of DSPy

Each call is reserved before a model is asked, and its usage is charged afterwards. The length of an
answer isn't known in advance. So limits of calls hold exactly, and a limit of tokens or dollars
stops the call after the one that exceeded it.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar, Unpack, overload

from pydantic import BaseModel, TypeAdapter, ValidationError

from moa.agents.base import In, Limits, Out, TypedNode, fault_in
from moa.core._async import first_error, time_limit
from moa.core._json import JSON, is_sequence, is_table
from moa.core.budget import UNLIMITED, Reservation
from moa.core.context import RunContext
from moa.core.errors import ConfigError, DeadlineExceeded, MoaError, NodeError, OutputError
from moa.core.journal import explain
from moa.core.node import Reply
from moa.core.trace import TextDelta
from moa.core.usage import NOTHING, UNKNOWN_PRICE, Amount, Price, Tier
from moa.endpoints import Capability
from moa.endpoints.rehearsal import REHEARSAL
from moa.endpoints.sent import SentPrompt
from moa.endpoints.tokens import NO_USAGE, amount_of, approximate_tokens, estimate_of
from moa.endpoints.transport import describe_error, map_error
from moa.graphs.engine.types import UNKNOWN, signature_of

__all__ = ["Adapter", "Call", "Calls", "FunctionNode", "Settings"]

Takes = TypeVar("Takes")

TEXT: Any = str | BaseModel
"""Default input of a node, as of an `Agent`. To type checkers, a union isn't a `type`."""
REPLY: Any = Reply
"""Default output of a node. Type checkers can't tell that it fits the type variable."""
_UNUSABLE = {
    "AdapterParseError",
    "GraphRecursionError",
    "OutputParserException",
    "UnexpectedModelBehavior",
    "UsageLimitExceeded",
}
"""Framework errors that mean that a model gave no usable answer."""


class Settings(Limits, total=False):
    """Keywords of every adapter."""

    tier: Tier
    """Tier of its models; `llm` by default."""
    price: Price
    """Price of its models. If it isn't known, the cost that an answer states is charged."""


@dataclass(frozen=True, slots=True)
class ForeignModels:
    """The models behind a foreign node, for drawings and scheduling. It has no capabilities."""

    name: str
    tier: Tier
    price: Price = field(repr=False)
    capabilities: frozenset[Capability] = field(default=frozenset(), repr=False)

    @property
    def model(self) -> str:
        """The same as the name."""
        return self.name


@dataclass(slots=True, eq=False)
class Call:
    """A model call, reserved in the budget."""

    reservation: Reservation
    context: RunContext
    price: Price

    def charge(self, usage: object, *written: str) -> None:
        """Charge its usage, once; an estimate if the usage can't be read.

        Args:
            usage: The client's usage: an object or a mapping with the field names of OpenAI,
                LangChain, pydantic-ai or similar; `None` if the answer has none.
            written: Texts of the answer, to reject impossible usage, and for the estimate.
        """
        name, fields = self.reservation.part.endpoint, _fields_of(usage)
        amount = amount_of({"usage": fields}, estimate=self.reservation.estimate, texts=written)
        if amount is None:
            output_tokens = sum(map(approximate_tokens, written))
            amount = replace(self.reservation.estimate, output_tokens=output_tokens)
            self.context.note("degraded", NO_USAGE, endpoint=name)
        amount = self.price.charge(amount)
        cost = _cost(fields)
        if cost is not None and not self.price.known:
            amount = replace(amount, priced_cost=cost, unpriced_calls=0)
        self.reservation.settle(amount)
        self.context.note("answered", name, endpoint=name)

    def fail(self, error: BaseException | None) -> None:
        """Charge the estimate; if the call was refused or reached no server, only the call."""
        failure = error
        if isinstance(error, Exception) and not isinstance(error, MoaError):
            name = self.reservation.part.endpoint
            failure = map_error(error, endpoint=name, model=name, who=name)
        self.reservation.__exit__(None, failure, None)


def _cost(usage: JSON) -> Decimal | None:
    """Read the cost in dollars. A negative one or NaN is ignored: it would lift the limit."""
    cost = usage.get("cost")
    if isinstance(cost, Decimal | float | int) and not isinstance(cost, bool):
        dollars = Decimal(str(cost))
        return dollars if dollars.is_finite() and dollars >= 0 else None
    return None


def _fields_of(usage: object) -> JSON:
    if is_table(usage):
        fields = {**usage}
    else:
        fields = dict(usage) if isinstance(usage, BaseModel) else getattr(usage, "__dict__", {})
    return {
        name: dict(value) if isinstance(value, BaseModel) else value
        for name, value in fields.items()
    }


@dataclass(eq=False)
class Calls:
    """Model calls of one run of another framework; each is reserved, and charged when it ends."""

    context: RunContext
    """Context of the run."""
    asked: ForeignModels
    open: dict[object, Call] = field(default_factory=dict[object, Call], init=False)
    """Open calls that a framework reports, by its own key."""
    answered: Amount = field(default=NOTHING, init=False)
    """Usage of the successful calls."""
    ended: bool = field(default=False, init=False)
    loop: asyncio.AbstractEventLoop = field(
        default_factory=asyncio.get_running_loop, init=False, repr=False
    )

    @asynccontextmanager
    async def reserve(self, *texts: str, model: str | None = None) -> AsyncGenerator[Call]:
        """Reserve a call, make it in the block, and report its usage by `charge`.

            async with calls.reserve(question, model="gpt-5-mini") as call:
                answer = await client.chat.completions.create(model="gpt-5-mini", messages=…)
                call.charge(answer.usage)

        Args:
            texts: What the model reads, for the estimate.
            model: Its name in the ledger; `None`: the node's.

        Raises:
            BudgetExceeded: a limit would be passed; the block isn't entered.
            DeadlineExceeded: the run's time is up.
        """
        price = self.asked.price
        reserved = await self.context.reserve(*self._plan(texts, model), price=price)
        call = Call(reserved, self.context, price)
        try:
            yield call
        except BaseException as error:
            call.fail(error)
            raise
        if not reserved.settled:
            call.charge(None)

    def begin(self, key: object, *texts: str, model: str | None = None) -> None:
        """Reserve a call in synchronous code; refuse it if it doesn't fit now."""
        if self.ended:
            raise DeadlineExceeded(f"{self.context.node}: the run has ended")
        price = self.asked.price
        reserved = self.context.reserve_now(*self._plan(texts, model), price=price)
        self.open[key] = Call(reserved, self.context, price)

    def answer(self, key: object, usage: object, *written: str) -> None:
        """Charge an answered call; see `Call.charge`."""
        if call := self.open.pop(key, None):
            call.charge(usage, *written)

    def fail(self, key: object, error: BaseException | None) -> None:
        """Charge a failed call; see `Call.fail`."""
        if call := self.open.pop(key, None):
            call.fail(error)

    def release(self, key: object) -> None:
        """Charge nothing: the answer was in the framework's cache."""
        if call := self.open.pop(key, None):
            call.reservation.release()
            name = call.reservation.part.endpoint
            self.context.note("cached", f"{name} was not asked", endpoint=name)

    def end(self) -> None:
        """Charge the estimate of each call that is still open."""
        self.ended = True
        for key in [*self.open]:
            self.fail(key, None)

    def show(self, text: str) -> None:
        """Emit the next piece of the answer to the run's listener, from any thread."""
        if not text:
            return
        event = TextDelta(self.context.node, text)
        if asyncio._get_running_loop() is self.loop:
            self.context.emit(event)
        else:
            self.loop.call_soon_threadsafe(self.context.emit, event)

    def _plan(self, texts: Sequence[str], model: str | None) -> tuple[str, Tier, Amount]:
        estimate = estimate_of(*texts, max_tokens=0, price=self.asked.price)
        return model or self.asked.name, self.asked.tier, estimate


class Adapter(TypedNode[In, Out]):
    """Base class of adapters: checks input and output, maps errors, and limits time.

    Raises:
        OutputError: the result isn't an `output`, or the framework got no usable answer.
        EndpointError: the framework raised an HTTP error, a connection error or a timeout.
        NodeError: it raised another error, which is chained.
        BudgetExceeded: no call is left; it didn't start, or was stopped.
    """

    def __init__(
        self,
        *,
        input: object,
        output: object,
        read: Callable[[In], object] | None,
        write: Callable[[Any], Out] | None,
        default_name: str,
        **settings: Unpack[Settings],
    ) -> None:
        self.input_type, self.output_type = input, output
        super().__init__(
            name=settings.get("name") or default_name,
            budget=settings.get("budget", UNLIMITED),
            timeout_s=settings.get("timeout_s"),
        )
        price = settings.get("price", UNKNOWN_PRICE)
        self.endpoint = ForeignModels(self.name, settings.get("tier", "llm"), price)
        self._read, self._write = read or self.read_input, write

    def read_input(self, request: object) -> object:
        """Convert an input for the framework: to a text, or to a model's fields by name.

        A model with its own `__str__`, such as `Text` or `Reply`, becomes a text.
        """
        if not isinstance(request, BaseModel):
            return request
        is_text = type(request).__str__ is not BaseModel.__str__
        return str(request) if is_text else dict(request)

    @abstractmethod
    async def ask(self, value: Any, calls: Calls) -> object:
        """Run the framework, and return its result."""

    async def answer(self, request: In, context: RunContext) -> Out:
        """Run the framework within the budget and the time of the run."""
        if (rehearsal := REHEARSAL.get()) is not None:  # the framework's own prompts aren't known
            parts = (("given", str(self._read(request))),)
            way = "a framework of its own"
            sent = SentPrompt(self.name, self.endpoint.model, way, parts)
            await rehearsal.hold([sent], context.node)
        # If no call is left, nothing starts, not even other work such as a search.
        (await context.reserve(self.name, self.endpoint.tier, Amount(calls=1))).release()
        calls = Calls(context, self.endpoint)
        message = f"{context.node}: the time given to the run is up"
        try:
            async with time_limit(context.remaining_s(), message):
                answer = await self.ask(self._read(request), calls)
            return self._check_output(answer)
        except Exception as error:
            translated = self._translate(error, context)
            if translated is error:
                raise
            raise translated from error
        finally:
            calls.end()

    def shows(self, context: RunContext) -> bool:
        """Return True if text is streamed: somebody listens, and the output is the text."""
        return context.listener is not None and self._write is None and self.output_type is Reply

    def _check_output(self, answer: object) -> Out:
        if self._write is not None:
            return self._write(answer)
        wants_reply = self.output_type is Reply
        if wants_reply and not isinstance(answer, Reply):
            answer = Reply(text=_text_of(answer))
        elif is_table(answer) and "structured_response" in answer:
            return self._check_output(answer["structured_response"])
        try:
            return TypeAdapter[Out](self.output_type).validate_python(answer)
        except ValidationError as error:
            fault = f"gave no {self.output_type.__name__}: {fault_in(error)}"
            raise OutputError(fault, node=self.name, text=repr(answer)) from error

    def _translate(self, error: Exception, context: RunContext) -> Exception:
        """Map an error of the framework to one of moa; moa's own and LangGraph's signals stay."""
        first = first_error(error)
        error = first if isinstance(first, Exception) else error
        if {kind.__name__ for kind in type(error).__mro__} & _UNUSABLE:
            return OutputError(
                f"no usable answer: {describe_error(error)}", node=self.name, text=""
            )
        explained = explain(error, context.node)
        if isinstance(explained, MoaError) or type(explained).__module__.startswith("langgraph."):
            return explained
        endpoint_error = map_error(error, endpoint=self.name, model=self.name, who=self.name)
        return endpoint_error or NodeError(self.name, error)


def _text_of(answer: object) -> str:
    """Return the text of an answer: of a message, the last message, or the last field."""
    if is_table(answer) and answer:
        messages, last = answer.get("messages"), [*answer.values()][-1]
        return _text_of(messages[-1] if is_sequence(messages) and messages else last)
    return str(getattr(answer, "text", answer))


class FunctionNode(Adapter[In, Out]):
    """An asynchronous function that calls a client, and reports its usage.

        async def ask(question: str, calls: Calls) -> str:
            async with calls.reserve(question, model="gpt-5-mini") as call:
                answer = await client.chat.completions.create(model="gpt-5-mini", messages=…)
                call.charge(answer.usage)
            return answer.choices[0].message.content or ""

        FunctionNode(ask)                       # text in, a `Reply` out

    Args:
        ask: The function. Its annotations are the node's input and output types; a `str` becomes a
            `Reply`.
        settings: See `Settings`.

    Raises:
        ConfigError: it isn't asynchronous, or isn't annotated to return a `str` or a pydantic
            model.
    """

    @overload
    def __init__(
        self: FunctionNode[Takes, Reply],
        ask: Callable[[Takes, Calls], Awaitable[str]],
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self, ask: Callable[[In, Calls], Awaitable[Out]], **settings: Unpack[Settings]
    ) -> None: ...
    def __init__(
        self, ask: Callable[[Any, Calls], Awaitable[object]], **settings: Unpack[Settings]
    ) -> None:
        signature, name = signature_of(ask), getattr(ask, "__name__", "function")
        gives = Reply if signature.output is str else signature.output
        input_type = signature.input(0)
        if not (signature.is_async and isinstance(gives, type) and issubclass(gives, BaseModel)):
            raise ConfigError(
                f"{name!r} is to be asynchronous, and its annotations are to name what it takes, "
                f"and a str or a pydantic model that it gives: async def {name}(text: str, calls: "
                "Calls) -> str"
            )
        input_type = object if input_type is UNKNOWN else input_type
        super().__init__(
            input=input_type, output=gives, read=None, write=None, default_name=name, **settings
        )
        self._ask = ask

    def read_input(self, request: object) -> object:
        """Return the input unchanged."""
        return request

    async def ask(self, value: Any, calls: Calls) -> object:
        """Call the function."""
        return await self._ask(value, calls)
