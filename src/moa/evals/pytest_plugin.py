"""Pytest plug-in: a fixture that blocks a test's connections to other machines."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pytest

from moa.core._json import is_sequence

P = ParamSpec("P")
T = TypeVar("T")


@pytest.fixture
def moa_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid all connections and name look-ups, except to this machine.

    Raises:
        AssertionError: in the code that tries. It names the host, and the node that asked.
    """
    for owner, name, index in (
        (socket.socket, "connect", 1),
        (socket.socket, "connect_ex", 1),
        (socket, "getaddrinfo", 0),
        (asyncio.BaseEventLoop, "getaddrinfo", 1),  # before it moves to a thread without a node
    ):
        monkeypatch.setattr(owner, name, _guard(getattr(owner, name), index))


def _guard(call: Callable[P, T], index: int) -> Callable[P, T]:
    def check_and_call(*args: P.args, **kwargs: P.kwargs) -> T:
        address: object = args[index] if len(args) > index else kwargs.get("host")
        if is_sequence(address):
            _check(address[0])
        elif "getaddrinfo" in call.__name__:
            _check(address)
        return call(*args, **kwargs)

    return check_and_call


def _check(host: object) -> None:
    from moa.core.budget import open_call

    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        if ipaddress.ip_address(name.partition("%")[0]).is_loopback:
            return
    except ValueError:  # a name
        pass
    call = open_call()
    asker = f"node {call.node!r} by endpoint {call.endpoint!r}" if call else "something of no node"
    raise AssertionError(f"moa_offline: {asker} asks {name}: give it an endpoint of moa.testing")
