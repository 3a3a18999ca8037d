"""Reviewer: reads a program, and says what must be mended."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from moa.agents import Agent


class Draft(BaseModel):
    """A program, and what it is for."""

    model_config = ConfigDict(frozen=True)

    task: str
    source: str
    """The program, and below it its tests."""


class Review(BaseModel):
    """What must be mended in a program."""

    model_config = ConfigDict(frozen=True)

    faults: tuple[str, ...] = Field(
        max_length=8,
        description="each a fault that makes the program wrong, unsafe or incomplete: where it is, "
        "and what happens; empty where there is none",
    )


class Reviewer(Agent[Draft, Review]):
    """Looks for faults in a program: what the task asks for and it does not do."""

    tag = ""
    instructions = (
        "You review programs. List the bugs that make this program fail its task: wrong results, "
        "missing cases, security holes, tests that check nothing. Ignore matters of taste. If you "
        "find no bug, give an empty list."
    )

    def prompt(self, request: Draft) -> str:
        """Show the task and the program."""
        return f"Task: {request.task}\n\nProgram:\n````\n{request.source}\n````"
