"""Client: sends JSON to one server within a budget, a deadline and a number of slots."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from pydantic import SecretStr

from moa.context import Reservation, RunContext
from moa.endpoints.http_errors import (
    body_text,
    cause_of,
    error_of_exception,
    error_of_response,
    foreign_errors,
    masked,
    was_lost,
    was_not_sent,
    without_key,
)
from moa.endpoints.tokens import amount_of
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
    import ssl

    import httpx2
    from openai import AsyncOpenAI

JSON = dict[str, Any]
"""A JSON object as the server wrote it: untyped until a reader has looked at each field."""

KEY = re.compile(r"[!-~]+")
"""What a key or a token is written in: a header takes no line break, and aiohttp ASCII alone."""
_ANSWER_LIMITS = ("max_completion_tokens", "max_tokens")
"""What limits the tokens of an answer in a request."""

# Servers on uvicorn, vLLM among them, close idle connections after 5 s: let go before they do.
_KEEP_IDLE_S = 4.0
_STALE_S = 0.5
"""Seconds within which a request fails that was sent on a connection closed before; a busy machine
takes its time."""


LARGEST_ANSWER = 128 * 2**20
"""Bytes of an answer, or of a whole stream, decompressed, above which it isn't read on.

Two thousand vectors of 3,000 numbers are as much.
"""
LONGEST_LINE = 8 * 2**20
"""Bytes of one line of a stream above which it isn't read on."""
_LONGEST_LABEL = 64
"""Bytes between two dots of a host's name that are too many for DNS."""


class Posted(NamedTuple):
    """What a request brought back. It is settled already."""

    body: JSON
    amount: Amount


@dataclass(slots=True)
class _Line:
    """What one event loop needs to talk to the server."""

    http: httpx2.AsyncClient
    openai: AsyncOpenAI
    slots: asyncio.Semaphore
    headers: list[tuple[str, str]] = field(repr=False)
    secret: str = field(repr=False)
    """The key that is sent, wherever it came from; empty where none is."""
    closing: AsyncGenerator[None, None]
    """Closes the connections when it is closed, or at the latest when the loop ends."""
    urls: dict[str, httpx2.URL] = field(default_factory=dict[str, "httpx2.URL"])
    kept_until: float = 0.0
    """Until when, on the monotonic clock, an idle connection may be used again."""

    def without_key(self, answer: object) -> object:
        """Take the key out of an answer; one that may be a word stays, such as `anything`."""
        fewest = 16 if self.secret.isalpha() else 8
        return without_key(answer, self.secret) if len(self.secret) >= fewest else answer


