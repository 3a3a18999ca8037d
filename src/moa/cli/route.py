"""moa route: fit routers on recorded answers of two models, apply and evaluate them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen

if TYPE_CHECKING:
    from moa.core._terminal import Console
    from moa.routing.evaluation import RoutingReport
    from moa.routing.router import Router

RouterFile = Annotated[
    Path, typer.Argument(metavar="ROUTER.json", help="Made by moa route fit.", show_default=False)
]
Rows = Annotated[
    str, typer.Argument(metavar="DATA.jsonl", help=".jsonl or .csv file, - for standard input.")
]


def fit(
    data: Rows,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="ROUTER.json", help="Write the router.")],
    share: Annotated[
        float | None,
        typer.Option("--share", min=0, max=1, help="Share of requests for the strong model."),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option("--quality", min=0, max=1, help="Part of the quality gap to recover."),
    ] = None,
    format: options.Format = None,
    quiet: options.Quiet = False,
) -> None:
    """Fit a router, or a cascade, from recorded answers of two models.

    A row has prompt, weak_correct and strong_correct (true or false, or 1 or 0), and for a cascade,
    which asks the weak model first, its answer, weak_response:

        {"prompt": "…", "weak_correct": false, "strong_correct": true}

    With weak_response in all rows it fits a cascade, which also reads the answer: it recomputes its
    sums, traces them back to the question, and looks for doubt. Otherwise it fits a router, which
    reads only the prompt. Other short values in a row, such as a subject, are used if they
    repeat; leave out any that reveal the answer or won't be known later.

    It predicts the gain of the strong model. It compares candidates by cross-validation; the file
    lists their results and the choice. Use at least a few hundred rows, and run moa route eval on
    rows that took no part in fitting.

    Exit codes: 0 fitted, 2 usage, or rows from which nothing can be learnt.

        moa route fit log.jsonl --out router.json                  to recover 80 % of the gap
        moa route fit log.jsonl --out router.json --share 0.3      30 % to the strong model
        moa route fit log.jsonl --out router.json --quality 0.95
    """
    from moa import rows
    from moa.routing.fitting import fit_router
    from moa.routing.recorded import RecordedRequest

    screen.check_target("--out", out)
    recorded = [row for _, row in rows.read_models(data, RecordedRequest, format=format)]
    with screen.progress() as progress:
        router = fit_router(
            recorded, share=share, quality=quality, progress=partial(progress, "fitting")
        )
    router.save(out)
    _show_router(router)
    screen.details().print(f"try it on other rows: moa route eval {out} DATA.jsonl")
    screen.notes().print(f"wrote {out}")


def score(
    router: RouterFile,
    source: Rows,
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="SCORES.jsonl", help="Write one line of JSON a row.")
    ],
    kept: options.ExistingOptions,
    format: options.Format = None,
    quiet: options.Quiet = False,
) -> None:
    """Score requests: higher scores favour the strong model.

    A row has prompt, and for a cascade weak_response; weak_correct and strong_correct are ignored.
    Each line has id (the row's own, else its line number), input, score (the predicted gain of the
    strong model) and model (weak or strong, by the router's threshold), in the order of the rows.

    Exit codes: 0 all scored, 2 usage, or rows that the router wasn't made for.

        moa route score router.json rows.jsonl --out scores.jsonl
    """
    from moa import rows
    from moa.routing.recorded import Request
    from moa.routing.router import Router

    screen.check_target("--out", out)
    with rows.RowFile(
        out,
        existing=kept.existing(out),
        source=None if source == rows.STDIN else source,
    ) as file:
        fitted_router = Router.load(router)
        requests = list(rows.read_models(source, Request, format=format))
        cases = [request.case for _, request in requests]
        _warn(fitted_router.missing_fields(cases))
        gains = fitted_router.gains(cases).tolist()
        by_number = {row.number: gain for (row, _), gain in zip(requests, gains, strict=True)}
        for row in file.due_rows(row for row, _ in requests):
            gain = by_number[row.number]
            scored = {"id": row.id, "input": row.input, "score": gain}
            file.write({**scored, "model": fitted_router.choose(gain)})
    strong = sum(fitted_router.choose(gain) == "strong" for gain in gains)
    screen.notes().print(f"{len(gains)} rows scored, {strong} for the strong model: {out}")


def evaluate(
    router: RouterFile,
    data: Rows,
    *,
    as_json: options.AsJson = False,
    report: options.Report = None,
    plot: options.Plot = None,
    format: options.Format = None,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a router on recorded answers: APGR, CPT and the curve.

    Rows as for moa route fit, and none that it was fitted on. The report has apgr (average
    performance gap recovered: 0.5 is chance), cpt50 and cpt80 (share of strong calls that recovers
    50 % and 80 % of the gap: less is better) as RouteLLM defines them, curve (pairs of the share of
    strong calls and quality), and the same of chance and of an oracle that knows both answers. Tied
    scores count as the mean over their orders. If the strong model is no better, the figures are
    null; if it isn't shown to be (gap, at 95 % confidence), apgr_interval is.

    Exit codes: 0 evaluated, 2 usage, or rows that the router wasn't made for.

        moa route eval router.json fresh.jsonl
        moa route eval router.json fresh.jsonl --report report.json --plot curve.png
    """
    from moa import rows
    from moa.evals.plots import check_picture
    from moa.routing.evaluation import evaluate_router, plot_routing
    from moa.routing.recorded import RecordedRequest
    from moa.routing.router import Router

    screen.check_target("--report", report)
    screen.check_target("--plot", plot)
    if plot is not None:
        check_picture(plot)
    fitted_router = Router.load(router)
    recorded = [row for _, row in rows.read_models(data, RecordedRequest, format=format)]
    routing_report = evaluate_router(fitted_router, recorded)
    _warn(fitted_router.missing_fields([row.case for row in recorded]))
    if plot is not None:
        plot_routing(
            routing_report, plot, title=f"{fitted_router.kind}, {routing_report.n} requests"
        )
    _show_report(screen.results_console(as_json=as_json), fitted_router, routing_report)
    screen.report(routing_report, report, as_json=as_json)


def _warn(missing: str | None) -> None:
    if missing is not None:
        screen.err().print(f"moa: {missing}", style="yellow")


def _show_router(router: Router) -> None:
    origin, console = router.origin, screen.details()
    looks = "the prompt and the weak model's answer" if router.kind == "cascade" else "the prompt"
    also = f", and {', '.join(router.fields)} where it is there" if router.fields else ""
    left_out = f" ({origin.left_out} that stood there twice left out)" if origin.left_out else ""
    console.print(f"a {router.kind}: looks at {looks}{also}")
    console.print(
        f"{origin.rows} rows{left_out}: the weak model is right on {origin.weak_quality:.3f}, "
        f"the strong one on {origin.strong_quality:.3f}"
    )
    rows = [
        (c.name, f"{c.apgr:.3f}", f"{c.weight:.2f}" if c.weight else "-") for c in router.candidates
    ]
    console.print(screen.make_table(("candidate", "APGR, held out", "weight"), rows))
    console.print(f"{origin.why}. Chance is 0.500.")
    screen.results_console().print(f"threshold: {router.target}")


def _show_report(console: Console, router: Router, report: RoutingReport) -> None:
    from moa.evals.comparison import figure

    console.print(
        f"{report.n} rows: the weak model is right on {report.weak_quality:.3f}, the strong one "
        f"on {report.strong_quality:.3f}"
    )
    measured = {router.kind: report, "chance": report.random, "oracle": report.oracle}
    rows = [
        (name, figure(figures.apgr), figure(figures.cpt50), figure(figures.cpt80))
        for name, figures in measured.items()
    ]
    console.print(screen.make_table(("", "APGR", "CPT(50%)", "CPT(80%)"), rows))
    console.print(report.verdict)
    if report.at_threshold is not None:
        console.print(
            f"at its threshold ({router.target}): {report.at_threshold.strong_share:.0%} strong "
            f"calls here, quality {report.at_threshold.quality:.3f}"
        )
