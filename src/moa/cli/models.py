"""moa choose and moa models: choose, list, add, fetch and probe models."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.core.errors import ConfigError
from moa.core.usage import Price
from moa.local.words import Complexity, Job, Kind, Prefer, Skill

if TYPE_CHECKING:
    from moa.advisor.choice import Plan, Ranking
    from moa.advisor.config import Setup
    from moa.config.catalogue import Model
    from moa.config.tables import Config
    from moa.core._terminal import Console
    from moa.core.context import RunContext
    from moa.local.probe import Probe
    from moa.local.words import Quantisation


def models(
    context: typer.Context, *, config: options.ConfigFile = None, as_json: options.AsJson = False
) -> None:
    """Show the configured endpoints, and whether they answer.

    It asks every server for its list of models, at no cost, and starts nothing. A server shows only
    at its first decision if it decides natively, so "can" also names the fallback.

        moa models list           the models that moa knows
        moa models add NAME       write one into moa.toml as an endpoint
        moa models fetch NAME     download the file of one that runs on this machine
        moa models probe NAME     find a model's best prompt layout

        moa models                            what ./moa.toml, or nothing, configures
        moa models --config other.toml
        moa models --json | jq .state
    """
    if context.invoked_subcommand is not None:
        return

    from moa.cli.doctor import survey

    endpoints = asyncio.run(survey(options.load_config(config)))
    if as_json:
        for endpoint in endpoints:
            screen.json_line(endpoint.line())
        return
    columns = ("name", "tier", "default of", "model", "price per million tokens", "can", "state")
    rows = [
        (
            e.name,
            e.tier,
            ", ".join(e.default_of),
            e.model,
            _format_price(e.price),
            e.abilities,
            e.state,
        )
        for e in endpoints
    ]
    screen.results_console().print(screen.make_table(columns, rows))


def _format_price(price: Price) -> str:
    """Format a price per million tokens."""
    if not price.known:
        return "unknown"
    return f"{screen.dollars(price.input)} in, {screen.dollars(price.output)} out"


def list_models(
    *,
    tier: options.Tier = None,
    kind: Annotated[
        Kind | None,
        typer.Option("--kind", help="Only open weights, vendors' models, or decision models."),
    ] = None,
    job: Annotated[
        Skill | None, typer.Option("--for", help="Only models good for this task.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the models that moa knows, small to large.

    One of them becomes an endpoint by: moa models add NAME

    Weights in GB, the KV cache in kB a token, prices in US dollars per million tokens. ~ marks
    computed figures, * entries with fields not checked against a source. The tasks that a model is
    good for are an estimate.

        moa models list
        moa models list --tier slm --for classify     small ones that classify
        moa models list --kind decision               those made to decide
        moa models list --json | jq .sources          all that is known, and where from
    """
    from moa.config import catalogue

    selection = [
        model
        for model in catalogue.models().values()
        if tier in (None, model.tier)
        and kind in (None, model.kind)
        and (job is None or job in model.good_for)
    ]
    if as_json:
        for model in selection:
            screen.json_line(model.values())
        return
    columns = ("name", "tier", "parameters", "context", "licence", "bf16", "int4", "KV")
    rows = [_row(model) for model in selection]
    screen.results_console().print(screen.make_table((*columns, "price in, out", "good for"), rows))


def _row(model: Model) -> tuple[str, ...]:
    cache = model.kv_bytes_per_token
    size, active = model.parameters, model.active_parameters
    parameters = "-" if size is None else f"{size / 1e9:.2g}B"
    return (
        f"{model.name} *" if model.unchecked else model.name,
        model.tier,
        f"{parameters} ({active / 1e9:.2g}B active)" if size and active else parameters,
        "-" if model.context is None else f"{model.context:,}",
        model.licence.partition(" (")[0],
        _weights(model, "bf16"),
        _weights(model, "int4"),
        "-" if cache is None else f"{cache / 1e3:.0f}",
        f"{model.price.input:f}, {model.price.output:f}" if model.price.known else "-",
        ", ".join(model.good_for),
    )


def _weights(model: Model, quantisation: Quantisation) -> str:
    weights = model.weights.get(quantisation)
    return f"{'' if weights.published else '~'}{weights.bytes / 1e9:.1f}" if weights else "-"


