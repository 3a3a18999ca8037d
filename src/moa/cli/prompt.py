"""moa prompt: show the prompts for a text, without sending them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa.cli import options, screen
from moa.cli.run import GraphName
from moa.core.errors import ConfigError, EndpointRejected, InputError

if TYPE_CHECKING:
    from moa.agents.base import TypedNode
    from moa.core.batch import Value
    from moa.core.node import AnyNode
    from moa.endpoints.sent import SentPrompt


def prompt(
    name: GraphName,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="The text, with --text; else a file, whose first row is taken."
        ),
    ],
    *,
    text: options.TextItself = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
) -> None:
    """Show the first prompts for a text, without calling a model.

    It shows messages, schema, labels and tokens of the first calls. It may ask a server for its
    kind and for token counts. Steps before a call do run: documents are searched, encoders in this
    process decide, and your graph's functions are called. Later prompts depend on earlier answers:
    moa run … --show-prompts shows them all.

        moa prompt sentiment --text "What a lovely day"
        moa prompt code --text "A function that merges intervals"
        moa prompt support inbox.jsonl --config moa.toml
    """
    from moa.config.endpoints import Endpoints
    from moa.config.loading import load_graph
    from moa.core.batch import reader_of

    node = load_graph(name, Endpoints(options.load_config(config), read_keys=False))
    shows = getattr(node, "prompt", None)
    if shows is None:
        raise ConfigError(f"{name!r} doesn't say what it asks: it is no agent and no graph of moa")
    value = source if text else _first_value(source)
    sent_prompts: Sequence[SentPrompt] = shows(reader_of(node)(value))
    first: dict[str, list[SentPrompt]] = {}
    for sent in sent_prompts:
        of_agent = first.setdefault(sent.node or node.name, [])
        if sent not in of_agent:  # repeated prompts are shown once
            of_agent.append(sent)
    for path, prompts in first.items():
        _show(path, "first", prompts, as_json)
    if not any(sent.messages for sent in sent_prompts) and not as_json:
        screen.results_console().print("no model is asked for this input\n", style="bold")
    agent_names = {path.rpartition("/")[2] for path in first}
    for path, agent, is_wired in _agents(node):
        if agent.name not in agent_names:
            _show(path, "later", _prompts_of_input(agent, value) if is_wired else (), as_json)


def _show(path: str, turn: str, prompts: Sequence[SentPrompt], as_json: bool) -> None:
    """Print the prompts of an agent; for one asked later, those for the input alone."""
    if as_json:
        screen.json_line({"agent": path, "asked": turn, "prompts": [*map(_as_json, prompts)]})
        return
    out = screen.results_console()
    note = ""
    if turn == "later":
        note = "asked later, if at all: what is sent depends on earlier answers"
        note += ". Of the input alone it is:" if prompts else ""
    out.print(f"{path}: {note}".rstrip(), style="bold", markup=False)
    for sent in prompts:
        out.print(str(sent), markup=False, highlight=False, soft_wrap=True)
    out.print()


def _agents(
    node: AnyNode, path: str = "", *, is_wired: bool = False
) -> Iterator[tuple[str, TypedNode[Any, Any], bool]]:
    """Find the agents in a node that ask a model: path, agent, and True if a graph wires them."""
    from moa.agents.agent import Agent
    from moa.agents.deciding import DecidingAgent
    from moa.graphs.engine.plan import Plan
    from moa.graphs.engine.types import is_node

    node_path = f"{path}/{node.name}" if path else node.name
    if isinstance(node, Agent | DecidingAgent):
        if isinstance(node, Agent) or node.asks_endpoint:
            yield node_path, node, is_wired
        return
    members: Callable[[], Iterable[Any]] = getattr(node, "members", tuple)
    is_wired = isinstance(getattr(node, "plan", None), Plan)
    for part in members():
        if is_node(part):
            yield from _agents(part, node_path, is_wired=is_wired)


def _prompts_of_input(agent: TypedNode[Any, Any], value: Value) -> tuple[SentPrompt, ...]:
    """Return the prompts of an agent for the input alone; none if it can't take that."""
    from moa.core.batch import reader_of

    try:
        return agent.prompt(reader_of(agent)(value))
    except (InputError, EndpointRejected):  # it has another type, or is too long
        return ()


def _first_value(source: str) -> Value:
    """Return the value of the first row of a file."""
    from moa import rows
    from moa.core.batch import Row

    first = next(iter(rows.read(source, else_do="Give --text to ask about the words themselves")))
    if not isinstance(first, Row):
        raise ConfigError(f"{source}: its first row is malformed: {first.error}")
    return first.value


def _as_json(sent: SentPrompt) -> dict[str, object]:
    return {
        "endpoint": sent.endpoint,
        "model": sent.model,
        "way": sent.way,
        "messages": [{"role": role, "content": content} for role, content in sent.messages],
        "labels": sent.labels,
        "schema": sent.schema,
        "settings": dict(sent.settings),
        "tokens": sent.tokens,
        "counted": sent.counted,
    }
