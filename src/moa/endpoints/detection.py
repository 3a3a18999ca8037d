"""Detection: which way to decide a server offers, found out by one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from moa.context import RunContext
from moa.endpoints.backends import Automatic, Backend
from moa.endpoints.client import Client
from moa.endpoints.labels import LabelBackend, LabelReader
from moa.endpoints.native import Native
from moa.endpoints.openai_decisions import DecisionsWire
from moa.endpoints.profiles import GENERIC, OPENAI, Profile, profile_of
from moa.endpoints.systemone import SystemOneWire
from moa.endpoints.written import Complete, WrittenLabels
from moa.errors import ConfigError, EndpointRejected, EndpointUnsupported

Decides = Literal["auto", "systemone", "decisions", "labels", "text"]
"""How an endpoint decides: natively where the server can and else by the best other way it has
(`auto`), by `/v1/systemone`, by `/v1/decisions`, by label log-probabilities, or by written labels.
"""


def backend_of(
    client: Client,
    complete: Complete,
    *,
    decides: Decides,
    label_reader: LabelReader | None,
    profile: Profile | None,
) -> Backend:
    """Build the way in which an endpoint decides.

    Args:
        client: The connection to the server.
        complete: Asks the model for text.
        decides: The way.
        label_reader: Reads label log-probabilities, where the server gives them.
        profile: Limits of the server, where they are known.

    Raises:
        ConfigError: `labels` is asked for, and there is no reader.
    """
    scored: Backend | None = None
    if label_reader is not None:
        scored = LabelBackend(label_reader, endpoint=client.name, model=client.model)
    text = WrittenLabels(complete)
    match decides:
        case "systemone":
            return Native(client, profile or GENERIC, SystemOneWire())
        case "decisions":
            return Native(client, profile or OPENAI, DecisionsWire())
        case "text":
            return text
        case "labels":
            if scored is None:
                raise ConfigError(
                    f"{client.name}: this endpoint reads no label log-probabilities. Use a vLLM "
                    'or an embedded endpoint, or `decides="text"`'
                )
            return scored
        case "auto":
            return Automatic(client.name, find=_finder(client, profile), other=scored or text)


def _finder(client: Client, profile: Profile | None) -> Callable[[RunContext], Awaitable[Native]]:
    async def find(context: RunContext) -> Native:
        if client.hosted_by_openai:
            return Native(client, profile or OPENAI, DecisionsWire())
        return Native(client, profile or await _profile(client, context), SystemOneWire())

    return find


async def _profile(client: Client, context: RunContext) -> Profile:
    """Ask the server what it is; one that lists no models has no other route to look for."""
    try:
        return profile_of(await client.get("/models", context))
    except EndpointRejected as error:
        if error.status not in (404, 405, 501):
            raise
        message = str(error).removeprefix(f"{client.name}: ")
        raise EndpointUnsupported(message, endpoint=client.name, status=error.status) from error