class Client:
    """Sends JSON to one server. Safe to share between event loops.

    The connections are those of `openai.AsyncOpenAI` over aiohttp, with its key, its address and
    its reader of event streams. Requests are plain dictionaries that go straight to its HTTP
    client: building the client's typed models takes longer than everything else in a call.

    Args:
        name: Name of the endpoint, for errors and usage.
        tier: Its tier.
        model: Model to ask for, and to name in errors.
        base_url: Address up to `/v1`; `None` is OpenAI, or `$OPENAI_BASE_URL`.
        api_key: Sent as a bearer token. `None` sends none to a `base_url`, and
            `$OPENAI_API_KEY` to OpenAI.
        price: What it charges.
        concurrency: Maximum requests at once; more wait for a slot.
        connect_timeout_s: Seconds to wait for a connection.
        timeout_s: Seconds that a whole request may take, waiting for a slot excluded.
        http_client: Used in place of aiohttp, such as one over `httpx2.MockTransport`; it stays
            open when the client is closed.

    Raises:
        ConfigError: `base_url` is no address of HTTP or holds a password, the key is empty or
            holds anything but visible ASCII, or a number is not positive.
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
        concurrency: int = 64,
        connect_timeout_s: float = 5.0,
        timeout_s: float = 120.0,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        if base_url is not None:
            _check_address(name, base_url)
        if concurrency < 1 or connect_timeout_s <= 0 or timeout_s <= 0:
            raise ConfigError(f"{name}: concurrency and timeouts must be positive")
        self.name = name
        self.tier: Tier = tier
        self.model = model
        self.price = price
        self.timeout_s = timeout_s
        self._base_url = base_url
        self._api_key = None if api_key is None else _checked(api_key, name)
        self._concurrency = concurrency
        self._http_client = http_client
        self._timeout = {"connect": connect_timeout_s, "read": None, "write": None, "pool": None}
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

        Args:
            path: From the base URL on, such as `/chat/completions`.
            body: Sent as JSON.
            context: Budget, deadline and ledger.
            estimate: What it is expected to take; with no calls, such as to a tokenizer, the
                request is free.
            at_root: Whether `path` starts at the server's root, before `/v1`.

        Raises:
            EndpointError: the request failed; see its subclasses.
            BudgetExceeded: a limit would be passed; nothing was sent, or the answer was cut there.
            DeadlineExceeded: the run's time is up.
        """
        call, body = await self._reserved(body, context, estimate)
        with call:
            line = self._line()
            request = self._request(line, "POST", path, body, at_root=at_root)
            answer, seconds = await self._answer(line, request, context, call)
            amount = self._charge(call, answer, seconds, context)
        if _is_cut(answer):
            self._check_cut(call, estimate, context)
        return Posted(answer, amount)

    async def get(self, path: str, context: RunContext, *, at_root: bool = False) -> JSON:
        """Read something about the server. It is free: nothing is reserved or charged.

        Raises:
            EndpointError: the request failed; see its subclasses.
            DeadlineExceeded: the run's time is up.
        """
        line = self._line()
        request = self._request(line, "GET", path, None, at_root=at_root)
        answer, _ = await self._answer(line, request, context)
        return answer

    async def stream(
        self, path: str, body: Mapping[str, Any], context: RunContext, *, estimate: Amount
    ) -> AsyncGenerator[JSON | Amount, None]:
        """Send `body`, and yield each event of the answer; what it took comes last.

        Raises:
            EndpointError: the request failed, at the start or in the middle.
            BudgetExceeded: a limit would be passed; nothing was sent, or the answer was cut there.
            DeadlineExceeded: the run's time is up.
        """
        usage: JSON = {}
        cut = False
        call, body = await self._reserved(body, context, estimate)
        with call:
            line = self._line()
            request = self._request(line, "POST", path, body)
            async with self._slot(line, context, call):
                start = time.monotonic()
                async with aclosing(self._events(line, request, context)) as events:
                    async for event in events:
                        if event.get("usage"):
                            usage = event
                        cut = cut or _is_cut(event)
                        yield event
                seconds = time.monotonic() - start
            amount = self._charge(call, usage, seconds, context)
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
        self, call: Reservation, answer: JSON, seconds: float, context: RunContext
    ) -> Amount:
        """Settle what an answer says that it took, or else the most that it may have taken."""
        amount = amount_of(answer, estimate=call.estimate)
        if amount is None:
            amount = call.estimate
            if amount.calls:
                said = "the answer says no readable usage, so the estimate is charged"
                context.note("degraded", said, endpoint=self.name)
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
            line = self._lines[loop] = self._open()
        return line

    def _open(self) -> _Line:
        import httpx2
        from openai import AsyncOpenAI, DefaultAioHttpClient, OpenAIError

        given = os.environ.get("OPENAI_BASE_URL")
        if self._base_url is None and given:
            _check_address(self.name, given)
        near = is_loopback(self._base_url or given or "")
        try:
            http = self._http_client or DefaultAioHttpClient(
                verify=_trusted(),
                limits=httpx2.Limits(
                    max_connections=self._concurrency,
                    max_keepalive_connections=self._concurrency,
                    keepalive_expiry=_KEEP_IDLE_S,
                ),
                trust_env=not near,
            )
        except ValueError as error:
            raise ConfigError(
                f"{self.name}: a proxy in $HTTP_PROXY, $HTTPS_PROXY or $ALL_PROXY can't be used: "
                f"{error}"
            ) from error
        keyless = self._api_key is None and self._base_url is not None
        key = "none" if keyless else self._secret() or None
        try:
            openai = AsyncOpenAI(
                api_key=key, base_url=self._base_url, http_client=http, max_retries=0
            )
        except OpenAIError as error:
            raise ConfigError(
                f"{self.name}: no key for OpenAI. Set $OPENAI_API_KEY, or name another variable "
                "by `api_key_env`; a server of your own needs `base_url`"
            ) from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise _no_address(self.name, self._base_url) from error
        headers = [("Host", openai.base_url.netloc.decode()), ("Accept-Encoding", "gzip, deflate")]
        if not keyless:
            _checked(openai.api_key, self.name)
            headers.append(("Authorization", f"Bearer {openai.api_key}"))
        unwanted = ("x-stainless",) if self.hosted_by_openai else ("x-stainless", "openai-")
        headers += [
            (key, value)
            for key, value in openai.default_headers.items()
            if isinstance(value, str) and not key.lower().startswith(unwanted)
        ]
        closing = _close_at_end(None if http is self._http_client else http)
        secret = "" if keyless else openai.api_key
        return _Line(http, openai, asyncio.Semaphore(self._concurrency), headers, secret, closing)

    def _secret(self) -> str:
        return "" if self._api_key is None else self._api_key.get_secret_value()

    def _request(
        self,
        line: _Line,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        at_root: bool = False,
    ) -> httpx2.Request:
        import httpx2

        place = f"/{path}" if at_root else path
        url = line.urls.get(place)
        if url is None:
            base = str(line.openai.base_url).rstrip("/")
            base = base.removesuffix("/v1") if at_root else base
            url = line.urls[place] = httpx2.URL(base + path)
        return httpx2.Request(
            method,
            url,
            headers=line.headers,
            content=None if body is None else json.dumps(body).encode(),
            extensions={"timeout": self._timeout},
        )

    async def _answer(
        self,
        line: _Line,
        request: httpx2.Request,
        context: RunContext,
        call: Reservation | None = None,
    ) -> tuple[JSON, float]:
        async with self._slot(line, context, call):
            start = time.monotonic()
            async with self._in_time(self.timeout_s, line, request, context):
                response = await self._sent(line, request)
                body = b"".join([piece async for piece in self._pieces(response)])
            seconds = time.monotonic() - start
        if response.status_code >= 300:
            raise self._refused(_decompressed(response, body), line)
        try:
            answer: object = json.loads(body)
            echoing = (line.secret.encode(), b"\\u", b"\\/")  # the key, or how JSON may hide it
            if any(part in body for part in echoing):
                answer = line.without_key(answer)
        except (ValueError, RecursionError) as error:
            raise self._invalid(_decompressed(response, body), line) from error
        if not isinstance(answer, dict):
            raise self._invalid(_decompressed(response, body), line)
        return cast("JSON", answer), seconds

    async def _events(
        self, line: _Line, request: httpx2.Request, context: RunContext
    ) -> AsyncGenerator[JSON, None]:
        from openai import AsyncStream

        until = time.monotonic() + self.timeout_s
        async with self._in_time(self.timeout_s, line, request, context):
            sent = await self._sent(line, request)
            response = _decompressed(sent, self._pieces(sent))
            streams = _is_stream(response) and response.status_code < 300
            if not streams:
                await response.aread()
        if response.status_code >= 300:
            raise self._refused(response, line)
        if not streams:
            raise self._invalid(response, line)
        events = AsyncStream(cast_to=object, response=response, client=line.openai)
        try:
            while True:
                async with self._in_time(until - time.monotonic(), line, request, context):
                    event = line.without_key(await anext(events, None))
                if not isinstance(event, dict):
                    return
                yield cast("JSON", event)
        except (ValueError, RecursionError) as error:
            raise InvalidResponse(
                "an event of the stream is no JSON. Is `base_url` right?", endpoint=self.name
            ) from error
        finally:
            await sent.aclose()

    async def _sent(self, line: _Line, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and again where the server had let go of a kept connection.

        It did so without an answer, since it was idle, so waiting or charging has no reason. Where
        nothing could be written, several connections may have ended, and each attempt meets one;
        where an end was seen only afterwards, it is sent once more.
        """
        start, lost = time.monotonic(), False
        for _ in range(self._concurrency):
            try:
                return await line.http.send(request, stream=True, follow_redirects=False)
            except foreign_errors() as error:
                if was_not_sent(error):
                    continue
                at_once = time.monotonic() - start < _STALE_S
                if lost or not (start < line.kept_until and at_once and was_lost(error)):
                    raise
                lost = True
        return await line.http.send(request, stream=True, follow_redirects=False)

    async def _pieces(self, response: httpx2.Response) -> AsyncGenerator[bytes, None]:
        """Read an answer decompressed, and no more of it than there may be."""
        of_events = _is_stream(response)
        whole, line = 0, 0
        try:
            async for piece in response.aiter_bytes():
                whole += len(piece)
                end = max(piece.rfind(b"\n"), piece.rfind(b"\r"))
                line = len(piece) - 1 - end if end >= 0 else line + len(piece)
                if whole > LARGEST_ANSWER or (of_events and line > LONGEST_LINE):
                    most = LARGEST_ANSWER if whole > LARGEST_ANSWER else LONGEST_LINE
                    what = "answer" if whole > LARGEST_ANSWER else "line of a stream"
                    raise InvalidResponse(
                        f"{_address(response.request)} sent more than {most >> 20} MiB in one "
                        f"{what}. Ask for less at once, or correct `base_url`",
                        endpoint=self.name,
                    )
                yield piece
        finally:
            await response.aclose()

    @asynccontextmanager
    async def _slot(
        self, line: _Line, context: RunContext, call: Reservation | None
    ) -> AsyncGenerator[None, None]:
        """Wait for a slot; what ends in the wait was not sent, and is no call."""
        acquired = False
        try:
            async with asyncio.timeout(context.remaining_s() if line.slots.locked() else None):
                acquired = await line.slots.acquire()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self.name}: the run's time was up before a slot was free. "
                "Raise `concurrency`, or give it more time"
            ) from error
        finally:
            if call is not None and not acquired:
                call.settle(NOTHING)
        try:
            yield
        finally:
            line.kept_until = time.monotonic() + _KEEP_IDLE_S
            line.slots.release()

    @asynccontextmanager
    async def _in_time(
        self, left_s: float, line: _Line, request: httpx2.Request, context: RunContext
    ) -> AsyncGenerator[None, None]:
        """Bound a wait by the endpoint's timeout and the run's deadline, and map what it raises."""
        run_left_s = context.remaining_s()
        run_ends_first = run_left_s is not None and run_left_s < left_s
        try:
            async with asyncio.timeout(run_left_s if run_ends_first else left_s):
                yield
        except TimeoutError as error:
            if run_ends_first:
                raise DeadlineExceeded(
                    f"{self.name}: the run's time was up before {_address(request)} had answered"
                ) from error
            raise EndpointTimeout(
                f"no complete answer from {_address(request)} in {self.timeout_s:g} s. "
                "Raise `timeout_s`, or ask for less",
                endpoint=self.name,
            ) from error
        except foreign_errors() as error:
            raise error_of_exception(
                error, endpoint=self.name, url=_address(request), secret=line.secret
            ) from cause_of(error, line.secret)

    def _refused(self, response: httpx2.Response, line: _Line) -> EndpointError:
        return error_of_response(response, endpoint=self.name, model=self.model, secret=line.secret)

    def _invalid(self, response: httpx2.Response, line: _Line) -> InvalidResponse:
        start = " ".join(masked(body_text(response), line.secret)[:80].split())
        return InvalidResponse(
            f"{_address(response.request)} answered {response.status_code} with no JSON object: "
            f"{start!r}. Is `base_url` right?",
            endpoint=self.name,
            status=response.status_code,
        )


def _decompressed(
    response: httpx2.Response, content: bytes | AsyncGenerator[bytes, None]
) -> httpx2.Response:
    import httpx2

    headers = [
        (key, value)
        for key, value in response.headers.multi_items()
        if key not in ("content-encoding", "content-length", "transfer-encoding")
    ]
    return httpx2.Response(
        response.status_code,
        headers=headers,
        content=content,
        request=response.request,
        extensions=response.extensions,
    )


def _is_stream(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").startswith("text/event-stream")


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


def _check_address(name: str, base_url: str) -> None:
    if "@" in base_url.partition("://")[2].partition("/")[0]:
        raise ConfigError(
            f"{name}: base_url holds a user name or a password. Leave it out, and name the "
            "environment variable of a key by `api_key_env`"
        )
    try:
        parts = urlsplit(base_url)
        labels = (parts.hostname or "").split(".")
        known = parts.scheme in ("http", "https") and parts.port != 0
        known = known and bool(labels[0]) and max(map(len, labels)) < _LONGEST_LABEL
    except ValueError:
        known = False
    if not known:
        raise _no_address(name, base_url)


def _no_address(name: str, base_url: str | None) -> ConfigError:
    given = f"base_url={base_url!r}" if base_url else "$OPENAI_BASE_URL"
    return ConfigError(
        f"{name}: {given} is no address of HTTP. Correct it: it starts with http:// or https://, "
        "such as http://127.0.0.1:8000/v1"
    )


def _checked(key: SecretStr | str, name: str) -> SecretStr:
    """Refuse, without showing it, what can't be sent as a key."""
    secret = SecretStr(key) if isinstance(key, str) else key
    if KEY.fullmatch(secret.get_secret_value()) is None:
        raise ConfigError(
            f"{name}: the key is empty, or holds what no key does, such as a line break or a "
            "letter that isn't ASCII. Copy it again; where none is needed, leave `api_key` out"
        )
    return secret


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine, where no proxy stands between."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _close_at_end(http: httpx2.AsyncClient | None) -> AsyncGenerator[None, None]:
    """Tie connections to the running loop, which closes its open generators before it ends.

    So a program that forgets to close an endpoint ends without warnings of open connections.
    """

    async def held() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if http is not None:
                await http.aclose()

    closing = held()
    with suppress(StopIteration):
        closing.__anext__().__await__().send(None)
    return closing


@cache
def _trusted() -> ssl.SSLContext:
    """Read this machine's certificates once: it takes 20 ms."""
    import httpx2

    return httpx2.create_ssl_context()


def _address(request: httpx2.Request) -> str:
    """Name a URL without the password that it may hold."""
    url = request.url
    return f"{url.scheme}://{url.netloc.decode()}{url.path}"


def is_near(url: str) -> bool:
    """Whether an address is that of this machine, or of its own network."""
    host = urlsplit(url).hostname or ""
    try:
        return is_loopback(url) or ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))
