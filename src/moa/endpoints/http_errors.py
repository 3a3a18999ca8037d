"""HTTP errors: what HTTP libraries raise and what servers refuse, as errors of `moa`."""

from __future__ import annotations

import json
import math
import re
import ssl
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from moa.errors import (
    EndpointError,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnauthorized,
    EndpointUnavailable,
    EndpointUnsupported,
    InvalidResponse,
)

if TYPE_CHECKING:
    import httpx2

_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|maximum.{0,20}(context|length)|too (long|large|many tok)"
    r"|exceeds? .{0,40}(context|tokens)",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(r"api key (is )?(not valid|invalid|expired)", re.IGNORECASE)
"""What Gemini says with status 400."""
_NO_MODEL = re.compile(r"invalid model", re.IGNORECASE)
"""What Mistral says with status 400."""
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_QUOTE = 300
_DEEPEST = 16
"""How far an explanation may be nested."""


@cache
def foreign_errors() -> tuple[type[Exception], ...]:
    """Every kind of exception that a request can end in, for an `except` clause."""
    import aiohttp
    import httpx2
    from openai import OpenAIError

    return (
        httpx2.HTTPError,
        httpx2.InvalidURL,
        httpx2.StreamError,
        aiohttp.ClientError,
        OpenAIError,
        OSError,
    )


def masked(text: str, secret: str) -> str:
    """Take a key, where there is one, out of what a server said."""
    return text.replace(secret, "***") if secret else text


def without_key(value: object, secret: str) -> object:
    """Take a key out of every text of a JSON value.

    Raises:
        RecursionError: it is nested too deep.
    """
    if isinstance(value, str):
        return masked(value, secret)
    if isinstance(value, list):
        return [without_key(item, secret) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {masked(name, secret): without_key(item, secret) for name, item in items}
    return value


def cause_of(error: BaseException, secret: str) -> BaseException | None:
    """Give an exception to be chained as the cause; `None` where its traceback shows the key."""
    shown = bool(secret) and secret in "".join(traceback.format_exception(error))
    return None if shown else error


def error_of_exception(
    error: BaseException, *, endpoint: str, url: str, secret: str = ""
) -> EndpointError:
    """Say what an exception of the HTTP stack means.

    Args:
        error: One of `foreign_errors`.
        endpoint: Name of the endpoint that was asked.
        url: Where the request went.
        secret: Key that must not show in the message.
    """
    import aiohttp
    import httpx2
    from openai import APIError, APIResponseValidationError, APIStatusError, APITimeoutError

    if isinstance(error, APIStatusError):
        return error_of_response(error.response, endpoint=endpoint, model="", secret=secret)
    chain = tuple(_chain(error))
    reason = _reason(chain, secret)
    if _any(chain, aiohttp.ConnectionTimeoutError):
        return _unreachable(reason, endpoint, url)
    # The aiohttp transport calls every lost connection a ConnectTimeout, so causes are read first.
    if _any(chain, TimeoutError):
        return _timeout(reason, endpoint, url)
    if _any(chain, httpx2.InvalidURL, httpx2.UnsupportedProtocol, aiohttp.InvalidURL):
        message = f"{url} is not an address of HTTP ({reason}). Correct `base_url`"
        return EndpointRejected(message, endpoint=endpoint)
    if _any(chain, ssl.SSLError):
        message = f"{url} has no certificate that this machine trusts ({reason})"
        return EndpointUnavailable(message, endpoint=endpoint)
    if _any(
        chain,
        aiohttp.ClientResponseError,
        httpx2.RemoteProtocolError,
        httpx2.DecodingError,
        APIResponseValidationError,
    ):
        message = f"{url} did not answer in HTTP ({reason}). Is `base_url` right?"
        return InvalidResponse(message, endpoint=endpoint)
    if _any(chain, aiohttp.ClientPayloadError, httpx2.ReadError):
        message = f"{url} closed the connection in the middle of its answer ({reason})"
        return EndpointUnavailable(message, endpoint=endpoint, begun=True)
    late = _any(chain, httpx2.TimeoutException, APITimeoutError)
    if late and not _any(chain, aiohttp.ClientError, OSError):
        return _timeout(reason, endpoint, url)
    if type(error) is APIError:  # the client raises it bare for an error inside a stream
        return _broken_stream(error.message, error.body, endpoint, secret)
    refused = _any(chain, aiohttp.ClientConnectorError, httpx2.ConnectError)
    return _unreachable(reason, endpoint, url, begun=not refused)


def was_lost(error: BaseException) -> bool:
    """Tell whether a connection that stood was lost before an answer came."""
    import aiohttp

    chain = tuple(_chain(error))
    lost = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError)
    return _any(chain, *lost) and not _any(chain, aiohttp.ClientConnectorError)


def was_not_sent(error: BaseException) -> bool:
    """Tell whether a connection had ended before a request was written to it."""
    import aiohttp

    return _any(tuple(_chain(error)), aiohttp.ClientConnectionResetError)


def error_of_response(
    response: httpx2.Response, *, endpoint: str, model: str, secret: str = ""
) -> EndpointError:
    """Say what a status of 300 or more means, and what to do.

    Args:
        response: Read to its end.
        endpoint: Name of the endpoint that was asked.
        model: The model that was asked for.
        secret: Key that must not show in the message.
    """
    status = response.status_code
    said, code = _said(response, secret)
    path = response.request.url.path
    kind, advice = _meaning(status, f"{code} {said}", path=path, model=model)
    message = f"HTTP {status} from {path}: {said}. {advice}"
    asked = _retry_after_s(response)
    if asked:
        message = f"{message} (the server asks to wait {asked:.4g} s before the next try)"
    return kind(message, endpoint=endpoint, status=status, retry_after_s=asked)