def add(
    model: Annotated[str, typer.Argument(help="A name from: moa models list", metavar="MODEL")],
    *,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the endpoint; else the model's.", show_default=False),
    ] = None,
    config: options.ConfigFile = None,
    tier: options.Tier = None,
    concurrency: options.Concurrency = None,
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens of the longest prompt and its answer."),
    ] = None,
    overwrite: options.Overwrite = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write a model that doesn't fit here, or is retired.")
    ] = False,
) -> None:
    """Write a known model into moa.toml as an endpoint.

    For an open model it chooses quantisation, context length and share of the GPU's memory for
    this machine. Comments and order of the file stay.

        moa models add mistral-7b --name small        served here by vLLM: moa up small
        moa models add qwen3-8b --concurrency 64 --context 2048
        moa models add gpt-5-mini --name large        served by its vendor
        moa models add laya                           a decision model, and how it is started
    """
    from moa.advisor.config import setup
    from moa.advisor.hardware import machine
    from moa.config import catalogue
    from moa.config.file import target

    file = target(config)
    known_model = catalogue.model(model)
    endpoint = name or known_model.name.replace(".", "-")
    endpoint_setup = setup(
        known_model,
        endpoint,
        machine=machine(),
        config=_config_in(file, config),
        tier=tier,
        tokens=context,
        concurrency=concurrency,
        anyway=anyway,
    )
    console = screen.results_console()
    _write(file, endpoint, known_model, endpoint_setup, console, overwrite=overwrite)


def _config_in(file: Path, config: Path | None) -> Config:
    """Load the configuration to write into; an empty one if there is no file yet."""
    from moa.config.tables import Config

    return options.load_config(config) if file.exists() else Config()


def _write(
    file: Path, name: str, model: Model, setup: Setup, console: Console, *, overwrite: bool
) -> None:
    """Write an endpoint, if the model needs one, and print what is next."""
    from moa.config.file import write_endpoint

    if setup.table:
        write_endpoint(file, name, setup.table, tiers=setup.tiers, overwrite=overwrite)
        console.print(f"Wrote [endpoints.{name}] into {file}: {model.title}")
    else:
        console.print(f"Nothing to write for {model.title}")
    for line in setup.notes:
        console.print(f"  {line}")
    for number, line in enumerate(setup.steps):
        console.print(f"{'      ' if number else 'Next: '}{line}", style="bold")


def fetch_model(
    name: Annotated[
        str,
        typer.Argument(
            help="An endpoint, embedded, a model of the catalogue, or "
            "hf:OWNER/REPOSITORY/FILE.gguf.",
            metavar="NAME",
        ),
    ],
    *,
    config: options.ConfigFile = None,
) -> None:
    """Download the GGUF file of a model that runs on this machine.

    It checks the SHA-256, if the catalogue or the hub states one.

    The file comes from the Hugging Face hub, or the mirror that $HF_ENDPOINT names, with $HF_TOKEN
    or the token of `hf auth login`. After Ctrl-C or a broken connection, repeat the command to
    continue. The file is stored in $MOA_CACHE or the user's cache folder, unless the hub's own
    cache has it. Without a network, copy a GGUF file to this machine, and set model =
    "FOLDER/FILE.gguf".

        moa models fetch medium               the model of [endpoints.medium]
        moa models fetch qwen3-4b             a model of: moa models list
        moa models fetch hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf
    """
    from moa.config.endpoints import locate_weights
    from moa.local.weights import fetch, find_weights

    weights, console = locate_weights(options.load_config(config), name), screen.results_console()
    was_there = weights.path.is_file()
    try:
        download = fetch(weights.hub) if weights.hub else None
        path = download.path if download else find_weights(weights.path)
    except KeyboardInterrupt:
        screen.err().print("stopped: the same command goes on from there")
        raise
    if download.was_there if download else was_there:
        console.print(f"already there: {path}")
    elif download is None:
        console.print(f"fetched and checked: {path}")
    else:
        console.print(f"fetched: {path}")
        unknown = "not checked: neither the catalogue nor the hub says which SHA-256 it has to have"
        console.print(f"checked: its SHA-256 is {download.sha256}" if download.sha256 else unknown)


