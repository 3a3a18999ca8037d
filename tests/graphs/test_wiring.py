"""What `build` refuses, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel

from moa.agents.classifier import Classifier
from moa.agents.sentiment import Sentiment
from moa.core.context import RunContext
from moa.core.errors import WiringError
from moa.core.node import Reply, Result, Text
from moa.core.questions import Choice
from moa.graphs import Graph, Handle
from moa.testing import ScriptedEndpoint

if TYPE_CHECKING:
    Unread = Any

In = TypeVar("In")
Out = TypeVar("Out")


class Topic(Enum):
    CARD = "card"
    LOAN = "loan"


class Triage(BaseModel):
    topic: Choice[Topic]
    size: int


class LongText(Text):
    pass


async def length(text: str) -> int:
    return len(text)


async def double(number: int) -> int:
    return 2 * number


async def shout(text: str) -> str:
    return text.upper()


async def either(value: int | str) -> str:
    return str(value)


async def anything(value: object) -> str:
    return str(value)


async def maybe(text: str) -> int | None:
    return len(text) or None


async def listed(text: str) -> list[str]:
    return text.split()


async def sizes(texts: list[int]) -> int:
    return sum(texts)


async def triage(text: str) -> Triage:
    return Triage(topic=Choice[Topic](label=Topic.CARD), size=len(text))


def topic_in(found: Triage) -> Choice[Topic]:
    return found.topic


async def untyped(value: Unread) -> Unread:
    return value


async def choose(text: str) -> Choice[str]:
    return Choice[str](label=text)


async def topic_of(text: str) -> Choice[Topic]:
    return Choice[Topic](label=Topic.CARD)


async def letter(choice: Choice[Literal["a"]]) -> str:
    return str(choice.label)


def one(a: str) -> str:
    return a


def two(a: str, b: str) -> str:
    return a


def two_or_one(a: str, b: str = "") -> str:
    return a


def several(*texts: str) -> str:
    return "".join(texts)


def larger(number: int, text: str) -> int:
    return max(number, len(text))


def is_long(number: int) -> bool:
    return number > 3


class Generic_(Generic[In, Out]):
    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, request: In, context: RunContext | None = None, /) -> Result[Out]:
        raise NotImplementedError


class Specific(Generic_[str, int]):
    pass


def problem(wire: Callable[[Any], Handle[Any]]) -> str:
    g = Graph("g", str)
    with pytest.raises(WiringError) as caught:
        g.build(wire(g))
    return str(caught.value)


def chained(g: Graph[Any], *nodes: Any) -> Handle[Any]:
    handle: Handle[Any] = g.input
    for node in nodes:
        handle = g.add(node, handle)
    return handle


@pytest.mark.parametrize(
    ("chain", "named"),
    [
        pytest.param([length, shout], "'shout'", id="class"),
        pytest.param([maybe, double], "int | None", id="union"),
        pytest.param([listed, sizes], "list[str]", id="generic"),
        pytest.param([double], "'double'", id="input"),
        pytest.param([length, Specific("mine")], "'mine'", id="bound generic"),
        pytest.param([length, Generic_[str, int]("mine")], "'mine'", id="parametrised generic"),
        pytest.param([length, Sentiment(ScriptedEndpoint())], "'sentiment'", id="agent"),
        pytest.param([topic_of, letter], "Choice[Literal['a']]", id="choice"),
        pytest.param([two], "(a, b)", id="two values"),
        pytest.param([shout, shout], "'shout'", id="one name"),
    ],
)
def test_nodes_that_do_not_fit_are_named_with_their_types(chain: list[Any], named: str) -> None:
    assert named in problem(lambda g: chained(g, *chain))


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([length, double], id="the same class"),
        pytest.param([length, either], id="into a union"),
        pytest.param([maybe, anything], id="into object"),
        pytest.param([untyped, double], id="from unknown"),
        pytest.param([length, untyped], id="into unknown"),
        pytest.param([Specific("a"), double], id="from a bound generic"),
    ],
)
def test_nodes_that_fit_build(chain: list[Any]) -> None:
    g = Graph("g", str)
    assert g.build(chained(g, *chain)).name == "g"


def test_a_subclass_fits_where_its_base_is_expected() -> None:
    async def reply(text: Text) -> Reply:
        return Reply(text=text.text)

    g = Graph("g", LongText)
    assert g.build(g.add(reply, g.input)).output_type is not None


def sometimes(g: Any) -> Handle[Any]:
    """A number that can be skipped."""
    return g.add(length, g.input, when=g.input.map(bool))


def unused(g: Any) -> Handle[Any]:
    g.add(length, g.input)
    return g.add(shout, g.input)


def matched(g: Graph[str], node: Any, labels: list[Any] | None = None) -> Handle[Any]:
    def branch(label: Any) -> Handle[str]:
        return g.input

    choice: Handle[Any] = g.add(node, g.input)
    return g.match(choice, branch, labels=labels)


def unnamed(value: Any) -> Any:
    return value


unnamed.__name__ = "<lambda>"
OTHER = Graph("other", str)
WIRINGS: list[tuple[Callable[[Any], Handle[Any]], str]] = [
    (sometimes, "'length'"),
    (lambda g: g.add(double, sometimes(g)), "'double'"),
    (lambda g: sometimes(g).map(is_long), "'length'"),
    (lambda g: g.add(unnamed, sometimes(g), otherwise=g.input), "'length'"),
    (
        lambda g: g.add(shout, g.input, when=g.add(length, g.input), otherwise=g.input),
        "'shout' takes bool",
    ),
    (lambda g: g.add(shout, OTHER.input), "'shout' takes 'input'"),
    (lambda g: OTHER.input, "'input'"),
    (unused, "'length'"),
    (lambda g: matched(g, choose), "'choose'"),
    (lambda g: matched(g, length, labels=["x"]), "'match(length)'"),
    (lambda g: g.join(one, g.input, g.add(shout, g.input)), "'one(input, shout)'"),
    (lambda g: g.join(len, g.input, g.add(shout, g.input)), "(obj)"),
    (lambda g: g.join(double, g.input, g.add(shout, g.input)), "'double(input, shout)'"),
    (lambda g: g.join(two, g.input), "'two(input)'"),
]


@pytest.mark.parametrize(("wire", "named"), WIRINGS)
def test_what_does_not_build_is_named(wire: Callable[[Any], Handle[Any]], named: str) -> None:
    assert named in problem(wire)


def test_all_problems_are_named_at_once() -> None:
    def wire(g: Any) -> Handle[Any]:
        return g.join(larger, g.add(double, g.input), g.add(shout, g.add(length, g.input)))

    said = problem(wire)
    assert "'double' takes int" in said
    assert "'shout' takes str" in said


def test_an_otherwise_makes_a_skippable_output_build() -> None:
    g = Graph("g", str)
    built = g.build(g.add(double, sometimes(g), otherwise=g.add(shout, g.input)))
    assert built.output_type == int | str


def test_labels_come_from_what_a_function_says_that_it_returns() -> None:
    g = Graph("g", str)
    seen: list[Topic] = []

    def branch(label: Topic) -> Handle[str]:
        seen.append(label)
        return g.add(shout, g.input)

    g.build(g.match(g.add(triage, g.input).map(topic_in), branch))
    assert seen == [Topic.CARD, Topic.LOAN]


def test_labels_that_nobody_tells_can_be_given() -> None:
    g = Graph("g", str)
    g.build(matched(g, choose, labels=["x", "y"]))


@pytest.mark.parametrize("labels", [None, ["card", "loan"]], ids=["asked", "given"])
@pytest.mark.parametrize("none", [False, True])
def test_none_of_these_has_a_way_where_a_classifier_may_say_it(
    labels: list[str] | None, none: bool
) -> None:
    g = Graph("g", Text)
    seen: list[str | None] = []

    def branch(label: str | None) -> Handle[Text]:
        seen.append(label)
        return g.input

    kind = g.add(Classifier(ScriptedEndpoint(), ["card", "loan"], none=none), g.input)
    g.build(g.match(kind, branch, labels=labels))
    assert seen == ["card", "loan", *([None] if none else [])]


@pytest.mark.parametrize("function", [two_or_one, several, max, str.join])
def test_a_join_of_a_function_that_can_take_the_values_builds(function: Any) -> None:
    g = Graph("g", str)
    g.build(g.join(function, g.input, g.add(shout, g.input)))


def test_a_graph_whose_name_and_type_are_swapped_says_so() -> None:
    make: Any = Graph
    with pytest.raises(WiringError):
        make(str, "g")


def test_a_join_of_nothing_says_what_to_give() -> None:
    join: Any = Graph("g", str).join
    with pytest.raises(WiringError):
        join(len)


def test_a_node_for_several_labels_is_one_node() -> None:
    g = Graph("g", str)
    topic = g.add(triage, g.input).map(topic_in)
    built = g.build(g.match(topic, lambda label: g.add(shout, g.input)))
    assert [step.name for step in built.plan.steps if step.name.startswith("shout")] == ["shout"]


def test_nodes_that_differ_by_label_are_named_after_it() -> None:
    g = Graph("g", str)
    topic = g.add(triage, g.input).map(topic_in)

    def branch(label: Topic) -> Handle[str]:
        return g.add(shout, g.input.map(lambda text: f"{label}{text}"))

    names = {step.name for step in g.build(g.match(topic, branch)).plan.steps}
    assert {"shout", "shout[loan]"} <= names
