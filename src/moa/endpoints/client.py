"""Client: sends JSON to one server within a budget, a deadline and a number of slots."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakKeyDictionary, finalize

from pydantic import SecretStr

from moa.budget import Reservation
from moa.context import RunContext
from moa.endpoints.calls import left_of_call_s
from moa.endpoints.pacing import Pacing, Slots
from moa.endpoints.tokens import NO_USAGE, amount_of, texts_in
from moa.endpoints.transport import (
    KEY,
    body_text,
    cause_of,
    check_address,
    error_of_exception,
    error_of_response,
    foreign_errors,
    is_loopback,
    is_near,
    masked,
    proxy_of,
    stated_error,
    trusted,
    was_lost,
    was_not_sent,
    without_key,
)
from moa.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointError,
    EndpointTimeout,
    InvalidResponse,
)
from moa.usage import NOTHING, UNKNOWN_PRICE, Amount, Price, Tier

if TYPE_CHECKING:
    import aiohttp

JSON = dict[str, Any]
"""A JSON object as the server wrote it: untyped until a reader has looked at each field."""

_OPENAI = "https://api.openai.com/v1"
_ACCOUNT = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
"""Headers that say to OpenAI who pays, and the environment variables that they are read from."""
_ANSWER_LIMITS = ("max_completion_tokens", "max_tokens")
"""What limits the tokens of an answer in a request."""

# Servers on uvicorn, vLLM among them, close idle connections after 5 s: let go before they do.
_KEEP_IDLE_S = 4.0
_STALE_S = 0.5
"""Seconds within which a request fails that was sent on a connection closed before; a busy machine
takes its time."""
_DRAIN_S = 0.1
"""Seconds to wait for the end of a stream after its last event, so that its connection is kept."""

LARGEST_ANSWER = 128 * 2**20
"""Bytes of an answer or a whole stream, decompressed, above which it isn't read on: those of two
thousand vectors of 3,000 numbers."""
LONGEST_LINE = 8 * 2**20
"""Bytes of one line of a stream above which it isn't read on."""


class Posted(NamedTuple):
    """What a request brought back. It is settled already."""

    body: JSON
    amount: Amount


@dataclass(slots=True)
class _Line:
    """What one event loop needs to talk to the server."""

    http: aiohttp.ClientSession
    base_url: str
    slots: Slots
    secret: str = field(repr=False)
    """The key that is sent, wherever it came from; empty where none is."""
    closing: AsyncGenerator[None, None]
    """Closes the connections when it is closed, or at the latest when the loop ends."""
    kept_until: float = 0.0
    """Until when, on the monotonic clock, an idle connection may be used again."""

    def url(self, path: str, *, at_root: bool = False) -> str:
        base = self.base_url.removesuffix("/v1") if at_root else self.base_url
        return f"{base}{path}"

    def without_key(self, answer: object) -> object:
        """Take the key out of an answer; one that may be a word stays, such as `anything`."""
        fewest = 16 if self.secret.isalpha() else 8
        return without_key(answer, self.secret) if len(self.secret) >= fewest else answer


