"""Usage: the calls, tokens and seconds of a run, and their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, NamedTuple, TypeVar

from moa.core._text import as_html, as_text

K = TypeVar("K")

Tier = Literal["slm", "llm"]
"""`slm`: small, frequent, decides. `llm`: large, rare, writes."""

_MILLION = Decimal(1_000_000)
_HOUR = Decimal(3600)
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """The usage of one or several calls. Immutable; supports `+`."""

    calls: int = 0
    """Requests sent, failed ones included."""
    input_tokens: int = 0
    """Prompt tokens, cached ones included."""
    cached_input_tokens: int = 0
    """Prompt tokens that the server read from its cache."""
    output_tokens: int = 0
    """Generated tokens, reasoning included."""
    priced_cost: Decimal = ZERO
    """US dollars of the calls whose price is known."""
    unpriced_calls: int = 0
    """Calls with an unknown price. If there are any, `cost` is unknown."""
    seconds: float = 0.0
    """Total seconds of waiting for endpoints. Calls overlap, so this isn't wall time."""
    tool_calls: int = 0
    """Tools that models had used."""
    encodings: int = 0
    """Calls, counted in `calls` too, that turned texts into vectors."""
    failed: int = 0
    """Calls, counted in `calls` too, that failed and can't have been billed."""

    @property
    def cost(self) -> Decimal | None:
        """US dollars, or `None` if the price of at least one call is unknown."""
        return None if self.unpriced_calls else self.priced_cost

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            priced_cost=self.priced_cost + other.priced_cost,
            unpriced_calls=self.unpriced_calls + other.unpriced_calls,
            seconds=self.seconds + other.seconds,
            tool_calls=self.tool_calls + other.tool_calls,
            encodings=self.encodings + other.encodings,
            failed=self.failed + other.failed,
        )

    def __neg__(self) -> Amount:
        return Amount(
            calls=-self.calls,
            input_tokens=-self.input_tokens,
            cached_input_tokens=-self.cached_input_tokens,
            output_tokens=-self.output_tokens,
            priced_cost=-self.priced_cost,
            unpriced_calls=-self.unpriced_calls,
            seconds=-self.seconds,
            tool_calls=-self.tool_calls,
            encodings=-self.encodings,
        )


NOTHING = Amount()
COLUMNS = ("node", "tier", "endpoint", "calls", "tokens in", "out", "seconds", "cost")
"""The columns of `Usage.rows`."""


def dollars(cost: Decimal | None) -> str:
    """Format US dollars with as many decimals as needed."""
    if cost is None:
        return "unknown"
    return f"US$ {cost:.2f}" if cost >= 1 or not cost else f"US$ {cost:.6f}".rstrip("0")


def _figures(amount: Amount) -> tuple[str, ...]:
    return (
        f"{amount.calls}",
        f"{amount.input_tokens}",
        f"{amount.output_tokens}",
        f"{amount.seconds:.1f}",
        dollars(amount.cost),
    )


