"""Questions for an endpoint that decides, and the typed answers.

Questions are written once, as a pydantic model, and the model comes back filled in:

    class Triage(BaseModel):
        refund: Predicate = predicate("Does the customer ask for money back?")
        topic: Choice[Literal["card", "app"] | None] = choice("What is it about?")
        urgency: Score = score("How urgent is it?", levels=["can wait", "today", "now"])
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from types import NoneType, UnionType
from typing import (
    Any,
    Generic,
    Literal,
    Self,
    TypedDict,
    TypeGuard,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field
from pydantic.fields import FieldInfo
from typing_extensions import TypeIs, TypeVar

from moa.core._json import JSON
from moa.core.errors import ConfigError, Unanswered

Kind = Literal["predicate", "choice", "score"]
Status = Literal["answered", "refused", "missing"]
Source = Literal["native", "logprob", "encoder", "text"]
"""Source of an answer: a server that decides, the log-probabilities of the labels, an encoder with
a head, or a written label, which has no probabilities."""

NONE_OF_THESE = "none of these"
"""Name of this option in prompts and in `probabilities`. Its label is `None`."""
UNTOLD = "can't be told from the text"
"""Value of `said` if the text doesn't tell."""

L = TypeVar("L", covariant=True)
B = TypeVar("B", bound=bool | None, default=bool, covariant=True)
S = TypeVar("S", bound=str | None, default=str, covariant=True)
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Option:
    """One allowed answer."""

    name: str
    """Its text in prompts, and its key in `probabilities`."""
    value: object
    """Its value for the caller: the label, a bool, a level; `None` is "none of these"."""
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question in the form that every endpoint understands."""

    name: str
    kind: Kind
    text: str
    options: tuple[Option, ...]
    """Yes and no, in this order; the choices; or the levels, lowest first."""
    unknown: bool = False
    """True if the answer may be that the text doesn't tell."""

    @property
    def answerable_question(self) -> Question:
        """The question whether the text tells the answer. Its name matches no field."""
        text = f'Does the text answer the question "{self.text}"?'
        yes_or_no = Option("yes", value=True), Option("no", value=False)
        return Question(f"{self.name} told", "predicate", text, yes_or_no)

    def __post_init__(self) -> None:
        names = [option.name for option in self.options]
        subject = f"question {self.name!r}"
        if not self.text.strip():
            raise ConfigError(f"{subject} has no text: give it a description")
        if any(not name.strip() for name in names) or len(set(names)) < len(names):
            raise ConfigError(f"{subject}: options must be different and not empty, got {names!r}")
        if len(names) < 2:
            raise ConfigError(f"{subject} needs at least two options, got {names!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An endpoint's answer to one question. All typed answers derive from it."""

    question: Question
    status: Status = "answered"
    probabilities: tuple[float, ...] | None = None
    """Probability of each option, in order, adding up to 1; `None` if there are none."""
    written: int | None = None
    """Index of the option that the model wrote, if it has no probabilities."""
    label_mass: float | None = None
    """Total probability of the options before normalisation; `None` if the server doesn't tell."""
    source: Source = "native"
    accepted: bool | None = None
    """True if a calibration's guarantee covers it; `None` if there is no guarantee."""
    expected_precision: float | None = None
    """Expected share of right answers among decisions at least as confident as this one, from
    other, labelled data. It isn't a guarantee; `None` if unknown."""
    untold: bool = False
    """True if the text doesn't say, and the question allows that answer."""
    doubt: str = ""
    """Why the answer is unreliable; empty if it isn't."""

    @property
    def doubtful(self) -> bool:
        """True if the answer is unreliable: don't act on it."""
        return bool(self.doubt)

    @property
    def best(self) -> int:
        """Index of the most probable option; the first of those that tie.

        Raises:
            Unanswered: the question was refused or left out.
        """
        if self.probabilities is not None:
            return self.probabilities.index(max(self.probabilities))
        if self.written is None:
            raise Unanswered(self.question.name, status=self.status)
        return self.written

    def by_name(self) -> dict[str, float]:
        """Return the probabilities by option name; empty if there are none."""
        if self.probabilities is None:
            return {}
        names = (option.name for option in self.question.options)
        return dict(zip(names, self.probabilities, strict=True))


def _is_none(value: object) -> bool:
    return value is None


class _TypedAnswer(BaseModel):
    """The base of the three kinds of typed answers."""

    model_config = ConfigDict(
        frozen=True, defer_build=True, serialize_by_alias=True, validate_by_name=True
    )

    status: Status = "answered"
    probabilities: dict[str, float] = Field(default_factory=dict[str, float])
    """Probabilities by option name; empty if the model wrote its answer."""
    source: Source = "native"
    accepted: bool | None = None
    """True if a calibration's guarantee covers the answer; `None` if there is no guarantee."""
    expected_precision: float | None = Field(default=None, exclude_if=_is_none)
    """Expected share of right answers among decisions at least as confident as this one, from
    other, labelled data. It isn't a guarantee; `None`, and not serialised, if unknown."""
    label_mass: float | None = None
    """Total probability of the options before normalisation; `None` if unknown. Compare it only
    within one prompt: a low value is an alarm there."""
    doubtful: bool = False
    """True if the answer is unreliable: don't act on it. The trace says why."""
    untold: bool = Field(default=False, exclude_if=operator.not_)
    """True if the text doesn't say, for a question with `unknown=True`. Serialised only if
    true."""

    @cached_property
    def question(self) -> str:
        """Name of the question; empty in an answer that was read from JSON."""
        return ""

    @computed_field
    @property
    def confidence(self) -> float | None:
        """Probability of the answer given; `None` if the model wrote it, or the text doesn't
        tell.
        """
        return None if self.untold else max(self.probabilities.values(), default=None)

    @property
    def scores(self) -> dict[str, float]:
        """`probabilities`, as the lines that `moa decide` writes call them."""
        return self.probabilities

    def _read(self, value: object, *, empty: bool) -> Any:
        """Return the answer. If `empty`, it may be `None`."""
        if self.status != "answered" or (value is None and not empty):
            status = "not told by the text" if self.untold else self.status
            raise Unanswered(self.question or type(self).__name__, status=status)
        return value

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Read an endpoint's answer."""
        copied = (
            "status",
            "source",
            "accepted",
            "expected_precision",
            "label_mass",
            "doubtful",
        )
        fields: JSON = {name: getattr(answer, name) for name in copied}
        fields["probabilities"] = answer.by_name()
        if answer.untold:
            fields["untold"] = True
        elif answer.status == "answered":
            fields |= cls._fields_of(answer)
        typed = cls.model_validate(fields)
        # Not a field, so that an answer read back from JSON equals the one written.
        object.__setattr__(typed, "question", answer.question.name)
        return typed

    @classmethod
    def _fields_of(cls, answer: Answer) -> JSON:
        """Return the fields that hold the answer."""
        raise NotImplementedError


class Predicate(_TypedAnswer, Generic[B]):
    """The answer to a yes-or-no question.

    `Predicate` is always yes or no; `Predicate[bool | None]` may be `None`, if the question has
    `unknown=True` and the text doesn't tell.

    Examples:
        >>> answer = Predicate(value=True, probabilities={"yes": 0.8, "no": 0.2})
        >>> answer.value, answer.probability
        (True, 0.8)
    """

    picked: bool | None = Field(default=None, alias="value")

    @property
    def value(self) -> B:
        """Yes or no; `None` if the text doesn't tell and the question allows that.

        Raises:
            Unanswered: the question was refused or left out.
        """
        return self._read(self.picked, empty=self.untold)

    @property
    def said(self) -> str:
        """`yes`, `no`, or that it can't be told; raises as `value` does."""
        value = self.value
        return UNTOLD if self.untold else "yes" if value else "no"

    @property
    def probability(self) -> float | None:
        """Probability of yes; `None` if the model wrote its answer."""
        return self.probabilities.get("yes")

    @classmethod
    def _fields_of(cls, answer: Answer) -> JSON:
        return {"value": answer.best == 0}


class Choice(_TypedAnswer, Generic[L]):
    """The answer to a question with one of several labels.

    `Choice[Topic]` is always one of them; `Choice[Topic | None]` may be `None`: "none of these" or,
    if the question has `unknown=True`, that the text doesn't tell.

    Examples:
        >>> answer = Choice[str](label="card", probabilities={"card": 0.9, "app": 0.1})
        >>> answer.label, answer.confidence
        ('card', 0.9)
    """

    picked: L | None = Field(default=None, alias="label")

    @property
    def label(self) -> L:
        """The label; `None` if none fits or the text doesn't tell, and the type allows that.

        Raises:
            Unanswered: the question was refused or left out.
        """
        return self._read(self.picked, empty=True)

    @property
    def said(self) -> str:
        """Name of the label, or "none of these", or that it can't be told; raises as `label`."""
        label = self.label
        if self.untold:
            return UNTOLD
        return NONE_OF_THESE if label is None else _name(label)

    @classmethod
    def _fields_of(cls, answer: Answer) -> JSON:
        return {"label": answer.question.options[answer.best].value}


class Score(_TypedAnswer, Generic[S]):
    """The answer to a question with ordered levels.

    The level of `Score` is always one of them; that of `Score[str | None]` may be `None`, if the
    question has `unknown=True` and the text doesn't tell.

    Examples:
        >>> answer = Score(value=1.5, level="now", probabilities={"today": 0.5, "now": 0.5})
        >>> answer.value, answer.level
        (1.5, 'now')
    """

    expected: float | None = Field(default=None, alias="value")
    picked: str | None = Field(default=None, alias="level")

    @property
    def value(self) -> float:
        """The expected level: 0 is the lowest, `len(levels) - 1` the highest.

        Raises:
            Unanswered: the question was refused or left out, or the text doesn't tell.
        """
        return self._read(self.expected, empty=False)

    @property
    def level(self) -> S:
        """The most probable level; `None` if the text doesn't tell and the question allows that.

        Raises:
            Unanswered: the question was refused or left out.
        """
        return self._read(self.picked, empty=self.untold)

    @property
    def said(self) -> str:
        """The most probable level, or that it can't be told; raises as `level` does."""
        return self.level or UNTOLD

    @classmethod
    def _fields_of(cls, answer: Answer) -> JSON:
        expected = float(answer.best)
        if answer.probabilities is not None:
            expected = sum(level * p for level, p in enumerate(answer.probabilities))
        return {"value": expected, "level": answer.question.options[answer.best].name}


TypedAnswer = Predicate | Choice[object] | Score
"""Any typed answer. A `Choice` may have labels of any type."""


class _Extra(TypedDict, total=False):
    """Settings of a question, besides the type of its field."""

    yes: str | None
    no: str | None
    labels: list[str]
    describe: dict[str, str]
    levels: list[str]
    unknown: bool


def predicate(
    text: str, *, yes: str | None = None, no: str | None = None, unknown: bool = False
) -> Any:
    """Ask a yes-or-no question; the default of a `Predicate` field.

    Args:
        text: The question.
        yes: The meaning of yes, if the question alone is unclear.
        no: The meaning of no.
        unknown: Allow the answer `None` if the text doesn't say; the field is then a
            `Predicate[bool | None]`.

    Examples:
        >>> class Asked(BaseModel):
        ...     loud: Predicate = predicate("Is it loud?", yes="one can't sleep beside it")
        >>> small = ScriptedEndpoint([{"loud": {"yes": 0.9}}])
        >>> Decider(small, Asked).run_sync("A siren.").output.loud.value
        True
    """
    return Field(description=text, json_schema_extra={"yes": yes, "no": no, "unknown": unknown})


def choice(
    text: str,
    *,
    labels: Sequence[str] | None = None,
    describe: Mapping[T, str] | None = None,
    unknown: bool = False,
) -> Any:
    """Ask for one of several labels; the default of a `Choice` field.

    If its type has `None`, as in `Choice[Topic | None]`, "none of these" is an answer too.

    Args:
        text: The question.
        labels: The labels of a `Choice[str]`; an Enum or a Literal brings its own.
        describe: Descriptions, by label.
        unknown: Let `None` mean that the text doesn't say, instead of "none of these"; the type
            then has `None`.

    Examples:
        >>> class Asked(BaseModel):
        ...     topic: Choice[str | None] = choice("What is it about?", labels=["card", "app"])
        >>> small = ScriptedEndpoint([{"topic": {"none of these": 0.9}}])
        >>> Decider(small, Asked).run_sync("Nice weather.").output.topic.label is None
        True
    """
    extra: dict[str, JsonValue] = {
        "unknown": unknown,
        "describe": {_name(label): words for label, words in (describe or {}).items()},
    }
    if labels is not None:
        extra["labels"] = list(labels)
    return Field(description=text, json_schema_extra=extra)


def score(text: str, *, levels: Sequence[str], unknown: bool = False) -> Any:
    """Ask for one of 2 to 10 ordered levels; the default of a `Score` field.

    Args:
        text: The question.
        levels: Their names, lowest first.
        unknown: Allow the answer `None` if the text doesn't say; the field is then a
            `Score[str | None]`.

    Examples:
        >>> class Asked(BaseModel):
        ...     urgency: Score = score("How urgent is it?", levels=["can wait", "today", "now"])
        >>> small = ScriptedEndpoint([{"urgency": {"now": 1.0}}])
        >>> Decider(small, Asked).run_sync("Help!").output.urgency.level
        'now'
    """
    return Field(description=text, json_schema_extra={"levels": list(levels), "unknown": unknown})


def questions_of(model: type[BaseModel]) -> tuple[Question, ...]:
    """Read the questions that a pydantic model asks.

    Raises:
        ConfigError: a field isn't a `Predicate`, `Choice` or `Score`, or lacks text or options.
    """
    questions = tuple(_question(model, name, field) for name, field in model.model_fields.items())
    if not questions:
        raise ConfigError(f"{model.__name__} asks nothing: it has no fields")
    return questions


def _is_answer(kind: object) -> TypeGuard[type[_TypedAnswer]]:
    return isinstance(kind, type) and issubclass(kind, _TypedAnswer)


def fill(model: type[M], answers: Sequence[Answer]) -> M:
    """Build `model` from the answers to its questions."""
    typed: dict[str, BaseModel] = {}
    for answer in answers:
        kind = model.model_fields[answer.question.name].annotation
        assert _is_answer(kind), "`questions_of` has read it"
        typed[answer.question.name] = kind.of(answer)
    return model(**typed)


def is_answer(value: object) -> TypeIs[TypedAnswer]:
    """Return True if a value is the answer to one question."""
    return isinstance(value, Predicate | Choice | Score)


def answers_in(output: object, path: str = "") -> dict[str, TypedAnswer]:
    """Find the typed answers in an output, at any depth, by the path of their field.

    An answer in a nested model has the field's name in front, such as `decisions.spam`. An output
    that is an answer itself has the path `path`.
    """
    if is_answer(output):
        return {path: output}
    names = type(output).model_fields if isinstance(output, BaseModel) else ()
    return {
        inner_path: answer
        for name in names
        for inner_path, answer in answers_in(
            getattr(output, name), f"{path}.{name}" if path else name
        ).items()
    }


def answers_of(output: object, questions: Sequence[Question]) -> tuple[Answer, ...]:
    """Read the answers to questions from an output: the reverse of `fill` and of `of`.

    Args:
        output: The answer to the only question, or a model made of answers.
        questions: The questions whose answers to return, in order.
    """
    answers = answers_in(output)
    return tuple(
        _answer_to(question, answers.get(question.name) or answers[""]) for question in questions
    )


def _answer_to(question: Question, typed: TypedAnswer) -> Answer:
    names = [option.name for option in question.options]
    label = typed.said if typed.status == "answered" and not typed.untold else None
    probabilities = typed.probabilities
    return Answer(
        question=question,
        status=typed.status,
        probabilities=tuple(probabilities[name] for name in names) if probabilities else None,
        written=names.index(label) if label in names and not probabilities else None,
        label_mass=typed.label_mass,
        source=typed.source,
        accepted=typed.accepted,
        expected_precision=typed.expected_precision,
        untold=typed.untold,
        doubt="it is in doubt" if typed.doubtful else "",
    )


def gives_answers(kind: object) -> bool:
    """Return True if a type is an answer, or a model made of answers alone."""
    if not isinstance(kind, type) or not issubclass(kind, BaseModel):
        return False
    fields = [field.annotation for field in kind.model_fields.values()]
    return issubclass(kind, _TypedAnswer) or (bool(fields) and all(map(gives_answers, fields)))


def questions_in(output: object) -> tuple[str, ...]:
    """Return the fields of a model made of typed answers alone; empty for any other output."""
    names = tuple(answers_in(output))
    made_of = isinstance(output, BaseModel) and names == tuple(type(output).model_fields)
    return names if made_of else ()


def is_accepted(output: object) -> bool | None:
    """Return True if an answer is marked as accepted. Of several questions all must be.

    `None` if it isn't marked, since it comes from nothing calibrated.
    """
    names = questions_in(output)
    answers = [getattr(output, name) for name in names] if names else [output]
    answered = [getattr(answer, "status", "answered") == "answered" for answer in answers]
    accepted = [getattr(answer, "accepted", None) for answer in answers]
    if any(
        is_answered and acceptance is None
        for is_answered, acceptance in zip(answered, accepted, strict=True)
    ):
        return None
    return all(accepted)


def is_open(output: object) -> bool:
    """Return True if an answer in an output is missing, doubtful or not accepted."""
    return any(
        getattr(answer, "status", "answered") != "answered"
        or getattr(answer, "doubtful", False) is True
        or getattr(answer, "accepted", None) is False
        for answer in answers_in(output).values() or (output,)
    )


def may_be_accepted(kind: object) -> bool:
    """Return True if values of a type may have `accepted`, or if the type isn't a class."""
    if not isinstance(kind, type):
        return True
    fields: Mapping[str, FieldInfo] = getattr(kind, "model_fields", {})
    asks = [getattr(field.annotation, "model_fields", {}) for field in fields.values()]
    return "accepted" in fields or (
        bool(asks) and all("accepted" in answer_fields for answer_fields in asks)
    )


def may_have_confidence(kind: object, within: tuple[type, ...] = ()) -> bool:
    """Return True if values of a type, or answers in them, may have a confidence.

    `within` are the models around the type. Outside of any, a type that isn't a model may have one.
    """
    if get_origin(kind) in (Union, UnionType):
        return any(may_have_confidence(part, within) for part in get_args(kind))
    if not isinstance(kind, type) or not issubclass(kind, BaseModel):
        return not within and kind is not str
    if "confidence" in kind.model_fields or hasattr(kind, "confidence"):
        return True
    inner = [field.annotation for field in kind.model_fields.values()]
    return kind not in within and any(
        may_have_confidence(annotation, (*within, kind)) for annotation in inner
    )


def _question(model: type[BaseModel], name: str, field: FieldInfo) -> Question:
    extra = cast("_Extra", field.json_schema_extra or {})
    text = field.description or ""
    kind = field.annotation
    if not _is_answer(kind):
        raise ConfigError(
            f"{model.__name__}.{name} is annotated {kind!r}: a question is a Predicate, a Choice[…]"
            " of an Enum or a Literal, or a Score"
        )
    unknown = bool(extra.get("unknown"))
    if unknown and not _may_be_none(kind):
        raise ConfigError(
            f"{model.__name__}.{name} may be unknown, so its type has to say that it may be None: "
            "Predicate[bool | None], Choice[… | None] or Score[str | None]"
        )
    if issubclass(kind, Predicate):
        options = (Option("yes", True, extra.get("yes")), Option("no", False, extra.get("no")))
        return Question(name, "predicate", text, options, unknown=unknown)
    if issubclass(kind, Score):
        levels = enumerate(extra.get("levels") or ())
        options = tuple(Option(level, index) for index, level in levels)
        return Question(name, "score", text, options, unknown=unknown)
    return Question(name, "choice", text, _choices(kind, extra), unknown=unknown)


def _may_be_none(kind: type[BaseModel]) -> bool:
    args = kind.__pydantic_generic_metadata__["args"]
    return any(None in _parts_of(arg) for arg in args)


def _choices(kind: type[BaseModel], extra: _Extra) -> tuple[Option, ...]:
    described = extra.get("describe") or {}
    values, none = labels_of_type(kind)
    if values is None:
        values = tuple(extra.get("labels") or ())
    options = (Option(_name(value), value, described.get(_name(value))) for value in values)
    none = none and not extra.get("unknown")
    return (*options, *([Option(NONE_OF_THESE, None)] if none else []))


def labels_of_type(kind: type[BaseModel]) -> tuple[tuple[object, ...] | None, bool]:
    """Return the labels that a `Choice` type lists, and whether "none of these" is one more.

    The labels are `None` if the type lists none, such as `Choice[str]`.
    """
    args = kind.__pydantic_generic_metadata__["args"]
    parts = _parts_of(args[0]) if args else ()
    labels = [part for part in parts if part is not None]
    values = [part for part in labels if isinstance(part, str | bytes | int | Enum)]
    return (tuple(values) if len(values) == len(labels) > 0 else None), len(labels) < len(parts)


def _parts_of(labels: object) -> tuple[object, ...]:
    """Return the labels of an Enum or a Literal, `None` for `NoneType`, else the type itself."""
    if get_origin(labels) in (Union, UnionType):
        return tuple(part for member in get_args(labels) for part in _parts_of(member))
    if _is_enum(labels):
        return tuple(labels)
    if get_origin(labels) is Literal:
        return get_args(labels)
    return (None if labels is NoneType else labels,)


def _is_enum(kind: object) -> TypeGuard[type[Enum]]:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _name(label: object) -> str:
    if isinstance(label, Enum):
        return label.value if isinstance(label.value, str) else label.name
    return str(label)