def probe_model(
    name: Annotated[str, typer.Argument(help="An endpoint, or embedded.", metavar="NAME")],
    *,
    yes: options.Agree = False,
    asking: options.AskingOptions,
) -> None:
    """Find the way in which a model decides best.

    The model is asked sixty questions about labelled messages, of many tasks and languages, once in
    a chat for a JSON object and once by labels that continue a prompt. Later runs use the way that
    is right more often; for the model beside an encoder, its measured weight too. Both are stored.
    An endpoint that may cost money needs --yes.

        moa models probe embedded             the built-in model, or that of $MOA_MODEL
        moa models probe small                the model of [endpoints.small]
    """
    from moa.core.context import RunContext
    from moa.endpoints.known import save_facts
    from moa.local.probe import WAYS

    context = RunContext(budget=asking.budget, keep_notes=False)
    probe = asyncio.run(_probe(options.load_config(asking.config), name, context, may_cost=yes))
    rows = [
        (
            kind,
            *(f"{right[way]:.2f}" if way in right else "-" for way in WAYS),
            *(f"{probe.losses[kind].get(way, math.nan):.3f}" for way in WAYS),
            f"{probe.facts.weight.get(kind, 0):g}",
        )
        for kind, right in probe.right.items()
    ]
    columns = (
        "question",
        *(f"right, {way}" for way in WAYS),
        *(f"log loss, {way}" for way in WAYS),
        "weight",
    )
    console = screen.results_console()
    console.print(screen.make_table(columns, rows))
    usage = context.usage.total
    console.print(
        f"{probe.asked} questions in {len(WAYS)} ways, {usage.input_tokens:,} tokens read: "
        f"{probe.facts.asked} is kept"
    )
    console.print(f"stored in {save_facts(probe.facts)}")


async def _probe(config: Config, name: str, context: RunContext, *, may_cost: bool) -> Probe:
    """Probe an endpoint. One that may cost money needs `may_cost`."""
    from moa.config.endpoints import Endpoints
    from moa.decisions.encoders import deciding_encoder_for
    from moa.local.probe import MOST, WAYS, costs_nothing, probe

    async with Endpoints(config) as endpoints:
        endpoint = endpoints.named(name)
        if not (may_cost or costs_nothing(endpoint)):
            raise ConfigError(
                f"{name} may cost money, and nothing was sent: up to {len(WAYS) * MOST} "
                "requests of about 200 tokens. Run it again with --yes to go on"
            )
        with screen.progress() as progress:
            return await probe(
                endpoint,
                encoder=deciding_encoder_for(endpoint),
                context=context,
                progress=partial(progress, f"asking {endpoint.model}"),
            )


_SHOWN = 10
"""Maximum models of a table; `--json` has all."""


