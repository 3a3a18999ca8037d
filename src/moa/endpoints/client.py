"""Client: sends JSON to one server, within budget, deadline and concurrency limits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from pydantic import SecretStr

from moa.core._async import off_loop
from moa.core._json import JSON, TooManyValues, is_object, objects_of, read_json
from moa.core.budget import Reservation
from moa.core.context import RunContext
from moa.core.errors import (
    AnswerTooLarge,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointError,
    EndpointTimeout,
    InvalidResponse,
)
from moa.core.usage import NOTHING, UNKNOWN_PRICE, Amount, Price, Tier
from moa.endpoints.calls import left_of_call_s
from moa.endpoints.given import ClientWire, address_of, asks_openai, check_client
from moa.endpoints.pacing import Pacing, Slots
from moa.endpoints.pool import Pool, check_key, is_openai
from moa.endpoints.rehearsal import REHEARSAL
from moa.endpoints.sent import SentPrompt
from moa.endpoints.tokens import NO_USAGE, amount_of, texts_in
from moa.endpoints.transport import (
    body_text,
    cause_of,
    check_address,
    error_of_response,
    is_near,
    mask,
    stated_error,
)
from moa.endpoints.wire import Reply, Wire

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_ANSWER_LIMITS = ("max_completion_tokens", "max_tokens")
"""Fields that limit the tokens of an answer."""


class PostResult(NamedTuple):
    """Answer to a request, and the amount charged."""

    body: JSON
    amount: Amount


class Client:
    """Sends JSON to one server. Safe to share between event loops.

    Requests are plain dictionaries over an aiohttp pool: building the typed models of a client
    library takes longer than everything else in a call. If a client of OpenAI's library is given,
    it sends them.

    It uses the proxy that the environment sets, except for this machine: `$HTTP_PROXY`,
    `$HTTPS_PROXY` or `$ALL_PROXY`, less `$NO_PROXY`; SOCKS is not supported. It trusts the
    certificates of `$SSL_CERT_FILE` or `$SSL_CERT_DIR`, else those of this machine.

    For arguments and errors see `OpenAIEndpoint`.
    """

    def __init__(
        self,
        name: str,
        *,
        tier: Tier,
        model: str,
        base_url: str | None = None,
        api_key: SecretStr | str | None = None,
        price: Price | Callable[[], Price] = UNKNOWN_PRICE,
        context_window: int | None = None,
        concurrency: int = 64,
        connect_timeout_s: float = 5.0,
        timeout_s: float = 120.0,
        client: AsyncOpenAI | None = None,
    ) -> None:
        if client is not None:
            check_client(client, name)
            if base_url is not None or api_key is not None:
                raise ConfigError(
                    f"{name}: the client that is given has an address and a key of its own. Leave "
                    "out base_url and api_key, or set them in the client"
                )
            base_url = address_of(client)
        elif base_url is not None:
            check_address(base_url, name)
        if concurrency < 1 or connect_timeout_s <= 0 or timeout_s <= 0:
            raise ConfigError(f"{name}: concurrency and timeouts must be positive")
        self.name = name
        self.tier: Tier = tier
        self.model = model
        self._price = price
        self.context_window = context_window
        self.timeout_s = timeout_s
        self._client = client
        self._base_url = base_url
        self._api_key = None if api_key is None else check_key(api_key, name)
        self._concurrency = concurrency
        self._connect_timeout_s = connect_timeout_s
        self._pacing = Pacing(concurrency)
        self._wires: WeakKeyDictionary[asyncio.AbstractEventLoop, Wire] = WeakKeyDictionary()

    @cached_property
    def price(self) -> Price:
        """Price of the server."""
        return self._price if isinstance(self._price, Price) else self._price()

    @property
    def is_hosted_by_openai(self) -> bool:
        """True if OpenAI or Azure hosts the server."""
        if self._client is not None:
            return asks_openai(self._client)
        return self._base_url is None or is_openai(self._base_url)

    @property
    def is_near(self) -> bool:
        """True if the server is on this machine or its network."""
        return self._base_url is not None and is_near(self._base_url)

    async def post(
        self,
        path: str,
        body: Mapping[str, object],
        context: RunContext,
        *,
        estimate: Amount,
        at_root: bool = False,
    ) -> PostResult:
        """Send `body`, and charge the usage that the answer states, else `estimate`.

        With an estimate of no calls, the request is free, such as to a tokenizer. With `at_root`
        the path starts at the server's root, before `/v1`.

        Raises:
            EndpointError: the request failed; see its subclasses.
            BudgetExceeded: a limit would be passed; nothing was sent, or the answer was cut there.
            DeadlineExceeded: the run's time is up.
        """
        # Reserve before sending: if limits were checked first and charged after, concurrent calls
        # would all pass.
        call, body = await self._reserve(path, body, context, estimate)
        with call:
            answer, seconds = await self._exchange(
                self._wire(), path, body, context, at_root=at_root, call=call
            )
            texts = texts_in(answer, left_out="delta")
            amount = self._charge(call, answer, seconds, context, body, texts)
        if _is_cut(answer):
            self._check_cut(call, estimate, context)
        return PostResult(answer, amount)

    async def get(self, path: str, context: RunContext, *, at_root: bool = False) -> JSON:
        """Get information about the server. It is free: nothing is reserved or charged."""
        answer, _ = await self._exchange(self._wire(), path, None, context, at_root=at_root)
        return answer

    async def stream(
        self, path: str, body: Mapping[str, object], context: RunContext, *, estimate: Amount
    ) -> AsyncGenerator[JSON | Amount, None]:
        """Send `body`, and yield each event of the answer, then the amount charged."""
        usage: JSON = {}
        texts: list[str] = []
        was_cut = False
        call, body = await self._reserve(path, body, context, estimate)
        with call:
            wire = self._wire()
            async with self._hold_slot(wire, context, call):
                start = time.monotonic()
                async with aclosing(self._events(wire, path, body, context)) as events:
                    async for event in events:
                        if event.get("usage"):  # some servers send it in several: the last counts
                            usage = event
                        texts += texts_in(event, left_out="message")
                        was_cut = was_cut or _is_cut(event)
                        yield event
                seconds = time.monotonic() - start
            amount = self._charge(call, usage, seconds, context, body, texts)
        if was_cut:
            self._check_cut(call, estimate, context)
        yield amount

    async def close(self) -> None:
        """Close the connections of this event loop. A later request opens new ones."""
        wire = self._wires.pop(asyncio.get_running_loop(), None)
        if wire is not None:
            await wire.close()

    async def _reserve(
        self, path: str, body: Mapping[str, object], context: RunContext, estimate: Amount
    ) -> tuple[Reservation, Mapping[str, object]]:
        """Reserve the estimate, and limit the answer to what was reserved."""
        if estimate.calls and (rehearsal := REHEARSAL.get()) is not None:
            # It was not shown before, such as one for vectors.
            text = json.dumps({key: value for key, value in body.items() if key != "model"})
            sent = SentPrompt(self.name, self.model, path, (("body", text),))
            await rehearsal.hold([sent], context.node)
        limit = next((key for key in _ANSWER_LIMITS if key in body), None)
        call = await context.reserve(
            self.name, self.tier, estimate, price=self.price, cuttable=limit is not None
        )
        # If the budget left doesn't pay for a whole answer, shorten the answer before refusing it.
        tokens = call.estimate.output_tokens
        if limit is not None and tokens < estimate.output_tokens:
            body = {**body, limit: tokens}
        return call, body

    def _charge(
        self,
        call: Reservation,
        answer: JSON,
        seconds: float,
        context: RunContext,
        sent: Mapping[str, object],
        texts: Sequence[str],
    ) -> Amount:
        """Settle the usage that an answer states, else the reserved maximum."""
        amount, window = call.estimate, self.context_window
        if amount.calls:
            usage = amount_of(answer, estimate=amount, sent=sent, texts=texts, window=window)
            if usage is None:  # charge the maximum, so that limits hold
                context.note("degraded", NO_USAGE, endpoint=self.name)
            amount = usage or amount
        amount = self.price.charge(replace(amount, seconds=seconds))
        call.settle(amount)
        return amount

    def _check_cut(self, call: Reservation, estimate: Amount, context: RunContext) -> None:
        """Raise an error if the budget, not `max_tokens`, cut an answer."""
        tokens = call.estimate.output_tokens
        if tokens < estimate.output_tokens:
            raise BudgetExceeded(
                f"{context.node or self.name}: what was left of the budget paid for {tokens} "
                "tokens of an answer, and it is longer. Give a larger budget to go on",
                spent=context.usage,
            )

    def _wire(self) -> Wire:
        loop = asyncio.get_running_loop()
        wire = self._wires.get(loop)
        if wire is None:
            for closed_loop in [other_loop for other_loop in self._wires if other_loop.is_closed()]:
                del self._wires[closed_loop]  # its connections keep it alive
            wire = self._wires[loop] = self._open()
        return wire

    def _open(self) -> Wire:
        slots = Slots(self._pacing)
        if self._client is not None:
            return ClientWire(self.name, slots, self._client)
        return Pool(
            self.name,
            slots,
            base_url=self._base_url,
            api_key=self._api_key,
            connect_timeout_s=self._connect_timeout_s,
            most=self._concurrency,
            owner=self,
        )

    async def _exchange(
        self,
        wire: Wire,
        path: str,
        body: Mapping[str, object] | None,
        context: RunContext,
        *,
        at_root: bool,
        call: Reservation | None = None,
    ) -> tuple[JSON, float]:
        # Hold the slot until the body is read: the server is busy until then.
        async with self._hold_slot(wire, context, call):
            start = time.monotonic()
            url = wire.url(path, at_root=at_root)
            async with self._limit_wait(start + self._request_timeout_s(), wire, url, context):
                headers = context.tracer and context.tracer.headers
                reply = await wire.send(path, body, at_root=at_root, headers=headers)
                content = await reply.read()
            seconds = time.monotonic() - start
            await self._check_status(reply, content, wire, context)
            if body is not None:  # a GET doesn't show how busy the model is
                kind = (url, reply.sent_bytes.bit_length(), len(content).bit_length())
                pacing, in_flight = self._pacing.of(context.owner), wire.slots.count(context.owner)
                pacing.learn_answer(start, kind, in_flight, reply.headers)
        read = partial(self._read_json, reply, content, wire)
        return await off_loop(
            read, context.remaining_s(), owner=context.owner, size=len(content)
        ), seconds

    def _read_json(self, reply: Reply, content: bytes, wire: Wire) -> JSON:
        """Read an answer of status 200, which may still state an error."""
        try:
            answer = read_json(content)
            key_signs = (wire.secret.encode(), b"\\u", b"\\/")  # the key, or escapes that hide it
            if any(part in content for part in key_signs):
                answer = wire.without_key(answer)
        except TooManyValues as error:
            raise self._too_large(error) from None
        except (ValueError, RecursionError) as error:
            raise self._invalid(reply, content, wire) from error
        if not is_object(answer):
            raise self._invalid(reply, content, wire)
        # Gateways return errors with status 200. Beside an answer, an error is only a remark.
        if answer.get("error") and not answer.get("choices"):
            raise stated_error(answer, self.name, wire.secret)
        return answer

    async def _events(
        self, wire: Wire, path: str, body: Mapping[str, object], context: RunContext
    ) -> AsyncGenerator[JSON, None]:
        start, url = time.monotonic(), wire.url(path)
        until = start + self._request_timeout_s()
        async with self._limit_wait(until, wire, url, context):
            headers = context.tracer and context.tracer.headers
            reply = await wire.send(path, body, headers=headers)
            content = b"" if reply.streams else await reply.read()
        await self._check_status(reply, content, wire, context)
        if not reply.streams:
            read = partial(self._read_json, reply, content, wire)
            # raises an error stated in it
            await off_loop(read, context.remaining_s(), owner=context.owner, size=len(content))
            raise self._invalid(reply, content, wire)
        self._pacing.of(context.owner).learn_headers(start, reply.sent_bytes, reply.headers)
        try:
            while True:
                # Limit each wait, not the `yield`, where a timeout would cancel the reader.
                async with self._limit_wait(until, wire, url, context):
                    data = await _read_event(reply)
                if data is None or data.startswith(b"[DONE]"):
                    await reply.drain()
                    return
                read_event = partial(_event_of, data, wire)
                event = await off_loop(
                    read_event, context.remaining_s(), owner=context.owner, size=len(data)
                )
                if not is_object(event):
                    return
                if event.get("error"):
                    raise stated_error(event, self.name, wire.secret)
                yield event
        except TooManyValues as error:
            raise self._too_large(error) from None
        except (ValueError, RecursionError) as error:
            raise InvalidResponse(
                "an event of the stream is no JSON. Is `base_url` right?", endpoint=self.name
            ) from error
        finally:
            await reply.close()

    @asynccontextmanager
    async def _hold_slot(
        self, wire: Wire, context: RunContext, call: Reservation | None
    ) -> AsyncGenerator[None, None]:
        """Wait for a slot. A call that ends during the wait was not sent, and costs nothing."""
        has_slot = wire.slots.take(context.owner)
        try:
            if not has_slot:
                await self._wait(wire.slots, context)
                has_slot = True
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self.name}: the run's time was up before a slot was free. "
                "Raise `concurrency`, or give it more time"
            ) from error
        finally:  # also if the run was cancelled meanwhile
            if call is not None and not has_slot:
                call.settle(NOTHING)
        start = time.monotonic()
        try:
            yield
        except EndpointError as error:
            error.seconds = time.monotonic() - start  # without the wait for the slot: see `Retried`
            if error.status == 429 and error.retryable:
                pacing, in_flight = self._pacing.of(context.owner), wire.slots.count(context.owner)
                pacing.learn_refusal(start, in_flight - 1, error.retry_after_s)
            raise
        finally:
            wire.slots.free(context.owner)

    async def _wait(self, slots: Slots, context: RunContext) -> None:
        """Wait for a slot, or until the server's rate limit resets."""
        was_paused, start = slots.is_paused(context.owner), time.monotonic()
        async with asyncio.timeout(context.remaining_s()):
            await slots.wait(context.owner)
        if was_paused:
            text = f"{time.monotonic() - start:.1f} s for the server's rate limit"
            context.note("waited", text, endpoint=self.name)

    def _request_timeout_s(self) -> float:
        """Return the maximum seconds of a request sent now."""
        return min(self.timeout_s, left_of_call_s.get())

    @asynccontextmanager
    async def _limit_wait(
        self, until: float, wire: Wire, url: str, context: RunContext
    ) -> AsyncGenerator[None, None]:
        """Limit a wait by a time and the run's deadline."""
        left_s, run_left_s = until - time.monotonic(), context.remaining_s()
        run_ends_first = run_left_s is not None and run_left_s < left_s
        limit = asyncio.timeout(run_left_s if run_ends_first else left_s)
        try:
            async with limit:
                yield
        except (TimeoutError, EndpointError) as error:
            if not limit.expired():  # a connection error says more itself
                raise
            cause = cause_of(error, wire.secret)
            if run_ends_first:
                raise DeadlineExceeded(
                    f"{self.name}: the run's time was up before {url} had answered"
                ) from cause
            raise EndpointTimeout(
                f"no complete answer from {url} in {self._request_timeout_s():.4g} s. "
                "Raise `timeout_s`, or ask for less",
                endpoint=self.name,
            ) from cause

    async def _check_status(
        self, reply: Reply, content: bytes, wire: Wire, context: RunContext
    ) -> None:
        if reply.status >= 300:
            read = partial(
                error_of_response,
                *(reply, content),
                endpoint=self.name,
                model=self.model,
                secret=wire.secret,
            )
            raise await off_loop(
                read, context.remaining_s(), owner=context.owner, size=len(content)
            )

    def _too_large(self, error: TooManyValues) -> AnswerTooLarge:
        message = f"the answer can't be read: {error}. Ask for less at once, or correct `base_url`"
        return AnswerTooLarge(message, endpoint=self.name)

    def _invalid(self, reply: Reply, content: bytes, wire: Wire) -> InvalidResponse:
        start = " ".join(mask(body_text(content), wire.secret)[:80].split())
        return InvalidResponse(
            f"{reply.url} answered {reply.status} with no JSON object: "
            f"{start!r}. Is `base_url` right?",
            endpoint=self.name,
            status=reply.status,
        )


async def _read_event(reply: Reply) -> bytes | None:
    """Read the data of a stream's next event; `None` at the end of the stream."""
    data = bytearray()  # not a list: a line may be a byte, which takes 40 as an object
    while raw := await reply.line():
        line = raw.rstrip(b"\r\n")
        if not line and data:
            return bytes(data[:-1])
        name, _, value = line.partition(b":")
        if name == b"data":
            data += value.removeprefix(b" ") + b"\n"
    return None


def _event_of(data: bytes, wire: Wire) -> object:
    return wire.without_key(read_json(data))


def _is_cut(answer: JSON) -> bool:
    """Return True if an answer, or an event of a stream, was cut by its limit."""
    return any(
        choice.get("finish_reason") == "length" for choice in objects_of(answer.get("choices"))
    )
