"""Options: what several commands take, said once, so that a flag means one thing everywhere.

Those that go together are a group: a command takes it as one argument, and `flat` spells it out.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import typer

from moa.cli import screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from moa.config.endpoints import Endpoints
    from moa.config.tables import Config
    from moa.core._files import Existing
    from moa.core.budget import Budget
    from moa.core.context import RunContext
    from moa.core.telemetry import Tracer

ANSWERED, FAILED, STOPPED = 0, 1, 130
"""Exit codes: all answered or dropped; some failed; Ctrl-C."""


def _set_quiet(quiet: bool) -> bool:
    screen.quiet.set(quiet)
    return quiet


def _check_label_names(labels: str | None) -> str | None:
    """Check `--labels` first: of `a, b` the shell makes `b` an argument of its own."""
    if labels:
        label_names(labels)
    return labels


Source = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help=".jsonl, .csv, .txt, .parquet or .xlsx file, - for standard input.",
    ),
]
GraphNames = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME…",
        help="Built-in graphs and agents (see moa graphs), or file.py:object.",
    ),
]
_KEYS = typer.Option(
    "--keys",
    metavar="FILE",
    envvar="MOA_KEYS",
    show_envvar=False,
    help="File of the keys, or postgresql://…#NAME; default: $MOA_KEYS.",
)
Keys = Annotated[str | None, _KEYS]
NeededKeys = Annotated[str, _KEYS]
Demo = Annotated[
    bool,
    typer.Option(
        "--demo",
        help="Use what ships: moa run the example inbox, moa serve the built-in models alone.",
    ),
]
RunTimeout = Annotated[
    float, typer.Option("--deadline-s", min=1, help="Time limit of a run, in seconds.")
]
LabelledRows = Annotated[
    str,
    typer.Argument(metavar="DATA", help="Rows with text and label: .jsonl or .csv, - for stdin."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Configuration; else $MOA_CONFIG, else ./moa.toml.", metavar="FILE"
    ),
]
OutTable = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Write one line of JSON per row, as soon as it is done; or, at the end, a .csv, "
        ".parquet or .xlsx table, with its lines in FILE.jsonl.",
        metavar="FILE",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="WHICH",
        help="Rows of the table: kept, dropped, failed, accepted, quarantine, or FIELD=VALUE such "
        "as label=spam; a row must match all.",
    ),
]
JobStore = Annotated[
    str | None,
    typer.Option(
        "--job",
        metavar="DIR",
        help="Keep rows and calls in a job, a folder or postgresql://…#NAME: it resumes after a "
        "crash, and several processes can share it.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Run on the Ray cluster at ADDRESS, such as 10.0.0.1:6379; default: $RAY_ADDRESS, "
        "else start one on this machine.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue --out: run only rows that are missing, failed or changed.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace an existing file; in moa.toml, an endpoint of the same name."
    ),
]
Format = Annotated[
    Literal["jsonl", "csv", "txt", "parquet", "xlsx"] | None,
    typer.Option(
        "--format", help="Format of the rows; default: by the file's name, or its first line."
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column", metavar="NAME", help="Column or key that holds the text; default: text."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        metavar="NAME",
        help="Encoding of INPUT, such as cp1252; default: UTF-8.",
    ),
]
TextItself = Annotated[
    bool, typer.Option("--text", help="Take INPUT as the text itself, not as a file.")
]
_TASK = typer.Option(
    "--task", help='The question, or what to do with each text: "Which team is it for?"'
)
Task = Annotated[str | None, _TASK]
NeededTask = Annotated[str, _TASK]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,C",
        callback=_check_label_names,
        help="Names of the labels; default: those of the labelled rows, the calibration or the "
        "cascade.",
    ),
]
_CALIBRATION_FILE = typer.Option("--calibration", metavar="FILE.json", help="What moa learn wrote.")
CalibrationFile = Annotated[Path | None, _CALIBRATION_FILE]
NeededCalibration = Annotated[Path, _CALIBRATION_FILE]
_RISK = typer.Option(
    "--risk", min=0, max=1, help="Target error rate of accepted decisions, 0 to 1: 0.02 is 2 %."
)
Risk = Annotated[float, _RISK]
DefaultRisk = Annotated[float | None, _RISK]
Confidence = Annotated[
    float,
    typer.Option("--confidence", help="Confidence in that rate, 0 to 1: 0.95 fails once in 20."),
]
_LIMIT = typer.Option("--limit", min=1, help="Stop after so many items.")
Limit = Annotated[int | None, _LIMIT]
DefaultLimit = Annotated[int, _LIMIT]
_CONCURRENCY = typer.Option("--concurrency", min=1, help="Maximum items in flight at once.")
Concurrency = Annotated[int | None, _CONCURRENCY]
DefaultConcurrency = Annotated[int, _CONCURRENCY]
BudgetUsd = Annotated[
    float | None,
    typer.Option(
        "--budget-usd",
        min=0,
        help="Maximum US dollars for the whole run; items beyond it fail. Calls to endpoints "
        "without a price don't count; see --strict.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse endpoints whose price is unknown."),
]
HourlyUsd = Annotated[
    float | None,
    typer.Option("--hourly-usd", min=0, help="Cost of the machine in US dollars per hour."),
]
Tier = Annotated[
    Literal["slm", "llm"] | None,
    typer.Option("--tier", help="Small or large model; default: both, or the model's own."),
]
Write = Annotated[bool, typer.Option("--write/--no-write", help="Write the result into moa.toml.")]
Agree = Annotated[bool, typer.Option("--yes", help="Answer yes to every question.")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print JSON, one line per item or in all; everything else goes to stderr."
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.json",
        help="Write a report with all figures; moa compare writes a table into FILE.md.",
    ),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png|FILE.svg", help="Draw the figures.")
]
Trace = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE.jsonl",
        help="Write the trace of each row, one line per span; see docs/tracing.md.",
    ),
]
TraceTexts = Annotated[
    Literal["masked", "whole"] | None,
    typer.Option(
        "--trace-texts",
        help="With --trace, record texts of models and tools too: masked (without personal data "
        "that the guard pii finds; extra guards) or whole. Default: no text.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=_set_quiet,
        help="Print only results and errors: no progress, no remarks, no closing tables.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ExistingOptions:
    """Options about an existing file."""

    resume: Resume = False
    overwrite: Overwrite = False

    def existing(self, out: Path | None) -> Existing:
        """Return it as one word; refuse both flags together, or one without a file."""
        if self.resume and self.overwrite:
            raise ConfigError("--resume keeps what is there, and --overwrite drops it: give one")
        flag = "resume" if self.resume else "overwrite" if self.overwrite else None
        if out is None and flag:
            raise ConfigError(f"--{flag} is about a file: give --out")
        return flag or "refuse"


class RowFormat(TypedDict):
    """Arguments of the functions that read rows."""

    format: Literal["jsonl", "csv", "txt", "parquet", "xlsx"] | None
    text_column: str | None
    encoding: str | None


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options about reading rows."""

    format: Format = None
    text_column: TextColumn = None
    encoding: Encoding = None

    @property
    def row_format(self) -> RowFormat:
        """The same as arguments."""
        return RowFormat(format=self.format, text_column=self.text_column, encoding=self.encoding)