def choose(
    job: Annotated[Job, typer.Argument(help="Task for each item.", metavar="JOB")],
    *,
    complexity: Annotated[
        Complexity, typer.Option(help="Difficulty, which sets the minimum quality.")
    ] = "moderate",
    prefer: Annotated[
        Prefer, typer.Option(help="How to rank the models of that quality.")
    ] = "balance",
    languages: Annotated[
        list[str] | None,
        typer.Option(
            "--language", help="Language of the items, such as de; default: en. Repeatable."
        ),
    ] = None,
    labels: Annotated[
        int, typer.Option("--labelled", min=0, help="Number of labelled items that you have.")
    ] = 0,
    per_day: Annotated[int | None, typer.Option(min=1, help="Items a day.")] = None,
    latency_s: Annotated[
        float | None, typer.Option("--latency", help="Maximum seconds per item.")
    ] = None,
    max_usd_per_thousand: Annotated[
        float | None,
        typer.Option(
            "--max-usd-per-thousand", min=0, help="Maximum US dollars per thousand items."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Ask no vendor: the items stay on this machine.")
    ] = False,
    vendors: Annotated[
        list[str] | None,
        typer.Option(
            "--vendor", help="Vendor that may be asked; else those whose key is set. Repeatable."
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="GPUs to plan for instead of this machine's: L4, H100:8 or NAME:1:24GB."),
    ] = None,
    no_gpu: Annotated[bool, typer.Option("--no-gpu", help="Plan as if there were no GPU.")] = False,
    ram: Annotated[
        str | None, typer.Option(help="Memory to plan for instead of this machine's: 8GB.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="CPU cores to plan for instead of this machine's.")
    ] = None,
    hourly_usd: options.HourlyUsd = None,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
    write: options.Write = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Rank the models for a task and a machine.

    It ranks them by the machine's resources, the task's difficulty, and speed against depth.

    It starts, downloads and sends nothing. Figures are estimates.

    Exit codes: 0 a model fits, 1 nothing fits, 2 usage or configuration.

        moa choose classify --language de --per-day 10000 --latency 0.3
        moa choose answer-from-documents --private --gpu L4 --hourly-usd 0.8
        moa choose reason --complexity complex --prefer depth --vendor openai
        moa choose converse --gpu "RTX 4090" --ram 64GB --write
    """
    from pydantic import ValidationError

    from moa.advisor import choice
    from moa.advisor.hardware import describe_machine, machine
    from moa.advisor.task import Task, vendors_with_keys
    from moa.config.faults import explain

    if private and vendors:
        raise ConfigError("--private and --vendor contradict each other: give one of them")
    allowed_vendors = () if private else tuple(vendors) if vendors else vendors_with_keys()
    fields = {
        "job": job,
        "complexity": complexity,
        "prefer": prefer,
        "languages": tuple(languages or ("en",)),
        "labels": labels,
        "per_day": per_day,
        "latency_s": latency_s,
        "max_usd_per_thousand": max_usd_per_thousand,
        "vendors": allowed_vendors,
    }
    try:
        task = Task.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(explain(error, Task, path="the task")) from error
    ranking = choice.choose(
        task,
        describe_machine(machine(), gpus=gpu or (), no_gpu=no_gpu, ram=ram, cores=cores),
        hourly_usd=None if hourly_usd is None else Decimal(repr(hourly_usd)),
    )
    console = screen.results_console(as_json=as_json)
    if as_json:
        screen.json_line({"task": task.model_dump(mode="json")} | ranking.values())
    else:
        _show_ranking(console, ranking)
    if not ranking.plans:
        raise typer.Exit(1)
    if write:
        _write_plan(ranking, config, console, overwrite=overwrite)


def _write_plan(
    ranking: Ranking, config: Path | None, console: Console, *, overwrite: bool
) -> None:
    """Write the best model as the endpoint `small` or `large`."""
    from moa.advisor.config import setup_of_plan
    from moa.config.file import target

    file, best = target(config), ranking.plans[0]
    name = "small" if best.model.tier == "slm" else "large"
    setup = setup_of_plan(best, name, machine=ranking.machine, config=_config_in(file, config))
    _write(file, name, best.model, setup, console, overwrite=overwrite)


def _show_ranking(console: Console, ranking: Ranking) -> None:
    task = ranking.task
    vendors = ", ".join(task.vendors) or "no vendor"
    tokens = f"{task.profile.reads} tokens in, {task.profile.writes} out"
    console.print(f"{task.complexity} {task.job}, {tokens}; {vendors} may be asked")
    console.print(f"On: {ranking.machine}")
    if ranking.plans:
        hours = f"hours for {task.items:,}"
        columns = ("", "model", "quality", "memory", "an item", hours, "a thousand items")
        rows = [_plan_row(rank, plan) for rank, plan in enumerate(ranking.plans[:_SHOWN], 1)]
        console.print(screen.make_table(columns, rows))
        if more := len(ranking.plans) - len(rows):
            console.print(f"{more} more: --json")
    else:
        console.print("Nothing fits: allow a vendor, a larger machine or less", style="bold red")
    for cause in dict.fromkeys(entry.cause for entry in ranking.left_out):
        models = [f"{it.model} ({it.figure})" for it in ranking.left_out if it.cause == cause]
        console.print(f"{cause}: {', '.join(models)}")


def _plan_row(rank: int, plan: Plan) -> tuple[str, ...]:
    from moa.advisor.choice import format_memory, format_seconds, format_usd

    return (
        str(rank),
        str(plan),
        f"{plan.quality:.1f}",
        format_memory(plan.served) if plan.served else "-",
        format_seconds(plan.seconds),
        "-" if plan.hours is None else f"{plan.hours:,.2f}",
        format_usd(plan.usd_per_thousand),
    )
