"""Drafts the intents of an inbox for `moa new inbox`, by a large model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.config.endpoints import Endpoints
    from moa.core.context import RunContext
    from moa.inbox.intents import Proposal
    from moa.learning.labelled_graph import Message

GRAPH = "support"
PLACE = ("graphs", GRAPH, "intents")
_UNWANTED = ("spam", "injection")
"""Questions whose yes keeps a message out of the draft."""


async def draft(
    source: str,
    out: Path,
    endpoints: Endpoints,
    context: RunContext,
    *,
    reading: options.ReadingOptions,
    yes: bool,
) -> list[Proposal]:
    """Draft the intents of an inbox, for the configuration `out`.

    Raises:
        ConfigError: no large model is configured, or the user doesn't agree to the cost.
        MoaError: a model fails.
    """
    from moa.inbox.intents import propose, shown_to_model, tokens_of_proposing

    if not endpoints.has_llm:
        raise ConfigError(_NO_LLM)
    sample = shown_to_model(await _texts(source, reading, endpoints, context))
    input_tokens, output_tokens = tokens_of_proposing(sample)
    screen.agree_to_pay(
        endpoints.llm,
        "to propose intents",
        requests=1,
        read=input_tokens,
        output_tokens=output_tokens,
        yes=yes,
    )
    with screen.waiting() as tell:
        tell(f"{endpoints.llm.name} proposes intents")
        return await propose(endpoints.llm, sample, context, usable=_harmless(out))


_NO_LLM = (
    "--from needs a large model, which proposes the intents, and none is configured: moa models "
    "add --help. Without one, leave --from out, and write the intents yourself"
)


async def _texts(
    source: str, reading: options.ReadingOptions, endpoints: Endpoints, context: RunContext
) -> list[str]:
    """Read some messages as the graph does, without those that it finds unwanted."""
    from moa.core._async import map_async
    from moa.evals.labelling import MAX_CONCURRENCY
    from moa.inbox.intents import MOST_READ, spread
    from moa.learning.labelled_graph import Learner, decide_option, rows_of

    learner = Learner(GRAPH, endpoints)
    rows = list(rows_of(source, **reading.row_format))
    agents, texts = learner.agents, dict[str, None]()
    with screen.progress("reading") as progress:
        sample = spread(rows, MOST_READ)
        messages = await learner.messages(sample, context, progress, labels=False)
        looked_at = 0

        async def is_wanted(message: Message) -> bool:
            nonlocal looked_at
            answers = [
                await decide_option(agents[question], message.texts[question], context)
                for question in _UNWANTED
            ]
            looked_at += 1
            progress("messages that are wanted", looked_at, len(messages))
            return "yes" not in answers

        verdicts = await map_async(is_wanted, messages, max_concurrency=MAX_CONCURRENCY)
        for message, keep in zip(messages, verdicts, strict=True):
            if keep:
                texts[message.texts["intent"]] = None
    screen.details().print(
        f"{len(sample)} messages read; {len(texts)} of them are wanted, and different"
    )
    return [*texts]


def _harmless(out: Path) -> Callable[[str], bool]:
    """Return a function that tells if a text in a configuration needs no trust."""
    from moa.config import config_of
    from moa.config.trust import needs

    def may_stand(text: str) -> bool:
        tables = {"graphs": {GRAPH: {"intents": {"name": {"examples": [text]}}}}}
        return not needs(config_of(tables, out, variables=False))

    return may_stand


def as_toml(proposals: list[Proposal]) -> str:
    """Write the intents as TOML tables, with comments on how to edit them."""
    import tomlkit

    lines = [
        "# TODO: edit these intents. One for each thing that you answer in another way, or that is",
        "# for other people; 4 to 12 are usual. Rename [graphs.support.intents.NAME], put together",
        "# what is one, and delete what is none: what fits no intent goes to people.",
        "#   means     what the writer wants, in a sentence of your own words",
        "#   examples  four messages or more, in the languages that people write in",
        '#   queue     who takes care of it; or reply = { en = "…" }, a routine reply by language',
        f"# What a model writes is a draft to read, until [graphs.{GRAPH}] says what it may say:",
        '#   company = "…", and tone = "friendly, at most five sentences"',
        '#   policy = "…"      your rules, in words or in a file such as policy.md',
        '#   facts = ["…"]     prices, hours and the like; of many, documents = ["folder"]',
    ]
    for proposal in proposals:
        table = tomlkit.table()
        table.add("means", proposal.means)
        table.add("examples", tomlkit.item([*proposal.examples]).multiline(multiline=True))
        table.add("queue", proposal.name)
        body = tomlkit.dumps(table).strip()
        lines += ["", f"[graphs.{GRAPH}.intents.{proposal.name}]  # TODO: its name", body]
    return "\n".join(lines) + "\n"
