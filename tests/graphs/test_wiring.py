"""What `build` refuses, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel

from moa.agents.classifier import Classifier
from moa.agents.sentiment import Sentiment
from moa.context import RunContext
from moa.errors import WiringError
from moa.graphs import Graph, Handle, Skipped
from moa.node import Reply, Result, Text
from moa.questions import Choice
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


async def untyped(value: Unread) -> Unread:
    return value


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


def problem(wire: Callable[[Graph[str]], Handle[Any]]) -> str:
    g = Graph("g", str)
    with pytest.raises(WiringError) as caught:
        g.build(wire(g))
    return str(caught.value)


Chain = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        pytest.param([length, shout], "'shout' takes str, but 'length' gives int", id="class"),
        pytest.param(
            [maybe, double], "'double' takes int, but 'maybe' gives int | None", id="union"
        ),
        pytest.param(
            [listed, sizes], "'sizes' takes list[int], but 'listed' gives list[str]", id="generic"
        ),
        pytest.param([double], "'double' takes int, but 'input' gives str", id="input"),
        pytest.param(
            [length, Specific("mine")],
            "'mine' takes str, but 'length' gives int",
            id="bound generic",
        ),
        pytest.param(
            [length, Generic_[str, int]("mine")], "'mine' takes str", id="parametrised generic"
        ),
        pytest.param(
            [length, Sentiment(ScriptedEndpoint())],
            "'sentiment' takes Text | str, but 'length' gives int",
            id="agent",
        ),
    ],
)
def test_nodes_that_do_not_fit_are_named_with_their_types(chain: list[Chain], said: str) -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        handle: Handle[Any] = g.input
        for node in chain:
            handle = g.add(node, handle)
        return handle

    assert said in problem(wire)


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
def test_nodes_that_fit_build(chain: list[Chain]) -> None:
    g = Graph("g", str)
    handle: Handle[Any] = g.input
    for node in chain:
        handle = g.add(node, handle)
    assert g.build(handle).name == "g"


def test_a_subclass_fits_where_its_base_is_expected() -> None:
    async def reply(text: Text) -> Reply:
        return Reply(text=text.text)

    g = Graph("g", LongText)
    assert g.build(g.add(reply, g.input)).output_type is not None


def test_all_problems_are_named_at_once() -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        add: Any = g.add
        return g.join(larger, add(double, g.input), add(shout, add(length, g.input)))

    said = problem(wire)
    assert "'double' takes int" in said
    assert "'shout' takes str" in said


def test_an_output_that_can_be_skipped_does_not_build() -> None:
    said = problem(lambda g: g.add(shout, g.input, when=g.input.map(bool)))
    assert "the output, 'shout', can be skipped: give it an otherwise=" in said


def test_skipping_is_passed_on_and_found() -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        return g.add(double, g.add(length, g.input, when=g.input.map(bool)))

    assert "the output, 'double', can be skipped" in problem(wire)


def test_an_otherwise_makes_a_skippable_output_build() -> None:
    g = Graph("g", str)
    number = g.add(length, g.input, when=g.input.map(bool))
    built = g.build(g.add(double, number, otherwise=g.add(shout, g.input)))
    assert built.output_type == int | str


def test_a_function_that_cannot_take_skipped_does_not_build() -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        number: Handle[Any] = g.add(length, g.input, when=g.input.map(bool))
        return number.map(is_long)

    assert "'length', which can be skipped, but takes int" in problem(wire)


def test_a_condition_must_be_a_bool() -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        condition: Any = g.add(length, g.input)
        return g.add(shout, g.input, when=condition, otherwise=g.input)

    assert "'shout' takes bool as its when=, but 'length' gives int" in problem(wire)


def test_a_handle_of_another_graph_does_not_build() -> None:
    other = Graph("other", str)
    said = problem(lambda g: g.add(shout, other.input))
    assert "'shout' takes 'input', which belongs to another graph" in said


def test_the_output_of_another_graph_does_not_build() -> None:
    other = Graph("other", str)
    assert "the output, 'input', belongs to another graph" in problem(lambda g: other.input)


def test_two_nodes_of_one_name_do_not_build() -> None:
    said = problem(lambda g: g.add(shout, g.add(shout, g.input)))
    assert "two nodes are called 'shout': give one another name=" in said


def test_a_node_that_nothing_uses_does_not_build() -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        g.add(length, g.input)
        return g.add(shout, g.input)

    assert "nothing takes the output of 'length'" in problem(wire)


def test_labels_come_from_the_field_that_a_lambda_picks() -> None:
    g = Graph("g", str)
    seen: list[Topic] = []

    def branch(label: Topic) -> Handle[str]:
        seen.append(label)
        return g.add(shout, g.input)

    g.build(g.match(g.add(triage, g.input).map(lambda t: t.topic), branch))
    assert seen == [Topic.CARD, Topic.LOAN]


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


def test_labels_that_nobody_tells_must_be_given() -> None:
    async def choose(text: str) -> Choice[str]:
        return Choice[str](label=text)

    def wire(g: Graph[str]) -> Handle[Any]:
        return g.match(g.add(choose, g.input), lambda label: g.input)

    assert "the labels of 'choose' are not known" in problem(wire)
    g = Graph("g", str)
    g.build(g.match(g.add(choose, g.input), lambda label: g.input, labels=["x", "y"]))


def one(a: str) -> str:
    return a


def two(a: str, b: str) -> str:
    return a


def two_or_one(a: str, b: str = "") -> str:
    return a


def several(*texts: str) -> str:
    return "".join(texts)


@pytest.mark.parametrize(
    ("function", "handles", "said"),
    [
        (one, 2, "'one(input, shout)' is given 2 values, but takes (a)"),
        (len, 2, "is given 2 values, but takes (obj)"),
        (double, 2, "'double(input, shout)' is given 2 values, but takes (number)"),
        (two, 1, "the function of 'two(input)' is given one value, but takes (a, b)"),
    ],
)
def test_a_join_of_a_function_that_takes_another_number_of_values_does_not_build(
    function: Any, handles: int, said: str
) -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        join: Any = g.join
        return join(function, *(g.input, g.add(shout, g.input))[:handles])

    assert said in problem(wire)


@pytest.mark.parametrize("function", [two_or_one, several, max, str.join])
def test_a_join_of_a_function_that_can_take_the_values_builds(function: Any) -> None:
    g = Graph("g", str)
    g.build(g.join(function, g.input, g.add(shout, g.input)))


def test_a_function_of_two_values_is_no_node() -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        add: Any = g.add
        return add(two, g.input)

    assert "the function of 'two' is given one value, but takes (a, b)" in problem(wire)


@pytest.mark.parametrize("name", ["add_node", "add_edge", "add_conditional_edges"])
def test_what_a_state_graph_has_says_what_stands_in_its_place(name: str) -> None:
    with pytest.raises(
        AttributeError, match=r"a node follows the handles it reads: write .*g\.add"
    ):
        getattr(Graph("g", str), name)


def test_a_graph_whose_name_and_type_are_swapped_says_so() -> None:
    make: Any = Graph
    with pytest.raises(WiringError, match=r'its name first: Graph\("…", str\)'):
        make(str, "g")


def test_a_join_of_nothing_says_what_to_give() -> None:
    join: Any = Graph("g", str).join
    with pytest.raises(WiringError, match="give the handles that it brings together"):
        join(len)


def test_a_match_goes_by_a_choice() -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        number: Any = g.add(length, g.input)
        return g.match(number, lambda label: g.input, labels=["x"])

    assert "'match(length)' takes Choice, but 'length' gives int" in problem(wire)


def test_the_wrong_choice_does_not_fit() -> None:
    async def choose(text: str) -> Choice[Topic]:
        return Choice[Topic](label=Topic.CARD)

    async def letter(choice: Choice[Literal["a"]]) -> str:
        return str(choice.label)

    def wire(g: Graph[str]) -> Handle[Any]:
        bad: Any = letter
        return g.add(bad, g.add(choose, g.input))

    assert "'letter' takes Choice[Literal['a']]" in problem(wire)


def test_a_node_for_several_labels_is_one_node() -> None:
    g = Graph("g", str)
    topic = g.add(triage, g.input).map(lambda t: t.topic)
    built = g.build(g.match(topic, lambda label: g.add(shout, g.input)))
    assert [step.name for step in built.plan.steps if step.name.startswith("shout")] == ["shout"]


def test_nodes_that_differ_by_label_are_named_after_it() -> None:
    g = Graph("g", str)
    topic = g.add(triage, g.input).map(lambda t: t.topic)

    def branch(label: Topic) -> Handle[str]:
        return g.add(shout, g.input.map(lambda text: f"{label}{text}"))

    names = {step.name for step in g.build(g.match(topic, branch)).plan.steps}
    assert {"shout", "shout[loan]"} <= names


def test_a_lambda_as_a_node_on_what_can_be_skipped_does_not_build() -> None:
    def wire(g: Graph[str]) -> Handle[Any]:
        number: Handle[Any] = g.add(length, g.input, when=g.input.map(bool))
        return g.add(lambda v: v, number, otherwise=g.input)

    assert "is a lambda on 'length', which can be skipped" in problem(wire)


def test_skipped_says_why() -> None:
    assert Skipped("it rained").reason == "it rained"
