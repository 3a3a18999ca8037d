"""moa models: what is configured; the models that moa knows; adding, fetching and probing one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from moa.advisor import Kind, Skill
from moa.cli import options, screen
from moa.errors import ConfigError
from moa.usage import Budget, Tier

if TYPE_CHECKING:
    from moa.advisor import Quantisation
    from moa.advisor.catalogue import Local, Model
    from moa.config import Config
    from moa.context import RunContext
    from moa.decisions.probe import Probe

EXAMPLES = """

    moa models                            what ./moa.toml, or nothing, configures
    moa models --config other.toml
    moa models --json | jq .state

Every server is asked for its list of models, which costs nothing; nothing is started. Whether one
can decide natively shows at its first decision, so "can" says what it does otherwise, too.
The models that moa knows: moa models list. One of them as an endpoint: moa models add NAME
The file of one that runs in this machine: moa models fetch NAME
How one is asked best: moa models probe NAME
"""
LIST_EXAMPLES = """

    moa models list
    moa models list --tier slm --for classify     small ones that classify
    moa models list --kind decision               those made to decide
    moa models list --json | jq .sources          all that is known, and where from

Weights in GB, the KV cache in kB a token, prices in US dollars per million tokens. ~ marks what was
computed and not published, * an entry with fields that were not compared with a source. What a
model is good for is an estimate.
"""
ADD_EXAMPLES = """

    moa models add mistral-7b --name small        served here by vLLM: moa up small
    moa models add qwen3-8b --concurrency 64 --context 2048
    moa models add gpt-5-mini --name large        served by its vendor
    moa models add laya                           a decision model, with the command that starts it

