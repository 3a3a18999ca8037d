"""Paying: what asking a large model would cost is said before it is asked, and agreed to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from moa.cli import screen
from moa.errors import ConfigError

if TYPE_CHECKING:
    from moa.endpoints import Endpoint


def agree_to_pay(
    endpoint: Endpoint, purpose: str, *, requests: int, read: int, written: int, yes: bool
) -> None:
    """Say what it costs to ask an endpoint, and go on only where that is agreed to.

    Where it costs nothing but time, or `yes` was said, nobody is asked.

    Args:
        endpoint: Who is to be asked.
        purpose: What for, as in "to propose intents".
        requests: Number of requests.
        read: Tokens that it reads in all, as estimated.
        written: Tokens that it writes in all, as estimated.
        yes: Whether it was agreed to beforehand.

    Raises:
        ConfigError: it isn't agreed to; nothing was sent.
    """
    from moa.decisions.probe import costs_nothing
    from moa.usage import Amount, dollars

    amount = Amount(calls=requests, input_tokens=read, output_tokens=written)
    cost = endpoint.price.of(amount)
    priced = f"about {dollars(cost)}" if cost is not None else "its price isn't known"
    times = "one request" if requests == 1 else f"{requests} requests"
    said = (
        f"{endpoint.name} ({endpoint.model}) is asked {purpose}: {times}, about {read:,} tokens "
        f"read and {written:,} written; {priced}"
    )
    if yes or costs_nothing(endpoint):
        screen.notes().print(said)
    elif not sys.stdin.isatty():
        raise ConfigError(f"{said}. Nothing was sent: run it again with --yes to go on")
    elif not typer.confirm(f"{said}. Go on?", err=True):
        raise ConfigError("nothing was sent")
