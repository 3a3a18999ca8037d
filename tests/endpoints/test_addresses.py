"""How a server is reached: directly or by a proxy, and by whose certificates."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from pathlib import Path

import pytest
from aiohttp.test_utils import RawTestServer

from moa.context import RunContext
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.transport import is_loopback, proxy_of
from moa.errors import ConfigError, EndpointUnavailable

from .conftest import Served, chat

TLS = Path(__file__).with_name("tls.pem")
"""A key, and the certificate that it signed itself, for 127.0.0.1."""


async def ask(url: str) -> str:
    endpoint = OpenAIEndpoint("real", model="m", base_url=url)
    try:
        return (await endpoint.complete(Prompt.of("Hi"), RunContext())).text
    finally:
        await endpoint.close()


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.8.0.1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://[::ffff:127.0.0.1]/v1", True),
        ("http://0.0.0.0:8000/v1", True),
        ("http://LOCALHOST/v1", True),
        ("http://192.168.0.1/v1", False),
        ("http://localhost.example.org/v1", False),
    ],
)
def test_an_address_of_this_machine_is_known(url: str, *, near: bool) -> None:
    assert is_loopback(url) == near


async def test_a_proxy_is_asked_in_place_of_the_server(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "user:word@proxy.test:3128")
    served.will(chat())
    assert await ask("http://model.test/v1") == "hello"
    assert served.requests[0].host == "model.test"
    assert served.requests[0].headers["proxy-authorization"].startswith("Basic ")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_runs_on_this_machine_is_asked_past_every_proxy(
    host: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    served.will(chat())
    assert await ask(f"http://{host}:{served.port}/v1") == "hello"


async def test_a_proxy_that_opens_no_way_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = b""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://user:word@127.0.0.1:{port}")
        with pytest.raises(EndpointUnavailable, match="proxy answers 407") as caught:
            await ask("https://model.test/v1")
    assert asked.startswith(b"CONNECT model.test:443 ")
    assert not caught.value.begun
    assert "user:word" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("proxy", ["socks5://user:word@127.0.0.1:9", "http://", "http://[::1"])
async def test_a_proxy_that_cant_be_used_is_named(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ConfigError, match=r"ALL_PROXY can't be used.*SOCKS isn't spoken") as caught:
        await ask("http://model.test/v1")
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("excepted", "url", "direct"),
    [
        ("other.test, model.test", "http://model.test/v1", True),
        (".test", "http://model.test/v1", True),
        ("model.test:8000", "http://model.test:8000/v1", True),
        ("model.test:8000", "http://model.test:8001/v1", False),
        ("*", "http://model.test/v1", True),
        ("10.0.0.0/8", "http://10.1.2.3:8000/v1", True),
        ("10.0.0.0/8", "http://11.1.2.3:8000/v1", False),
        ("fd00::/8", "http://[fd00::1]:8000/v1", True),
        ("", "http://model.test/v1", False),
    ],
)
def test_what_no_proxy_excepts_is_asked_directly(
    excepted: str, url: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", excepted)
    assert proxy_of(url, "real") == (None if direct else "http://proxy.test:3128")


async def test_a_server_is_trusted_by_the_certificates_that_are_named(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS)
    served.will(chat())
    server = RawTestServer(served)
    await server.start_server(ssl=context)
    url = str(server.make_url("/v1"))
    with pytest.raises(EndpointUnavailable, match="no certificate that this machine trusts"):
        await ask(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS))
    assert await ask(url) == "hello"
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS.with_name("none.pem")))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        await ask(url)
    await server.close()
