"""Transport: addresses, proxies and certificates, and the mapping of failures.

Exceptions of HTTP libraries and refusals of servers become errors of `moa`. The key is masked.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import sys
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from moa.core._json import is_list, is_object, read_json
from moa.core.errors import (
    GATEWAY_TIMEOUTS,
    ConfigError,
    EndpointError,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnauthorized,
    EndpointUnavailable,
    EndpointUnsupported,
    InvalidResponse,
    QuotaExceeded,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from moa.endpoints.wire import Reply

KEY = re.compile(r"[!-~]+")
"""Characters of a key or a token: a header takes no line break, and aiohttp only ASCII."""
_HOST = re.compile(rb"[\w.-]+")
_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|maximum.{0,20}(context|length)|too (long|large|many tok)"
    r"|exceeds? .{0,40}(context|tokens)",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(r"api key (is )?(not valid|invalid|expired)", re.IGNORECASE)
"""Gemini's message with status 400."""
_NO_MODEL = re.compile(r"invalid model", re.IGNORECASE)
"""Mistral's message with status 400."""
_UNREACHED = re.compile("Connect|Transport")
_LOST = re.compile("ReadError|RemoteProtocolError|Reset|Disconnected|ChunkedEncoding|Payload")
"""Names of exceptions for a lost connection, in httpx, requests, aiohttp and Python."""
_NOT_SENT = re.compile("ConnectTimeout|PoolTimeout|ConnectError|UnsupportedProtocol|ProxyError")
"""Names of httpx's exceptions for a connection that was never made."""
_WAITED = "The server may go on and bill for it, so the estimate is charged. Ask for less"
_FAILED = "The server failed; its own log says why. No tokens are charged, though it may bill some"
_NO_CREDIT = re.compile(r"your credit balance is too low", re.IGNORECASE)
"""Anthropic's message with status 400."""
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FIRST_EPOCH = 1e9
"""Numbers from here on are times since 1970, in seconds or milliseconds, not spans."""
_LONGEST_QUOTE = 300
_DEEPEST = 16
"""Maximum nesting of an explanation."""


