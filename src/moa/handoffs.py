"""The typed values that pass between nodes. Agents and graphs meet only here."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that nobody changes once it is made, and that may be compared and hashed."""

    model_config = ConfigDict(frozen=True)


class Text(Frozen):
    """A text, and what is known of it.

    Examples:
        >>> text = Text(text="Guten Tag", language="de")
        >>> print(text, text.language)
        Guten Tag de
    """

    text: str
    language: str | None = None
    """ISO 639-1 code, such as `en`; `None` where it was not looked for or not recognised."""

    def __str__(self) -> str:
        return self.text


class Reply(Frozen):
    """A text that a model wrote.

    Examples:
        >>> print(Reply(text="It comes on Friday."))
        It comes on Friday.
    """

    text: str

    def __str__(self) -> str:
        return self.text


class Consulted(Frozen):
    """A request, and what others answered to it, without a word of whose it is."""

    request: str
    answers: tuple[str, ...]


class Dropped(Frozen):
    """What comes out where something is set aside instead of being answered.

    Examples:
        >>> print(Dropped(reason="it is spam"))
        it is spam
    """

    reason: str
    """In words, for whoever looks later."""

    def __str__(self) -> str:
        return self.reason
