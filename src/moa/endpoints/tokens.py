"""Tokens: counted, estimated before a request, and read from what the server says it took."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol, cast, runtime_checkable

from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.wrappers import unwrapped
from moa.errors import EndpointError
from moa.usage import Amount, Price

_BYTES_A_TOKEN = 3
_MOST = 10**9
"""Maximum tokens of one request: what is above is no count."""


def approximate_tokens(text: str) -> int:
    """Count tokens without a tokenizer, on the safe side: one for three bytes of UTF-8.

    English has more than four bytes a token, Chinese three and a half.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN)


def fewest_tokens(text: str) -> int:
    """Count tokens without a tokenizer, from below: no token is longer than a word.

    Of writing without spaces that says next to nothing.
    """
    return len(text.split())


@runtime_checkable
class CountsTokens(Protocol):
    """An endpoint whose server lends its tokenizer. Counting is free, and charged nowhere."""

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text, in which nothing is a control token."""
        ...


async def tokens_of(endpoint: Endpoint | None, text: str, context: RunContext) -> int:
    """Count tokens by the endpoint's tokenizer, else approximately, on the safe side."""
    server = None if endpoint is None else unwrapped(endpoint)
    if text and isinstance(server, CountsTokens):
        with suppress(EndpointError):  # it lends none after all; a safe count does as well
            return await server.count_tokens(text, context)
    return approximate_tokens(text)


def window_of(endpoint: Endpoint | None) -> int | None:
    """Tokens that fit into one request, prompt and answer together; `None` is unknown."""
    server = None if endpoint is None else unwrapped(endpoint)
    window: object = getattr(server, "context_window", None)
    return window if isinstance(window, int) else None


def estimate_of(*texts: str, max_tokens: int, price: Price) -> Amount:
    """Estimate one call from the length of its texts, priced where the price is known."""
    tokens = sum(map(approximate_tokens, texts))
    return price.charge(Amount(calls=1, input_tokens=tokens, output_tokens=max_tokens))


def amount_of(body: Mapping[str, Any], *, estimate: Amount) -> Amount | None:
    """Read the `usage` of an answer, in the words of OpenAI, of System One or of LangChain.

    It isn't priced yet. `None`: it says nothing readable of what the call took.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    known = cast("dict[str, Any]", usage)
    taken = _count(known, "prompt_tokens", "input_tokens")
    written = _count(known, "completion_tokens", "output_tokens")
    total = _count(known, "total_tokens")
    # A proxy that knows nothing may say 0, but no prompt has no token.
    if not taken and estimate.input_tokens:
        return None
    if written is None and total is None and estimate.output_tokens:
        return None
    taken = taken or 0
    return Amount(
        calls=estimate.calls,
        input_tokens=taken,
        cached_input_tokens=min(taken, _cached(known) or 0),
        # Gemini's compatible endpoint counts reasoning in the total alone.
        output_tokens=max(written or 0, (total or 0) - taken),
    )


def _cached(usage: Mapping[str, Any]) -> int | None:
    for key in ("prompt_tokens_details", "input_tokens_details", "input_token_details"):
        details = usage.get(key)
        if isinstance(details, dict):
            return _count(cast("dict[str, Any]", details), "cached_tokens", "cache_read")
    # DeepSeek's name for it, Mistral's, and pydantic-ai's.
    return _count(usage, "prompt_cache_hit_tokens", "num_cached_tokens", "cache_read_tokens")


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    """Read the first of several counts; `None`: there is none, or what is there is no count."""
    value = next((usage[name] for name in names if usage.get(name) is not None), None)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return int(value)
    return None
