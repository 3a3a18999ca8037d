"""moa up, down, status and doctor: manage vLLM servers, and check the installation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.config.tables import Config
    from moa.vllm.command import ServerSpec
    from moa.vllm.servers import ServerReport
    from moa.vllm.state import ServerFolder


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Endpoints; default: all that are served here."),
]


def up(
    names: Names = None,
    *,
    config: options.ConfigFile = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s",
            min=0,
            help="Seconds to wait for each server; slower ones go on starting in the background.",
        ),
    ] = 900.0,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once, before they are ready.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Start the vLLM servers of the configuration.

    The servers keep running after this command, restart after a crash, listen on 127.0.0.1 only,
    and have a key that moa knows. Ctrl-C, before they are ready, stops them. If one fails or
    takes too long, the others still start.

    Exit codes: 0 all are ready (with --detach: all are started), 2 some aren't.

        moa up                                every endpoint of ./moa.toml with serve = "vllm"
        moa up small --timeout-s 300
        moa up --detach && moa status
    """
    from moa.vllm.servers import bring_up

    specs = plan_servers(options.load_config(config), names or ())
    say, limit = screen.details().print, None if detach else timeout_s
    with screen.waiting() as show:
        asyncio.run(bring_up(specs, timeout_s=limit, tell=show, say=say))


def down(
    names: Names = None,
    *,
    config: options.ConfigFile = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every server that moa started on this machine.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Stop the servers that `moa up` started.

    moa down                              every server of ./moa.toml
    moa down small
    moa down --all                        also those of other configurations
    """
    from moa.vllm.servers import stop

    console = screen.details()
    servers = find_running(options.load_config(config), names or (), everything=everything)

    async def stop_all() -> list[bool]:
        return await asyncio.gather(*map(stop, servers.values()))

    for name, ran in zip(servers, asyncio.run(stop_all()), strict=True):
        console.print(f"{name}: {'stopped' if ran else 'was not running'}")
    if not servers:
        console.print("no server runs")


def status(*, config: options.ConfigFile = None, as_json: options.AsJson = False) -> None:
    """Show the vLLM servers: state, load, caches and speed.

    It takes a second, to count generated tokens. Restarts and prefix hits (the share of prompt
    tokens that were in the cache) count from the server's start.

        moa status
        moa status --json | jq .state
    """
    from moa.vllm.servers import ServerReport, report_servers

    down_reports = [
        ServerReport(name=name, model=entry.model, port=port)
        for name, entry in options.load_config(config).served_endpoints.items()
        for port in entry.vllm.ports
    ]
    reports = asyncio.run(report_servers(down_reports))
    if as_json:
        for report in reports:
            screen.json_line(report.line())
        return
    console = screen.results_console()
    if not reports:
        console.print('no server runs, and no endpoint has serve = "vllm"')
        return
    columns = ("name", "model", "state", "port", "pid", "up", "restarts")
    figures = ("running", "waiting", "KV cache", "prefix hits", "tokens/s")
    console.print(screen.make_table((*columns, *figures), [_row(report) for report in reports]))
    for report in reports:
        if report.cause:
            console.print(f"{report.name} on port {report.port}: {report.cause}")


def doctor(*, config: options.ConfigFile = None) -> None:
    """Check what moa needs on this machine, and how to fix it.

    Exit codes: 0 nothing is missing, 1 something is, 2 the configuration can't be read.

        moa doctor
        moa doctor --config other.toml
    """
    from moa.cli.doctor import checks

    console = screen.results_console()
    missing = 0
    for check in asyncio.run(checks(options.load_config(config))):
        missing += not check.passed
        mark = Text("ok  ", "green") if check.passed else Text("miss", "red")
        console.print(mark, Text(f"{check.name}: {check.found}"))
        if check.mend:
            console.print(f"     {check.mend}")
    raise typer.Exit(1 if missing else 0)


def _row(report: ServerReport) -> tuple[str, ...]:
    up = "-" if report.up_s is None else str(timedelta(seconds=int(report.up_s)))
    pid = "-" if report.pid is None else str(report.pid)
    cells = (report.name, report.model, report.phase, str(report.port), pid, up)
    cells = (*cells, str(report.restarts))
    metrics = report.metrics
    if metrics is None or report.tokens_per_s is None:
        return (*cells, "-", "-", "-", "-", "-")
    hits = metrics.prefix_hit_rate
    return (
        *cells,
        str(metrics.running),
        str(metrics.waiting),
        f"{metrics.kv_cache_use:.1%}",
        "-" if hits is None else f"{hits:.1%}",
        f"{report.tokens_per_s:.1f}",
    )


def plan_servers(config: Config, names: Iterable[str]) -> list[ServerSpec]:
    """Plan the servers of endpoints; without names, of all that are served here."""
    from moa.vllm.command import specs_of

    entries = {name: config.served_endpoints[name] for name in _choose_endpoints(config, names)}
    return [
        spec
        for name, entry in entries.items()
        for spec in specs_of(name, entry.model, entry.vllm, base=config.folder)
    ]


def _choose_endpoints(config: Config, names: Iterable[str]) -> list[str]:
    """Return the named endpoints, or all that vLLM serves here."""
    from moa.config.faults import nearest

    servers = config.served_endpoints
    for name in names:
        if name not in config.endpoints and servers:
            raise ConfigError(f"there is no endpoint {name!r}{nearest(name, list(servers))}")
    server_names = [config.server_of(name) for name in names if name in config.endpoints]
    choice = list(dict.fromkeys(server_names)) or list(servers)
    for name in choice:
        if config.embeds(name):
            raise ConfigError(
                f"there is nothing to start or to stop for [endpoints.{name}]: it runs in an "
                "engine of moa's own, which starts at its first call and ends with its process"
            )
        if name not in servers:
            raise ConfigError(
                f'[endpoints.{name}] has no serve = "vllm", so its server is not moa\'s to start'
            )
    if not choice:
        file = config.file or "moa.toml"
        embedded = [name for name in config.endpoints if config.embeds(name)]
        of_own = f" ({', '.join(embedded)}: started at the first call)" if embedded else ""
        raise ConfigError(
            f'{file} names no endpoint with serve = "vllm", so there is no server to start'
            f'{of_own}. Add three lines: [endpoints.small], tier = "slm", '
            'model = "Qwen/Qwen3-0.6B", and serve = "vllm"'
        )
    return choice


def find_running(
    config: Config, names: Sequence[str], *, everything: bool = False
) -> dict[str, ServerFolder]:
    """Return the folders of servers by label, also of servers no longer configured.

    Without names, of all that vLLM serves here; with `everything`, of all on this machine.
    """
    from moa.config.faults import nearest
    from moa.vllm.state import ServerFolder

    states = {folder: state for folder in ServerFolder.all() if (state := folder.read())}
    if everything:
        return {state.label: folder for folder, state in states.items()}
    old_names = [name for name in names if name not in config.endpoints]
    for name in old_names:
        if all(name != state.name for state in states.values()):
            raise ConfigError(
                f"there is no server {name!r}{nearest(name, [*config.served_endpoints])}"
            )
    folders = {
        state.label: folder
        for folder, state in states.items()
        if state.name in old_names or (not config.served_endpoints and not names)
    }
    current_names = [name for name in names if name not in old_names]
    for name in (
        _choose_endpoints(config, current_names)
        if current_names or (not names and config.served_endpoints)
        else ()
    ):
        for port in config.served_endpoints[name].vllm.ports:
            folder = ServerFolder.of(port)
            state = folder.read()
            if state is None or state.name == name:  # else it is another's
                folders[f"{name} on port {port}"] = folder
    return folders