@dataclass(frozen=True, kw_only=True)
class WritingOptions:
    """Options about the output."""

    out: OutTable = None
    where: Where = None
    as_json: AsJson = False


@dataclass(frozen=True, kw_only=True)
class TracingOptions:
    """Options about the spans of a run."""

    trace: Trace = None
    trace_texts: TraceTexts = None

    def tracer(self, opened: ExitStack, existing: Existing, source: str | None) -> Tracer | None:
        """Open the file of spans until the end of a run, and return its tracer.

        `source` is the file that is read meanwhile. Texts without a file of spans are wrong.
        """
        if self.trace is None:
            if self.trace_texts is not None:
                raise ConfigError("--trace-texts is about spans: give --trace FILE.jsonl too")
            return None
        from moa.adapters.span_file import SpanFile
        from moa.core.telemetry import Tracer
        from moa.guards.pii import Pii

        screen.check_target("--trace", self.trace)
        pii = Pii() if self.trace_texts == "masked" else None
        file = opened.enter_context(SpanFile(self.trace, existing=existing, source=source))
        return Tracer(file=file, content=self.trace_texts is not None, pii=pii)


@dataclass(frozen=True, kw_only=True)
class AskingOptions:
    """Options about models and their cost."""

    budget_usd: BudgetUsd = None
    strict: Strict = False
    config: ConfigFile = None
    quiet: Quiet = False

    @property
    def budget(self) -> Budget:
        """The limits of the whole command."""
        from moa.core.budget import Budget

        return Budget(cost=self.budget_usd, strict=self.strict)

    def run(
        self,
        body: Callable[[Endpoints, RunContext], Awaitable[int]],
        *,
        stopped: str = "stopped; nothing was written",
        tracer: Tracer | None = None,
    ) -> int:
        """Run the body of a command with the configured endpoints, and return its exit code.

        After Ctrl-C it prints `stopped`, unless that is empty. `tracer` goes into the context.
        """
        from moa.config.endpoints import Endpoints
        from moa.core.context import RunContext

        async def work() -> int:
            async with Endpoints(load_config(self.config)) as endpoints:
                reference = endpoints.reference
                context = RunContext(
                    budget=self.budget, reference=reference, keep_notes=False, tracer=tracer
                )
                return await body(endpoints, context)

        try:
            return asyncio.run(work())
        except KeyboardInterrupt:
            if stopped:
                screen.err().print(stopped)
            return STOPPED


