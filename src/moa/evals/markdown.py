"""Markdown: a comparison as a table, to be put into a page."""

from __future__ import annotations

from moa.evals.report import Comparison, DesignReport


def columns_of(found: Comparison) -> list[str]:
    """Name the columns of a comparison's table."""
    names = ["design", found.metric, f"against {found.reference}"]
    if found.kind == "labels":
        names += ["macro F1", "ECE (by chance)", "accepts", "wrong of it"]
    return [*names, "US$", "LLM calls", "tokens", "s mean", "s p95", "failed"]


def cells_of(found: Comparison, design: DesignReport) -> list[str]:
    """Write the cells of a design's row, in the order of the columns; unknown is `-`."""
    quality = design.quality
    row = [
        design.name,
        f"{quality.value:.3f} ({quality.low:.3f}-{quality.high:.3f})",
        "-" if design.against is None else _against(design),
    ]
    if design.labels is not None:
        measured = design.labels
        row += [
            f"{measured.macro_f1:.3f}",
            f"{_figure(measured.ece)} ({_figure(measured.ece_by_chance)})",
            _figure(measured.coverage),
            _figure(measured.accepted_error),
        ]
    cost = "unknown" if design.cost is None else f"{design.cost:.4f}"
    failed = f"{found.n - design.answered}"
    if design.unreadable:
        failed += f", {design.unreadable} without a verdict"
    return [
        *row,
        cost,
        f"{design.llm_calls:.2f}",
        f"{design.tokens:.0f}",
        f"{design.seconds_mean:.2f}",
        f"{design.seconds_p95:.2f}",
        failed,
    ]


def markdown_of(found: Comparison) -> str:
    """Write a comparison as Markdown: the table, and what each design is worth."""
    columns = columns_of(found)
    budget = "" if found.budget is None else f", each with US$ {found.budget:.2f}"
    lines = [
        f"{found.n} cases{budget}. Intervals are at 95 % confidence.",
        "",
        _row(columns),
        _row(["---"] * len(columns)),
        *(_row(cells_of(found, design)) for design in found.designs),
        "",
        *(f"* **{_escaped(design.name)}**: {design.verdict}." for design in found.designs),
    ]
    return "\n".join(lines) + "\n"


def _against(design: DesignReport) -> str:
    assert design.against is not None
    apart, p = design.against.difference.value, design.against.p
    if p is None:
        return f"{apart:+.3f}"
    return f"{apart:+.3f} ({'p<0.001' if p < 0.001 else f'p={p:.3f}'})"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