def check_address(url: str, name: str, what: str = "base_url") -> None:
    """Raise `ConfigError` if an address isn't HTTP, or may show a secret in errors.

    `name` is the endpoint's name, and `what` the key of the address.
    """
    if "@" in url.partition("://")[2].partition("/")[0] or "?" in url:
        raise ConfigError(
            f"{name}: {what} holds a user name, a password or a query. Leave it out, and name the "
            "environment variable of a key by `api_key_env`"
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if ":" in host or host.rpartition(".")[2].isdecimal():
            ipaddress.ip_address(host)
        elif _HOST.fullmatch(host.encode("idna")) is None:
            raise ValueError("no name of a host")
        is_valid = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigError(
            f"{name}: {what}={url!r} is no address of HTTP. Correct it: it starts with http:// or "
            "https://, such as http://127.0.0.1:8000/v1"
        )


def is_loopback(url: str) -> bool:
    """Return True for an address of this machine, which needs no proxy."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_near(url: str) -> bool:
    """Return True for an address of this machine or its network."""
    host = urlsplit(url).hostname or ""
    try:
        return is_loopback(url) or ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))


def proxy_of(url: str, name: str) -> str | None:
    """Return the proxy that the environment sets for a URL; `None` if there is none.

    Raises:
        ConfigError: the address of the proxy is invalid, or isn't HTTP or HTTPS.
    """
    from urllib.request import getproxies, proxy_bypass

    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    is_excepted = _is_excepted(parts.hostname or "", proxies.get("no", ""))
    if not proxy or is_excepted or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        is_valid = urlsplit(proxy).scheme in ("http", "https") and bool(urlsplit(proxy).hostname)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigError(
            f"{name}: the proxy in $HTTP_PROXY, $HTTPS_PROXY or $ALL_PROXY can't be used: its "
            "address starts with http:// or https://, and SOCKS isn't spoken. Name another, or "
            "except this server by $NO_PROXY"
        )
    return proxy


def _is_excepted(host: str, networks: str) -> bool:
    """Return True if a host is in a network of `$NO_PROXY`, such as 10.0.0.0/8."""
    for network in networks.split(","):
        with suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(network.strip(), strict=False):
                return True
    return False


def ssl_context(name: str) -> ssl.SSLContext:
    """Load the certificates of `$SSL_CERT_FILE` or `$SSL_CERT_DIR`, else this machine's."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        return _certificates(file or None, folder or None)
    except OSError as error:
        raise ConfigError(
            f"{name}: the certificates in $SSL_CERT_FILE or $SSL_CERT_DIR can't be read: {error}"
        ) from error


@cache
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Load certificates, once: it takes 20 ms."""
    import ssl

    source = file or folder
    if not source and sys.platform in ("darwin", "win32"):
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(file, folder) if source else context.load_default_certs()
    return context


@cache
def foreign_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that a request can raise, for an `except` clause."""
    import aiohttp

    return (aiohttp.ClientError, OSError)


def mask(text: str, secret: str) -> str:
    """Remove a key, if any, from a server's message."""
    return text.replace(secret, "***") if secret else text


def without_key(value: object, secret: str) -> object:
    """Remove a key from every text of a JSON value. `RecursionError`: it is nested too deep."""
    if isinstance(value, str):
        return mask(value, secret)
    if is_list(value):
        return [without_key(item, secret) for item in value]
    if is_object(value):
        items = value.items()
        return {mask(name, secret): without_key(item, secret) for name, item in items}
    return value


def cause_of(error: BaseException, secret: str) -> BaseException | None:
    """Return an exception to chain; `None` if its traceback shows a secret."""
    import aiohttp

    # A proxy's refusal contains its address, which may include a password.
    shows_secret = isinstance(error, aiohttp.ClientHttpProxyError)
    shows_secret = shows_secret or (
        bool(secret) and secret in "".join(traceback.format_exception(error))
    )
    return None if shows_secret else error


def error_of_exception(
    error: BaseException, *, endpoint: str, url: str, secret: str = ""
) -> EndpointError:
    """Map one of `foreign_errors` to an `EndpointError` that never shows the key that was sent."""
    import aiohttp
    from aiohttp.http_exceptions import ContentEncodingError

    if isinstance(error, aiohttp.ClientHttpProxyError):
        reason = mask(f"its proxy answers {error.status} {error.message}", secret)
        return _make_unreachable(reason[:_LONGEST_QUOTE], endpoint, url)
    reason = _find_reason(error, secret)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _make_unreachable(reason, endpoint, url)
    if isinstance(error, TimeoutError):
        message = f"no answer from {url} in time ({reason}). Raise `timeout_s`, or ask for less"
        return EndpointTimeout(message, endpoint=endpoint)
    if isinstance(error, aiohttp.InvalidURL):
        message = f"{url} is not an address of HTTP ({reason}). Correct `base_url`"
        return EndpointRejected(message, endpoint=endpoint)
    if isinstance(error, aiohttp.ClientSSLError):
        message = f"{url} has no certificate that this machine trusts ({reason})"
        return EndpointUnavailable(message, endpoint=endpoint)
    is_garbled = isinstance(error.__cause__, ContentEncodingError)
    if is_garbled or isinstance(error, aiohttp.ClientResponseError):
        message = f"{url} did not answer in HTTP ({reason}). Is `base_url` right?"
        return InvalidResponse(message, endpoint=endpoint)
    if isinstance(error, aiohttp.ClientPayloadError):
        message = f"{url} closed the connection in the middle of its answer ({reason})"
        return EndpointUnavailable(message, endpoint=endpoint, begun=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        message = f"cannot reach {url} ({reason}). Is this machine online, and the address right?"
        return EndpointUnavailable(message, endpoint=endpoint)
    has_begun = not (isinstance(error, aiohttp.ClientConnectorError) or is_unsent(error))
    return _make_unreachable(reason, endpoint, url, begun=has_begun)


def is_lost(error: BaseException) -> bool:
    """Return True if an open connection was lost before the answer."""
    import aiohttp

    lost = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError)
    return isinstance(error, lost) and not isinstance(error, aiohttp.ClientConnectorError)


def is_unsent(error: BaseException) -> bool:
    """Return True if a connection had closed before a request was written to it."""
    import aiohttp

    # aiohttp raises another error from this one when it writes the body.
    return isinstance(error.__cause__ or error, aiohttp.ClientConnectionResetError)


def error_of_response(
    response: Reply, content: bytes, *, endpoint: str, model: str, secret: str = ""
) -> EndpointError:
    """Map a status of 300 or more to an error with advice, without the key that was sent."""
    status = response.status
    explanation, code = _read_explanation(response, content, secret)
    path = urlsplit(response.url).path
    kind, advice = classify_status(status, f"{code} {explanation}", path=path, model=model)
    message = f"HTTP {status} from {path}: {explanation}. {advice}"
    wait_s = _retry_after_s(response, content)
    wait_s = max(0.0, wait_s) if wait_s is not None and math.isfinite(wait_s) else None
    if wait_s:
        message = f"{message} (the server asks to wait {wait_s:.4g} s before the next try)"
    return kind(message, endpoint=endpoint, status=status, retry_after_s=wait_s)


def classify_status(
    status: int, message: str, *, path: str, model: str
) -> tuple[type[EndpointError], str]:
    """Return the error class and advice for a status of 300 or more and its message."""
    if status < 400:
        return (
            EndpointRejected,
            "No prompt and no key follow: correct `base_url` where that is right",
        )
    if _is_quota(status, message):
        advice = "The account's quota is used up: waiting does not help. Add credit to the account"
        return QuotaExceeded, advice
    if status in (401, 403) or (status == 400 and _BAD_KEY.search(message)):
        return EndpointUnauthorized, "Check the key of this endpoint (`api_key_env`)"
    if (status == 404 and "model" in message.lower()) or (
        status == 400 and _NO_MODEL.search(message)
    ):
        advice = f"The server has no model {model!r}: correct `model`, or load it there"
        return EndpointRejected, advice
    if status in (404, 405, 501):
        return EndpointUnsupported, f"This server cannot do {path}; is `base_url` right?"
    if status == 408:
        return EndpointTimeout, "Try again, or ask for less"
    if status in (409, 425, 429):
        return EndpointUnavailable, "Too many requests: lower `concurrency`, or try later"
    if status >= 500:
        return EndpointUnavailable, _WAITED if status in GATEWAY_TIMEOUTS else _FAILED
    if status in (400, 413, 422) and _TOO_LONG.search(message):
        return EndpointRejected, "The prompt does not fit the context: shorten or split the text"
    return EndpointRejected, "The request is wrong, so it was not sent again"


def _is_quota(status: int, message: str) -> bool:
    """Return True if the account has no credit. Gemini uses "quota" for temporary limits, too."""
    if status == 400:
        return _NO_CREDIT.search(message) is not None
    return status == 402 or (status == 429 and "insufficient_quota" in message)


def map_error(error: Exception, *, endpoint: str, model: str, who: str) -> EndpointError | None:
    """Map an exception of another library's client; `None` if unknown.

    It is known by an HTTP status, or a name that means a timeout or a lost connection.
    """
    kind, description = type(error), describe_error(error)
    response: object = getattr(error, "response", None)
    for status in (
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        getattr(error, "status", None),
    ):
        if isinstance(status, int) and status >= 300:
            error_class, advice = classify_status(status, description, path=who, model=model)
            return error_class(f"{description}. {advice}", endpoint=endpoint, status=status)
    if issubclass(kind, TimeoutError) or "Timeout" in kind.__name__:
        return EndpointTimeout(f"{who} raised {description}", endpoint=endpoint)
    was_lost = _is_lost_by_name(error)
    if was_lost or issubclass(kind, ConnectionError) or _UNREACHED.search(kind.__name__):
        return EndpointUnavailable(f"{who} raised {description}", endpoint=endpoint, begun=was_lost)
    return None


def error_of_client(error: Exception, *, endpoint: str, url: str, secret: str) -> EndpointError:
    """Map an exception of OpenAI's client, or of its HTTP library."""
    names = " ".join(_class_names(error))
    reason = _find_reason(error, secret)
    if _NOT_SENT.search(names):
        return _make_unreachable(reason, endpoint, url)
    if "Timeout" in names:
        message = f"no answer from {url} in the time of its client ({reason}). Raise its `timeout`"
        return EndpointTimeout(message, endpoint=endpoint)
    if "DecodingError" in names:
        message = f"{url} did not answer in HTTP ({reason}). Is `base_url` right?"
        return InvalidResponse(message, endpoint=endpoint)
    if _LOST.search(names) or "APIConnectionError" in names:
        return _make_unreachable(reason, endpoint, url, begun=True)
    message = f"the client raised {mask(describe_error(error), secret)}"
    if "event loop" in message.lower() or "different loop" in message:
        message += ". It belongs to the event loop that it was first used in: make one in each"
    return EndpointRejected(message, endpoint=endpoint)


def _is_lost_by_name(error: BaseException) -> bool:
    """Return True if the name of the error, or of a cause, means a lost connection."""
    return any(_LOST.search(name) for name in _class_names(error))


def _class_names(error: BaseException | None) -> list[str]:
    """Return the class names of an error and its causes."""
    names: list[str] = []
    while error is not None and len(names) < _DEEPEST:
        names.append(type(error).__name__)
        error = error.__cause__ or error.__context__
    return names


def describe_error(error: Exception) -> str:
    """Format an error on one line: class and message."""
    message = " ".join(str(error).split())[:_LONGEST_QUOTE]
    return f"{type(error).__name__}: {message or type(error).__name__}"


def _make_unreachable(
    reason: str, endpoint: str, url: str, *, begun: bool = False
) -> EndpointUnavailable:
    message = f"cannot reach {url} ({reason}). Is the server up, and `base_url` right?"
    return EndpointUnavailable(message, endpoint=endpoint, begun=begun)


def stated_error(body: object, endpoint: str, secret: str) -> EndpointError:
    """Read an error from an answer of status 200, or from a stream."""
    explanation, code = _find_explanation(body)
    explanation = mask(explanation, secret)[:_LONGEST_QUOTE] or "it says no more"
    status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 500
    kind, _ = classify_status(status, explanation, path="the stream", model="")
    return kind(
        f"the server answered with an error: {explanation}",
        endpoint=endpoint,
        status=status,
        begun=True,
    )


def _find_reason(error: BaseException | None, secret: str) -> str:
    """Return the message of the deepest cause that has one."""
    reason = type(error).__name__
    while error is not None:
        words = " ".join(mask(str(error), secret).split())
        # aiohttp's message is the headers read so far.
        reason = (
            "it closed the connection in its headers" if words[:4] == "<Raw" else words or reason
        )
        error = error.__cause__
    return reason[:_LONGEST_QUOTE]


def body_text(content: bytes) -> str:
    """Decode an answer as UTF-8, whatever it states: some of Python's codecs fail."""
    return content.decode("utf-8", "replace")


def _read_explanation(response: Reply, content: bytes, secret: str) -> tuple[str, str]:
    if 300 <= response.status < 400 and "location" in response.headers:
        location = mask(response.headers["location"], secret)[:_LONGEST_QUOTE]
        return f"it redirects to {location}", ""
    text = mask(body_text(content).strip(), secret)
    try:
        body = read_json(text.encode())
    except (ValueError, RecursionError):
        is_html = text[:1] == "<"
        explanation = "an HTML page" if is_html else " ".join(text.split())[:_LONGEST_QUOTE]
        return explanation or "no explanation", ""
    explanation, code = _find_explanation(body)
    return mask(explanation or text, secret)[:_LONGEST_QUOTE].rstrip(". "), code


def _find_explanation(body: object, depth: int = 0) -> tuple[str, str]:
    """Find the message in servers' formats, such as OpenAI's, FastAPI's and Ollama's."""
    if isinstance(body, str):
        return body, ""
    if depth == _DEEPEST:
        return "", ""
    if is_list(body):
        parts = [_find_explanation(item, depth + 1)[0] for item in body]
        return "; ".join(part for part in parts if part), ""
    if not is_object(body):
        return "", ""
    for key in ("error", "detail", "message", "msg"):
        explanation, code = _find_explanation(_unwrap_json(body.get(key)), depth + 1)
        if explanation:
            loc = body.get("loc")
            location = ".".join(map(str, loc)) if is_list(loc) else loc
            error_code = code or str(body.get("code") or body.get("error_type") or "")
            return (f"{location}: {explanation}" if location else explanation), error_code
    return "", ""


def _unwrap_json(value: object) -> object:
    """Read a JSON object inside a text, as from a gateway to Mistral."""
    if not isinstance(value, str) or value[:1] not in "{[":
        return value
    try:
        return read_json(value.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return value


def _retry_after_s(response: Reply, content: bytes) -> float | None:
    milliseconds = response.headers.get("retry-after-ms", "")
    if milliseconds.strip().isdecimal():
        return float(milliseconds) / 1000
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return _reset_s(response, content)
    with suppress(ValueError):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # A time zone can move a date past the last year of Python, so don't convert it.
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()


def _reset_s(response: Reply, content: bytes) -> float | None:
    """Return the wait until used-up limits reset, or that of Google's `RetryInfo`."""
    if response.status != 429:
        return None
    headers = response.headers
    spans = [
        headers.get(reset, "")
        for remaining, reset in limit_names(headers)
        if headers.get(remaining) == "0"
    ]
    spans += re.findall(r'"retryDelay":\s*"([^"]+)"', body_text(content))
    waits = [seconds for span in spans if (seconds := seconds_until(span)) is not None]
    return max(waits, default=None)


def limit_names(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the names of the headers for the remaining part of a limit and for its reset.

    Known are OpenAI's (`x-ratelimit-remaining-tokens`), Anthropic's
    (`anthropic-ratelimit-tokens-remaining`) and the IETF draft's (`ratelimit-remaining`).
    """
    names = {name.lower() for name in headers if "ratelimit" in name.lower()}
    pairs = ((name, name.replace("remaining", "reset")) for name in sorted(names))
    return tuple((name, reset) for name, reset in pairs if name != reset and reset in names)


def seconds_until(date_text: str) -> float | None:
    """Read the reset of a limit, a span, seconds or a time, as seconds from now; else `None`."""
    spans = _SPAN.findall(date_text)
    if spans and _SPAN.sub("", date_text).strip() == "":
        return sum(float(number) * _SECONDS[unit] for number, unit in spans)
    with suppress(ValueError):
        number = float(date_text)
        if number < _FIRST_EPOCH:
            return number
        return number / (1000 if number > _FIRST_EPOCH * 1000 else 1) - time.time()
    with suppress(ValueError, OverflowError):
        date = datetime.fromisoformat(date_text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    return None