@dataclass(frozen=True, kw_only=True)
class ReadingAskingOptions(AskingOptions, ReadingOptions):
    """Options of a command that asks models about labelled rows."""


@dataclass(frozen=True, kw_only=True)
class _PaceOptions:
    limit: Limit = None
    concurrency: DefaultConcurrency = 8


@dataclass(frozen=True, kw_only=True)
class RunOptions(AskingOptions, _PaceOptions, ReadingOptions, ExistingOptions):
    """Options of a command that works through rows."""


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """Spell out the groups that a command takes, as Typer reads options, `--quiet` last."""
    groups: dict[str, tuple[Callable[..., object], list[str]]] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation):
            parameters = inspect.signature(parameter.annotation, eval_str=True).parameters
            groups[parameter.name] = parameter.annotation, [*parameters]
            options += parameters.values()
        else:
            options.append(parameter)

    @wraps(command)
    def spelt_out(**arguments: object) -> None:
        for name, (group, fields) in groups.items():
            arguments[name] = group(**{field: arguments.pop(field) for field in fields})
        command(**arguments)

    options.sort(key=lambda option: option.name == "quiet")
    spelt_out.__dict__["__signature__"] = inspect.Signature(options)
    return spelt_out


def load_config(path: Path | None) -> Config:
    """Read the configuration, and warn on standard error of variables that nothing reads."""
    from moa.config import load, misspelt_variables

    for wrong, right in misspelt_variables().items():
        warning = f"moa: nothing reads the variable {wrong}. Did you mean {right}?"
        print(warning, file=sys.stderr)  # noqa: T201
    return load(path)


def how_to_go_on(out: Path | None) -> str:
    """Describe how to continue a stopped run."""
    return "the same command with --resume goes on" if out else "--out FILE keeps them"


def label_names(given: str) -> list[str]:
    """Read `--labels`; fewer than two, or the same twice, or an empty one, are wrong."""
    names = [name.strip() for name in given.split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise ConfigError(
            "--labels takes at least two different labels, separated by commas and in one word or "
            f"in quotes, such as --labels a,b or --labels 'a, b'; got {given!r}"
        )
    return names
