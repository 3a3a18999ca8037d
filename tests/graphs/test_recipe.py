"""What every recipe is: a dataclass whose keywords are its signature, and its table in moa.toml."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import pytest
from pydantic import Field

from moa.agents.agent import Agent
from moa.config.endpoints import Endpoints
from moa.config.fields import Table, recipe_from_table
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.node import Node, Reply
from moa.endpoints import Endpoint
from moa.graphs.cascade import Cascade
from moa.graphs.fields import FromEndpoint, Large
from moa.graphs.recipe import Recipe, Sketch
from moa.recipes.refine import Refine
from moa.testing import ScriptedEndpoint

if TYPE_CHECKING:
    from decimal import Decimal


def writer_of(
    endpoint: Endpoint, *, tone: str = "plain", price: Decimal | None = None
) -> Node[Any, Any]:
    """Make a writer; the type of `price` is imported for type checkers alone."""
    del price
    return Agent(endpoint, f"Write in a {tone} tone.", name=endpoint.name)


class Chorus(Recipe[str, Reply]):
    """A recipe of one's own, which no name runs."""

    llm: Large
    voices: Sequence[Annotated[Node[str, Reply], FromEndpoint(writer_of)]] = ()
    rounds: int = Field(default=1, ge=1)

    async def answer(self, request: str, context: RunContext) -> Reply:
        """Say what was said."""
        return Reply(text=request)

    def sketch(self, sketch: Sketch) -> None:
        """The voices."""
        sketch.chain(*self.voices)


def large(name: str = "large") -> ScriptedEndpoint:
    return ScriptedEndpoint(name=name, tier="llm")


def chorus_of(table: dict[str, object]) -> Chorus:
    other = cast("Node[Any, Any]", None)
    endpoints = Endpoints.of(large=large(), other=large("other"))
    return recipe_from_table(Chorus, table, Table("chorus", endpoints, lambda _: other))


def test_a_signature_has_names_types_and_defaults() -> None:
    keywords = inspect.signature(Refine).parameters
    assert {one.kind for one in keywords.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert keywords["rounds"].default == 2
    assert keywords["writer"].default is inspect.Parameter.empty
    assert {"name", "budget", "timeout_s", "critic", "reviser"} <= {*keywords}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, ["llm"]),
        ({"llm": large(), "round": 2}, ["'round'", "'rounds'"]),
        ({"llm": large(), "voices": [large(), 5]}, ["voices[1]"]),
        ({"llm": ScriptedEndpoint}, ["llm", "ScriptedEndpoint"]),
    ],
)
def test_a_wrong_call_names_the_recipe_and_the_keyword(
    given: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Chorus(**given)
    assert all(word in str(caught.value) for word in ["chorus: ", *named])


def test_fields_that_are_given_by_place_are_refused_and_named() -> None:
    with pytest.raises(ConfigError, match=r"Chorus\(llm=…\).*rounds"):
        cast("Any", Chorus)(large())


def test_a_table_names_endpoints_and_what_is_missing_is_the_default() -> None:
    table: dict[str, object] = {"voices": ["other", {"tone": "warm"}], "rounds": 3}
    chorus = chorus_of(table)
    assert [voice.name for voice in chorus.voices] == ["other", "large"]
    assert (chorus.llm.name, chorus.rounds, chorus.name) == ("large", 3, "chorus")


def test_a_setting_of_the_nodes_may_stand_around_them() -> None:
    (voice,) = chorus_of({"voices": ["other"], "tone": "warm"}).voices
    assert isinstance(voice, Agent)
    assert "warm" in voice.instructions


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"tone": "warm"}, ["'tone'"]),  # there is no voice that could have it
        ({"voices": ["other", {"tune": "warm"}]}, ["[graphs.chorus.voices[1]]", "'tone'"]),
        ({"voices": "other"}, ["voices", "a list"]),
        ({"voices": [{"price": 3}]}, ["price", "in Python alone"]),
        ({"rounds": 0, "wrong": 1}, ["rounds", "'wrong'"]),
    ],
)
def test_a_wrong_table_names_the_place_and_the_key(
    table: dict[str, object], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        chorus_of(table)
    assert all(word in str(caught.value) for word in ["moa.toml: [graphs.chorus", *named])


def test_a_value_that_no_member_of_a_union_takes_has_one_sentence() -> None:
    endpoint = large()
    writer: Any = Agent(endpoint, "Write.")
    with pytest.raises(ConfigError) as caught:
        Cascade(small=writer, large=writer, accept=cast("Any", 3))
    assert str(caught.value).splitlines() == [str(caught.value)]
    assert "json-or-python" not in str(caught.value)
    assert "a list" in str(caught.value)
