"""Cases: rows of data as requests with what is expected, and what designs answer to them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moa._async import map_async
from moa._files import Existing, LineFile
from moa.calibration.acceptance import confidence_of, decisions_in, text_of
from moa.context import RunContext
from moa.errors import ConfigError, InputError, MoaError, NodeError
from moa.node import Node, Result
from moa.questions import NONE_OF_THESE, Choice, Predicate, Score
from moa.rows import Format, checked
from moa.usage import Usage

Kind = Literal["labels", "texts"]
"""Whether designs are measured by the label they give, or by the text they write."""
Progress = Callable[[str, int, int], None]
"""Told the design, how many cases it has done, and how many there are."""

_ASKED = ("text", "prompt", "question")
_EXPECTED: Mapping[str, Kind] = {"label": "labels", "reference": "texts", "answer": "texts"}


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and what is expected as its answer."""

    id: str
    request: str
    expected: str
    """The right label, or a text that would be a good reply."""


class Data(NamedTuple):
    """Cases, all of one kind."""

    kind: Kind
    cases: tuple[Case, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are expected, in alphabetical order."""
        return tuple(sorted({case.expected for case in self.cases}))


def cases_of(rows: Iterable[Mapping[str, object]]) -> Data:
    """Read rows: `text`, `prompt` or `question`, and `label`, `reference` or `answer`.

    Args:
        rows: In the order of the report; an `id` is kept, else the place counts from 1.

    Raises:
        InputError: there are no rows, one lacks what is asked or expected, or some have labels
            and others texts.
    """
    found: list[Case] = []
    kinds: set[Kind] = set()
    for place, row in enumerate(rows, start=1):
        asked = next((name for name in _ASKED if isinstance(row.get(name), str)), None)
        expected = next((name for name in _EXPECTED if row.get(name) not in (None, "")), None)
        if asked is None or expected is None:
            has = ", ".join(map(repr, row)) or "nothing"
            raise InputError(
                f"row {place} has {has}: a row to compare on needs a 'text' or 'prompt', and a "
                "'label' or 'reference'"
            )
        kinds.add(_EXPECTED[expected])
        name = row.get("id", place)
        found.append(Case(str(name), str(row[asked]), str(row[expected])))
    if not found:
        raise InputError("there are no rows to compare on")
    if len(kinds) > 1:
        raise InputError("some rows have a 'label' and others a 'reference': compare them apart")
    return Data(kinds.pop(), tuple(found))


def read_cases(
    source: str | Path,
    *,
    format: Format | None = None,
    text_column: str | None = None,
    limit: int | None = None,
) -> Data:
    """Read the rows of a file as cases; see `cases_of`.

    Args:
        source: A `.jsonl` or `.csv` file, `-` for standard input.
        format: How rows stand in it; `None` goes by its name.
        text_column: The column that holds the text; `None`: the usual ones.
        limit: Maximum number of rows; `None` reads all.

    Raises:
        ConfigError: there is no such file, or a row in it is none to compare on.
    """
    found: list[dict[str, object]] = []
    for row, where in islice(checked(source, format=format, text_column=text_column), limit):
        if not isinstance(row.value, dict):
            raise ConfigError(f"{where}: a text alone, without a label or a reference to compare")
        found.append(row.value)
    try:
        return cases_of(found)
    except InputError as error:
        raise ConfigError(f"{source}: {error}") from error


class Answer(BaseModel):
    """One answer of a design, as it is kept in a cache of answers."""

    model_config = ConfigDict(frozen=True)

    text: str | None
    """The label it gave, or the text it wrote; `None` where it failed."""
    error: str | None = None
    probabilities: dict[str, float] = Field(default_factory=dict[str, float])
    confidence: float | None = None
    accepted: bool | None = None
    """`None` where the design doesn't say."""
    seconds: float = 0.0
    calls: int = 0
    llm_calls: int = 0
    tokens: int = 0
    cost: float | None = None
    """US dollars; `None` is unknown."""

    @classmethod
    def of(cls, result: Result[object]) -> Answer:
        """Read the result of a run."""
        output: Any = result.output
        accepted = getattr(result, "accepted", getattr(output, "accepted", None))
        return cls(
            text=answer_text(output),
            probabilities=_probabilities(output),
            confidence=confidence_of(output),
            accepted=accepted if isinstance(accepted, bool) else None,
            **_taken(result.usage, result.seconds),
        )


def _taken(usage: Usage, seconds: float) -> dict[str, Any]:
    """Give what an answer took, as the fields of `Answer`."""
    total, by_tier = usage.total, usage.by_tier()
    return {
        "seconds": seconds,
        "calls": total.calls,
        "llm_calls": by_tier["llm"].calls if "llm" in by_tier else 0,
        "tokens": total.tokens,
        "cost": None if total.cost is None else float(total.cost),
    }


def answer_text(output: object) -> str:
    """Read the label of a decision, or the text of any other output.

    Raises:
        InputError: there are several decisions in it, so none of them is the label.
        Unanswered: the model refused.
    """
    if isinstance(output, Choice):
        label = cast("Choice[object]", output).label
        return NONE_OF_THESE if label is None else str(getattr(label, "value", label))
    if isinstance(output, Predicate):
        return "yes" if output.value else "no"
    if isinstance(output, Score):
        return output.level
    met = getattr(output, "met", None)
    if isinstance(met, bool):
        return "yes" if met else "no"
    decided = decisions_in(output)
    if len(decided) > 1:
        raise InputError(
            f"{type(output).__name__} holds {len(decided)} decisions: compare them one at a time"
        )
    return answer_text(decided[0]) if decided else text_of(output)


def _probabilities(output: object) -> dict[str, float]:
    found = getattr(output, "probabilities", None)
    if isinstance(found, Mapping):
        return dict(cast("Mapping[str, float]", found))
    decided = decisions_in(output)
    return _probabilities(decided[0]) if len(decided) == 1 else {}


class Cache:
    """Answers that were given already, in a file of JSON lines; only good ones are kept.

    Args:
        path: The file; `None` keeps nothing.
        existing: What is done with answers that the file has.
        setup: Whatever the answers of each design depend on beside its name and the request, such
            as the configuration: answers of another setup are not taken up.

    Raises:
        ConfigError: the file can't be read or written, is written by another process, or has
            answers that are to be refused.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        existing: Existing = "resume",
        setup: Mapping[str, str] | None = None,
    ) -> None:
        self._setup = setup or {}
        self._known: dict[str, Answer] = {}
        self._file = None if path is None else LineFile(path, existing=existing)
        if self._file is None:
            return
        self._file.__enter__()
        for number, _, values in self._file.lines():
            try:
                self._known[values["key"]] = Answer.model_validate(values)
            except (KeyError, TypeError, ValidationError) as error:
                raise self._file.unreadable(number) from error

    def get(self, design: str, request: str) -> Answer | None:
        """Give an answer that was given already."""
        return self._known.get(self._key(design, request))

    def put(self, design: str, request: str, answer: Answer) -> None:
        """Keep an answer: it is on disk when this returns.

        Raises:
            ConfigError: the disk is full, or gone.
        """
        key = self._key(design, request)
        self._known[key] = answer
        if self._file is not None:
            self._file.add({"key": key, "design": design, **answer.model_dump(mode="json")})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _key(self, design: str, request: str) -> str:
        named = json.dumps([self._setup.get(design, ""), design, request])
        return hashlib.sha256(named.encode()).hexdigest()[:32]


async def answers_of(
    name: str,
    node: Node[Any, object],
    cases: Sequence[Case],
    *,
    cache: Cache,
    context: RunContext,
    concurrency: int,
    progress: Progress | None = None,
) -> list[Answer]:
    """Give the answers of a design to all cases, in their order.

    A case that fails has an answer without a text, which says why. It is asked again next time.

    Raises:
        ConfigError: the design can't work at all, such as with a calibration of another model.
    """
    done = 0

    async def one(case: Case) -> Answer:
        nonlocal done
        answer = cache.get(name, case.request)
        if answer is None:
            answer = await _asked(node, case, context)
            if answer.error is None:
                cache.put(name, case.request, answer)
        done += 1
        if progress is not None:
            progress(name, done, len(cases))
        return answer

    return await map_async(one, cases, max_concurrency=concurrency)


async def _asked(node: Node[Any, object], case: Case, context: RunContext) -> Answer:
    own = context.nested()
    start = time.perf_counter()
    try:
        return Answer.of(await node.run(case.request, own))
    except ConfigError:
        raise
    except MoaError as error:
        failed = error
    except Exception as error:  # noqa: BLE001  a bug in a user's node is that design's failure
        failed = NodeError(node.name, error)
    said = f"{type(failed).__name__}: {failed}"
    return Answer(text=None, error=said, **_taken(own.usage, time.perf_counter() - start))
