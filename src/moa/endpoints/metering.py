"""Metering: what a request is expected to take, and what the server says that it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from moa.usage import Amount, Price

_BYTES_A_TOKEN = 3


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


def amount_of(body: Mapping[str, Any], *, calls: int, seconds: float, price: Price) -> Amount:
    """Read the `usage` of an answer, in OpenAI's words or in System One's.

    Without it nobody knows what a token-priced call cost, so it counts as unpriced.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict):
        amount = Amount(calls=calls, seconds=seconds)
        timed = price.hour is not None and price.input is None
        return price.charge(amount) if timed else replace(amount, unpriced_calls=calls)
    known = cast("dict[str, Any]", usage)
    taken = _count(known, "prompt_tokens", "input_tokens")
    written = _count(known, "completion_tokens", "output_tokens")
    # Gemini's compatible endpoint counts reasoning in the total alone.
    written = max(written, _count(known, "total_tokens") - taken)
    return price.charge(
        Amount(
            calls=calls,
            input_tokens=taken,
            cached_input_tokens=min(taken, _cached(known)),
            output_tokens=written,
            seconds=seconds,
        )
    )


def _cached(usage: Mapping[str, Any]) -> int:
    for key in ("prompt_tokens_details", "input_tokens_details"):
        details = usage.get(key)
        if isinstance(details, dict):
            return _count(cast("dict[str, Any]", details), "cached_tokens")
    # DeepSeek's name for it, and Mistral's.
    return _count(usage, "prompt_cache_hit_tokens", "num_cached_tokens")


def _count(usage: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return int(value)
    return 0
