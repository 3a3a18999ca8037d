"""Labelled: examples for an agent, from a file of labelled rows.

A row has a text and the label of each question under the question's name, as `moa label` writes
them; see `label_of`. Rows without the name say nothing of the question. Of several rows of a text
the last one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from moa.core.errors import ConfigError, InputError
from moa.core.node_base import ROWS
from moa.core.questions import Question
from moa.endpoints import Example
from moa.learning.labelled import label_of, normalise_text


class _LabelledRow(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    text: str
    subject: str | None = None

    def full_text(self) -> str:
        return "\n\n".join(part for part in (self.subject, self.text) if part and part.strip())


def labelled_examples(path: str | Path, question: Question) -> tuple[Example, ...]:
    """Read the examples of one question, in the order of the rows; a `subject` precedes its text.

    Args:
        path: JSON Lines, or another file of rows that `moa run` reads.
        question: Its name is the key of the labels.

    Raises:
        ConfigError: there is no such file, a row is malformed or has no text, a label isn't one of
            the question's options, or no row has a label.
    """
    examples: dict[str, Example] = {}
    for row, labelled in ROWS.open().read_models(path, _LabelledRow):
        fields: Mapping[str, object] = labelled.model_dump()
        if question.name not in fields:
            continue
        if not (text := labelled.full_text()).strip():
            continue
        try:
            name = label_of(question, fields[question.name])
        except InputError as error:
            raise ConfigError(
                f"{path}, line {row.number}: {error}: correct the row, or leave "
                f"{question.name!r} out of it"
            ) from error
        if name is not None:
            examples[normalise_text(text)] = Example(text, {question.name: name})
    if not examples:
        raise ConfigError(f"{path}: no row has a text and the key {question.name!r} with its label")
    return tuple(examples.values())
