"""Learning: a built-in graph whose questions can be labelled, and what it reads of a row.

The questions of a graph are those of its deciding agents. They read the output of the nodes before
them. So labels are for texts as the graph decides on them: cleaned, and cut if long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from moa.agents.deciding import DecidingAgent
from moa.agents.together import Together
from moa.config.endpoints import Endpoints
from moa.config.faults import nearest
from moa.config.loading import READY, load_graph
from moa.config.tables import EMBEDDED
from moa.core._json import is_object
from moa.core.batch import map_rows, reader_of
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError
from moa.core.node import AnyNode
from moa.core.questions import Question
from moa.decisions.features import Progress
from moa.decisions.file import Calibration
from moa.graphs.engine.plan import Plan, plan_of
from moa.graphs.engine.run import Run
from moa.graphs.engine.steps import NodeStep, Step
from moa.graphs.recipe import Recipe
from moa.guards.guarded import Guarded
from moa.learning.labelled import Labelled, label_of
from moa.learning.learned import LearnedGraph

if TYPE_CHECKING:
    from moa.rows import Format

LEARNED = "learned"
"""Setting of a graph that learns."""
SETTLES = "intent"
"""Question whose answer must be right if a message is settled without a large model."""


class Message(NamedTuple):
    """A row, with what a graph reads of it."""

    fields: dict[str, object]
    """All fields of the row."""
    request: object
    """Input of the graph."""
    texts: Mapping[str, str]
    """Text that each question is decided on, by name of the question."""
    labels: Mapping[str, str]
    """Names of the right options, by name of the question."""
    marks: Mapping[str, object]
    """`chosen`, `case` and `labelled_by` of the row, if present."""


class SettledCount(NamedTuple):
    """Numbers of messages: all, those settled without a large model, and those settled right."""

    messages: int
    settled: int
    right: int


@dataclass(frozen=True)
class Learner:
    """A built-in graph that learns, as configured.

    Args:
        name: Name of the built-in graph.
        endpoints: Endpoints to ask.

    Raises:
        ConfigError: the graph doesn't learn, or can't be built.
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
    def current(self) -> Recipe[object, object]:
        """The graph as configured, with what was learned before."""
        return self._load({"llm": EMBEDDED})

    def build(
        self, calibrations: Mapping[str, Calibration] | None = None, /, **given: object
    ) -> Recipe[object, object]:
        """Build the graph, with calibrations or without. No large model writes in it."""
        learned = (
            None
            if calibrations is None
            else LearnedGraph(graph=self.name, calibrations=dict(calibrations))
        )
        return self._load({LEARNED: learned, "labelled": None, "llm": EMBEDDED, **given})

    def _load(self, settings: Mapping[str, object]) -> Recipe[object, object]:
        # Here it learns from given labels, not from a large model's.
        node = _without_guards(load_graph(self.name, self.endpoints, {"learn": None, **settings}))
        assert isinstance(node, Recipe), "what learns is ready-made"
        return node

    @cached_property
    def node(self) -> Recipe[object, object]:
        """The graph without anything learned."""
        return self.build()

    @cached_property
    def agents(self) -> dict[str, DecidingAgent[Any]]:
        """Deciding agents, by name of the question."""
        return agents_of(self.node)

    @property
    def questions(self) -> dict[str, Question]:
        """Questions, by name."""
        return {
            question.name: question
            for agent in self.agents.values()
            for question in agent.questions
        }

    async def messages(
        self,
        rows: Iterable[tuple[str, dict[str, object]]],
        context: RunContext,
        progress: Progress | None = None,
        *,
        labels: bool = True,
    ) -> list[Message]:
        """Read rows as the graph does. Rows of which no text is left are skipped.

        Args:
            rows: Location of each row, in words, and its fields. For a row that `moa run` wrote,
                its input is read.
            context: Budget, deadline and ledger.
            progress: Called with the number of rows read.
            labels: True to read their labels.

        Raises:
            ConfigError: a row isn't an input of the graph, or has a label that its question lacks.
        """
        take, messages = reader_of(self.node), list[Message]()
        lines = list(rows)
        for number, (location, line) in enumerate(lines, start=1):
            fields = _input_of(line)
            try:
                request = take(fields)
            except InputError as error:
                raise ConfigError(f"{location}: {error}") from error
            texts = await self._read_texts(request, context)
            if any(text.strip() for text in texts.values()):
                names = [name for name in texts if labels and name in fields]
                read = {name: self._label(location, name, fields) for name in names}
                known_labels = {name: label for name, label in read.items() if label is not None}
                marks = {k: fields[k] for k in ("chosen", "case", "labelled_by") if k in fields}
                messages.append(Message(fields, request, texts, known_labels, marks))
            if progress is not None:
                progress("messages", number, len(lines))
        return messages

    def _label(self, location: str, name: str, fields: Mapping[str, object]) -> str | None:
        question = self.questions[name]
        try:
            return label_of(question, fields[name])
        except InputError as error:
            raise ConfigError(f"{location}: {error}") from error

    async def _read_texts(self, request: object, context: RunContext) -> dict[str, str]:
        texts: dict[Step, str] = {}
        for source in {*self._sources.values()}:
            plan = plan_of(self.name, self._steps[0], source)
            texts[source] = str(await Run(plan, context).output(request))
        return {name: texts[source] for name, source in self._sources.items()}

    @property
    def _steps(self) -> Sequence[Step]:
        plan = getattr(self.node, "plan", None)
        assert isinstance(plan, Plan), "what learns is wired"
        return plan.steps

    @cached_property
    def _sources(self) -> dict[str, Step]:
        """Step whose output each question is decided on, by name of the question."""
        steps = [step for step in self._steps if isinstance(step, NodeStep)]
        return {
            name: step.sources[0]
            for name, agent in self.agents.items()
            for step in steps
            if any(part is agent for part in _agents_in(step.node))
        }

    def collect_labelled(self, name: str, messages: Iterable[Message]) -> list[Labelled]:
        """Return the texts with a label of a question, as the graph decides on them."""
        return [
            Labelled.model_validate(
                {"text": message.texts[name], "label": message.labels[name], **message.marks}
            )
            for message in messages
            if name in message.labels and message.texts[name].strip()
        ]

    async def count_settled(
        self,
        node: Recipe[object, object],
        messages: Sequence[Message],
        context: RunContext,
        progress: Progress | None = None,
    ) -> SettledCount:
        """Run the graph on labelled messages. Count those it settles, and settles right."""
        agent = agents_of(node)[SETTLES]
        settled = right = number = 0
        requests = [message.request for message in messages]
        async for item in map_rows(node, requests, context, on_error="raise"):
            number += 1
            message = messages[item.number - 1]
            if item.settled:
                settled += 1
                right += (
                    await decide_option(agent, message.texts[SETTLES], context)
                    == message.labels[SETTLES]
                )
            if progress is not None:
                progress("messages through the graph", number, len(messages))
        return SettledCount(len(messages), settled, right)


