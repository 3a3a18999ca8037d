"""moa promote: what a small model can take over of an LLM's decisions, by a log of them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa._terminal import Console
    from moa.calibration import Guarantee
    from moa.calibration.features import Progress
    from moa.calibration.labelled import Labelled
    from moa.cli.calibrations import Job
    from moa.context import RunContext
    from moa.evals.promotion import Promotion
    from moa.tiers import Endpoints

EXAMPLES = """

A log of what the LLM decided, rows with text and label:

    moa promote log.jsonl --task "Which team does this mail belong to?" --out teams.json

It calibrates the small model on a part of the log, looks at the rest, says what share could move
at which risk and what that saves, and writes [graphs.cascade] into moa.toml, with the LLM as the
audit of a share of what is accepted. Other settings of the table stay; without an LLM nothing is
written there. Then:

    moa run cascade inbox.jsonl

Only look, and write nothing into moa.toml:

    moa promote log.jsonl --task "…" --risk 0.02 --out teams.json --no-write

Exit codes: 0 looked into, whatever was found; 2 usage, data or configuration, 130 stopped.
"""


def promote(
    source: Annotated[str, typer.Argument(metavar="LOG", help="Rows with text and label.")],
    *,
    task: Annotated[
        str,
        typer.Option("--task", help='The question that the labels answer: "Which team is it for?"'),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.json", help="The calibration to write.")
    ],
    labels: options.LabelNames = None,
    risk: options.Risk = 0.05,
    confidence: options.Confidence = 0.95,
    use: Annotated[
        int, typer.Option("--use", min=20, help="Rows to calibrate on; the rest is looked at.")
    ] = 512,
    audit: Annotated[
        float,
        typer.Option(
            "--audit", min=0, max=1, help="Share of accepted decisions that the LLM checks, 0 to 1."
        ),
    ] = 0.02,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Write [graphs.cascade] into moa.toml.")
    ] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="REPORT.json", help="Write the figures there.")
    ] = None,
    format: options.Format = None,
    text_column: options.TextColumn = None,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
) -> None:
    """Find out what a small model can take over of an LLM's decisions."""
    from moa.calibration import Guarantee
    from moa.cli.calibrations import run
    from moa.cli.decide import label_names
    from moa.cli.labelled import labelled_rows
    from moa.cli.targets import check_target
    from moa.config_file import target

    check_target("--out", out)
    check_target("--json", json_file)
    if write:
        check_target("--config", target(config).resolve())
    asked = _Asked(
        task=task,
        labels=label_names(labels) if labels else None,
        guarantee=Guarantee(risk, confidence),
        use=use,
        audit=audit,
        out=out,
        json_file=json_file,
        write=write,
        config=config,
    )
    rows = labelled_rows(source, format=format, text_column=text_column)
    raise typer.Exit(run(_job(rows, asked), config, budget_usd))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the command line asks for."""

    task: str
    labels: list[str] | None
    guarantee: Guarantee
    use: int
    audit: float
    out: Path
    json_file: Path | None
    write: bool
    config: Path | None


def _job(rows: list[Labelled], asked: _Asked) -> Job:
    async def job(endpoints: Endpoints, context: RunContext, progress: Progress) -> int:
        from moa.cli import screen
        from moa.evals.promotion import promote as promoted

        made, found = await promoted(
            endpoints.slm,
            rows,
            task=asked.task,
            labels=asked.labels,
            guarantee=asked.guarantee,
            use=asked.use,
            audit=asked.audit,
            llm=endpoints.llm if endpoints.has_llm else None,
            context=context,
            progress=progress,
        )
        made.save(asked.out)
        _show(screen.out(), found)
        if asked.json_file is not None:
            _write(asked.json_file, found)
        if asked.write:
            _configure(screen.err(), found, asked, has_llm=endpoints.has_llm)
        return 0

    return job


def _show(console: Console, found: Promotion) -> None:
    from moa.calibration import percent
    from moa.cli.tables import listed

    rows = [(percent(seen.risk), percent(seen.coverage)) for seen in found.seen]
    console.print(f"What would have moved on {found.checked_on} rows; seen, not promised:")
    console.print(listed(("at most wrong", "share moved"), rows))
    console.print(found.verdict)
    console.print(f"promise: {found.bound.summary}")
    saving = found.saving
    console.print(f"Of 1000 messages the LLM is asked about {saving.llm_calls:.0f}")
    if saving.llm_alone is None or saving.after is None:
        console.print("What that saves in US$ is not known: it takes a price of both models.")
    else:
        console.print(
            f"At its price, estimated from the texts: US$ {saving.llm_alone:.4f} for 1000 messages "
            f"by the LLM alone, US$ {saving.after:.4f} so",
        )


def _write(file: Path, found: Promotion) -> None:
    from moa.cli.targets import write_text

    extra = {"risk": found.risk, "holds": found.holds, "verdict": found.verdict}
    values = {**found.model_dump(mode="json"), **extra}
    write_text("--json", file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _configure(console: Console, found: Promotion, asked: _Asked, *, has_llm: bool) -> None:
    from moa.config_file import set_in_graph, target

    if found.bound.threshold is None or not found.accepted or not found.holds:
        console.print("Nothing was written into moa.toml: the LLM goes on to decide.")
        return
    if not has_llm:
        console.print(
            "Nothing was written into moa.toml: no LLM is configured, and a cascade would ask the "
            "small model again where it is in doubt, and audit it by itself. Add one: "
            "moa models add --help"
        )
        return
    folder = target(asked.config).resolve().parent
    out = asked.out.resolve()
    keys = {
        "calibration": os.path.relpath(out, folder),
        "audit": asked.audit,
        "state": os.path.relpath(out.with_suffix(".audit.json"), folder),
    }
    done = set_in_graph(asked.config, "cascade", keys)
    console.print(f"written: {asked.out}, and [graphs.cascade] in {done.file}")
    for key, was in done.changed.items():
        console.print(f"  {key} = {json.dumps(keys[key])}, was {json.dumps(was)}")
    if done.kept:
        console.print(f"  as they were: {', '.join(done.kept)}")
