"""Cases: requests with the expected answers, and the answers of designs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypedDict

from pydantic import AliasChoices, ConfigDict, Field, ValidationError, model_validator

from moa.core._files import Existing, LineFile
from moa.core._json import is_mapping
from moa.core.batch import Item, faults_of, map_rows
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError, MoaError
from moa.core.node import Frozen, Node, text_of
from moa.core.questions import answers_in
from moa.core.usage import Usage
from moa.decisions.acceptance import confidence_of
from moa.decisions.features import Progress
from moa.rows import Format, read_models

DataKind = Literal["labels", "texts"]
"""Kind of answer that designs are measured by: labels or texts."""


class Case(Frozen):
    """A request with its expected answer: a label, or a good reply.

    It reads these keys of a row: `text`, `prompt` or `question`, and `label`, `reference` or
    `answer`.
    """

    model_config = ConfigDict(validate_by_name=True, coerce_numbers_to_str=True)

    request: str = Field(validation_alias=AliasChoices("text", "prompt", "question"))
    label: str | None = None
    reference: str | None = Field(
        default=None, validation_alias=AliasChoices("reference", "answer")
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, row: Mapping[str, object]) -> Mapping[str, object]:
        return {name: value for name, value in row.items() if value not in (None, "")}

    @model_validator(mode="after")
    def _check_complete(self) -> Self:
        if self.label is None and self.reference is None:
            raise ValueError("a row to compare on needs a 'label' or a 'reference'")
        return self

    @property
    def kind(self) -> DataKind:
        """Kind of answer that designs are measured by."""
        return "texts" if self.label is None else "labels"

    @property
    def expected(self) -> str:
        """The right label, or a good reply."""
        return self.label or self.reference or ""


class Data(NamedTuple):
    """Cases, all of one kind."""

    kind: DataKind
    cases: tuple[Case, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Expected labels, in alphabetical order."""
        return tuple(sorted({case.expected for case in self.cases}))


def cases_of(rows: Iterable[Mapping[str, object]]) -> Data:
    """Read rows as cases. `InputError`: some have labels and others texts."""
    cases: list[Case] = []
    for number, row in enumerate(rows, start=1):
        try:
            cases.append(Case.model_validate(row))
        except ValidationError as error:
            has = ", ".join(map(repr, row)) or "nothing"
            raise InputError(f"row {number}: {faults_of(error)}. The row has {has}") from error
    return _of_one_kind(cases)


def read_cases(
    source: str | Path,
    *,
    format: Format | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
    limit: int | None = None,
) -> Data:
    """Read the rows of a file as cases.

    Args:
        source: A `.jsonl` or `.csv` file, `-` for standard input.
        format: Format of the rows; `None` chooses by the file name.
        text_column: Column of the text; `None` for the usual ones.
        encoding: Encoding of the file; `None` for UTF-8.
        limit: Maximum number of rows; `None` reads all.

    Raises:
        ConfigError: the file doesn't exist, or a row lacks a request or an expected answer.
        InputError: some rows have labels and others texts.
    """
    rows = read_models(source, Case, format=format, text_column=text_column, encoding=encoding)
    return _of_one_kind([case for _, case in islice(rows, limit)])


def _of_one_kind(cases: Sequence[Case]) -> Data:
    kinds: set[DataKind] = {case.kind for case in cases}
    if not kinds:
        raise InputError("there are no rows to compare on")
    if len(kinds) > 1:
        raise InputError("some rows have a 'label' and others a 'reference': compare them apart")
    return Data(kinds.pop(), tuple(cases))