def learns(name: str) -> bool:
    """Return True if the built-in graph of this name learns."""
    return name in READY and LEARNED in READY[name].settings


def find_learned(node: AnyNode) -> LearnedGraph | None:
    """Return what a graph has learned, or `None`."""
    learned = getattr(_without_guards(node), LEARNED, None)
    return learned if isinstance(learned, LearnedGraph) else None


def _without_guards(node: AnyNode) -> AnyNode:
    return getattr(node, "node", node) if isinstance(node, Guarded) else node


def agents_of(node: Recipe[object, object]) -> dict[str, DecidingAgent[Any]]:
    """Return the deciding agents of a graph, by name of the question.

    Agents that are asked together are returned each by itself.
    """
    agents = (agent for member in node.members() for agent in _agents_in(member))
    return {question.name: agent for agent in agents for question in agent.questions}


def _agents_in(member: object) -> Sequence[DecidingAgent[Any]]:
    """Return the deciding agents of a node: itself, or those that it asks together."""
    agents: list[DecidingAgent[Any]] = []
    if isinstance(member, Together):
        agents.extend(member.agents.values())
    elif isinstance(member, DecidingAgent):
        agents.append(cast("DecidingAgent[Any]", member))
    return agents


async def decide_option(agent: DecidingAgent[Any], text: str, context: RunContext) -> str | None:
    """Return the option that an agent of one question decides on; `None` if it has no answer."""
    (answer,) = await agent.answers(text, context)
    if answer.status != "answered":
        return None
    return answer.question.options[answer.best].name


def _input_of(line: dict[str, object]) -> dict[str, object]:
    """Return the input and id of a line of `moa run`. Any other line is itself the input."""
    inside = line.get("input")
    if not {"output", "status"} <= line.keys() or inside is None:
        return line
    fields = inside if is_object(inside) else {"text": inside}
    return {"id": line.get("id"), **fields}


def rows_of(
    source: str,
    *,
    format: Format | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[str, dict[str, object]]]:
    """Read the rows of a file: location and fields of each.

    Raises:
        ConfigError: a row is malformed.
    """
    from moa import rows
    from moa.core.batch import MalformedLine

    items = rows.read(source, format=format, text_column=text_column, encoding=encoding)
    for row in items:
        prefix = f"{Path(source).name if source != rows.STDIN else 'standard input'}, line"
        if isinstance(row, MalformedLine):
            raise ConfigError(f"{prefix} {row.number}: {row.error}")
        fields: dict[str, object] = {"text": row.value} if isinstance(row.value, str) else row.value
        yield f"{prefix} {row.number}", fields
