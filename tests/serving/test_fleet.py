"""Several servers: what becomes of one keeps none of the others from coming up."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from moa.core.errors import ConfigError, EndpointUnavailable
from moa.vllm.command import ServerSpec
from moa.vllm.servers import bring_up

from .fakes import Fake

pytestmark = pytest.mark.timeout(180)  # real processes, on machines that may be busy

GATED = "OSError: You are trying to access a gated repo."


@pytest.fixture
def taken(fake: Fake) -> Iterator[ServerSpec]:
    """A server whose port somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        yield fake.spec(name="taken", port=port)


async def bring(*specs: ServerSpec, timeout_s: float | None = 60.0, into: list[str]) -> None:
    def unheard(line: str, /) -> None:
        del line

    await bring_up(specs, timeout_s=timeout_s, tell=unheard, say=into.append)


async def test_after_one_that_fails_the_next_is_started(fake: Fake, taken: ServerSpec) -> None:
    """They share no GPU of their own, so they come up one after another."""
    fake.plans({"log": GATED, "exit": 1}, {})
    up: list[str] = []
    with pytest.raises(EndpointUnavailable) as raised:
        await bring(taken, fake.spec(name="gated"), fake.spec(name="good"), into=up)
    assert [sentence.split(":")[0] for sentence in up] == ["good"]
    first, *causes = str(raised.value).splitlines()
    assert first == "moa up: 2 of 3 servers are not up"
    assert [cause.split()[0] for cause in causes] == ["taken", "gated"]
    assert f"on port {taken.port}: " in causes[0]
    assert "has a licence" in causes[1]


async def test_after_one_that_is_late_the_next_is_started(fake: Fake) -> None:
    late, good = fake.spec(name="late"), fake.spec(name="good")
    fake.plans({"after": "never"}, {})
    up: list[str] = []
    with pytest.raises(EndpointUnavailable, match="late:"):
        await bring(late, good, timeout_s=5, into=up)
    await bring(good, into=up)
    assert up[-1].startswith("good: was up")


async def test_those_that_are_not_waited_for_are_all_started(fake: Fake, taken: ServerSpec) -> None:
    good = fake.spec(name="good")
    begun: list[str] = []
    with pytest.raises(ConfigError, match=str(taken.port)):
        await bring(taken, good, timeout_s=None, into=begun)
    assert begun == [f"good: comes up, on port {good.port}"]
