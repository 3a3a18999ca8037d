"""Plots: pictures drawn with matplotlib, such as those of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from moa.core.errors import ConfigError, MissingDependency
from moa.evals.comparison import Comparison
from moa.learning.figures import LearningFigures

FORMATS = (".png", ".svg")


class Axes(Protocol):
    """The axes of a picture. Matplotlib types few of its parameters."""

    def __getattr__(self, name: str, /) -> Callable[..., Any]: ...


def check_picture(path: Path) -> None:
    """Check that a picture can be saved under this name.

    Raises:
        ConfigError: the name doesn't end in `.png` or `.svg`.
        MissingDependency: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a plot is a file ending in {' or '.join(FORMATS)}, not {str(path)!r}")
    if find_spec("matplotlib") is None:
        raise MissingDependency("matplotlib", extra="plots", purpose="to draw a plot")


def plot_comparison(comparison: Comparison, path: Path) -> tuple[Path, ...]:
    """Draw the pictures of a comparison.

    Returns:
        Files, named after a `path` that ends in `.png` or `.svg`: `NAME-cost`, and if designs have
        confidences, `NAME-reliability` and `NAME-coverage`.
    """
    kinds: dict[str, Callable[[Comparison, Axes], None]] = {"cost": _cost}
    if comparison.coverage:
        kinds |= {"reliability": _reliability, "coverage": _coverage}
    files: list[Path] = []
    for kind, draw in kinds.items():
        files.append(path.with_name(f"{path.stem}-{kind}{path.suffix}"))
        save_picture(files[-1], partial(draw, comparison))
    return tuple(files)


def plot_learning(figures: LearningFigures, path: Path) -> None:
    """Draw the calls to the large model per hundred inputs, over the inputs."""

    def draw(axes: Axes) -> None:
        inputs = [hundred.last for hundred in figures.hundreds]
        sizes = [hundred.last - hundred.first + 1 for hundred in figures.hundreds]
        calls = [
            100 * hundred.calls / size
            for hundred, size in zip(figures.hundreds, sizes, strict=True)
        ]
        axes.plot(inputs, calls, drawstyle="steps-pre", label="calls of the large model")
        would = [
            100 * hundred.would / size
            for hundred, size in zip(figures.hundreds, sizes, strict=True)
        ]
        if would != calls:
            axes.plot(inputs, would, drawstyle="steps-pre", label="were the small answers given")
            axes.legend()
        for epoch in figures.epochs[1:]:
            axes.axvline(epoch.first, linestyle="--", color="grey")
        axes.set(xlabel="inputs", ylabel="calls of the large model, of 100", ylim=(0, None))

    save_picture(path, draw)


def save_picture(path: Path, draw: Callable[[Axes], None]) -> None:
    """Draw on the axes of a picture, and save it as `.png` or `.svg`."""
    check_picture(path)
    figure = import_module("matplotlib.figure").Figure(figsize=(6, 4), layout="constrained")
    draw(figure.add_subplot())
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} can't be written: {error.strerror}") from error


def _reliability(comparison: Comparison, axes: Axes) -> None:
    axes.plot((0, 1), (0, 1), linestyle="--", color="grey", label="as sure as right")
    for name, bins in comparison.reliability.items():
        sizes = [20 + 200 * count / comparison.n for _, _, count in bins]
        confidence, right = [b[0] for b in bins], [b[1] for b in bins]
        (line,) = axes.plot(confidence, right, label=name)
        axes.scatter(confidence, right, s=sizes, color=line.get_color())
    axes.set(xlabel="confidence", ylabel="share of right answers", title="Reliability")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend()


def _coverage(comparison: Comparison, axes: Axes) -> None:
    for name, line in comparison.coverage.items():
        axes.plot([share for share, _ in line], [wrong for _, wrong in line], label=name)
    for design in comparison.designs:
        labels = design.labels
        if labels is not None and labels.coverage and labels.accepted_error is not None:
            axes.scatter(labels.coverage, labels.accepted_error, marker="x")
            axes.annotate(f"{design.name} accepts", (labels.coverage, labels.accepted_error))
    axes.set(xlabel="share of cases, the surest first", ylabel="share of wrong ones")
    axes.set_title("Coverage against risk")
    axes.set_xlim(0, 1)
    axes.legend()


def _cost(comparison: Comparison, axes: Axes) -> None:
    priced = all(design.cost is not None for design in comparison.designs)
    for design in comparison.designs:
        cost = design.cost if priced else design.llm_calls
        q = design.quality
        axes.errorbar(cost, q.value, yerr=[[q.value - q.low], [q.high - q.value]], marker="o")
        axes.annotate(
            design.name, (cost, q.value), textcoords="offset points", xytext=(6, 4), fontsize=8
        )
    if comparison.curve:
        x_values = [point.cost if priced else point.llm_share for point in comparison.curve]
        label = "slm before llm, by threshold"
        axes.plot(x_values, [p.quality for p in comparison.curve], color="grey", label=label)
        axes.legend(loc="lower right")
    xlabel = "US$ for all cases" if priced else "calls to large models a case (prices unknown)"
    axes.set(xlabel=xlabel, ylabel=comparison.metric, title="Quality against cost")
    axes.margins(x=0.15)
