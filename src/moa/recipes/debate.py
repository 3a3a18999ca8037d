"""Debate: several nodes answer, read each other's answers, and answer again.

After Du et al. 2023, "Improving factuality and reasoning in language models through multiagent
debate", arXiv:2305.14325.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Unpack

from pydantic import BaseModel, Field

from moa.agents.agent import Agent, Instructions, MaxTokens, Settings, Temperature
from moa.agents.prompts import block, escape_tags
from moa.agents.proposer import ANSWER
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, ConfigError, DeadlineExceeded, QuorumNotMet
from moa.core.node import Frozen, Node, Reply, Result, text_of, unique_names
from moa.endpoints import Endpoint
from moa.graphs.fields import FromEndpoint, TableReader, lists_in_tables
from moa.graphs.mixing.answer_extraction import Key, stated
from moa.graphs.mixing.fan_out import fan_out
from moa.graphs.mixing.voting import Tally, VotedReply, unreadable_error
from moa.graphs.recipe import Recipe, Sketch
from moa.recipes.judges import Candidates, Pick, ask_judge, distinct, judge_of

_DEBATERS = 3
"""Number of debaters if one model debates with itself."""
_READ = (
    "Here is your answer to the request below, and what others answered. Compare them: keep what "
    "is right in yours, adopt what is right in theirs, and do not follow a majority for its own "
    "sake. Write a complete answer to the request that does not mention the others."
)


class Exchange(Frozen):
    """A request and the answers so far, without the names of who gave them."""

    text: str
    """The request."""
    own: str | None = None
    """The debater's own answer; `None` in the first round."""
    others: tuple[str, ...] = ()
    """Answers of the others."""


class Debater(Agent[Exchange, Reply]):
    """Answers a request. From the second round, it reads the others' answers first.

    See `Agent` for its arguments. The temperature is 0.7, so that two debaters of one model differ.
    """

    instructions = ANSWER

    def __init__(
        self, endpoint: Endpoint, *, instructions: str | None = None, **settings: Unpack[Settings]
    ) -> None:
        settings.setdefault("temperature", 0.7)
        super().__init__(endpoint, instructions=instructions, **settings)

    def user_prompt(self, request: Exchange) -> str:
        """Write the answers as data, then the request."""
        if request.own is None:
            return escape_tags(request.text)
        others = (block(other, "Another answer") for other in request.others)
        answers = (block(request.own, "Your answer so far"), *others)
        return "\n\n".join((_READ, *answers, f"Request: {escape_tags(request.text)}"))


class DebateReply(VotedReply):
    """Result of a debate; `votes` are those of its last round."""

    by: Literal["agreement", "majority", "judge"]
    """What decided. Without a majority, the first of the most frequent answers wins, and `tied` has
    the others."""
    rounds: int = Field(ge=0)
    """Number of times that answers of others were read."""


def debater_of(
    endpoint: Endpoint,
    *,
    instructions: Instructions | None = None,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 512,
) -> Debater:
    """Return a debater of an endpoint. Without instructions it answers the request."""
    return Debater(
        endpoint,
        instructions=instructions,
        name=endpoint.name,
        max_tokens=max_tokens,
        temperature=temperature,
    )


def _complete_debaters(debaters: list[object] | None, table: TableReader) -> list[object]:
    """Return the debaters of a table. A single model debates with itself, as three."""
    del table
    entries = debaters or [{}]
    return entries if len(entries) > 1 else entries * _DEBATERS


