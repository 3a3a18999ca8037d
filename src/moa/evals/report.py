"""Report: what a comparison found, to be printed, drawn or written as JSON or Markdown."""

from __future__ import annotations

from pydantic import Field

from moa.evals.cases import Kind
from moa.evals.metrics import Interval, LabelMetrics
from moa.node import Frozen


class Against(Frozen):
    """A design beside the reference, on the same cases."""

    reference: str
    difference: Interval
    """How much better it is; with 95 % confidence this holds of all designs together."""
    p: float | None
    """McNemar's exact test, of this design by itself; `None` where answers are not just right or
    wrong."""


class DesignReport(Frozen):
    """What one design reached, and what it took."""

    name: str
    answered: int
    """Cases with an answer."""
    unreadable: int = 0
    """Cases whose answer the judge gave no verdict on; they are left out of `quality`."""
    quality: Interval
    """Mean over the cases; one without an answer counts 0."""
    labels: LabelMetrics | None
    """`None` where texts are compared."""
    cost: float | None
    """US dollars for all cases; `None` where a price is unknown."""
    tokens: float
    """A case, on average."""
    llm_calls: float
    """A case, on average."""
    seconds_mean: float
    """Of the cases with an answer, as the next."""
    seconds_p95: float
    """95th percentile, by nearest rank."""
    against: Against | None = None
    """`None` for the reference itself."""
    pays: bool | None = None
    """Whether it is worth having; `None` where only a user can weigh loss against cost, or where
    the cases are too few to tell."""
    verdict: str = ""
    error: str | None = None
    """Of the first case without an answer."""


class Point(Frozen):
    """The small model with a threshold, and the large one for the rest."""

    llm_share: float
    """Share of the cases that the large model answers."""
    quality: float
    cost: float | None
    """US dollars for all cases, the small model asked about each."""


class Comparison(Frozen):
    """Designs side by side on the same cases."""

    kind: Kind
    metric: str
    """What quality is: `accuracy`, or the text metric."""
    n: int
    reference: str
    budget: float | None
    """US dollars that each design had; `None` is no limit."""
    designs: tuple[DesignReport, ...]
    curve: tuple[Point, ...] = ()
    """Quality against cost of `slm` before `llm`, by how much of it is believed: what its
    calibration accepts first, then the surest first. Empty where one of the two is missing, or has
    no confidence."""
    reliability: dict[str, list[tuple[float, float, int]]] = Field(default_factory=dict)
    """By design: mean confidence, share of right ones and number of the cases in each bin."""
    coverage: dict[str, list[tuple[float, float]]] = Field(default_factory=dict)
    """By design: share of cases accepted, and the share of wrong ones in it. What a calibration
    accepts comes first, then the surest first."""

    def design(self, name: str) -> DesignReport:
        """Give what one design reached.

        Raises:
            KeyError: there is none of this name.
        """
        return {design.name: design for design in self.designs}[name]

    @property
    def columns(self) -> list[str]:
        """The names of the columns of its table."""
        names = ["design", self.metric, f"against {self.reference}"]
        if self.kind == "labels":
            names += ["macro F1", "ECE (by chance)", "accepts", "wrong of it"]
        return [*names, "US$", "LLM calls", "tokens", "s mean", "s p95", "failed"]

    def cells(self, design: DesignReport) -> list[str]:
        """Write a design's row of its table; unknown is `-`."""
        quality, measured = design.quality, design.labels
        labels: list[str] = []
        if measured is not None:
            labels = [
                f"{measured.macro_f1:.3f}",
                f"{figure(measured.ece)} ({figure(measured.ece_by_chance)})",
                figure(measured.coverage),
                figure(measured.accepted_error),
            ]
        unreadable = f", {design.unreadable} without a verdict" if design.unreadable else ""
        return [
            design.name,
            f"{quality.value:.3f} ({quality.low:.3f}-{quality.high:.3f})",
            "-" if design.against is None else _beside(design.against),
            *labels,
            "unknown" if design.cost is None else f"{design.cost:.4f}",
            f"{design.llm_calls:.2f}",
            f"{design.tokens:.0f}",
            f"{design.seconds_mean:.2f}",
            f"{design.seconds_p95:.2f}",
            f"{self.n - design.answered}{unreadable}",
        ]

    def markdown(self) -> str:
        """Write it as Markdown: the table, and what each design is worth."""
        budget = "" if self.budget is None else f", each with US$ {self.budget:.2f}"
        lines = [
            f"{self.n} cases{budget}. Intervals are at 95 % confidence.",
            "",
            _row(self.columns),
            _row(["---"] * len(self.columns)),
            *(_row(self.cells(design)) for design in self.designs),
            "",
            *(f"* **{_escaped(design.name)}**: {design.verdict}." for design in self.designs),
        ]
        return "\n".join(lines) + "\n"


def figure(value: float | None) -> str:
    """Write a figure to three places; `-` where there is none."""
    return "-" if value is None else f"{value:.3f}"


def _beside(against: Against) -> str:
    apart, p = against.difference.value, against.p
    if p is None:
        return f"{apart:+.3f}"
    return f"{apart:+.3f} ({'p<0.001' if p < 0.001 else f'p={p:.3f}'})"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
