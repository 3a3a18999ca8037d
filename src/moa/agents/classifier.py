"""Classifier: gives a text one of any labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, Unpack, cast, overload

from pydantic import BaseModel, Field, create_model

from moa.agents.base import Limits, ready
from moa.agents.deciding import DecidingAgent, examples_of
from moa.core.errors import ConfigError
from moa.core.questions import Answer, Choice, choice, questions_of
from moa.decisions.fitting import LABELLED_FILES
from moa.endpoints import Endpoint

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from moa.decisions.file import Calibration

    Always = Literal[False]
else:
    Always = bool  # as a table of moa.toml says it

L = TypeVar("L")
M = TypeVar("M")


class Classifier(DecidingAgent[Choice[L]], Generic[L]):
    """Chooses one of 2 to hundreds of labels for a text.

    Args:
        endpoint: The endpoint that decides, or its name: `"VENDOR:MODEL"`.
        labels: An Enum, a Literal, a list of words, or a mapping of labels (also of an Enum's
            members) to descriptions.
        task: The question that the labels answer.
        describe: Descriptions, by label.
        none: Allow the answer "none of these", with the label `None`. Otherwise a label is always
            given, even if none fits.
        question: Name of the question in requests to a server; `None`: the agent's own.
        examples: Texts with their labels (`None`: none of them); see `DecidingAgent`.
        labelled: A JSON Lines file with more examples: `text` and, under the question's name, the
            label (`null`: none of them).
        calibration: A fitted scorer, made by `moa learn` or `adapt`; with a bound it also sets
            `accepted`.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: labels are missing, empty or repeated, an example has an unknown label, or
            the file `labelled` can't be read.
        CalibrationError: the calibration belongs to another question.

    Examples:
        >>> small = SimulatedEndpoint(rule=lambda _: {"classifier": {"card": 0.9}})
        >>> topic = Classifier(small, ["card", "app"])
        >>> topic.run_sync("My card is gone.").output.label
        'card'
    """

    @overload
    def __init__(
        self: Classifier[str],
        endpoint: Endpoint | str,
        labels: Annotated[Sequence[str] | Mapping[str, str], Field(min_length=2)],
        *,
        task: str = ...,
        describe: Mapping[str, str] | None = None,
        none: Always = False,
        question: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        labelled: str | Path | None = None,
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None: ...
    @overload
    def __init__(
        self,
        endpoint: Endpoint | str,
        labels: TypeForm[L] | Mapping[L, str],
        *,
        task: str = ...,
        describe: Mapping[L, str] | None = None,
        none: Always = False,
        question: str | None = None,
        examples: Sequence[tuple[str, L]] = (),
        labelled: str | Path | None = None,
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None: ...
    @overload
    def __init__(
        self: Classifier[M | None],
        endpoint: Endpoint | str,
        labels: TypeForm[M] | Mapping[M, str] | Sequence[M],
        *,
        task: str = ...,
        describe: Mapping[M, str] | None = None,
        none: bool,
        question: str | None = None,
        examples: Sequence[tuple[str, M | None]] = (),
        labelled: str | Path | None = None,
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None: ...
    def __init__(
        self,
        endpoint: Endpoint | str,
        labels: Any,
        *,
        task: str = "What is this text about?",
        describe: Mapping[Any, str] | None = None,
        none: bool = False,
        question: str | None = None,
        examples: Sequence[tuple[str, object]] = (),
        labelled: str | Path | None = None,
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        words: list[str] | None = None
        if isinstance(labels, str):
            raise ConfigError(f"labels={labels!r} is one text: give a list of labels")
        if isinstance(labels, Mapping):
            means = cast("Mapping[Any, str]", labels)
            describe = {**means, **(describe or {})}
            labels = Literal[tuple(means)] if means else str
        elif isinstance(labels, Sequence):
            words, labels = [*cast("Sequence[str]", labels)], str
        elif isinstance(labels, Set | Iterator):
            raise ConfigError(f"labels={labels!r:.80} is no list: give a list of labels")
        self.output_type = Choice[labels | None] if none else Choice[labels]
        field = choice(task, labels=words, describe=describe)
        model: type[BaseModel] = create_model("Labels", label=(self.output_type, field))
        (label_question,) = questions_of(model)
        label_question = replace(
            label_question, name=question or limits.get("name") or "classifier"
        )
        all_examples = examples_of(label_question, examples)
        if labelled is not None:
            all_examples += LABELLED_FILES.open().labelled_examples(labelled, label_question)
        super().__init__(
            endpoint,
            [label_question],
            examples=all_examples,
            calibration=calibration,
            **limits,
        )

    def read(self, answers: Sequence[Answer]) -> Choice[L]:
        """Return the one answer as a choice of the labels."""
        return self.output_type.of(answers[0])


ready("classifier", "One of your labels", "slm")(partial(Classifier[str | None], none=True))
