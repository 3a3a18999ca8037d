"""Runs a comparison: reads rows, builds designs by their names, keeps answers as they come."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from moa import rows
from moa._files import Existing
from moa._terminal import Console
from moa.cli.configuration import configured
from moa.cli.targets import write_text
from moa.config import Config, nearest
from moa.errors import ConfigError, InputError
from moa.evals.cases import Data, cases_of
from moa.evals.comparison import compare
from moa.evals.report import Comparison, markdown_of
from moa.node import Node
from moa.questions import NONE_OF_THESE
from moa.ready import READY, files_of, node_of
from moa.rows import Malformed
from moa.tiers import NO_LLM, Endpoints


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What is to be compared, and how."""

    source: str
    designs: tuple[str, ...]
    task: str | None
    labels: tuple[str, ...] | None
    calibration: Path | None
    reference: str | None
    metric: str | None
    risk: float
    out: Path | None
    existing: Existing
    format: rows.Format | None
    text_column: str | None
    limit: int | None
    concurrency: int
    budget_usd: float | None
    config: Path | None

    def run(self, console: Console) -> Comparison:
        """Compare, with progress on `console`; what is answered is kept if it is stopped.

        Raises:
            ConfigError: rows, designs or the configuration are wrong.
            KeyboardInterrupt: it was stopped.
        """
        found = list(self._rows())
        try:
            data = cases_of(found)
        except InputError as error:
            raise ConfigError(f"{self.source}: {error}") from error
        if self.labels is not None:
            self._check(self.labels, data)
        return asyncio.run(self._compare(found, data, configured(self.config), console))

    def _rows(self) -> Iterator[dict[str, object]]:
        found = rows.read(self.source, format=self.format, text_column=self.text_column)
        for row in islice(found, self.limit):
            where = f"{self.source}, line {row.number}"
            if isinstance(row, Malformed):
                raise ConfigError(f"{where}: {row.error}")
            if not isinstance(row.value, dict):
                raise ConfigError(
                    f"{where}: a text alone, without a label or a reference to compare"
                )
            yield row.value

    async def _compare(
        self, found: list[dict[str, object]], data: Data, config: Config, console: Console
    ) -> Comparison:
        given = self._given(data)
        for name in self.designs:
            if ":" not in name and name not in READY:
                raise ConfigError(f"--designs: there is no {name!r}{nearest(name, list(READY))}")
        async with Endpoints(config) as endpoints:
            if {"slm", "llm"} <= {*self.designs} and not endpoints.has_llm:
                raise ConfigError(
                    "--designs has llm, and no LLM is configured: the small model would be "
                    "compared with itself. Put one into moa.toml (moa models add), or leave llm out"
                )
            nodes: dict[str, Node[Any, Any]] = {
                name: node_of(name, endpoints, given=given) for name in self.designs
            }
            judge = endpoints.llm if self.metric == "judge" else None
            if endpoints.stood_in:
                console.print(NO_LLM)
            await endpoints.warm()
            with console.bars() as bar:
                tasks = {name: bar.add_task(name, total=len(data.cases)) for name in nodes}
                return await compare(
                    found,
                    nodes,
                    metric=self.metric,
                    judge=judge,
                    reference=self.reference,
                    risk=self.risk,
                    budget_usd=self.budget_usd,
                    cache=self.out,
                    existing=self.existing,
                    setup=None if self.out is None else self._setup(endpoints, given),
                    concurrency=self.concurrency,
                    progress=lambda name, done, total: bar.update(
                        tasks[name], completed=done, total=total
                    ),
                )

    def _check(self, labels: tuple[str, ...], data: Data) -> None:
        if self.calibration is not None or data.kind != "labels":
            why = "a calibration knows its own" if self.calibration else "the rows have none"
            raise ConfigError(f"--labels can't be given here: {why}")
        unknown = [label for label in data.labels if label not in (*labels, NONE_OF_THESE)]
        if unknown:
            raise ConfigError(
                f"{self.source} has rows of the label {unknown[0]!r}, which is none of --labels "
                f"{','.join(labels)}{nearest(unknown[0], list(labels))}"
            )

    def _setup(self, endpoints: Endpoints, given: Mapping[str, object]) -> dict[str, str]:
        """What the answers of each design depend on: models and graphs of the configuration, the
        settings given, and whatever stands in the files that it is made of.
        """
        config = endpoints.config.model_dump(mode="json", include={"endpoints", "tiers", "graphs"})
        asked = sorted([one.name, one.model] for one in endpoints.used)
        said = [config, asked, {name: str(value) for name, value in given.items()}]
        return {
            name: json.dumps([*said, _digests(files_of(name, endpoints, given=given))])
            for name in self.designs
        }

    def _given(self, data: Data) -> dict[str, object]:
        """The settings that the command line gives to all designs that have them."""
        given: dict[str, object] = {}
        if self.task is not None:
            given |= {"task": self.task, "instructions": self.task}
        if self.calibration is not None:
            given["calibration"] = self.calibration.resolve()
        elif data.kind == "labels":
            if len(self.labels or data.labels) < 2:
                raise ConfigError(
                    f"{self.source} has rows of the label {data.labels[0]!r} alone, and deciding "
                    "takes two labels or more: give the others with --labels"
                )
            given["labels"] = list(self.labels or data.labels)
        return given


def written(
    found: Comparison, *, json_file: Path | None, markdown: Path | None, plot: Path | None
) -> Iterator[Path]:
    """Write what was asked for, and give each file as it is there.

    Raises:
        ConfigError: a file can't be written.
        MissingDependency: a plot was asked for, and matplotlib is not installed.
    """
    texts = (
        ("--json", json_file, found.model_dump_json(indent=1)),
        ("--markdown", markdown, markdown_of(found)),
    )
    for option, file, text in texts:
        if file is None:
            continue
        write_text(option, file, text)
        yield file
    if plot is not None:
        from moa.evals.plots import save_plots

        yield from save_plots(found, plot)


def _digests(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Tell what stands in files, and in all files of folders."""
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    return [(str(file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
