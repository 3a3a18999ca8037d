"""Texts: no place of a value in which a text stays as it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import pytest
from pydantic import BaseModel, PrivateAttr

from moa.core.errors import InputError
from moa.guards.texts import change_texts, texts_of

SECRET = "jane@example.org"


def mask_findings(value: object) -> object:
    return change_texts(value, lambda text: text.replace(SECRET, "[EMAIL_1]"), strict=True)


class Note(BaseModel):
    text: str
    _source: str = PrivateAttr(default="")

    @cached_property
    def shown(self) -> str:
        return f"Note: {self.text}"

    @property
    def source(self) -> str:
        return self._source

    def kept(self, source: object) -> Note:
        self.__pydantic_private__ = {"_source": source}
        return self


def test_what_a_cached_property_of_a_model_holds_is_computed_anew() -> None:
    note = Note(text=f"Write to {SECRET}")
    assert SECRET in note.shown
    made = mask_findings(note)
    assert isinstance(made, Note)
    assert made.shown == "Note: Write to [EMAIL_1]"
    assert SECRET not in repr(made.__dict__)
    assert SECRET in note.shown


def test_private_attributes_of_a_model_are_changed() -> None:
    note = Note(text="Hi").kept(SECRET)
    made = mask_findings(note)
    assert isinstance(made, Note)
    assert (made.source, note.source) == ("[EMAIL_1]", SECRET)
    assert SECRET in texts_of(note)


def test_a_private_attribute_that_cant_be_looked_into_is_refused() -> None:
    with pytest.raises(InputError):
        mask_findings(Note(text="Hi").kept(object()))


def test_a_model_without_a_secret_comes_back_as_it_is() -> None:
    note = Note(text="Hi").kept("a file")
    assert mask_findings(note) is note


@dataclass(frozen=True)
class Mail:
    text: str
    sender: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "sender", SECRET)
        object.__setattr__(self, "beside", f"from {SECRET}")

    @cached_property
    def shown(self) -> str:
        return f"{self.sender}: {self.text}"


@dataclass(slots=True)
class Small:
    text: str
    sender: str = field(init=False, default=SECRET)


def test_all_that_a_data_class_holds_is_changed() -> None:
    mail = Mail("Hi")
    assert SECRET in mail.shown
    made = mask_findings(mail)
    assert isinstance(made, Mail)
    assert made.shown == "[EMAIL_1]: Hi"
    assert SECRET not in repr(vars(made))
    small = mask_findings(Small("Hi"))
    assert isinstance(small, Small)
    assert small.sender == "[EMAIL_1]"
