"""Token values: the probabilities of options, read from the tokens of a JSON object.

A model that answers questions as JSON says with each token what else could have stood there. Where
the value of a question begins, that tells how probable each option was.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moa.endpoints import TokenLogprobs

_PAIR = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:\s*"((?:[^"\\]|\\.)*)"')
"""A key of a flat JSON object with a text as its value."""
_LEAST = 1e-6
"""Probability of an option that isn't among the alternatives of a token: less than the last one's,
which is not known better."""
_FORBIDDEN = -9999.0
"""What vLLM sends as the log-probability of a token that the schema forbids, since JSON has no
infinity."""


@dataclass(frozen=True, slots=True)
class ValueReading:
    """The probability of each option as the value of a key."""

    probabilities: tuple[float, ...]
    """One for each option, in order; they add up to 1."""
    mass: float | None
    """Probability of all options together at the value's first token, 0 to 1; `None` if the server
    reports what the schema has left, which always adds up to 1 (vLLM, unlike llama.cpp)."""


def read_values(
    text: str, tokens: Sequence[TokenLogprobs], options: Mapping[str, Sequence[str]]
) -> dict[str, ValueReading]:
    """Read the probabilities of options from the tokens of a flat JSON object.

    Args:
        text: The object as the model wrote it.
        tokens: All tokens of the answer. What is before `text`, such as a thought, is passed over.
        options: The possible values, by key.

    Returns:
        A reading for each key whose value has log-probabilities.
    """
    # Positions are in bytes, since a token may be a part of a character.
    written = text.encode()
    whole = b"".join(token.token for token in tokens)
    offset = whole.rfind(written)
    if offset < 0 or not written:
        return {}
    readings: dict[str, ValueReading] = {}
    for pair in _PAIR.finditer(written):
        key = json.loads(b'"' + pair[1] + b'"', strict=False)
        if key in options and key not in readings:
            start = offset + pair.start(2)
            reading = _read_value(_tokens_from(tokens, start), whole, start, options[key])
            if reading is not None:
                readings[key] = reading
    return readings


def _tokens_from(
    tokens: Sequence[TokenLogprobs], start: int
) -> Iterator[tuple[int, TokenLogprobs]]:
    """Yield the tokens that reach beyond a position, with the position where each begins."""
    begin = 0
    for token in tokens:
        end = begin + len(token.token)
        if end > start:
            yield begin, token
        begin = end


def _read_value(
    tokens: Iterator[tuple[int, TokenLogprobs]], whole: bytes, start: int, options: Sequence[str]
) -> ValueReading | None:
    """Walk along the tokens of a value until one option is left.

    The first token is weighed against the whole vocabulary, later ones only among the options that
    are left, as `walk_labels` does.
    """
    values = _Values.of(options)
    alive, weight, mass = list(range(len(options))), 1.0, -1.0
    totals, is_masked = [0.0] * len(options), False
    for begin, token in tokens:
        is_masked = is_masked or any(p <= _FORBIDDEN for _, p in token.alternatives)
        step = values.weigh(token, whole[begin:start], whole[start:begin], alive)
        if mass < 0.0:
            mass = min(1.0, step.total + step.open)
        if step.total <= 0.0:
            break
        for index, part in zip(alive, step.parts, strict=True):
            totals[index] += weight * part / step.total
        weight *= step.followed / step.total
        alive = step.alive
        if not alive:
            break
    for index in alive:  # the tokens ended, or told these options apart no further
        totals[index] += weight / len(alive)
    if mass <= 0.0:
        return None
    floored = [max(total, _LEAST) for total in totals]
    probabilities = tuple(value / math.fsum(floored) for value in floored)
    return ValueReading(probabilities, None if is_masked else mass)


class _Step(NamedTuple):
    """What one token of a value tells."""

    parts: list[float]
    """Probability of each option that was left, without what was followed."""
    total: float
    """Probability of all tokens by which one of them goes on."""
    open: float
    """Probability of the quote alone, where the model wrote it in one token with the value."""
    followed: float
    """Probability of the token written, if several options go on by it; else 0."""
    alive: list[int]
    """Those options."""


class _Values(NamedTuple):
    """The options as a JSON object has them."""

    ends: list[bytes]
    """Each with its closing quote, which tells it from a longer one that begins like it."""
    fold: Callable[[bytes], bytes]
    """Folds the case: asked for "yes", many models begin with "Yes"."""

    @classmethod
    def of(cls, options: Sequence[str]) -> _Values:
        ends = [json.dumps(option, ensure_ascii=False)[1:].encode() for option in options]
        folded = [end.lower() for end in ends]
        is_clear = len(set(folded)) == len(ends)
        return cls(folded, bytes.lower) if is_clear else cls(ends, bytes)

    def weigh(self, token: TokenLogprobs, lead: bytes, done: bytes, alive: list[int]) -> _Step:
        """Share the alternatives of a token out among the options that are left.

        One that several options begin with is known no further, unless the model went on with it:
        it is shared by them evenly.

        Args:
            token: The token that was written, with its alternatives.
            lead: What it has before the value, such as `: "`.
            done: The part of the value before it.
            alive: The options that begin like that part.
        """
        parts = dict.fromkeys(alive, 0.0)
        followed, next_alive, total, open_p = 0.0, list[int](), 0.0, 0.0
        for alternative, logprob in token.alternatives:
            said, p = _value_part(alternative, lead, done), math.exp(min(0.0, logprob))
            if not said:
                open_p += 0.0 if said is None else p
                continue
            said = self.fold(said)
            fits = [i for i in alive if _begins(self.ends[i], said)]
            total += p if fits else 0.0
            if alternative == token.token and len(fits) > 1:
                followed, next_alive = p, fits
                continue
            for index in fits:
                parts[index] += p / len(fits)
        return _Step(list(parts.values()), total, open_p, followed, next_alive)


def _value_part(token: bytes, lead: bytes, done: bytes) -> bytes | None:
    """Return the value so far if a token came next; `None` if the token doesn't begin one.

    White space before a value may differ.
    """
    if done:
        return done + token
    bare, lead = token.lstrip(), lead.lstrip()
    return bare[len(lead) :] if bare.startswith(lead) else None


def _begins(end: bytes, said: bytes) -> bool:
    """Return True if an option begins with what was said, or was said with what follows it."""
    return end.startswith(said) or said.startswith(end)
