"""Detection: which ways to decide a server offers, by what it says of itself and by one trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from moa.context import RunContext
from moa.endpoints.backends import Automatic, Backend, Found
from moa.endpoints.client import Client
from moa.endpoints.labels import LabelBackend, LabelReader
from moa.endpoints.llamacpp import LlamaCppReader
from moa.endpoints.native import Native
from moa.endpoints.openai_decisions import DecisionsWire
from moa.endpoints.profiles import GENERIC, LLAMACPP, OPENAI, VLLM, Profile, profile_of
from moa.endpoints.systemone import SystemOneWire
from moa.endpoints.vllm_labels import VLLMLabelReader
from moa.endpoints.written import Complete, WrittenLabels
from moa.errors import ConfigError, EndpointRejected, EndpointUnsupported

Decides = Literal["auto", "systemone", "decisions", "labels", "text"]
"""How an endpoint decides: natively where the server can, else by label log-probabilities where
they can be read, else by written labels (`auto`); by `/v1/systemone`; by `/v1/decisions`; by label
log-probabilities; or by written labels.
"""

MakeReader = Callable[[Client], LabelReader]
"""Makes what reads label log-probabilities through a connection."""

_READERS: Mapping[Profile, MakeReader] = {VLLM: VLLMLabelReader, LLAMACPP: LlamaCppReader}


def backend_of(
    client: Client,
    complete: Complete,
    *,
    decides: Decides,
    label_reader: MakeReader | None,
    profile: Profile | None,
) -> Backend:
    """Build the way in which an endpoint decides.

    Args:
        client: The connection to the server.
        complete: Asks the model for text.
        decides: The way.
        label_reader: Makes what reads label log-probabilities; `None` takes the one for what the
            server says it is.
        profile: Limits of the server, where they are known; `None` asks it.
    """
    match decides:
        case "systemone":
            return Native(client, profile or GENERIC, SystemOneWire())
        case "decisions":
            return Native(client, profile or OPENAI, DecisionsWire())
        case "text":
            return WrittenLabels(complete)
        case "labels":
            if label_reader is not None:
                return _labels(client, label_reader)
            return _found_labels(client, profile)
        case "auto":
            return _automatic(client, WrittenLabels(complete), label_reader, profile)


def way_of(decides: Decides, known: Profile | None) -> str:
    """Say how an endpoint will decide, as far as that shows before the first decision.

    Args:
        decides: The way that is configured.
        known: What the server says it is; `None` where it could not be asked.
    """
    match decides:
        case "systemone" | "decisions":
            return f"by /v1/{decides}"
        case "labels":
            return LabelBackend.title
        case "text":
            return WrittenLabels.title
        case "auto":
            if known is None:
                return "not known yet"
            other = LabelBackend if known in _READERS else WrittenLabels
            return f"natively if it can, else {other.title}"


def _labels(client: Client, label_reader: MakeReader) -> Backend:
    return LabelBackend(label_reader(client), endpoint=client.name, model=client.model)


def _found_labels(client: Client, profile: Profile | None) -> Backend:
    async def find(context: RunContext) -> Backend:
        known = profile or await _profile(client, context)
        if known not in _READERS:
            raise ConfigError(
                f"{client.name}: label log-probabilities are read from vLLM and llama.cpp, and "
                "this server says in GET /v1/models that it is neither. Give the endpoint a "
                '`label_reader`, or let it decide by "auto" or "text"'
            )
        return _labels(client, _READERS[known])

    return Found(LabelBackend.title, find=find)


def _automatic(
    client: Client, written: Backend, label_reader: MakeReader | None, profile: Profile | None
) -> Backend:
    async def find(context: RunContext) -> Backend:
        if client.hosted_by_openai:
            return ways(Native(client, profile or OPENAI, DecisionsWire()), label_reader)
        try:
            known = profile or await _profile(client, context)
        except EndpointUnsupported as error:
            # What lists no models has no other route to look for.
            other = written if label_reader is None else _labels(client, label_reader)
            return Automatic(client.name, first=other, other=other, reason=str(error))
        native = Native(client, known, SystemOneWire())
        return ways(native, label_reader or _READERS.get(known))

    def ways(native: Native, reader: MakeReader | None) -> Backend:
        other = written
        if reader is not None:
            other = Automatic(client.name, first=_labels(client, reader), other=written)
        return Automatic(client.name, first=native, other=other, can_join=native.can_join)

    return Found("what the server offers", find=find)


async def _profile(client: Client, context: RunContext) -> Profile:
    """Ask the server what it is."""
    try:
        return profile_of(await client.get("/models", context))
    except EndpointRejected as error:
        if error.status not in (404, 405, 501):
            raise
        raise EndpointUnsupported(
            error.message, endpoint=client.name, status=error.status
        ) from error
