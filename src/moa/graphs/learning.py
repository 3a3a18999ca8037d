"""Learning: a ready graph whose questions can be labelled, and what it reads of a row.

What a graph asks is what its deciding agents ask; what they read of a row is what stands before
them in its wiring. So labels are for texts as the graph decides on them: cleaned, and cut where
they are long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

from moa.agents.deciding import DecidingAgent
from moa.batch import map_rows, reader_of
from moa.calibration.features import Progress
from moa.calibration.file import Calibration
from moa.calibration.labelled import Labelled, label_of
from moa.calibration.learned import LearnedGraph
from moa.config.endpoints import Endpoints
from moa.config.faults import nearest
from moa.config.tables import EMBEDDED
from moa.context import RunContext
from moa.errors import ConfigError, InputError
from moa.graphs.engine.plan import plan_of
from moa.graphs.engine.run import Run
from moa.graphs.engine.steps import NodeStep, Step
from moa.graphs.loading import READY, load_graph
from moa.graphs.recipe import WiredRecipe
from moa.guards.guarded import Guarded
from moa.node import AnyNode, Outcome
from moa.questions import Question

LEARNED = "learned"
"""The setting of a graph that learns."""
SETTLED = ("replied", "routed")
"""What becomes of what was settled without a large model."""


class Message(NamedTuple):
    """A row with what a graph reads of it."""

    fields: dict[str, object]
    """All that stands in the row."""
    request: Any
    """What the graph takes."""
    texts: Mapping[str, str]
    """What each question is decided on, by its name."""
    labels: Mapping[str, str]
    """Names of the right options, by name of the question."""
    marks: Mapping[str, Any]
    """Whether it was chosen, its case, and by whom it was labelled, where the row says so."""


class Settled(NamedTuple):
    """How many messages are settled without a large model, and how many of those are right."""

    messages: int
    settled: int
    right: int


@dataclass(frozen=True)
class Learner:
    """A ready graph that learns, as a configuration sets it.

    Args:
        name: Of the ready graph.
        endpoints: Who is asked.

    Raises:
        ConfigError: it doesn't learn, or can't be built.
    """

    name: str
    endpoints: Endpoints

    def __post_init__(self) -> None:
        if not learns(self.name):
            can = [name for name in READY if learns(name)]
            raise ConfigError(
                f"{self.name!r} is no graph that learns{nearest(self.name, can)}. Those that do: "
                f"{', '.join(can)}. For one question of your own: moa learn --task"
            )

    @cached_property
    def current(self) -> WiredRecipe[Any, Any]:
        """The graph as its table says, with what was learned before."""
        return self._wired({"llm": EMBEDDED})

    def built(
        self, made: Mapping[str, Calibration] | None = None, /, **given: object
    ) -> WiredRecipe[Any, Any]:
        """Build the graph with what was learned, or without; no large model writes in it."""
        learned = None if made is None else LearnedGraph(graph=self.name, calibrations=dict(made))
        return self._wired({LEARNED: learned, "labelled": None, "llm": EMBEDDED, **given})

    def _wired(self, given: Mapping[str, object]) -> WiredRecipe[Any, Any]:
        # What is learned here is fitted to labels that are given, and to no large model's.
        node: AnyNode = load_graph(self.name, self.endpoints, {"learn": None, **given})
        if isinstance(node, Guarded):
            node = cast("Guarded[Any, Any]", node).node
        assert isinstance(node, WiredRecipe), "what learns is wired"
        return node

    @cached_property
    def node(self) -> WiredRecipe[Any, Any]:
        """The graph, as it decides where nothing was learned."""
        return self.built()

    @cached_property
    def agents(self) -> dict[str, DecidingAgent[Any]]:
        """Who decides each question, by its name."""
        return agents_of(self.node)

    @property
    def questions(self) -> dict[str, Question]:
        """What is asked, by name."""
        return {name: one for a in self.agents.values() for name, one in _named(a).items()}

    async def messages(
        self,
        rows: Iterable[tuple[str, dict[str, object]]],
        context: RunContext,
        progress: Progress | None = None,
        *,
        labels: bool = True,
    ) -> list[Message]:
        """Read rows as the graph does; those that nothing is left of are passed over.

        Args:
            rows: Where each stands, in words, and its fields. One that `moa run` wrote counts as
                its input.
            context: Budget, deadline and ledger.
            progress: Told how many are read.
            labels: Whether their labels are read.

        Raises:
            ConfigError: a row is none that the graph takes, or has a label that no question has.
        """
        take, found = reader_of(self.node), list[Message]()
        lines = list(rows)
        for number, (where, line) in enumerate(lines, start=1):
            fields = _input_of(line)
            try:
                request = take(fields)
            except InputError as error:
                raise ConfigError(f"{where}: {error}") from error
            texts = await self._texts(request, context)
            if any(text.strip() for text in texts.values()):
                given = [name for name in texts if labels and name in fields]
                read = {name: self._label(where, name, fields) for name in given}
                known = {name: label for name, label in read.items() if label is not None}
                marks = {k: fields[k] for k in ("chosen", "case", "labelled_by") if k in fields}
                found.append(Message(fields, request, texts, known, marks))
            if progress is not None:
                progress("messages", number, len(lines))
        return found

    def _label(self, where: str, name: str, fields: Mapping[str, object]) -> str | None:
        question = self.questions[name]
        try:
            return label_of(question, fields[name])
        except InputError as error:
            raise ConfigError(f"{where}: {error}") from error

    async def _texts(self, request: Any, context: RunContext) -> dict[str, str]:
        texts: dict[Step, str] = {}
        for source in {*self._sources.values()}:
            plan = plan_of(self.name, self.node.plan.steps[0], source)
            texts[source] = str(await Run(plan, context).output(request))
        return {name: texts[source] for name, source in self._sources.items()}

    @cached_property
    def _sources(self) -> dict[str, Step]:
        """What each question is decided on."""
        steps = [step for step in self.node.plan.steps if isinstance(step, NodeStep)]
        return {
            name: step.sources[0]
            for name, agent in self.agents.items()
            for step in steps
            if step.node is agent
        }

    def labelled(self, name: str, messages: Iterable[Message]) -> list[Labelled]:
        """Give the texts that have a label of a question, as it is decided on them."""
        return [
            Labelled.model_validate(
                {"text": one.texts[name], "label": one.labels[name], **one.marks}
            )
            for one in messages
            if name in one.labels and one.texts[name].strip()
        ]

    async def settled(
        self,
        node: WiredRecipe[Any, Any],
        messages: Sequence[Message],
        context: RunContext,
        progress: Progress | None = None,
    ) -> Settled:
        """Run the graph on messages with labels, and count what it settles, and settles rightly."""
        name = self.node.settles_by
        agent = agents_of(node)[name]
        settled = right = number = 0
        requests = [message.request for message in messages]
        async for item in map_rows(node, requests, context, on_error="raise"):
            number += 1
            message = messages[item.number - 1]
            if isinstance(item.output, Outcome) and item.output.became in SETTLED:
                settled += 1
                right += await said(agent, message.texts[name], context) == message.labels[name]
            if progress is not None:
                progress("messages through the graph", number, len(messages))
        return Settled(len(messages), settled, right)


def learns(name: str) -> bool:
    """Whether a name is that of a ready graph that learns."""
    return name in READY and LEARNED in READY[name].settings


def learned_in(node: object) -> LearnedGraph | None:
    """Give what a graph has learned; `None` where that is nothing."""
    inner = cast("Guarded[Any, Any]", node).node if isinstance(node, Guarded) else node
    learned = getattr(inner, LEARNED, None)
    return learned if isinstance(learned, LearnedGraph) else None


def agents_of(node: WiredRecipe[Any, Any]) -> dict[str, DecidingAgent[Any]]:
    """Give the agents of a graph that decide, by the name of each question."""
    found: dict[str, DecidingAgent[Any]] = {}
    for one in node.members():
        if isinstance(one, DecidingAgent):
            found |= {question.name: one for question in one.questions}
    return found


async def said(agent: DecidingAgent[Any], text: str, context: RunContext) -> str | None:
    """Give the name of the option that an agent of one question decides on."""
    (answer,) = await agent.answers(text, context)
    if answer.status != "answered":
        return None
    return answer.question.options[answer.best].name


def _named(agent: DecidingAgent[Any]) -> dict[str, Question]:
    return {question.name: question for question in agent.questions}


def _input_of(line: dict[str, object]) -> dict[str, object]:
    """Give the input of a line that `moa run` wrote, with its id; any other line is one itself."""
    inside = line.get("input")
    if not {"output", "status"} <= line.keys() or inside is None:
        return line
    fields = cast("dict[str, object]", inside) if isinstance(inside, dict) else {"text": inside}
    return {"id": line.get("id"), **fields}


def rows_of(
    source: str, *, format: Any = None, text_column: str | None = None, encoding: str | None = None
) -> Iterator[tuple[str, dict[str, object]]]:
    """Read the rows of a file: where each stands, and its fields.

    Raises:
        ConfigError: a row is malformed.
    """
    from moa import rows
    from moa.batch import Malformed

    found = rows.read(source, format=format, text_column=text_column, encoding=encoding)
    for row in found:
        where = f"{Path(source).name if source != rows.STDIN else 'standard input'}, line"
        if isinstance(row, Malformed):
            raise ConfigError(f"{where} {row.number}: {row.error}")
        fields: dict[str, object] = {"text": row.value} if isinstance(row.value, str) else row.value
        yield f"{where} {row.number}", fields
