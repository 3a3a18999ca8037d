"""moa route eval: what a router recovers of the quality between two models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options
from moa.cli.routing_rows import RouterFile

if TYPE_CHECKING:
    from moa.routing import Router
    from moa.routing.evaluation import RoutingReport

EXAMPLES = """

    moa route eval router.json fresh.jsonl --json report.json
    moa route eval router.json fresh.jsonl --json report.json --plot curve.png

Rows as for moa route fit, and none that it was fitted on. The report has apgr (average performance
gap recovered: 0.5 is chance), cpt50 and cpt80 (share of strong calls that recovers 50 % and 80 % of
the gap: less is better) as RouteLLM defines them, curve (pairs of the share of strong calls and
quality), and the same of chance and of an oracle that knows both answers. Tied scores count as the
mean over their orders. Where the strong model is no better, the figures are null; where it isn't
shown to be (gap, at 95 % confidence), apgr_interval is.

Exit codes: 0 evaluated, 2 usage, or rows that the router wasn't made for.
"""


def evaluate(
    router: RouterFile,
    data: Annotated[
        str, typer.Argument(metavar="DATA.jsonl", help=".jsonl or .csv file, - for standard input.")
    ],
    *,
    json_out: Annotated[
        Path, typer.Option("--json", metavar="REPORT.json", help="Where the report is written.")
    ],
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the curve: .png or .svg."),
    ] = None,
    format: options.Format = None,
) -> None:
    """Evaluate a router on recorded answers: APGR, CPT(50 %), CPT(80 %), and the curve."""
    from moa.cli import routing_rows, screen
    from moa.cli.targets import check_target
    from moa.evals.pictures import check_picture
    from moa.routing.evaluation import evaluate_routing
    from moa.routing.evaluation_plot import plot_routing

    check_target("--json", json_out)
    check_target("--plot", plot)
    if plot is not None:
        check_picture(plot)
    fitted = routing_rows.loaded(router)
    recorded = routing_rows.recorded(data, format=format, replied=fitted.kind == "cascade")
    cases = [row.case for row in recorded]
    if (missing := routing_rows.missing_fields(fitted, cases)) is not None:
        screen.err().print(f"moa: {missing}", style="yellow")
    gains = fitted.gains(cases)
    weak, strong = [r.weak_correct for r in recorded], [r.strong_correct for r in recorded]
    report = evaluate_routing(gains, weak, strong)
    used = float((gains >= fitted.threshold).mean())
    _write(json_out, _written(report, fitted, used))
    if plot is not None:
        plot_routing(report, plot, title=f"{fitted.kind}, {report.n} requests")
    _show(report, fitted, used)


def _write(path: Path, written: dict[str, object]) -> None:
    import json

    from moa.cli.targets import write_text

    write_text("--json", path, json.dumps(written, indent=1) + "\n")


def _written(report: RoutingReport, router: Router, share: float) -> dict[str, object]:
    from dataclasses import asdict

    from moa.routing.evaluation import RANDOM

    return {
        "kind": router.kind,
        "n": report.n,
        "weak_quality": report.weak_quality,
        "strong_quality": report.strong_quality,
        **asdict(report.figures),
        "gap": report.gap,
        "apgr_interval": report.interval,
        "random": asdict(RANDOM),
        "oracle": asdict(report.oracle),
        "at_threshold": {
            "threshold": router.threshold,
            "strong_share": share,
            "quality": report.line.quality_at(share),
        },
        "verdict": report.verdict,
        "curve": report.curve,
    }


def _show(report: RoutingReport, router: Router, share: float) -> None:
    from moa.cli import screen
    from moa.cli.tables import listed
    from moa.routing.evaluation import RANDOM

    console = screen.out()
    console.print(
        f"{report.n} rows: the weak model is right on {report.weak_quality:.3f}, the strong one on "
        f"{report.strong_quality:.3f}"
    )
    rows = [
        (name, *map(_figure, (figures.apgr, figures.cpt50, figures.cpt80)))
        for name, figures in (
            (router.kind, report.figures),
            ("chance", RANDOM),
            ("oracle", report.oracle),
        )
    ]
    console.print(listed(("", "APGR", "CPT(50%)", "CPT(80%)"), rows))
    console.print(report.verdict)
    console.print(
        f"at its threshold ({router.target}): {share:.0%} strong calls here, quality "
        f"{report.line.quality_at(share):.3f}"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
