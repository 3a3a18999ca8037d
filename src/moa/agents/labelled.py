"""Labelled: examples for an agent, from a file of labelled rows.

A row has a text and the label of each question under the question's name, as `moa label` writes
them: the name of an option, true or false, or null for "none of these". Rows without the name say
nothing of the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from moa.endpoints import Example
from moa.errors import ConfigError
from moa.questions import NONE_OF_THESE, Question
from moa.rows.reading import typed


class _Labelled(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    text: str
    subject: str | None = None

    def whole(self) -> str:
        return "\n\n".join(part for part in (self.subject, self.text) if part and part.strip())


def labelled_examples(path: str | Path, question: Question) -> tuple[Example, ...]:
    """Read the examples of one question, in the order of the rows; a `subject` precedes its text.

    Args:
        path: JSON Lines, or another file of rows that `moa run` reads.
        question: Its name is the key of the labels.

    Raises:
        ConfigError: there is no such file, a row is malformed or has no text, a label is none of
            the question's options, or no row has a label.
    """
    found: list[Example] = []
    for row, labelled in typed(path, _Labelled):
        fields: Mapping[str, object] = labelled.model_dump()
        if question.name not in fields:
            continue
        if not (text := labelled.whole()).strip():
            continue
        said = fields[question.name]
        name = _option_of(said, question)
        if name is None:
            names = ", ".join(option.name for option in question.options)
            raise ConfigError(
                f"{path}, line {row.number}: {question.name!r} is {said!r}, which is none of "
                f"{names}: correct the row, or leave {question.name!r} out of it"
            )
        found.append(Example(text, {question.name: name}))
    if not found:
        raise ConfigError(f"{path}: no row has a text and the key {question.name!r} with its label")
    return tuple(found)


def _option_of(said: object, question: Question) -> str | None:
    """Name the option that a row says; `None` where it is none."""
    names = [option.name for option in question.options]
    if said is None:
        return NONE_OF_THESE if NONE_OF_THESE in names else None
    if isinstance(said, bool) and question.kind == "predicate":
        return names[0] if said else names[1]
    return said if isinstance(said, str) and said in names else None
