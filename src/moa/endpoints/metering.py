"""Metering: what a request is expected to take, and what the server says that it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from moa.usage import Amount, Price

_BYTES_A_TOKEN = 3
_MOST = 10**9
"""Most tokens of one request: what is above is no count."""


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


def estimate_of(*texts: str, max_tokens: int, price: Price) -> Amount:
    """Estimate one call from the length of its texts, priced where the price is known."""
    return price.charge(
        Amount(
            calls=1,
            input_tokens=sum(map(approximate_tokens, texts)),
            output_tokens=max_tokens,
        )
    )


def amount_of(body: Mapping[str, Any], *, estimate: Amount) -> Amount | None:
    """Read the `usage` of an answer, in OpenAI's words or in System One's; it isn't priced yet.

    Args:
        body: The answer, or the event of a stream that holds it.
        estimate: What the call was expected to take.

    Returns:
        `None` where it says nothing readable of what the call took.
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
    for key in ("prompt_tokens_details", "input_tokens_details"):
        details = usage.get(key)
        if isinstance(details, dict):
            return _count(cast("dict[str, Any]", details), "cached_tokens")
    # DeepSeek's name for it, and Mistral's.
    return _count(usage, "prompt_cache_hit_tokens", "num_cached_tokens")


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    """Read the first of several counts; `None`: there is none, or what is there is no count."""
    value = next((usage[name] for name in names if usage.get(name) is not None), None)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return int(value)
    return None