How an open model is served (its quantisation, length and share of the GPU's memory) is worked out
from the memory of this machine, and is an estimate. Comments and order of the file are kept.
"""
FETCH_EXAMPLES = """

    moa models fetch medium               the model of [endpoints.medium], with serve = "llama.cpp"
    moa models fetch qwen3-4b             a model of: moa models list
    moa models fetch hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf

It comes from the Hugging Face hub, or from the mirror that $HF_ENDPOINT names; $HF_TOKEN is sent to
it where it is set. After Ctrl-C or a broken connection the same command goes on from where it was.
The file is kept in $MOA_CACHE, or the user's cache folder. Without a network, put a GGUF file
anywhere on this machine, and give its path: model = "FOLDER/FILE.gguf".
"""
PROBE_EXAMPLES = """

    moa models probe embedded             the built-in model, or that of $MOA_MODEL
    moa models probe small                the model of [endpoints.small]

About two hundred texts with known labels, of many tasks and in thirteen languages, are read as a
text to be continued and as a turn of a chat. For each kind of question the layout with the lower
log loss is kept in the cache, with how much the model counts beside the encoder, and is used from
then on. A model that costs nothing is probed by itself when it is first needed, for a minute at
most; this command reads all the texts. An endpoint that may cost money waits for --yes.
"""


def models(
    context: typer.Context, *, config: options.ConfigFile = None, as_json: options.AsJson = False
) -> None:
    """Show the endpoints: tier, model, price, what they can do, and whether they answer."""
    if context.invoked_subcommand is not None:
        return

    from moa.cli.configuration import configured
    from moa.cli.doctor import survey
    from moa.cli.tables import listed

    found = asyncio.run(survey(configured(config)))
    if as_json:
        for endpoint in found:
            screen.json_line(endpoint.line())
        return
    columns = ("name", "tier", "default of", "model", "price per million tokens", "can", "state")
    rows = [
        (e.name, e.tier, ", ".join(e.default_of), e.model, e.priced, e.able, e.state) for e in found
    ]
    screen.out().print(listed(columns, rows))


def list_models(
    *,
    tier: Annotated[
        Tier | None, typer.Option("--tier", help="Only those of a tier.", show_default=False)
    ] = None,
    kind: Annotated[
        Kind | None,
        typer.Option("--kind", help="Only open weights, vendors' models, or decision models."),
    ] = None,
    job: Annotated[Skill | None, typer.Option("--for", help="Only those good for it.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the models that moa knows, small to large: what they take, and what they are good for.

    One of them becomes an endpoint by: moa models add NAME
    """
    from moa.advisor import catalogue
    from moa.cli.tables import listed

    found = [
        known
        for known in catalogue.models().values()
        if tier in (None, known.tier)
        and kind in (None, known.kind)
        and (job is None or job in known.good_for)
    ]
    if as_json:
        for known in found:
            screen.json_line(_line(known))
        return
    columns = ("name", "tier", "parameters", "context", "licence", "bf16", "int4", "KV")
    rows = [_row(known) for known in found]
    screen.out().print(listed((*columns, "price in, out", "good for"), rows))


def _row(model: Model) -> tuple[str, ...]:
    cache = model.kv_bytes_per_token
    return (
        f"{model.name} *" if model.unchecked else model.name,
        model.tier,
        _parameters(model),
        "-" if model.context is None else f"{model.context:,}",
        model.licence.partition(" (")[0],
        _weights(model, "bf16"),
        _weights(model, "int4"),
        "-" if cache is None else f"{cache / 1e3:.0f}",
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


def _price(model: Model) -> str:
    price = model.price
    return f"{price.input:f}, {price.output:f}" if price.known else "-"


def _line(model: Model) -> dict[str, object]:
    """Write all that is known, computed figures included."""
    price = model.price
    weights = {
        name: kept._asdict() | {"file": model.files.get(name)}
        for name, kept in model.weights.items()
    }
    return {
        **model.model_dump(mode="json", exclude={"published", "repositories", "files"}),
        "weights": weights,
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "input_price": None if price.input is None else float(price.input),
        "output_price": None if price.output is None else float(price.output),
    }


def add(
    model: Annotated[str, typer.Argument(help="A name from: moa models list", metavar="MODEL")],
    *,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the endpoint; else the model's.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="File to write; else $MOA_CONFIG, else ./moa.toml.", metavar="FILE"
        ),
    ] = None,
    tier: Annotated[
        Tier | None, typer.Option("--tier", help="Of the endpoint; else the model's.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Requests at once to have room for.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens of the longest prompt and its answer."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite an endpoint; write a model that does not fit."),
    ] = False,
) -> None:
    """Write a known model into moa.toml as an endpoint, with what serving it here takes."""
    from moa.advisor import catalogue
    from moa.advisor.config import setup
    from moa.advisor.hardware import machine
    from moa.cli.configuration import configured
    from moa.config import Config
    from moa.config.file import target, write_endpoint

    file = target(config)
    known = catalogue.model(model)
    endpoint = name or known.name.replace(".", "-")
    made = setup(
        known,
        endpoint,
        machine=machine(),
        config=configured(file) if file.exists() else Config(),
        tier=tier,
        tokens=context,
        concurrency=concurrency,
        force=force,
    )
    write_endpoint(file, endpoint, made.table, tiers=made.tiers, force=force)
    console = screen.out()
    console.print(Text(f"Wrote [endpoints.{endpoint}] into {file}: {known.title}"))
    for line in made.notes:
        console.print(Text(f"  {line}"))
    for number, line in enumerate(made.steps):
        console.print(Text(("Next: " if number == 0 else "      ") + line, "bold"))


def fetch_model(
    name: Annotated[
        str,
        typer.Argument(
            help="An endpoint, a model of the catalogue, or hf:OWNER/REPOSITORY/FILE.gguf.",
            metavar="NAME",
        ),
    ],
    *,
    config: options.ConfigFile = None,
) -> None:
    """Fetch the GGUF file of a model that runs in this machine, and check it by its SHA-256."""
    from moa.cli.configuration import configured

    weights = _meant(configured(config), name)
    try:
        lines = _fetched(weights)
    except KeyboardInterrupt:
        screen.err().print("stopped: the same command goes on from there")
        raise
    console = screen.out()
    for line in lines:
        console.print(Text(line))


def _meant(config: Config, name: str) -> Local:
    """Find the weights that are asked for.

    Raises:
        ConfigError: there are none of this name, or somebody else serves them.
    """
    from moa.advisor.catalogue import BUILT_IN, local, models
    from moa.config import EMBEDDED, nearest
    from moa.config.endpoints import weights_of

    if name == EMBEDDED:
        return local(BUILT_IN, folder=Path())
    if name in config.endpoints:
        if config.embeds(name):
            return weights_of(config, name)
        raise ConfigError(
            f"[endpoints.{name}] is asked over the network, and what serves it has weights of its "
            'own. Only those with serve = "llama.cpp" take a file of this machine'
        )
    if name.startswith("hf:") or name in models():
        return local(name, folder=Path())
    known = [*config.endpoints, *(it.name for it in models().values() if it.gguf)]
    raise ConfigError(
        f"{name!r} is no endpoint, no model of the catalogue, and no file of the hub, which is "
        f"written as hf:OWNER/REPOSITORY/FILE.gguf{nearest(name, known)}"
    )


def _fetched(weights: Local) -> list[str]:
    """Fetch them where they aren't there, and say what was done.

    Raises:
        ModelNotFound: they can't be had.
    """
    from moa.endpoints.weights import fetch, find_weights

    if weights.hub is None:
        there = weights.path.is_file()
        path = find_weights(weights.path)
        return [f"already there: {path}" if there else f"fetched and checked: {path}"]
    done = fetch(weights.hub)
    if done.already:
        return [f"already there: {done.path}"]
    if done.sha256 is None:
        said = "not checked: neither the catalogue nor the hub says which SHA-256 it has to have"
    else:
        said = f"checked: its SHA-256 is {done.sha256}"
    return [f"fetched: {done.path}", said]


def probe_model(
    name: Annotated[str, typer.Argument(help="An endpoint, or embedded.", metavar="NAME")],
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to ask an endpoint that may cost money.")
    ] = False,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
) -> None:
    """Find out in which layout of the prompt a model decides best, and keep it."""
    from moa.cli.configuration import configured
    from moa.cli.tables import listed
    from moa.context import RunContext
    from moa.decisions.probe import LAYOUTS
    from moa.endpoints.known import keep

    context = RunContext(budget=Budget(cost=budget_usd), keep_notes=False)
    made = asyncio.run(_probed(configured(config), name, context, may_cost=yes))
    rows = [
        (
            kind,
            *(f"{losses[layout]:.3f}" for layout in LAYOUTS),
            made.found.layout_of(kind),
            f"{made.found.weight[kind]:g}",
        )
        for kind, losses in made.losses.items()
    ]
    columns = ("question", *(f"log loss, {it}" for it in LAYOUTS), "kept", "weight")
    console = screen.out()
    console.print(listed(columns, rows))
    used = context.usage.total
    console.print(
        f"{made.texts} texts in {len(LAYOUTS)} layouts, {used.input_tokens:,} tokens read"
    )
    try:
        console.print(f"kept in {keep(made.found)}")
    except OSError as error:
        raise ConfigError(f"what was found can't be kept: {error}") from error


async def _probed(config: Config, name: str, context: RunContext, *, may_cost: bool) -> Probe:
    """Probe an endpoint, with progress.

    Raises:
        ConfigError: there is no such endpoint, or it may cost money and nobody agreed.
    """
    from moa.agents.deciding import costs_nothing
    from moa.config.endpoints import Endpoints
    from moa.decisions.probe import probe, shipped_trials
    from moa.endpoints.encoders import encoder_beside

    async with Endpoints(config) as endpoints:
        endpoint = endpoints.named(name)
        if not (may_cost or costs_nothing(endpoint)):
            raise ConfigError(
                f"{name} may cost money, and nothing was sent: {2 * len(shipped_trials())} "
                "requests of about 100 tokens. Run it again with --yes to go on"
            )
        with screen.err().bars() as bar:
            reading = bar.add_task(f"asking {endpoint.model}", total=None)
            return await probe(
                endpoint,
                encoder=encoder_beside(endpoint),
                context=context,
                progress=lambda done, total: bar.update(reading, completed=done, total=total),
            )
