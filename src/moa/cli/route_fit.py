"""moa route fit: a router, or a cascade, from the recorded answers of two models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa.routing import Router

EXAMPLES = """

A row has prompt, weak_correct and strong_correct (true or false, or 1 or 0), and where the weak
model is asked first also its answer, weak_response:

    {"prompt": "…", "weak_correct": false, "strong_correct": true}

    moa route fit log.jsonl --out router.json                    to recover 80 % of the quality gap
    moa route fit log.jsonl --out router.json --share 0.3        30 % of requests to the strong one
    moa route fit log.jsonl --out router.json --quality 0.95

With weak_response in all rows it is a cascade, which looks at the answer too: it re-computes its
sums, follows them from the question to the result, and looks for doubt. Else it is a router, which
looks at the prompt alone. Other short texts in a row, such as a subject, group the rows where their
values come often enough; leave out what tells the answer, or what won't be known later.

What is predicted is the gain of the strong model. Candidates are compared by cross-validation; the
file says what each reached, and what was chosen. Take some hundreds of rows at least, and report
moa route eval on rows that took no part in fitting.

Exit codes: 0 fitted, 2 usage, or rows from which nothing can be learnt.
"""


def fit(
    data: Annotated[
        str, typer.Argument(metavar="DATA.jsonl", help=".jsonl or .csv file, - for standard input.")
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="ROUTER.json", help="Where the router is written.")
    ],
    share: Annotated[
        float | None,
        typer.Option("--share", min=0, max=1, help="Share of requests for the strong model."),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option("--quality", min=0, max=1, help="Part of the quality gap to recover."),
    ] = None,
    format: options.Format = None,
) -> None:
    """Fit a router, or a cascade, from recorded answers of a weak and a strong model."""
    from moa.cli import routing_rows, screen
    from moa.cli.targets import check_target
    from moa.errors import ConfigError
    from moa.routing.fitting import fit_router

    if share is not None and quality is not None:
        raise ConfigError("give --share or --quality, not both: each chooses the threshold")
    check_target("--out", out)
    recorded = routing_rows.recorded(data, format=format)
    router = routing_rows.with_progress(
        lambda progress: fit_router(recorded, progress=progress), "fitting"
    )
    if share is not None:
        router = router.at_share(share)
    if quality is not None:
        router = router.at_quality(quality)
    router.save(out)
    _show(router, out)
    screen.err().print(f"wrote {out}")


def _show(router: Router, out: Path) -> None:
    from moa.cli import screen
    from moa.cli.tables import listed

    console, origin = screen.out(), router.origin
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
    console.print(listed(("candidate", "APGR, held out", "weight"), rows))
    console.print(f"{origin.why}. Chance is 0.500.")
    console.print(f"threshold: {router.target}")
    console.print(f"try it on other rows: moa route eval {out} DATA.jsonl --json REPORT.json")
