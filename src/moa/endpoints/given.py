"""Given: sends requests by the user's own client of OpenAI's library."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import urlsplit, urlunsplit

from moa.core._files import join_surrogates
from moa.core.errors import ConfigError, EndpointError, MoaError
from moa.core.journal import list_causes
from moa.endpoints.pacing import Slots
from moa.endpoints.pool import is_openai
from moa.endpoints.transport import cause_of, error_of_client
from moa.endpoints.wire import Reply, Wire

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI
    from openai._types import RequestOptions

_KEYS = ("authorization", "api-key")
"""Headers that hold a key: OpenAI's and Azure's."""


class ClientWire(Wire):
    """Sends by an `openai.AsyncOpenAI`, or a subclass, and leaves it open.

    The client sends each request once; `Retried` repeats it. Answers are read here, unchanged.

    Args:
        name: The endpoint, for errors.
        slots: The loop's requests in flight.
        client: The client.
    """

    def __init__(self, name: str, slots: Slots, client: AsyncOpenAI) -> None:
        super().__init__(address_of(client), slots, client.api_key)
        self._name = name
        self._client = client

    async def send(
        self,
        path: str,
        body: Mapping[str, object] | None,
        *,
        at_root: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """See `Wire.send`."""
        from openai import APIStatusError

        url = self.url(path, at_root=at_root)
        try:
            target = url if at_root else path
            try:
                response = await self._response(target, body, headers)
            except UnicodeEncodeError:  # half of a surrogate pair; it was not sent
                clean_body = json.loads(join_surrogates(json.dumps(body, ensure_ascii=False)))
                response = await self._response(target, clean_body, headers)
        except APIStatusError as error:
            response = error.response
            self._note_key(_requests_of(error))
        except (MoaError, AssertionError):
            raise
        except Exception as error:  # noqa: BLE001 the client is the user's, and so are its parts
            self._note_key(_requests_of(error))
            raise self.map_error(error, url) from cause_of(error, self.secret)
        else:
            self._note_key([response.request])
        sent_bytes = int(response.request.headers.get("content-length", 0))
        return _ClientReply(self, self._name, response, url, sent_bytes)

    async def close(self) -> None:
        """Do nothing: the owner of the client closes it."""

    def map_error(self, error: Exception, url: str) -> EndpointError:
        """Map an exception of the client to an error of `moa`."""
        return error_of_client(error, endpoint=self._name, url=url, secret=self.secret)

    async def _response(
        self, url: str, body: Mapping[str, object] | None, headers: Mapping[str, str] | None
    ) -> httpx2.Response:
        """Send once; the body isn't read or parsed."""
        import httpx2
        from openai import AsyncStream

        options: RequestOptions = {"max_retries": 0, "follow_redirects": False}
        if headers:
            options["headers"] = headers
        send = self._client.get if body is None else partial(self._client.post, body=body)
        response: object = await send(
            url,
            cast_to=httpx2.Response,
            options=options,
            stream=True,
            stream_cls=AsyncStream[object],
        )
        assert isinstance(response, httpx2.Response), "it is what the client was asked for"
        return response

    def _note_key(self, requests: Iterable[httpx2.Request]) -> None:
        """Remember the key that was sent, which the client may have fetched just before."""
        keys = (request.headers.get(name) for request in requests for name in _KEYS)
        self.secret = next((key.removeprefix("Bearer ") for key in keys if key), self.secret)


class _ClientReply(Reply):
    def __init__(
        self, wire: ClientWire, name: str, response: httpx2.Response, url: str, sent: int
    ) -> None:
        super().__init__(name, url, response.status_code, response.headers, sent)
        self._wire = wire
        self._response = response
        self._pieces: AsyncIterator[bytes] = response.aiter_bytes()

    async def next_piece(self) -> bytes:
        try:
            return await anext(self._pieces, b"")
        except Exception as error:  # noqa: BLE001 as in `ClientWire.send`
            raise self._wire.map_error(error, self.url) from cause_of(error, self._wire.secret)

    async def close(self) -> None:
        await self._response.aclose()


def _requests_of(error: Exception) -> Iterator[httpx2.Request]:
    """Return the requests of an error of the client, and of its causes."""
    # The errors of openai from 3.60 on hold a copy of the request without its key, with which the
    # server's words are cleaned here. Those of httpx that they came from hold what was sent.
    for cause in list_causes(error):
        try:
            request: httpx2.Request | None = getattr(cause, "request", None)
        except RuntimeError:  # httpx has set none
            continue
        if request is not None:
            yield request


def is_client(value: object) -> TypeGuard[AsyncOpenAI]:
    """Return True for a client of OpenAI's library, without importing that."""
    openai = sys.modules.get("openai")
    return openai is not None and isinstance(value, openai.AsyncOpenAI)


def check_client(client: object, name: str) -> None:
    """Raise `ConfigError` for an object that can't send for an endpoint."""
    if not is_client(client):
        raise ConfigError(
            f"{name}: client is of the class {type(client).__name__}. Give an openai.AsyncOpenAI, "
            "an openai.AsyncAzureOpenAI or one derived from them"
        )


def address_of(client: AsyncOpenAI) -> str:
    """Return a client's address, without user name, password and query."""
    parts = urlsplit(str(client.base_url))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")).rstrip("/")


def asks_openai(client: AsyncOpenAI) -> bool:
    """Return True if a client asks OpenAI, or Azure, which serves the same models alike."""
    from openai import AsyncAzureOpenAI

    return isinstance(client, AsyncAzureOpenAI) or is_openai(str(client.base_url))
