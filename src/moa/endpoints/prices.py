"""Prices: what vendors are known to charge."""

from __future__ import annotations

from decimal import Decimal

from moa.endpoints.dialects import Dialect
from moa.usage import Price


def published_price(model: str, vendor: Dialect | None) -> Price:
    """What a vendor is known to charge for a model; unknown where it isn't."""
    if vendor is None:
        return Price()
    from genai_prices import Usage, calc_price
    from genai_prices.types import TieredPrices

    try:
        found = calc_price(Usage(), model, provider_api_url=vendor.base_url).model_price
    except LookupError:
        return Price()

    def base(price: Decimal | TieredPrices | None) -> Decimal | None:
        return price.base if isinstance(price, TieredPrices) else price

    silent = found.input_mtok is not None and found.output_mtok is None
    return Price(
        input=base(found.input_mtok),
        cached_input=base(found.cache_read_mtok),
        output=Decimal(0) if silent else base(found.output_mtok),  # decisions cost no output
    )
