"""moa status: the servers on this machine, and what they are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa.cli import options

if TYPE_CHECKING:
    from moa.vllm.reporting import Report

EXAMPLES = """

    moa status
    moa status --json | jq .state

It takes a second, in which generated tokens are counted. Figures since the server started:
restarts, and prefix hits, the share of prompt tokens that were in its cache.
"""


def status(*, config: options.ConfigFile = None, as_json: options.AsJson = False) -> None:
    """Show the vLLM servers: state, port, restarts, requests, caches, tokens per second."""
    import asyncio

    from rich.text import Text

    from moa.cli import screen
    from moa.cli.configuration import configured
    from moa.cli.screen import json_line
    from moa.cli.tables import listed
    from moa.vllm.reporting import reports

    found = asyncio.run(reports(configured(config)))
    if as_json:
        for report in found:
            json_line(report.line())
        return
    console = screen.out()
    if not found:
        console.print('no server runs, and no endpoint has serve = "vllm"')
        return
    columns = ("name", "model", "state", "port", "pid", "up", "restarts")
    figures = ("running", "waiting", "KV cache", "prefix hits", "tokens/s")
    console.print(listed((*columns, *figures), [_row(report) for report in found]))
    for report in found:
        if report.cause:
            console.print(Text(f"{report.name} on port {report.port}: {report.cause}"))


def _row(report: Report) -> tuple[str, ...]:
    known = (report.name, report.model, report.phase, str(report.port), _or_dash(report.pid))
    known = (*known, _duration(report.up_s), str(report.restarts))
    metrics = report.metrics
    if metrics is None or report.tokens_per_s is None:
        return (*known, "-", "-", "-", "-", "-")
    hits = metrics.prefix_hit_rate
    return (
        *known,
        str(metrics.running),
        str(metrics.waiting),
        f"{metrics.kv_cache_use:.1%}",
        "-" if hits is None else f"{hits:.1%}",
        f"{report.tokens_per_s:.1f}",
    )


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