class Client:
    """Sends JSON to one server. Safe to share between event loops.

    Requests are plain dictionaries over a pool of aiohttp's: building the typed models of a client
    takes longer than everything else in a call.

    A proxy that the environment names for the address is asked, save for this machine: by
    `$HTTP_PROXY`, `$HTTPS_PROXY` or `$ALL_PROXY`, less `$NO_PROXY`; SOCKS is not spoken. Servers
    are trusted by `$SSL_CERT_FILE` or `$SSL_CERT_DIR`, else by the certificates of this machine.

    What it is given, and refuses, is what an `OpenAIEndpoint` is given; see there.
    """

    def __init__(
        self,
        name: str,
        *,
        tier: Tier,
        model: str,
        base_url: str | None = None,
        api_key: SecretStr | str | None = None,
        price: Price = UNKNOWN_PRICE,
        context_window: int | None = None,
        concurrency: int = 64,
        connect_timeout_s: float = 5.0,
        timeout_s: float = 120.0,
    ) -> None:
        if base_url is not None:
            check_address(base_url, name)
        if concurrency < 1 or connect_timeout_s <= 0 or timeout_s <= 0:
            raise ConfigError(f"{name}: concurrency and timeouts must be positive")
        self.name = name
        self.tier: Tier = tier
        self.model = model
        self.price = price
        self.context_window = context_window
        self.timeout_s = timeout_s
        self._base_url = base_url
        self._api_key = None if api_key is None else _checked(api_key, name)
        self._concurrency = concurrency
        self._connect_timeout_s = connect_timeout_s
        self._pacing = Pacing(concurrency)
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()

    @property
    def hosted_by_openai(self) -> bool:
        """Whether it talks to OpenAI itself."""
        return self._base_url is None or "://api.openai.com" in self._base_url

    @property
    def is_near(self) -> bool:
        """Whether the server is on this machine or in its own network."""
        return self._base_url is not None and is_near(self._base_url)

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        context: RunContext,
        *,
        estimate: Amount,
        at_root: bool = False,
    ) -> Posted:
        """Send `body`, and charge what its answer says it took, or else `estimate`.

        With an estimate of no calls, such as to a tokenizer, the request is free. With `at_root`
        the path starts at the server's root, before `/v1`.

        Raises:
            EndpointError: the request failed; see its subclasses.
            BudgetExceeded: a limit would be passed; nothing was sent, or the answer was cut there.
            DeadlineExceeded: the run's time is up.
        """
        call, body = await self._reserved(body, context, estimate)
        with call:
            line = self._line()
            url = line.url(path, at_root=at_root)
            answer, seconds = await self._answer(line, url, body, context, call)
            written = texts_in(answer, without="delta")
            amount = self._charge(call, answer, seconds, context, body, written)
        if _is_cut(answer):
            self._check_cut(call, estimate, context)
        return Posted(answer, amount)

    async def get(self, path: str, context: RunContext, *, at_root: bool = False) -> JSON:
        """Read something about the server. It is free: nothing is reserved or charged."""
        line = self._line()
        answer, _ = await self._answer(line, line.url(path, at_root=at_root), None, context)
        return answer

    async def stream(
        self, path: str, body: Mapping[str, Any], context: RunContext, *, estimate: Amount
    ) -> AsyncGenerator[JSON | Amount, None]:
        """Send `body`, and yield each event of the answer; what it took comes last."""
        usage: JSON = {}
        written: list[str] = []
        cut = False
        call, body = await self._reserved(body, context, estimate)
        with call:
            line = self._line()
            async with self._slot(line, context, call):
                start = time.monotonic()
                async with aclosing(self._events(line, line.url(path), body, context)) as events:
                    async for event in events:
                        if event.get("usage"):
                            usage = event
                        written += texts_in(event, without="message")
                        cut = cut or _is_cut(event)
                        yield event
                seconds = time.monotonic() - start
            amount = self._charge(call, usage, seconds, context, body, written)
        if cut:
            self._check_cut(call, estimate, context)
        yield amount

    async def close(self) -> None:
        """Close the connections of this event loop. A later request opens new ones."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None:
            await line.closing.aclose()

    async def _reserved(
        self, body: Mapping[str, Any], context: RunContext, estimate: Amount
    ) -> tuple[Reservation, Mapping[str, Any]]:
        """Set aside what a request may take, and limit its answer to what was set aside."""
        limit = next((key for key in _ANSWER_LIMITS if key in body), None)
        call = await context.reserve(
            self.name, self.tier, estimate, price=self.price, cuttable=limit is not None
        )
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
        sent: Mapping[str, Any],
        written: Sequence[str],
    ) -> Amount:
        """Settle what an answer says that it took, or else the most that it may have taken."""
        amount, window = call.estimate, self.context_window
        if amount.calls:
            stated = amount_of(answer, estimate=amount, sent=sent, written=written, window=window)
            if stated is None:
                context.note("degraded", NO_USAGE, endpoint=self.name)
            amount = stated or amount
        amount = self.price.charge(replace(amount, seconds=seconds))
        call.settle(amount)
        return amount

    def _check_cut(self, call: Reservation, estimate: Amount, context: RunContext) -> None:
        """Refuse an answer that was cut where the budget ended, and not at `max_tokens`."""
        tokens = call.estimate.output_tokens
        if tokens < estimate.output_tokens:
            raise BudgetExceeded(
                f"{context.node or self.name}: what was left of the budget paid for {tokens} "
                "tokens of an answer, and it is longer. Give a larger budget to go on",
                spent=context.usage,
            )

    def _line(self) -> _Line:
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            for ended in [one for one in self._lines if one.is_closed()]:
                del self._lines[ended]  # its connections hold it, so it would stay for good
            line = self._lines[loop] = self._open()
        return line

    def _open(self) -> _Line:
        import aiohttp

        base = self._base_url
        if base is None:
            base = os.environ.get("OPENAI_BASE_URL") or _OPENAI
            check_address(base, self.name, "$OPENAI_BASE_URL")
        secret = self._secret()
        proxy = None if is_loopback(base) else proxy_of(base, self.name)
        secured = any(url.lower().startswith("https:") for url in (base, proxy or ""))
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_KEEP_IDLE_S, ssl=trusted(self.name) if secured else True
            ),
            headers=self._headers(secret),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            # aiohttp's `trust_env` knows no $ALL_PROXY, and reads ~/.netrc for every request.
            proxy=proxy,
        )
        slots = Slots(self._pacing)
        return _Line(http, base.rstrip("/"), slots, secret, _close_at_end(self, http))

    def _secret(self) -> str:
        """Find the key to be sent; empty where none is."""
        key = self._api_key
        if key is None and self._base_url is None:
            if not (given := os.environ.get("OPENAI_API_KEY")):
                raise ConfigError(
                    f"{self.name}: no key for OpenAI. Set $OPENAI_API_KEY, or name another "
                    "variable by `api_key_env`; a server of your own needs `base_url`"
                )
            key = _checked(given, self.name)
        return "" if key is None else key.get_secret_value()

    def _headers(self, secret: str) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "mixture-of-agents",
        }
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        if self.hosted_by_openai:
            for name, variable in _ACCOUNT.items():
                if given := os.environ.get(variable):
                    value = _checked(given, self.name, f"${variable}")
                    headers[name] = value.get_secret_value()
        return headers

    async def _answer(
        self,
        line: _Line,
        url: str,
        body: Mapping[str, Any] | None,
        context: RunContext,
        call: Reservation | None = None,
    ) -> tuple[JSON, float]:
        data = None if body is None else json.dumps(body).encode()
        async with self._slot(line, context, call):
            start = time.monotonic()
            async with self._in_time(start + self._most_s(), line, url, context):
                response = await self._sent(line, url, data)
                content = await self._read(response)
            seconds = time.monotonic() - start
            self._check_status(response, content, line)
            if data is not None:
                kind = (url, len(data).bit_length(), len(content).bit_length())
                self._pacing.answered(start, kind, line.slots.in_flight, response.headers)
        return self._read_json(response, content, line), seconds

    def _read_json(self, response: aiohttp.ClientResponse, content: bytes, line: _Line) -> JSON:
        """Read an answer of status 200; it may state an error all the same."""
        try:
            answer: object = json.loads(content)
            echoing = (line.secret.encode(), b"\\u", b"\\/")  # the key, or how JSON may hide it
            if any(part in content for part in echoing):
                answer = line.without_key(answer)
        except (ValueError, RecursionError) as error:
            raise self._invalid(response, content, line) from error
        if not isinstance(answer, dict):
            raise self._invalid(response, content, line)
        known = cast("JSON", answer)
        if known.get("error") and not known.get("choices"):
            raise stated_error(known, self.name, line.secret)
        return known

    async def _events(
        self, line: _Line, url: str, body: Mapping[str, Any], context: RunContext
    ) -> AsyncGenerator[JSON, None]:
        start, data = time.monotonic(), json.dumps(body).encode()
        until = start + self._most_s()
        async with self._in_time(until, line, url, context):
            response = await self._sent(line, url, data)
            streams = response.content_type == "text/event-stream" and response.status < 300
            content = b"" if streams else await self._read(response)
        self._check_status(response, content, line)
        if not streams:
            self._read_json(response, content, line)
            raise self._invalid(response, content, line)
        self._pacing.began(start, len(data), response.headers)
        try:
            while True:
                async with self._in_time(until, line, url, context):
                    data = await self._event(response)
                if data is None or data.startswith(b"[DONE]"):
                    await _drain(response)
                    return
                event = line.without_key(json.loads(data))
                if not isinstance(event, dict):
                    return
                known = cast("JSON", event)
                if known.get("error"):
                    raise stated_error(known, self.name, line.secret)
                yield known
        except (ValueError, RecursionError) as error:
            raise InvalidResponse(
                "an event of the stream is no JSON. Is `base_url` right?", endpoint=self.name
            ) from error
        finally:
            response.close()

    async def _event(self, response: aiohttp.ClientResponse) -> bytes | None:
        """Read the data of a stream's next event; `None` at the end of the stream."""
        from aiohttp.http_exceptions import LineTooLong

        data: list[bytes] = []
        while True:
            try:
                raw = await response.content.readline(max_line_length=LONGEST_LINE)
            except LineTooLong:
                raise self._too_large(response, LONGEST_LINE, "line of a stream") from None
            self._check_size(response)
            if not raw:
                return None
            line = raw.rstrip(b"\r\n")
            if not line and data:
                return b"\n".join(data)
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))

    async def _sent(self, line: _Line, url: str, data: bytes | None) -> aiohttp.ClientResponse:
        """Send a request, and again where the server had let go of a kept connection.

        It did so without an answer, since it was idle, so waiting or charging has no reason. Where
        nothing could be written, several connections may have ended, and each attempt meets one;
        where an end was seen only afterwards, it is sent once more.
        """
        start, lost = time.monotonic(), False
        method = "GET" if data is None else "POST"

        def send() -> Awaitable[aiohttp.ClientResponse]:
            return line.http.request(method, url, data=data, allow_redirects=False)

        for _ in range(self._concurrency):
            try:
                return await send()
            except foreign_errors() as error:
                if was_not_sent(error):
                    continue
                at_once = time.monotonic() - start < _STALE_S
                if lost or not (start < line.kept_until and at_once and was_lost(error)):
                    raise
                lost = True
        return await send()

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read an answer decompressed, and no more of it than there may be."""
        pieces: list[bytes] = []
        try:
            async for piece in response.content.iter_any():
                self._check_size(response)
                pieces.append(piece)
        finally:
            response.close()
        return b"".join(pieces)

    def _check_size(self, response: aiohttp.ClientResponse) -> None:
        if response.content.total_bytes > LARGEST_ANSWER:
            raise self._too_large(response, LARGEST_ANSWER, "answer")

    def _too_large(self, response: aiohttp.ClientResponse, most: int, what: str) -> InvalidResponse:
        return InvalidResponse(
            f"{response.url} sent more than {most >> 20} MiB in one {what}. Ask for less at once, "
            "or correct `base_url`",
            endpoint=self.name,
        )

    @asynccontextmanager
    async def _slot(
        self, line: _Line, context: RunContext, call: Reservation | None
    ) -> AsyncGenerator[None, None]:
        """Wait for a slot; what ends in the wait was not sent, and is no call."""
        acquired = line.slots.take()
        try:
            if not acquired:
                await self._wait(line.slots, context)
                acquired = True
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self.name}: the run's time was up before a slot was free. "
                "Raise `concurrency`, or give it more time"
            ) from error
        finally:
            if call is not None and not acquired:
                call.settle(NOTHING)
        start = time.monotonic()
        try:
            yield
        except EndpointError as error:
            error.seconds = time.monotonic() - start
            if error.status == 429 and error.retryable:
                others = line.slots.in_flight - 1
                self._pacing.refused(start, others, error.retry_after_s)
            raise
        finally:
            line.kept_until = time.monotonic() + _KEEP_IDLE_S
            line.slots.free()

    async def _wait(self, slots: Slots, context: RunContext) -> None:
        """Wait for a slot, or until the server's limits are renewed."""
        held, start = slots.is_held, time.monotonic()
        async with asyncio.timeout(context.remaining_s()):
            await slots.wait()
        if held:
            text = f"{time.monotonic() - start:.1f} s for the server's rate limit"
            context.note("waited", text, endpoint=self.name)

    def _most_s(self) -> float:
        """Seconds that a request which is sent now may take."""
        return min(self.timeout_s, left_of_call_s.get())

    @asynccontextmanager
    async def _in_time(
        self, until: float, line: _Line, url: str, context: RunContext
    ) -> AsyncGenerator[None, None]:
        """Bound a wait by a time and the run's deadline, and map what it raises."""
        left_s, run_left_s = until - time.monotonic(), context.remaining_s()
        run_ends_first = run_left_s is not None and run_left_s < left_s
        limit = asyncio.timeout(run_left_s if run_ends_first else left_s)
        try:
            async with limit:
                yield
        except foreign_errors() as error:
            cause = cause_of(error, line.secret)
            if not limit.expired():
                raise error_of_exception(
                    error, endpoint=self.name, url=url, secret=line.secret
                ) from cause
            if run_ends_first:
                raise DeadlineExceeded(
                    f"{self.name}: the run's time was up before {url} had answered"
                ) from cause
            raise EndpointTimeout(
                f"no complete answer from {url} in {self._most_s():.4g} s. "
                "Raise `timeout_s`, or ask for less",
                endpoint=self.name,
            ) from cause

    def _check_status(self, response: aiohttp.ClientResponse, content: bytes, line: _Line) -> None:
        if response.status >= 300:
            raise error_of_response(
                response, content, endpoint=self.name, model=self.model, secret=line.secret
            )

    def _invalid(
        self, response: aiohttp.ClientResponse, content: bytes, line: _Line
    ) -> InvalidResponse:
        start = " ".join(masked(body_text(content), line.secret)[:80].split())
        return InvalidResponse(
            f"{response.url} answered {response.status} with no JSON object: "
            f"{start!r}. Is `base_url` right?",
            endpoint=self.name,
            status=response.status,
        )


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a stream past its last event to its end, where its connection is free again."""
    with suppress(*foreign_errors()):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in response.content.iter_any():
                pass


def _is_cut(answer: JSON) -> bool:
    """Tell whether an answer, or an event of a stream, says that its limit cut it."""
    return any(it.get("finish_reason") == "length" for it in objects_of(answer.get("choices")))


def object_of(value: object) -> JSON:
    """Give a JSON object that a server sent; an empty one for anything else."""
    return cast("JSON", value) if isinstance(value, dict) else {}


def objects_of(value: object) -> list[JSON]:
    """Give the JSON objects of a list; none for anything else."""
    return (
        [object_of(item) for item in cast("list[object]", value)] if isinstance(value, list) else []
    )


def _checked(key: SecretStr | str, name: str, what: str = "the key") -> SecretStr:
    """Refuse, without showing it, what can't be sent as a key."""
    secret = SecretStr(key) if isinstance(key, str) else key
    if KEY.fullmatch(secret.get_secret_value()) is None:
        raise ConfigError(
            f"{name}: {what} is empty, or holds what no key does, such as a line break or a "
            "letter that isn't ASCII. Copy it again; where none is needed, leave it out"
        )
    return secret


def _close_at_end(client: Client, http: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Tie connections to the running loop, which closes its open generators before it ends.

    So a program that forgets to close an endpoint ends without warnings of open connections.
    """

    async def held() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            kept.detach()
            await http.close()

    closing = held()
    # Kept out of the cycles that the client is in, whose collection would end it without closing.
    kept = finalize(client, id, closing)
    with suppress(StopIteration):
        closing.__anext__().__await__().send(None)
    return closing
