"""Adapters: what other frameworks run, as nodes whose calls are in the budget and in the ledger.

    moa.adapters              FunctionNode(ask)        an asynchronous function that calls a client
    moa.adapters.langchain    LangChainNode(runnable)  a chain, or an agent or graph of LangGraph
    moa.adapters.pydantic_ai  PydanticAINode(agent)    an agent of pydantic-ai
    moa.adapters.dspy         DSPyNode(module)         a module of DSPy

Each call is set aside before a model is asked, and what it took is charged afterwards. How long an
answer will be nobody knows before, so limits of calls hold exactly, and a limit of tokens or of
dollars stops the call after the one that passed it.
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

from moa._async import first_error, time_limit
from moa._json import JSON, is_sequence, is_table
from moa.agents.base import In, Limits, Out, TypedNode, fault_in
from moa.budget import UNLIMITED, Reservation
from moa.context import RunContext
from moa.endpoints import Capability
from moa.endpoints.sent import SentPrompt
from moa.endpoints.tokens import NO_USAGE, amount_of, approximate_tokens, estimate_of
from moa.endpoints.transport import describe_error, map_error
from moa.errors import ConfigError, DeadlineExceeded, MoaError, NodeError, OutputError
from moa.graphs.engine.types import UNKNOWN, signature_of
from moa.journal import explain
from moa.node import Reply
from moa.trace import TextDelta
from moa.usage import NOTHING, UNKNOWN_PRICE, Amount, Price, Tier

__all__ = ["Adapter", "Call", "Calls", "FunctionNode", "Settings"]

Takes = TypeVar("Takes")

TEXT: Any = str | BaseModel
"""The default input of a node, as of an `Agent`: a union, which isn't a `type` to a checker."""
REPLY: Any = Reply
"""The default output of a node: a checker can't tell that it fits the type variable."""
_UNUSABLE = {
    "AdapterParseError",
    "GraphRecursionError",
    "OutputParserException",
    "UnexpectedModelBehavior",
    "UsageLimitExceeded",
}
"""Errors of frameworks that mean that a model gave no usable answer."""


class Settings(Limits, total=False):
    """The keywords that every adapter takes."""

    tier: Tier
    """Tier of its models: `llm`, unless it is `slm`."""
    price: Price
    """Price of its models. If it isn't known, the cost that an answer states is charged."""


@dataclass(frozen=True, slots=True)
class ForeignModels:
    """The models behind a foreign node, for drawings and scheduling. It can do nothing itself."""

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
    """A call of a model, which is set aside in the budget."""

    reservation: Reservation
    context: RunContext
    price: Price

    def charge(self, usage: object, *written: str) -> None:
        """Charge its usage, once; an estimate if the usage can't be read.

        Args:
            usage: As a client gives it: an object or a mapping with the words of OpenAI,
                LangChain, pydantic-ai and those like them; `None`: the answer didn't say.
            written: What the model wrote, which tells what can't be true, and for the estimate.
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
        """Charge the estimate; if it was refused or nobody was reached, the call alone."""
        failure = error
        if isinstance(error, Exception) and not isinstance(error, MoaError):
            name = self.reservation.part.endpoint
            failure = map_error(error, endpoint=name, model=name, who=name)
        self.reservation.__exit__(None, failure, None)


def _cost(usage: JSON) -> Decimal | None:
    """Read the dollars that usage names; a cost below 0 or not a number would lift the limit."""
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
    """The calls of one run of foreign code: each is set aside, and charged when it is answered."""

    context: RunContext
    """Context of the run."""
    asked: ForeignModels
    open: dict[object, Call] = field(default_factory=dict[object, Call], init=False)
    """Calls under way that a framework tells of, by its own key."""
    answered: Amount = field(default=NOTHING, init=False)
    """Usage of the calls that ended well."""
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
        """Reserve a call in synchronous code: what doesn't fit now is refused."""
        if self.ended:
            raise DeadlineExceeded(f"{self.context.node}: the run has ended")
        price = self.asked.price
        reserved = self.context.reserve_now(*self._plan(texts, model), price=price)
        self.open[key] = Call(reserved, self.context, price)

    def answer(self, key: object, usage: object, *written: str) -> None:
        """Charge a call that was answered; see `Call.charge`."""
        if call := self.open.pop(key, None):
            call.charge(usage, *written)

    def fail(self, key: object, error: BaseException | None) -> None:
        """Charge a call that failed; see `Call.fail`."""
        if call := self.open.pop(key, None):
            call.fail(error)

    def release(self, key: object) -> None:
        """Charge nothing: the framework had the answer."""
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
    """The base of the adapters: it checks input and output, translates errors, and limits time.

    Raises:
        OutputError: what came out isn't an `output`, or the framework got no usable answer.
        EndpointError: it raised an error of HTTP, of the connection, or a timeout.
        NodeError: it raised something else, which is chained.
        BudgetExceeded: no call is left, so it didn't begin, or went on no further.
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
        """Turn an input into the framework's: a text, or the fields of a model by name.

        A model that has a `__str__` of its own, such as `Text` and `Reply`, is a text.
        """
        if not isinstance(request, BaseModel):
            return request
        is_text = type(request).__str__ is not BaseModel.__str__
        return str(request) if is_text else dict(request)

    @abstractmethod
    async def ask(self, value: Any, calls: Calls) -> object:
        """Run the framework, and return what it returns."""

    async def prompts(self, request: In, context: RunContext) -> list[SentPrompt]:
        """Show the framework's input; the prompts that it makes of it are its own."""
        del context
        parts = (("given", str(self._read(request))),)
        return [SentPrompt(self.name, self.endpoint.model, "a framework of its own", parts)]

    async def answer(self, request: In, context: RunContext) -> Out:
        """Run the framework within the budget and the time of the run."""
        # What it does besides, such as a search, isn't begun either if no call is left.
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
        """Return True if texts are shown while models write them: if the text is the output."""
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
        """Return the error of moa for one of the framework's; moa's own and signals stay."""
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
    """Find the text of an answer: of a message, of the last message, or of the last field."""
    if is_table(answer) and answer:
        messages, last = answer.get("messages"), [*answer.values()][-1]
        return _text_of(messages[-1] if is_sequence(messages) and messages else last)
    return str(getattr(answer, "text", answer))


class FunctionNode(Adapter[In, Out]):
    """An asynchronous function that calls a client, and says what that took.

        async def ask(question: str, calls: Calls) -> str:
            async with calls.reserve(question, model="gpt-5-mini") as call:
                answer = await client.chat.completions.create(model="gpt-5-mini", messages=…)
                call.charge(answer.usage)
            return answer.choices[0].message.content or ""

        FunctionNode(ask)                       # text in, a `Reply` out

    Args:
        ask: Its annotations say what the node takes and gives; a `str` is given as a `Reply`.
        settings: See `Settings`.

    Raises:
        ConfigError: it isn't asynchronous, or its annotations name no pydantic model as output.
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
        """Leave the input as it is."""
        return request

    async def ask(self, value: Any, calls: Calls) -> object:
        """Call the function."""
        return await self._ask(value, calls)