class Part(NamedTuple):
    """Tier, node and endpoint of an amount."""

    tier: Tier
    node: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of a run, by tier, node and endpoint. Immutable; supports `+`.

    It prints as a table, and a notebook shows it as one.
    """

    parts: Mapping[Part, Amount] = field(default_factory=dict[Part, Amount])

    def __repr__(self) -> str:
        return f"Usage({self.line()})"

    def __str__(self) -> str:
        return as_text(self.table(), right=3)

    def _repr_html_(self) -> str:
        return as_html(self.table())

    def line(self) -> str:
        """Return a summary in one line: calls, tokens, seconds and cost."""
        calls, tokens_in, tokens_out, seconds, cost = _figures(self.total)
        noun = "call" if calls == "1" else "calls"
        return f"{calls} {noun}, {tokens_in} tokens in, {tokens_out} out, {seconds} s, cost {cost}"

    def rows(self) -> list[tuple[str, ...]]:
        """Return the usage of each endpoint by each node, as text; see `COLUMNS`."""
        return [
            (part.node or "-", part.tier, part.endpoint, *_figures(amount))
            for part, amount in sorted(self.parts.items(), key=lambda entry: entry[0].node)
        ]

    def table(self) -> list[tuple[str, ...]]:
        """Return `rows` with a header and a total."""
        return [COLUMNS, *self.rows(), ("total", "", "", *_figures(self.total))]

    @property
    def total(self) -> Amount:
        """Sum of all parts."""
        return sum(self.parts.values(), NOTHING)

    @property
    def calls(self) -> int:
        """Requests sent, failed ones included."""
        return sum(a.calls for a in self.parts.values())

    @property
    def input_tokens(self) -> int:
        """Prompt tokens, cached ones included."""
        return sum(a.input_tokens for a in self.parts.values())

    @property
    def output_tokens(self) -> int:
        """Generated tokens, reasoning included."""
        return sum(a.output_tokens for a in self.parts.values())

    @property
    def tool_calls(self) -> int:
        """Tools that models had used."""
        return sum(a.tool_calls for a in self.parts.values())

    @property
    def cost(self) -> Decimal | None:
        """US dollars, or `None` if the price of at least one call is unknown."""
        return self.total.cost

    def by_tier(self) -> dict[Tier, Usage]:
        """Split into `slm` and `llm`; a tier that was not asked is absent."""
        return self._split(lambda part: part.tier)

    def by_node(self) -> dict[str, Usage]:
        """Split by the path of the node, such as `support/sentiment`."""
        return self._split(lambda part: part.node)

    def by_endpoint(self) -> dict[str, Usage]:
        """Split by the name of the endpoint that answered."""
        return self._split(lambda part: part.endpoint)

    def _split(self, key: Callable[[Part], K]) -> dict[K, Usage]:
        parts_by_key: dict[K, dict[Part, Amount]] = {}
        for part, amount in self.parts.items():
            parts_by_key.setdefault(key(part), {})[part] = amount
        return {name: Usage(parts) for name, parts in parts_by_key.items()}

    def __add__(self, other: Usage) -> Usage:
        parts = dict(self.parts)
        for part, amount in other.parts.items():
            parts[part] = parts.get(part, NOTHING) + amount
        return Usage(parts)

    def alone(self, price: Price, *, endpoint: str, inputs: int = 1) -> CostEstimate:
        """Estimate what another endpoint alone would have cost: one call of it for each input.

        A call costs as much as its calls here on average, with its own prompt. If it had none, it
        costs as if it had the average prompt and answer of the others. Calls to encoders are left
        out: it wouldn't get them. The cost is unknown without a call.

        Args:
            price: Price of that endpoint.
            endpoint: Its name, without that of a replica.
            inputs: Number of inputs.
        """
        sent = {
            part: amount for part, amount in self.parts.items() if amount.encodings < amount.calls
        }
        own = {part for part in sent if part.endpoint.partition("@")[0] == endpoint}
        total = sum((sent[part] for part in own or sent), NOTHING)
        if not own:  # its server has cached nothing of another endpoint's prompts
            total = replace(total, cached_input_tokens=0)
        # A failed try has no tokens: it would make the mean call look cheaper.
        calls, cost = total.calls - total.encodings - total.failed, price.of(total)
        each = "one call" if inputs == 1 else f"one call for each of {inputs} inputs"
        how = (
            f"{each}, by the mean of the {calls} calls of "
            f"{repr(endpoint) if own else 'others'}: {total.input_tokens} input and "
            f"{total.output_tokens} output tokens, at the price of {endpoint!r}"
        )
        if not calls:
            return CostEstimate(cost=None, how="no call shows how long its prompt would be")
        return CostEstimate(cost=None if cost is None else cost * inputs / calls, how=how)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """An estimated cost that wasn't paid, and how it was computed."""

    cost: Decimal | None
    """US dollars; `None` if the price is unknown."""
    how: str


@dataclass(frozen=True, slots=True, init=False)
class Price:
    """The price of an endpoint. All `None` means unknown, which is not free.

    A hosted model has prices per million tokens; a model on your own hardware has a price per
    hour. If both are given, they add up. A float is read as it is written: `.1` is a tenth.

    Examples:
        >>> price = Price(input=.25, output=2)
        >>> large = ScriptedEndpoint(["Hello!"], price=price)
        >>> Agent(large, "Greet.").run_sync("Hi").usage.cost > 0
        True
    """

    input: Decimal | None = None
    """US dollars per million input tokens."""
    cached_input: Decimal | None = None
    """US dollars per million input tokens read from the cache; `None`: as `input`."""
    output: Decimal | None = None
    """US dollars per million output tokens."""
    hour: Decimal | None = None
    """US dollars per hour of the hardware, charged for the seconds that a call takes."""

    def __init__(
        self,
        *,
        input: Decimal | float | None = None,
        cached_input: Decimal | float | None = None,
        output: Decimal | float | None = None,
        hour: Decimal | float | None = None,
    ) -> None:
        prices = {"input": input, "cached_input": cached_input, "output": output, "hour": hour}
        for name, value in prices.items():
            exact = Decimal(repr(value)) if isinstance(value, float) else value
            object.__setattr__(self, name, None if exact is None else Decimal(exact))

    @property
    def known(self) -> bool:
        """True if costs can be computed from it."""
        return (self.input is not None and self.output is not None) or self.hour is not None

    def of(self, amount: Amount) -> Decimal | None:
        """Return the US dollars for `amount`, or `None` if the price is unknown."""
        if not self.known:
            return None
        cost = ZERO
        if self.input is not None and self.output is not None:
            cached_price = self.input if self.cached_input is None else self.cached_input
            fresh_tokens = amount.input_tokens - amount.cached_input_tokens
            cost += (
                fresh_tokens * self.input
                + amount.cached_input_tokens * cached_price
                + amount.output_tokens * self.output
            ) / _MILLION
        if self.hour is not None:
            cost += Decimal(repr(amount.seconds)) * self.hour / _HOUR
        return cost

    def charge(self, amount: Amount) -> Amount:
        """Return `amount` with its cost, or with its calls counted as unpriced."""
        cost = self.of(amount)
        if cost is None:
            return replace(amount, unpriced_calls=amount.calls)
        return replace(amount, priced_cost=cost)


UNKNOWN_PRICE = Price()
FREE = Price(input=ZERO, output=ZERO)
"""The price of a model that `moa` runs itself: it costs no more than its machine."""
