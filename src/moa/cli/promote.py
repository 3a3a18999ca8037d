"""moa eval and promote: how good a calibration is, and what it could take over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.cli.learn import labelled_rows

if TYPE_CHECKING:
    from moa._terminal import Console
    from moa.calibration.measuring import Evaluation
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext
    from moa.evals.promotion import Promotion


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="A calibration.")],
    source: options.LabelledRows,
    *,
    as_json: options.AsJson = False,
    report: options.Report = None,
    given: options.ReadingAndAsking,
) -> None:
    """Measure the decisions of a calibration on labelled rows.

    FILE is what moa learn --task wrote. The rows have text and label, and must be others than those
    it was made from. Coverage is the share of decisions that are accepted; risk is the share of
    wrong ones among the accepted, null where none is.

    Exit codes: 0 measured, 2 usage, data or configuration, 130 stopped.

        moa eval intents.json labelled.jsonl
        moa eval intents.json labelled.jsonl --report report.json
    """
    screen.check_target("--report", report)
    rows = labelled_rows(source, given)

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.calibration.file import Calibration
        from moa.calibration.measuring import evaluate as measured
        from moa.evals.calibrations import connected, odd_rows

        calibration = Calibration.load(file)
        ready = connected(calibration, endpoints.slm)
        warnings = await ready.check(context)
        screen.warn([*warnings, *odd_rows(calibration, rows)])
        with screen.progress("reading") as progress:
            found = await measured(ready, rows, context=context, progress=progress)
        console = screen.out(as_json=as_json)
        _show_evaluation(console, found)
        if calibration.bound is not None:
            console.print(f"promise: {calibration.bound.summary}")
        screen.report(found, report, as_json=as_json)
        return 0

    raise typer.Exit(given.run(body))


def promote(
    source: options.LabelledRows,
    *,
    task: options.NeededTask,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="Write the calibration.")],
    labels: options.Labels = None,
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
    write: options.Write = True,
    as_json: options.AsJson = False,
    report: options.Report = None,
    given: options.ReadingAndAsking,
) -> None:
    """Find out which decisions of an LLM a small model can take over.

    It calibrates the small model on a part of the log, looks at the rest, says what share could
    move at which risk and what that saves, and writes [graphs.cascade] into moa.toml, with the LLM
    as the audit of a share of what is accepted. Other settings of the table stay; without an LLM
    nothing is written there. Then:

        moa run cascade inbox.jsonl

    Only look, and write nothing into moa.toml:

        moa promote log.jsonl --task "…" --risk 0.02 --out teams.json --no-write

    Exit codes: 0 looked into, whatever was found; 2 usage, data or configuration, 130 stopped.

    A log of what the LLM decided, rows with text and label:

        moa promote log.jsonl --task "Which team does this mail belong to?" --out teams.json
    """
    from moa.calibration import Guarantee
    from moa.config.file import target

    screen.check_target("--out", out)
    screen.check_target("--report", report)
    if write:
        screen.check_target("--config", target(given.config).resolve())
    names = options.label_names(labels) if labels else None
    guarantee = Guarantee(risk, confidence)
    rows = labelled_rows(source, given)

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.evals.promotion import promote as promoted

        with screen.progress("reading") as progress:
            made, found = await promoted(
                endpoints.slm,
                rows,
                task=task,
                labels=names,
                guarantee=guarantee,
                use=use,
                audit=audit,
                llm=endpoints.llm if endpoints.has_llm else None,
                context=context,
                progress=progress,
            )
        made.save(out)
        _show_promotion(found, as_json=as_json)
        screen.report(found, report, as_json=as_json)
        if write:
            _configure(screen.notes(), found, given.config, out, audit, has_llm=endpoints.has_llm)
        return 0

    raise typer.Exit(given.run(body))


def _show_evaluation(console: Console, found: Evaluation) -> None:
    from moa.evals.comparison import figure

    console.print(
        f"{found.n} rows: accuracy {found.accuracy:.3f}, macro F1 {found.macro_f1:.3f}, "
        f"calibration error {found.ece:.3f} (by chance {figure(found.ece_by_chance)})"
    )
    wrong = "" if found.risk is None else f", of which {found.risk:.2%} are wrong"
    console.print(
        f"accepted {found.coverage:.1%}{wrong}; "
        f"{found.tokens_per_decision:.0f} tokens and {1000 * found.seconds_per_decision:.1f} ms "
        "a decision"
    )


def _show_promotion(found: Promotion, *, as_json: bool) -> None:
    from moa.calibration import percent

    console, result = screen.details(as_json=as_json), screen.out(as_json=as_json)
    rows = [(percent(seen.risk), percent(seen.coverage)) for seen in found.seen]
    console.print(f"What would have moved on {found.checked_on} rows; seen, not promised:")
    console.print(screen.listed(("at most wrong", "share moved"), rows))
    result.print(found.verdict)
    result.print(f"promise: {found.bound.summary}")
    saving = found.saving
    console.print(f"Of 1000 messages the LLM is asked about {saving.llm_calls:.0f}")
    if saving.llm_alone is None or saving.after is None:
        console.print("What that saves in US$ is not known: it takes a price of both models.")
    else:
        console.print(
            f"At its price, estimated from the texts: US$ {saving.llm_alone:.4f} for 1000 messages "
            f"by the LLM alone, US$ {saving.after:.4f} so"
        )


def _configure(
    console: Console,
    found: Promotion,
    config: Path | None,
    out: Path,
    audit: float,
    *,
    has_llm: bool,
) -> None:
    from moa.config.file import set_in_graph, target

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
    folder = target(config).resolve().parent
    file = out.resolve()
    keys = {
        "calibration": os.path.relpath(file, folder),
        "audit": audit,
        "state": os.path.relpath(file.with_suffix(".audit.json"), folder),
    }
    done = set_in_graph(config, "cascade", keys)
    console.print(f"written: {out}, and [graphs.cascade] in {done.file}")
    for key, was in done.changed.items():
        console.print(f"  {key} = {json.dumps(keys[key])}, was {json.dumps(was)}")
    if done.kept:
        console.print(f"  as they were: {', '.join(done.kept)}")
