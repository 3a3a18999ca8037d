"""moa compare: designs side by side on labelled rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Group

    from moa.config.endpoints import Endpoints
    from moa.config.loading import AnyNode
    from moa.core.context import RunContext
    from moa.evals.cases import Data
    from moa.evals.comparison import Comparison


def compare(
    source: options.LabelledRows,
    *,
    designs: Annotated[
        str, typer.Option("--designs", metavar="A,B,C", help="Built-in names, or file.py:object.")
    ] = "slm,llm",
    task: options.Task = None,
    labels: options.Labels = None,
    decision: Annotated[
        str | None,
        typer.Option(
            "--decision",
            metavar="NAME",
            help="Decision to compare, and column of its labels: intent. Default: label.",
        ),
    ] = None,
    calibration: options.CalibrationFile = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Design that the others are compared with; default: llm."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", help="How answers in words are scored: exact, numeric, rouge-l or judge."
        ),
    ] = None,
    risk: options.Risk = 0.05,
    as_json: options.AsJson = False,
    report: options.Report = None,
    plot: options.Plot = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write every answer as a line of JSON.", metavar="FILE.jsonl"),
    ] = None,
    given: options.RunOptions,
) -> None:
    r"""Compare designs on labelled rows, and say which pays.

    Rows have text (or prompt) and label, or text and reference. A design is a built-in graph or
    agent by its name, with its table of moa.toml, or file.py:object. With labels, it returns a
    decision, a model with one decision in it (--decision names one of several), or the label as a
    text. Each gets an equal part of the budget; a row without an answer counts as wrong.

    Without a calibration, by the labels of the rows, with a design of your own:

        moa compare labelled.jsonl --designs slm,llm,mine.py:graph --task "Which team is it for?"

    Texts against a reference, at the same budget, with every answer stored, a table and a plot;
    --resume continues:

        moa compare problems.jsonl --designs slm,llm --task "Solve the problem." --metric numeric \
            --budget-usd 2 --out answers.jsonl --report report.md --plot report.svg

    The intent in three support graphs of your own, on rows with an intent:

        moa compare inbox.jsonl --designs ways.py:model,ways.py:heads,ways.py:both \
            --decision intent

    Exit codes: 0 compared, 1 a design answered nothing, 2 usage or configuration, 130 stopped.

    The small model, the large one, and the small one first with the large one in doubt:

        moa compare labelled.jsonl --designs slm,llm,cascade --calibration intents.json
    """
    from moa.core._files import check_lines
    from moa.evals.cases import read_cases
    from moa.evals.plots import check_picture

    for option, file in (("--report", report), ("--plot", plot), ("--out", out)):
        screen.check_target(option, file)
    existing = given.existing(out)
    if out is not None:
        check_lines(out, existing=existing, source=source)
    if plot is not None:
        check_picture(plot)
    data = read_cases(source, limit=given.limit, decision=decision, **given.row_format)
    label_list = None if labels is None else options.label_names(labels)
    settings = _settings(source, data, task=task, labels=label_list, calibration=calibration)
    names = [name.strip() for name in designs.split(",") if name.strip()]

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.config.endpoints import NO_LLM
        from moa.config.loading import fingerprints
        from moa.evals import compare as compared

        del context  # each design has a context of its own, with a part of the budget
        nodes = _nodes(names, endpoints, settings)
        judge = endpoints.llm if metric == "judge" else None
        if endpoints.used_slm_as_llm:
            screen.notes().print(NO_LLM)
        await endpoints.warm()
        with screen.progress() as progress:
            comparison = await compared(
                data,
                nodes,
                metric=metric,
                judge=judge,
                reference=reference,
                risk=risk,
                budget_usd=given.budget_usd,
                strict=given.strict,
                cache=out,
                existing=existing,
                setup=None if out is None else fingerprints(names, endpoints, options=settings),
                concurrency=given.concurrency,
                progress=progress,
            )
        screen.results_console(as_json=as_json).print(_comparison_table(comparison))
        if as_json:
            screen.json_line(comparison.model_dump(mode="json"))
        _write(comparison, report, plot)
        return 0 if all(design.answered for design in comparison.designs) else 1

    stopped = f"Stopped with some of the answers: {options.how_to_go_on(out)}."
    raise typer.Exit(given.run(body, stopped=stopped))


def _settings(
    source: str,
    data: Data,
    *,
    task: str | None,
    labels: Sequence[str] | None,
    calibration: Path | None,
) -> dict[str, object]:
    """The settings that the command line gives to all designs that have them."""
    if labels is not None:
        _check_labels(source, data, labels, calibrated=calibration is not None)
    settings: dict[str, object] = {}
    if task is not None:
        settings |= {"task": task, "instructions": task}
    if calibration is not None:
        settings["calibration"] = calibration.resolve()
    elif data.kind == "labels":
        names = list(labels or data.labels)
        if len(names) < 2:
            raise ConfigError(
                f"{source} has rows of the label {names[0]!r} alone, and deciding takes two labels "
                "or more: give the others with --labels"
            )
        settings["labels"] = names
    return settings


def _check_labels(source: str, data: Data, labels: Sequence[str], *, calibrated: bool) -> None:
    from moa.config.faults import nearest
    from moa.core.questions import NONE_OF_THESE

    if calibrated or data.kind != "labels":
        reason = "a calibration knows its own" if calibrated else "the rows have none"
        raise ConfigError(f"--labels can't be given here: {reason}")
    unknown = [label for label in data.labels if label not in (*labels, NONE_OF_THESE)]
    if unknown:
        raise ConfigError(
            f"{source} has rows of the label {unknown[0]!r}, which is none of --labels "
            f"{','.join(labels)}{nearest(unknown[0], list(labels))}"
        )


def _nodes(
    names: Sequence[str], endpoints: Endpoints, settings: Mapping[str, object]
) -> dict[str, AnyNode]:
    from moa.config.faults import nearest
    from moa.config.loading import READY, load_graph

    for name in names:
        if ":" not in name and name not in READY:
            raise ConfigError(f"--designs: there is no {name!r}{nearest(name, list(READY))}")
    if {"slm", "llm"} <= {*names} and not endpoints.has_llm:
        raise ConfigError(
            "--designs has llm, and no LLM is configured: the small model would be compared with "
            "itself. Put one into moa.toml (moa models add), or leave llm out"
        )
    return {name: load_graph(name, endpoints, options=settings) for name in names}


def _comparison_table(comparison: Comparison) -> Group:
    """Show a comparison: its table, its verdicts, and why cases have no answer."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(comparison.columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for design in comparison.designs:
        table.add_row(*map(Text, comparison.cells(design)))
    budget = "" if comparison.budget is None else f", each design with US$ {comparison.budget:.2f}"
    lines = [Text(f"{comparison.n} cases{budget}")]
    styles = {True: "green", False: "yellow", None: ""}
    for design in comparison.designs:
        name = Text(f"{design.name}: ", style="bold")
        lines.append(name + Text(design.verdict, style=styles[design.pays]))
        if design.error is not None:
            missing = comparison.n - design.answered
            lines.append(Text(f"  {missing} without an answer, such as: {design.error}", "red"))
    return Group(table, *lines)


def _write(comparison: Comparison, report: Path | None, plot: Path | None) -> None:
    from moa.evals.plots import plot_comparison

    files: list[Path] = []
    if report is not None:
        markdown = report.suffix.lower() == ".md"
        text = comparison.markdown() if markdown else comparison.model_dump_json(indent=1) + "\n"
        screen.write_text("--report", report, text)
        files.append(report)
    if plot is not None:
        files += plot_comparison(comparison, plot)
    for file in files:
        screen.notes().print(f"written: {file}")