class DesignAnswer(Frozen):
    """Answer of a design, as stored in a cache."""

    text: str | None
    """Label or text of the answer; `None` if the design failed."""
    error: str | None = None
    probabilities: dict[str, float] = Field(default_factory=dict[str, float])
    confidence: float | None = None
    accepted: bool | None = None
    """`None` if the design doesn't say."""
    seconds: float = 0.0
    calls: int = 0
    llm_calls: int = 0
    tokens: int = 0
    cost: float | None = None
    """US dollars; `None` if unknown."""

    @classmethod
    def of(cls, item: Item[object]) -> DesignAnswer:
        """Read the answer of a design to a case."""
        error, output, text = item.error, item.output, None
        if error is None:
            try:
                text = answer_text(output)
            except MoaError as problem:
                error = problem
        spent = _spent(item.usage, item.seconds)
        if error is not None:
            return cls(text=None, error=f"{type(error).__name__}: {error}", **spent)
        accepted = getattr(item.result, "accepted", getattr(output, "accepted", None))
        probabilities: object = getattr(output, "probabilities", None)
        if not is_mapping(probabilities):
            answers = list(answers_in(output).values())
            probabilities = answers[0].probabilities if len(answers) == 1 else {}
        return cls(
            text=text,
            probabilities={
                str(name): p for name, p in probabilities.items() if isinstance(p, int | float)
            },
            confidence=confidence_of(output),
            accepted=accepted if isinstance(accepted, bool) else None,
            **spent,
        )


class _Spent(TypedDict):
    """Fields of `DesignAnswer` for the usage."""

    seconds: float
    calls: int
    llm_calls: int
    tokens: int
    cost: float | None


def _spent(usage: Usage, seconds: float) -> _Spent:
    total, by_tier = usage.total, usage.by_tier()
    return {
        "seconds": seconds,
        "calls": total.calls,
        "llm_calls": by_tier["llm"].calls if "llm" in by_tier else 0,
        "tokens": total.tokens,
        "cost": None if total.cost is None else float(total.cost),
    }


def answer_text(output: object) -> str:
    """Read the label of a decision, or the text of any other output."""
    met = getattr(output, "met", None)
    if isinstance(met, bool):
        return "yes" if met else "no"
    answers = list(answers_in(output).values())
    if len(answers) > 1:
        raise InputError(
            f"{type(output).__name__} holds {len(answers)} decisions: compare them one at a time"
        )
    return answers[0].said if answers else text_of(output)


class Cache:
    """Successful answers of earlier runs, in a file of JSON lines.

    Args:
        path: File, see `LineFile`; `None` stores nothing.
        existing: How to treat answers already in the file.
        setup: Settings of each design that change its answers, such as the configuration. Answers
            with another setup are ignored.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        existing: Existing = "resume",
        setup: Mapping[str, str] | None = None,
    ) -> None:
        self._setup = setup or {}
        self._known: dict[str, DesignAnswer] = {}
        self._file = None if path is None else LineFile(path, existing=existing)
        if self._file is None:
            return
        self._file.__enter__()
        for number, _, values in self._file.lines():
            try:
                self._known[str(values["key"])] = DesignAnswer.model_validate(values)
            except (KeyError, TypeError, ValidationError) as error:
                raise self._file.line_error(number) from error

    def get(self, design: str, request: str) -> DesignAnswer | None:
        """Return the stored answer, of this run or an earlier one; `None` if there is none."""
        return self._known.get(self._key(design, request))

    def put(self, design: str, request: str, answer: DesignAnswer) -> None:
        """Store an answer. It is on disk when this returns."""
        key = self._key(design, request)
        self._known[key] = answer
        if self._file is not None:
            self._file.add({"key": key, "design": design, **answer.model_dump(mode="json")})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _key(self, design: str, request: str) -> str:
        text = json.dumps([self._setup.get(design, ""), design, request])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


async def answers_of(
    name: str,
    node: Node[Any, object],
    cases: Sequence[Case],
    *,
    cache: Cache,
    context: RunContext,
    concurrency: int,
    progress: Progress | None = None,
) -> list[DesignAnswer]:
    """Return the answers of a design to all cases, in order.

    A failed case has an answer without a text, with the error. It is asked again next time.
    `ConfigError`: the design can't work at all, such as with a calibration of another model.
    """
    answers = {index: cache.get(name, case.request) for index, case in enumerate(cases)}
    missing = [index for index, answer in answers.items() if answer is None]
    done = len(cases) - len(missing)
    texts = (cases[index].request for index in missing)
    async with aclosing(map_rows(node, texts, context, max_concurrency=concurrency)) as items:
        async for item in items:
            if isinstance(item.error, ConfigError):
                raise item.error
            index = missing[item.number - 1]
            answers[index] = answer = DesignAnswer.of(item)
            if answer.error is None:
                cache.put(name, cases[index].request, answer)
            done += 1
            if progress is not None:
                progress(name, done, len(cases))
    return [answer for _, answer in sorted(answers.items()) if answer is not None]
