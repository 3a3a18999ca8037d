"""moa prompt: what a model would be sent for a text, without sending it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa.cli import options, screen
from moa.cli.run import GraphName
from moa.errors import ConfigError, InputError

if TYPE_CHECKING:
    from moa.agents.base import TypedNode
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
    """Show what models would be sent for a text, and call none.

    That is messages, schema, labels and tokens. A server may be asked what it is, and to count
    tokens. What is really sent in a run shows by moa run … --show-prompts.

    Of a graph it shows the first request of each agent that takes a text, as if that were given
    the text itself; agents that take what others found are named alone.

        moa prompt sentiment --text "What a lovely day"
        moa prompt support --text "Where is my parcel?" --config moa.toml
        moa prompt support inbox.jsonl
    """
    from moa.config.endpoints import Endpoints
    from moa.graphs.loading import load_graph

    node = load_graph(name, Endpoints(options.configured(config), read_keys=False))
    value = source if text else _first(source)
    agents = list(_agents(node))
    if not agents:
        raise ConfigError(f"{name!r} has no agent in it that asks a model")
    for path, agent in agents:
        found = _prompts(agent, value)
        if as_json:
            screen.json_line({"agent": path, "prompts": found and [_as_json(one) for one in found]})
            continue
        out = screen.out()
        said = "takes what others found, not a text" if found is None else ""
        out.print(f"{path}: {said}" if said else f"{path}:", style="bold", markup=False)
        for sent in found or ():
            out.print(str(sent), markup=False, highlight=False, soft_wrap=True)
        out.print()


def _agents(node: object, path: str = "") -> Iterator[tuple[str, TypedNode[Any, Any]]]:
    """Find the agents in a node, with where they stand."""
    from moa.agents.agent import Agent
    from moa.agents.deciding import DecidingAgent
    from moa.graphs.loading import parts_of

    name = str(getattr(node, "name", type(node).__name__))
    here = f"{path}/{name}" if path else name
    if isinstance(node, Agent | DecidingAgent):
        yield here, node
        return
    for part in parts_of(node) or ():
        yield from _agents(part, here)


def _first(source: str) -> str:
    """Give the text of the first row of a file."""
    from moa import rows
    from moa.batch import Row, row_text

    first = next(iter(rows.read(source, else_do="Give --text to ask about the words themselves")))
    if not isinstance(first, Row):
        raise ConfigError(f"{source}: its first row is malformed: {first.error}")
    return row_text(first.value)


def _prompts(agent: TypedNode[Any, Any], text: str) -> tuple[SentPrompt, ...] | None:
    """Give what an agent would send; `None` where it doesn't take a text."""
    from moa.batch import reader_of

    try:
        return agent.prompt(reader_of(agent)(text))
    except InputError:
        return None


def _as_json(sent: SentPrompt) -> dict[str, Any]:
    return {
        "endpoint": sent.endpoint,
        "model": sent.model,
        "way": sent.way,
        "messages": [{"role": role, "content": said} for role, said in sent.messages],
        "labels": sent.labels,
        "schema": sent.schema,
        "settings": dict(sent.settings),
        "tokens": sent.tokens,
        "counted": sent.counted,
    }
