"""Routing plot: quality over the share of strong calls, as a picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from moa.evals.pictures import save_picture
from moa.evals.routing import RoutingReport


def plot_routing(report: RoutingReport, path: str | Path, *, title: str = "") -> None:
    """Draw the curve of a router, with chance and both models alone, into a file.

    Args:
        report: What is drawn.
        path: Ends in `.png` or `.svg`.
        title: Stands above it.

    Raises:
        ConfigError: the name ends otherwise, or nothing can be written there.
        MissingDependency: matplotlib is not installed.
    """
    save_picture(Path(path), partial(_draw, report, title))


def _draw(report: RoutingReport, title: str, axes: Any) -> None:
    ends = (report.weak_quality, report.strong_quality)
    axes.plot((0, 1), ends, linestyle="--", color="grey", label="by chance: APGR 0.500")
    apgr = report.figures.apgr
    name = "router" if apgr is None else f"router: APGR {apgr:.3f}"
    axes.plot(report.line.shares, report.line.qualities, color="tab:blue", label=name)
    for value, label in zip(ends, ("weak model alone", "strong model alone"), strict=True):
        axes.axhline(value, linewidth=0.8, color="grey")
        axes.annotate(label, (0.1, value), textcoords="offset points", xytext=(0, 3), fontsize=8)
    axes.set(xlabel="share of strong calls", ylabel="share of right answers", title=title)
    axes.set_xlim(0, 1)
    axes.legend(loc="center right")
