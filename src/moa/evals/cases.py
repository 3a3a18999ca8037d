"""Cases: requests with the expected answers, and the answers of designs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypedDict

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from moa.core._files import Existing, LineFile
from moa.core._json import is_mapping
from moa.core.batch import Item, faults_of, map_rows, reader_for
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError, MoaError
from moa.core.node import Frozen, Node, text_of
from moa.core.questions import NONE_OF_THESE, answers_in
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

    model_config = ConfigDict(validate_by_name=True, coerce_numbers_to_str=True, extra="allow")

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

    def request_for(self, node: Node[Any, object]) -> object:
        """Return the text; for a node that takes a model, the row as that model.

        Raises:
            InputError: the row is no such model.
        """
        kind = getattr(node, "input_type", object)
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return self.request
        return reader_for(kind)({"text": self.request, **(self.model_extra or {})})

    @property
    def expected(self) -> str:
        """The right label, or a good reply."""
        return self.label or self.reference or ""


class Data(NamedTuple):
    """Cases, all of one kind."""

    kind: DataKind
    cases: tuple[Case, ...]
    decision: str | None = None
    """Name of the decision that is compared; `None`: the only one."""

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
    decision: str | None = None,
) -> Data:
    """Read the rows of a file as cases.

    Args:
        source: A `.jsonl` or `.csv` file, `-` for standard input.
        decision: Column of the right label, and name of the decision in the designs' answers, such
            as `intent` of a support graph; an empty cell is "none of these". `None`: the column
            `label`, and the only decision.
        format: Format of the rows; `None` chooses by the file name.
        text_column: Column of the text; `None` for the usual ones.
        encoding: Encoding of the file; `None` for UTF-8.
        limit: Maximum number of rows; `None` reads all.

    Raises:
        ConfigError: the file doesn't exist, or a row lacks a request or an expected answer.
        InputError: some rows have labels and others texts.
    """
    model = Case if decision is None else _labelled_in(decision)
    rows = read_models(source, model, format=format, text_column=text_column, encoding=encoding)
    return _of_one_kind([case for _, case in islice(rows, limit)])._replace(decision=decision)


def _labelled_in(column: str) -> type[Case]:
    """Return a model of cases whose label stands in another column."""

    class Decided(Case):
        label: str | None = Field(validation_alias=column)

        @model_validator(mode="before")
        @classmethod
        def _name_none(cls, row: Mapping[str, object]) -> Mapping[str, object]:
            # Before the base class leaves empty cells out.
            told = row.get(column)
            label = ("no", "yes")[told] if isinstance(told, bool) else told or NONE_OF_THESE
            return {**row, column: label} if column in row else row

    return Decided


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
    def of(cls, item: Item[object], decision: str | None = None) -> DesignAnswer:
        """Read the answer of a design to a case: a decision of that name, or the only one."""
        output: object = item.output
        error, text = item.error, None
        if error is None:
            try:
                output = output if decision is None else _decision_in(output, decision)
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


def _decision_in(output: object, name: str) -> object:
    """Return what the only field of a name holds, at any depth of a model."""
    found = list(_fields_named(output, name))
    if len(found) != 1:
        raise InputError(f"{type(output).__name__} holds {len(found)} decisions named {name!r}")
    return found[0]


def _fields_named(output: object, name: str) -> Iterator[object]:
    if isinstance(output, BaseModel):
        for field in type(output).model_fields:
            value: object = getattr(output, field)
            if field == name:
                yield value
            else:
                yield from _fields_named(value, name)


def answer_text(output: object) -> str:
    """Read the label of a decision, or the text of any other output."""
    met = getattr(output, "met", None)
    if isinstance(met, bool):
        return "yes" if met else "no"
    answers = answers_in(output)
    if len(answers) > 1:
        raise InputError(
            f"{type(output).__name__} holds {len(answers)} decisions: {', '.join(answers)}. "
            "Name the one to compare: --decision, or decision= of read_cases"
        )
    return next((answer.said for answer in answers.values()), None) or text_of(output)


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
    decision: str | None = None,
) -> list[DesignAnswer]:
    """Return the answers of a design to all cases, in order.

    A failed case has an answer without a text, with the error. It is asked again next time.
    `ConfigError`: the design can't work at all, such as with a calibration of another model.
    """
    answers = {index: cache.get(name, case.request) for index, case in enumerate(cases)}
    missing = [index for index, answer in answers.items() if answer is None]
    done = len(cases) - len(missing)
    requests = [cases[index].request_for(node) for index in missing]
    async with aclosing(map_rows(node, requests, context, max_concurrency=concurrency)) as items:
        async for item in items:
            if isinstance(item.error, ConfigError):
                raise item.error
            index = missing[item.number - 1]
            answers[index] = answer = DesignAnswer.of(item, decision)
            if answer.error is None:
                cache.put(name, cases[index].request, answer)
            done += 1
            if progress is not None:
                progress(name, done, len(cases))
    return [answer for _, answer in sorted(answers.items()) if answer is not None]
