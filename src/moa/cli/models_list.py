"""moa models list: the models that moa knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options
from moa.jobs import Job, Kind
from moa.usage import Tier

if TYPE_CHECKING:
    from moa.advisor.catalogue import Model
    from moa.jobs import Quantisation

EXAMPLES = """

    moa models list
    moa models list --tier slm --for classify     small ones that classify
    moa models list --kind decision               those made to decide
    moa models list --json | jq .sources          all that is known, and where from

Weights in GB, the KV cache in kB a token, prices in US dollars per million tokens. ~ marks what was
computed and not published, * an entry with fields that were not compared with a source. What a
model is good for is an estimate.
"""


def list_models(
    *,
    tier: Annotated[
        Tier | None, typer.Option("--tier", help="Only those of a tier.", show_default=False)
    ] = None,
    kind: Annotated[
        Kind | None,
        typer.Option("--kind", help="Only open weights, vendors' models, or decision models."),
    ] = None,
    job: Annotated[Job | None, typer.Option("--for", help="Only those good for it.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the models that moa knows, small to large: what they take, and what they are good for.

    One of them becomes an endpoint by: moa models add NAME
    """
    from moa.advisor.catalogue import models
    from moa.cli import screen
    from moa.cli.screen import json_line
    from moa.cli.tables import listed

    found = [
        known
        for known in models().values()
        if (tier is None or known.tier == tier)
        and (kind is None or known.kind == kind)
        and (job is None or job in known.good_for)
    ]
    if as_json:
        for known in found:
            json_line(_line(known))
        return
    columns = ("name", "tier", "parameters", "context", "licence", "bf16", "int4", "KV")
    console = screen.out()
    console.print(listed((*columns, "price in, out", "good for"), [_row(it) for it in found]))


def _row(model: Model) -> tuple[str, ...]:
    return (
        model.name if model.checked else f"{model.name} *",
        model.tier,
        _parameters(model),
        "-" if model.context is None else f"{model.context:,}",
        model.licence.partition(" (")[0],
        _weights(model, "bf16"),
        _weights(model, "int4"),
        _cache(model),
        _price(model),
        ", ".join(model.good_for),
    )


def _parameters(model: Model) -> str:
    if model.parameters is None:
        return "-"
    active = model.active_parameters
    return _short(model.parameters) + (f" ({_short(active)} active)" if active else "")


def _short(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"


def _weights(model: Model, quantisation: Quantisation) -> str:
    kept = model.weights.get(quantisation)
    if kept is None:
        return "-"
    return ("" if kept.published else "~") + f"{kept.bytes / 1e9:.1f}"


def _cache(model: Model) -> str:
    known = model.attention is not None or model.cache_bytes is not None
    return f"{model.kv_bytes_per_token() / 1e3:.0f}" if known else "-"


def _price(model: Model) -> str:
    price = model.price()
    return f"{price.input:f}, {price.output:f}" if price.known else "-"


def _line(model: Model) -> dict[str, object]:
    """Write all that is known, computed figures included."""
    known = model.attention is not None or model.cache_bytes is not None
    price = model.price()
    weights = {
        name: {
            "bytes": kept.bytes,
            "published": kept.published,
            "repository": kept.repository,
            "file": model.files.get(name),
        }
        for name, kept in model.weights.items()
    }
    return {
        **model.model_dump(mode="json", exclude={"published", "repositories", "files"}),
        "weights": weights,
        "kv_bytes_per_token": model.kv_bytes_per_token() if known else None,
        "input_price": None if price.input is None else float(price.input),
        "output_price": None if price.output is None else float(price.output),
    }
