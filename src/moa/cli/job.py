"""moa job: how far a job is, what failed in it, and its results. `moa run --job` works on it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from moa.cli import options, screen

Store = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="Folder of the job, or postgresql://…#NAME.", show_default=False
    ),
]


def status(store: Store, *, as_json: options.AsJson = False) -> None:
    """Show how far a job is, what it cost, and why rows failed.

    It may be asked while others work on the job. Rows are due, leased by a process, done, failed
    (and tried again), or dead (and not).

        moa job status nightly
    """
    from moa.jobs import Job

    with Job(store) as job:
        found = job.status()
    if as_json:
        screen.json_line(
            {
                "total": found.total,
                "left": found.left,
                "rows": dict(found.rows),
                "calls": found.calls,
                "cost": found.cost,
                "needed_llm": found.needed_llm,
                "causes": dict(found.causes),
            }
        )
        return
    out = screen.out()
    for state, count in sorted(found.rows.items()):
        out.print(f"{state:<8} {count}")
    out.print(f"calls    {found.calls}, {screen.dollars(Decimal(str(found.cost)))}")
    out.print(f"LLM      needed by {found.needed_llm} of {found.total} rows")
    for cause, count in sorted(found.causes.items(), key=lambda one: -one[1]):
        out.print(f"{cause}: {count} rows")


def retry(store: Store) -> None:
    """Make the rows of a job that failed or are dead due again.

    The next `moa run GRAPH INPUT --job JOB` works on them.

        moa job retry nightly
    """
    from moa.jobs import Job

    with Job(store) as job:
        screen.out().print(f"{job.retry()} rows are due again")


def failed(store: Store) -> None:
    """Print the lines of the rows that failed or are dead, as JSON.

    moa job failed nightly | jq -r .error | sort | uniq -c
    """
    from moa.jobs import Job

    with Job(store) as job:
        for values in job.lines("failed", "dead"):
            screen.json_line(values)


def export(
    store: Store,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="Write a .jsonl, .csv or .parquet file; .gz compresses."
        ),
    ],
    overwrite: options.Overwrite = False,
) -> None:
    """Write what came out, a line for each row in the order of the rows, as moa run --out does.

    Rows that failed have a line with their error; those that nobody has worked on have none.

        moa job export nightly --out done.jsonl
    """
    from moa.errors import ConfigError
    from moa.jobs import Job

    if out.is_file() and out.stat().st_size and not overwrite:
        raise ConfigError(f"{out} is there already: --overwrite replaces it")
    with Job(store) as job:
        count = job.export(out)
    screen.out().print(f"{count} lines in {out}")