def _meaning(status: int, said: str, *, path: str, model: str) -> tuple[type[EndpointError], str]:
    if status < 400:
        return (
            EndpointRejected,
            "No prompt and no key follow: correct `base_url` where that is right",
        )
    if status in (401, 403) or (status == 400 and _BAD_KEY.search(said)):
        return EndpointUnauthorized, "Check the key of this endpoint (`api_key_env`)"
    if (status == 404 and "model" in said.lower()) or (status == 400 and _NO_MODEL.search(said)):
        advice = f"The server has no model {model!r}: correct `model`, or load it there"
        return EndpointRejected, advice
    if status in (404, 405, 501):
        return EndpointUnsupported, f"This server cannot do {path}; is `base_url` right?"
    if status == 429 and "insufficient_quota" in said:
        return EndpointRejected, "The account's quota is used up: waiting does not help"
    if status == 408:
        return EndpointTimeout, "Try again, or ask for less"
    if status in (409, 425, 429):
        return EndpointUnavailable, "Too many requests: lower `concurrency`, or try later"
    if status >= 500:
        return EndpointUnavailable, "The server failed; its own log says why"
    if status in (400, 413, 422) and _TOO_LONG.search(said):
        return EndpointRejected, "The prompt does not fit the context: shorten or split the text"
    return EndpointRejected, "The request is wrong, so it was not sent again"


def _unreachable(
    reason: str, endpoint: str, url: str, *, begun: bool = False
) -> EndpointUnavailable:
    message = f"cannot reach {url} ({reason}). Is the server up, and `base_url` right?"
    return EndpointUnavailable(message, endpoint=endpoint, begun=begun)


def _broken_stream(message: str, body: object, endpoint: str, secret: str) -> EndpointError:
    """Read an error inside a stream, whose status has been sent long before."""
    said, code = _words(body)
    said = masked(said or message, secret)[:_LONGEST_QUOTE]
    status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 500
    kind, _ = _meaning(status, said, path="the stream", model="")
    return kind(f"the server broke off: {said}", endpoint=endpoint, status=status, begun=True)


def _timeout(reason: str, endpoint: str, url: str) -> EndpointTimeout:
    message = f"no answer from {url} in time ({reason}). Raise `timeout_s`, or ask for less"
    return EndpointTimeout(message, endpoint=endpoint)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _any(chain: tuple[BaseException, ...], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in chain)


def _reason(chain: tuple[BaseException, ...], secret: str) -> str:
    deepest = chain[-1]
    said = " ".join(masked(str(deepest), secret).split())
    return said[:_LONGEST_QUOTE] or type(deepest).__name__


def body_text(response: httpx2.Response) -> str:
    """Read an answer as UTF-8, whatever it says that it is: some of Python's codecs can't read."""
    return response.content.decode("utf-8", "replace")


def _said(response: httpx2.Response, secret: str) -> tuple[str, str]:
    if response.has_redirect_location:
        return (
            f"it redirects to {masked(response.headers['location'], secret)[:_LONGEST_QUOTE]}",
            "",
        )
    text = masked(body_text(response).strip(), secret)
    try:
        body: object = json.loads(text)
    except (ValueError, RecursionError):
        html = text[:1] == "<"
        said = "an HTML page" if html else " ".join(text.split())[:_LONGEST_QUOTE]
        return said or "no explanation", ""
    said, code = _words(body)
    return masked(said or text, secret)[:_LONGEST_QUOTE].rstrip(". "), code


def _words(body: object, depth: int = 0) -> tuple[str, str]:
    """Find the explanation in the shapes that servers use: OpenAI's, FastAPI's, Ollama's."""
    if isinstance(body, str):
        return body, ""
    if depth == _DEEPEST:
        return "", ""
    if isinstance(body, list):
        parts = [_words(item, depth + 1)[0] for item in cast("list[object]", body)]
        return "; ".join(part for part in parts if part), ""
    if not isinstance(body, dict):
        return "", ""
    known = cast("dict[str, Any]", body)
    for key in ("error", "detail", "message", "msg"):
        said, code = _words(_unwrapped(known.get(key)), depth + 1)
        if said:
            loc = known.get("loc")
            where = ".".join(map(str, cast("list[object]", loc))) if isinstance(loc, list) else loc
            found = code or str(known.get("code") or known.get("error_type") or "")
            return (f"{where}: {said}" if where else said), found
    return "", ""


def _unwrapped(said: object) -> object:
    """Read a JSON object that a gateway put into a text, as Mistral's did."""
    if not isinstance(said, str) or said[:1] not in "{[":
        return said
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        return said


def _retry_after_s(response: httpx2.Response) -> float | None:
    asked = _asked_s(response)
    return max(0.0, asked) if asked is not None and math.isfinite(asked) else None


def _asked_s(response: httpx2.Response) -> float | None:
    milliseconds = response.headers.get("retry-after-ms", "")
    if milliseconds.strip().isdecimal():
        return float(milliseconds) / 1000
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return _reset_s(response)
    with suppress(ValueError):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # A time zone can put a date past the last year that Python knows, so none is converted.
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time()


def _reset_s(response: httpx2.Response) -> float | None:
    """Find out when to come back from OpenAI's limits, or Google's `RetryInfo`."""
    if response.status_code != 429:
        return None
    spans = [
        response.headers.get(f"x-ratelimit-reset-{what}", "")
        for what in ("requests", "tokens")
        if response.headers.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    spans += re.findall(r'"retryDelay":\s*"([^"]+)"', body_text(response))
    found = [
        sum(float(number) * _SECONDS[unit] for number, unit in _SPAN.findall(span))
        for span in spans
    ]
    return max(found, default=None)