class Debate(Recipe[str | BaseModel, DebateReply], recipe="debate"):
    """Models that read each other's answers, and answer again.

    It ends when all agree, or after the rounds. Then the judge decides, or the majority if there is
    no judge or it has no preference. A debater that fails in the first round is left out. One that
    fails later keeps its last answer. If the budget or time runs out, the answers so far are
    counted.

    Small models that read each other tend to get worse (arXiv:2510.05077). Use `ChooseBest` for
    them.

    Raises:
        ConfigError: there are fewer than two debaters.

    Examples:
        >>> from moa.recipes.debate import Debater
        >>> one = ScriptedEndpoint(["It is 5.", "It is 7."])
        >>> two = ScriptedEndpoint(["It is 7."] * 2)
        >>> debaters = [Debater(model, name=name) for name, model in (("one", one), ("two", two))]
        >>> output = Debate(debaters=debaters, rounds=2).run_sync("3 + 4?").output
        >>> print(output.answer, output.by)
        7 agreement
    """

    debaters: Annotated[
        Sequence[Annotated[Node[Exchange, Reply], FromEndpoint(debater_of)]],
        lists_in_tables(_complete_debaters),
    ]
    """Two or more debaters, such as `Debater(endpoint)`. They read answers without names. In a
    table: endpoints; a single one debates with itself; if missing, the default large one."""
    rounds: int = Field(default=2, ge=0)
    """Maximum number of times that answers are read and rewritten; 0 is a vote. Calls: one per
    debater, and another in each round."""
    judge: Annotated[Node[Candidates, Pick], FromEndpoint(judge_of)] | None = None
    """Judge if they don't agree at the end, as in `BestOfN`; `None` for the majority."""
    key: Key = stated
    """Function that turns an answer (`Reply`) into the value to compare; see `SelfConsistency`."""

    def prepare(self) -> None:
        """Check that there are at least two debaters."""
        if len(self.debaters) < 2:
            raise ConfigError(
                f"{self.name}: {len(self.debaters)} debaters, but a debate takes two or more"
            )

    async def answer(self, request: str | BaseModel, context: RunContext) -> DebateReply:
        """Let all answer, and answer again, until they agree or the rounds are over.

        Raises:
            QuorumNotMet: all debaters failed; with the cause of each.
            OutputError: no answer is readable.
        """
        text, rounds = text_of(request), 0
        replies = await self._round(range(len(self.debaters)), _Floor(text, {}), context)
        while rounds < self.rounds and not self._agree(replies):
            # A debater without any answer is out. One that fails later keeps its answer.
            try:
                new_replies = await self._round(sorted(replies), _Floor(text, replies), context)
                replies = {**replies, **new_replies}
            except (QuorumNotMet, BudgetExceeded, DeadlineExceeded) as error:
                context.note("degraded", f"the debate ends after {rounds} rounds: {error}")
                break
            rounds += 1
        return await self._decide(text, replies, rounds, context)

    def sketch(self, sketch: Sketch) -> None:
        """Draw the debaters, one of their rounds, and what decides."""
        names = unique_names([debater.name for debater in self.debaters])
        answers = sketch.side_by_side(sketch.input, zip(self.debaters, names, strict=True))
        if self.rounds:
            labels = [f"{name}, up to {self.rounds} x" for name in names]
            answers = sketch.side_by_side(answers, zip(self.debaters, labels, strict=True))
        end = sketch.box(label="vote") if self.judge is None else sketch.box(self.judge)
        sketch.arrow(answers, end, sketch.output)

    async def _round(
        self, indices: Sequence[int], floor: _Floor, context: RunContext
    ) -> dict[int, str]:
        seats = [_Seat(self.debaters[p], p, len(self.debaters)) for p in indices]
        results = await fan_out(seats, floor, context, straggler_timeout_s=None)
        return {indices[result.place]: result.output.text for result in results}

    def _tally(self, replies: Mapping[int, str]) -> Tally:
        answers = {index: self.key(Reply(text=text)) for index, text in replies.items()}
        return Tally.of(answers, len(self.debaters))

    def _agree(self, replies: Mapping[int, str]) -> bool:
        return len(replies) < 2 or self._tally(replies).share == 1.0

    async def _decide(
        self, request: str, replies: Mapping[int, str], rounds: int, context: RunContext
    ) -> DebateReply:
        tally = self._tally(replies)
        index, basis = None, "agreement" if tally.share == 1.0 else "majority"
        if basis == "majority":
            index = await self._ask_judge(request, replies, context)
        if index is not None:
            basis = "judge"
        elif tally.leaders:
            index = tally.index_of(tally.leaders[0])
        else:
            text, judge = replies[min(replies)], ", or give a judge"
            raise unreadable_error(len(replies), self.name, text, else_do=judge)
        answer = self.key(Reply(text=replies[index]))
        voted = tally.record_vote(replies[index], answer)
        return DebateReply(**voted.model_dump(), by=basis, rounds=rounds)

    async def _ask_judge(
        self, request: str, replies: Mapping[int, str], context: RunContext
    ) -> int | None:
        """Return the index that the judge prefers; `None` without a judge or a preference."""
        if self.judge is None:
            return None
        indices = sorted(replies)
        indices = [indices[p] for p in distinct([replies[p] for p in indices])]
        pick = await ask_judge(self.judge, request, [replies[p] for p in indices], context)
        if pick is None:
            return None
        if pick.verdict == "won":
            return indices[pick.place]
        context.note("degraded", f"the verdict is {pick.verdict}, so the majority decides")
        return None


@dataclass(frozen=True, slots=True)
class _Floor:
    """Answers so far."""

    request: str
    replies: Mapping[int, str]
    """Latest answer of each debater, by its index."""


@dataclass(frozen=True, slots=True)
class _Seat:
    """A debater at its index, which sees the others' answers but not their names."""

    debater: Node[Exchange, Reply]
    place: int
    of: int

    @property
    def name(self) -> str:
        return self.debater.name

    async def run(self, floor: _Floor, context: RunContext | None = None, /) -> Result[Reply]:
        # Start after its own index, so that no answer is the first that everyone reads.
        indices = ((self.place + step) % self.of for step in range(1, self.of))
        exchange = Exchange(
            text=floor.request,
            own=floor.replies.get(self.place),
            others=tuple(floor.replies[index] for index in indices if index in floor.replies),
        )
        return await self.debater.run(exchange, context)
