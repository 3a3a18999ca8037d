"""Pool: an event loop's connections to a server, by aiohttp."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import finalize

from pydantic import SecretStr

from moa.core.errors import ConfigError
from moa.endpoints.pacing import Slots
from moa.endpoints.transport import (
    KEY,
    cause_of,
    check_address,
    error_of_exception,
    foreign_errors,
    is_loopback,
    is_lost,
    is_unsent,
    proxy_of,
    ssl_context,
)
from moa.endpoints.wire import Reply, Wire

if TYPE_CHECKING:
    import aiohttp

_OPENAI = "https://api.openai.com/v1"
_ACCOUNT = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
"""Headers that name the paying OpenAI account, with their environment variables."""

# Servers on uvicorn, vLLM among them, close idle connections after 5 s: let go before they do.
_KEEP_IDLE_S = 4.0
_STALE_S = 0.5
"""Seconds within which a request on a closed connection fails; a busy machine takes its time."""


class Pool(Wire):
    """Connections that open on demand, and close with the event loop.

    Args:
        name: The endpoint, for errors.
        slots: The loop's requests in flight.
        base_url: `None` is OpenAI, or `$OPENAI_BASE_URL`.
        api_key: `None` sends none to a `base_url`, and `$OPENAI_API_KEY` to OpenAI.
        connect_timeout_s: Seconds to wait for a connection.
        most: Connections at once.
        owner: The connections close when it is collected, at the latest.

    Raises:
        ConfigError: there is no key for OpenAI, or a variable holds what can't be used.
    """

    def __init__(
        self,
        name: str,
        slots: Slots,
        *,
        base_url: str | None,
        api_key: SecretStr | None,
        connect_timeout_s: float,
        most: int,
        owner: object,
    ) -> None:
        import aiohttp

        base = base_url
        if base is None:
            base = os.environ.get("OPENAI_BASE_URL") or _OPENAI
            check_address(base, name, "$OPENAI_BASE_URL")
        super().__init__(base.rstrip("/"), slots, _secret(name, base_url, api_key))
        self.name = name
        self._most = most
        self._kept_until = 0.0
        """Until when, on the monotonic clock, an idle connection may be reused."""
        proxy = None if is_loopback(base) else proxy_of(base, name)
        is_secured = any(url.lower().startswith("https:") for url in (base, proxy or ""))
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=_KEEP_IDLE_S,
                ssl=ssl_context(name) if is_secured else True,
            ),
            headers=_headers(name, self.secret, paid=base_url is None or is_openai(base_url)),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            # aiohttp's `trust_env` knows no $ALL_PROXY, and reads ~/.netrc for every request.
            proxy=proxy,
        )
        self._closing = _close_at_end(owner, self._http)

    async def send(
        self,
        path: str,
        body: Mapping[str, object] | None,
        *,
        at_root: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """See `Wire.send`."""
        url, data = self.url(path, at_root=at_root), b""
        if body is not None:
            data = json.dumps(body).encode()
        try:
            response = await self._send(url, None if body is None else data, headers)
        except foreign_errors() as error:
            raise self.map_error(error, url) from cause_of(error, self.secret)
        return _PooledReply(self, response, url, len(data))

    async def close(self) -> None:
        """See `Wire.close`."""
        await self._closing.aclose()

    async def _send(
        self, url: str, data: bytes | None, headers: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse:
        """Send a request, and again if the server had closed a kept connection.

        The server closed it without an answer, as it was idle, so there is no reason to wait or to
        charge. If nothing could be written, several connections may have ended, and each attempt
        meets one. If the end was noticed only afterwards, the request is repeated once.
        """
        start, was_lost = time.monotonic(), False
        method = "GET" if data is None else "POST"

        def send() -> Awaitable[aiohttp.ClientResponse]:
            return self._http.request(
                method, url, data=data, headers=headers, allow_redirects=False
            )

        for _ in range(self._most):
            try:
                return await send()
            except foreign_errors() as error:
                if is_unsent(error):
                    continue
                at_once = time.monotonic() - start < _STALE_S
                if was_lost or not (start < self._kept_until and at_once and is_lost(error)):
                    raise
                was_lost = True
        return await send()

    def keep_idle(self) -> None:
        """Expect the connection of a finished answer to be reusable for some seconds."""
        self._kept_until = time.monotonic() + _KEEP_IDLE_S

    def map_error(self, error: BaseException, url: str) -> Exception:
        """Map one of `foreign_errors` to an error of `moa`."""
        return error_of_exception(error, endpoint=self.name, url=url, secret=self.secret)


class _PooledReply(Reply):
    def __init__(self, pool: Pool, response: aiohttp.ClientResponse, url: str, sent: int) -> None:
        super().__init__(pool.name, url, response.status, response.headers, sent)
        self._pool = pool
        self._response = response

    async def next_piece(self) -> bytes:
        try:
            return await self._response.content.readany()
        except foreign_errors() as error:
            pool = self._pool
            raise pool.map_error(error, self.url) from cause_of(error, pool.secret)

    async def close(self) -> None:
        self._response.close()
        self._pool.keep_idle()


def is_openai(url: str) -> bool:
    """Return True for an address of OpenAI itself."""
    return "://api.openai.com" in url


def check_key(key: SecretStr | str, name: str, what: str = "the key") -> SecretStr:
    """Raise `ConfigError`, without showing it, for a key that can't be sent."""
    secret = SecretStr(key) if isinstance(key, str) else key
    if KEY.fullmatch(secret.get_secret_value()) is None:
        raise ConfigError(
            f"{name}: {what} is empty, or holds what no key does, such as a line break or a "
            "letter that isn't ASCII. Copy it again; where none is needed, leave it out"
        )
    return secret


def _secret(name: str, base_url: str | None, api_key: SecretStr | None) -> str:
    """Return the key to send; empty without one."""
    if api_key is None and base_url is None:
        if not (key := os.environ.get("OPENAI_API_KEY")):
            raise ConfigError(
                f"{name}: no key for OpenAI. Set $OPENAI_API_KEY, or name another "
                "variable by `api_key_env`; a server of your own needs `base_url`"
            )
        api_key = check_key(key, name)
    return "" if api_key is None else api_key.get_secret_value()


def _headers(name: str, secret: str, *, paid: bool) -> dict[str, str]:
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": "mixture-of-agents",
    }
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    if paid:
        for header, variable in _ACCOUNT.items():
            if key := os.environ.get(variable):
                headers[header] = check_key(key, name, f"${variable}").get_secret_value()
    return headers


def _close_at_end(owner: object, http: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Tie connections to the running loop, which closes its open generators before it ends.

    So a program that forgets to close an endpoint ends without warnings of open connections.
    """

    async def hold_open() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            finalizer.detach()
            await http.close()

    generator = hold_open()
    # Kept out of the cycles that the client is in, whose collection would end it without closing.
    finalizer = finalize(owner, id, generator)
    with suppress(StopIteration):
        generator.__anext__().__await__().send(None)
    return generator
