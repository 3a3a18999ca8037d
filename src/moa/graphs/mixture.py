"""Mixture: layers of proposers that read each other, and an aggregator that writes the answer.

After Wang et al. 2024, "Mixture-of-Agents enhances large language model capabilities",
arXiv:2406.04692. The aggregator matters most, so use a large model for it. Small models that read
each other's text get worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Never, TypeGuard

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from moa.agents.agent import Instructions, MaxTokens, Temperature
from moa.agents.proposer import ANSWER, Proposer
from moa.core._json import is_object, is_sequence
from moa.core.context import RunContext, count_text_deltas
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    MoaError,
    QuorumNotMet,
    WiringError,
)
from moa.core.node import Consultation, Node, Reply
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.graphs.engine.types import describe_type, fits, is_node, signature_of
from moa.graphs.fields import FromEndpoint, TableReader, lists_in_tables
from moa.graphs.mixing.fan_out import fan_out
from moa.graphs.mixing.packing import Call, LayerRequest, Reader, readers_of
from moa.graphs.mixing.voting import agreement_test, find_most_agreed
from moa.graphs.recipe import Recipe, Sketch

Member = Endpoint | Node[Never, object]
"""An endpoint, asked as a `Proposer`, or a node that takes a text and a `Consultation`."""

MAX_TOKENS = 1024
"""Default maximum number of tokens of an answer."""
_REPEATED = 0.7
"""Temperature of an endpoint that a table lists more than once in a layer."""
_ALONE = (
    "as no second model here can write; name one several times in `proposers` to have its own "
    "answers merged, which takes more and wasn't shown to be better"
)
_READ_EACH_OTHER = (
    "small models that read what others wrote tend to write worse; a larger model, or choosing "
    "among what small ones wrote, does better"
)


class MixtureReply(Reply):
    """The text of a mixture, with the proposals behind it."""

    by: str
    """Name of the text's author: the aggregator, or a proposer if it failed or wasn't asked."""
    proposals: dict[str, str]
    """Answers of the last layer, by proposer."""
    missing: tuple[str, ...] = ()
    """Proposers that gave no answer in one of the layers; the trace says why."""


class BaseMixture(Recipe[str | BaseModel, MixtureReply]):
    """Base class of mixture and self-mixture: quorum, timeouts and aggregation."""

    quorum: int | None = Field(default=None, ge=1)
    """Minimum number of answers in a layer. `None`: one, but the layer waits for all; after two
    answers the last one gets only `straggler_timeout_s`."""
    proposer_timeout_s: float | None = Field(default=None, gt=0)
    """Maximum seconds of a proposer in a layer, retries included; `None`: the run's time. A run
    with a deadline reserves time for later steps."""
    straggler_timeout_s: float | None = Field(default=0.2, ge=0)
    """Seconds that the others get after a layer's quorum is reached; `None` waits for all."""
    agree: int | None = Field(default=None, ge=2)
    """Number of equal answers that ends the run, with one of them as the answer; `None` asks
    all."""
    seed: int = 0
    """Seed for the order of the answers, combined with the request."""

    def arrange(
        self,
        layers: Sequence[Sequence[Node[Never, object]]],
        aggregator: Node[Never, object],
        *,
        aggregations: int = 1,
    ) -> None:
        """Set the proposers of each layer, and the aggregator.

        A run asks the aggregator `aggregations` times.

        Raises:
            ConfigError: a layer is empty, or has fewer proposers than `quorum` or `agree`.
            WiringError: a node doesn't take the type that it is given.
        """
        self.readers = tuple(tuple(readers_of(layer, seed=self.seed)) for layer in layers)
        self.top = Reader(aggregator, seed=self.seed)
        self.aggregations = aggregations
        smallest = min((len(layer) for layer in layers), default=1)
        if not smallest:
            raise ConfigError(f"{self.name}: proposers: a layer is empty, but takes at least one")
        for name, number in (("quorum", self.quorum), ("agree", self.agree)):
            if number is not None and number > smallest:
                raise ConfigError(
                    f"{self.name}: {name}={number}, but the smallest layer has {smallest} proposers"
                )
        for depth, layer in enumerate((*layers, [aggregator])):
            input_type = Consultation if depth else self.input_type
            for node in layer:
                if not fits(input_type, expected := signature_of(node).input(0)):
                    raise WiringError(
                        f"{self.name}: {node.name!r} takes {describe_type(expected)}, but is given "
                        f"{describe_type(input_type)}"
                    )

    def members(self) -> Iterator[Node[Never, object]]:
        """Yield the proposers and the aggregator, each once."""
        readers = (*chain.from_iterable(self.readers), self.top)
        yield from {id(reader.node): reader.node for reader in readers}.values()

    async def answer(self, request: str | BaseModel, context: RunContext) -> MixtureReply:
        """Ask the proposers, layer by layer, and merge their answers.

        Raises:
            QuorumNotMet: too few proposers of the first layer answered.
            DeadlineExceeded: the time was up before any answered.
            MoaError: the aggregator failed and no proposal can replace it, it is set up wrong, or
                it failed after some of its text was streamed.
        """
        run = _Run(self, request, context)
        if not self.readers:
            context.note("skipped", f"proposers: {self.top.name!r} answers alone, {_ALONE}")
        await run.propose()
        if run.agreed is not None:
            return self._choose(run, run.agreed, "the proposers agree")
        pieces, heard = count_text_deltas(context)
        try:
            text = await self.aggregate(run.asked, heard)
        except MoaError as error:
            if pieces() or not run.asked.answers or not error.recoverable:
                raise
            context.note("failed", f"{self.top.name!r} gave no answer: {error}")
            best = find_most_agreed(run.asked.answers)
            message = f"a proposal stands in for what {self.top.name!r} would have written"
            context.note("degraded", message)
            return self._choose(run, best, "it is the one most alike to the others")
        return run.finish(text, self.top.name)

    async def aggregate(self, request: LayerRequest, context: RunContext) -> str:
        """Merge several answers into one."""
        return (await self.top.run(request, context)).output

    def _choose(self, run: _Run, index: int, reason: str) -> MixtureReply:
        name, text = run.asked.names[index], run.asked.answers[index]
        run.context.note("answered", f"the answer is that of {name!r}: {reason}")
        return run.finish(text, name)


def node_of(member: Member) -> Node[Never, object]:
    """Return a validated member, which is a node."""
    assert is_node(member), "a proposer is made of an endpoint"
    return member


def proposer_of(
    endpoint: Endpoint,
    *,
    instructions: Instructions = ANSWER,
    role: str = "",
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = MAX_TOKENS,
) -> Proposer:
    """Make a proposer from an endpoint. `role` gives it a point of view."""
    return Proposer(
        endpoint, instructions, role=role, temperature=temperature, max_tokens=max_tokens
    )


def aggregator_of(
    endpoint: Endpoint, *, instructions: Instructions = ANSWER, max_tokens: MaxTokens = MAX_TOKENS
) -> Proposer:
    """Make the aggregator from an endpoint."""
    return Proposer(endpoint, instructions, name="aggregator", max_tokens=max_tokens)


def _complete_proposers(proposers: list[object] | None, table: TableReader) -> list[object]:
    """Return the proposers of a table, or the default models if it names none."""
    if proposers is None:
        endpoints = (table.endpoints.slm, table.endpoints.llm)
        writers = [endpoint.name for endpoint in endpoints if can_write(endpoint.model)]
        proposers = [*writers] if len(writers) > 1 else [[]]
    if "temperature" in table.shared:
        return proposers
    if _is_nested(proposers):
        return [_vary_temperatures(layer) for layer in proposers]
    return _vary_temperatures(proposers)


def _vary_temperatures(layer: Sequence[object]) -> list[object]:
    """Set a temperature for endpoints that a layer lists more than once."""
    tables = [proposer if is_object(proposer) else {"endpoint": proposer} for proposer in layer]
    names = [table.get("endpoint") for table in tables]
    return [
        {"temperature": _REPEATED, **table} if names.count(name) > 1 else table
        for table, name in zip(tables, names, strict=True)
    ]


def _shape_of(proposers: object) -> str:
    """Return the form of `proposers`: one list, or a list for each layer."""
    return "layers" if is_sequence(proposers) and _is_nested(proposers) else "one layer"


def _refuse_mixed(proposers: object) -> object:
    if is_sequence(proposers):
        nested = [isinstance(item, list | tuple) for item in proposers]
        if any(nested) and not all(nested):
            raise ValueError("give one list of proposers, or one list for each layer")
    return proposers


def _is_nested(proposers: Sequence[object]) -> TypeGuard[Sequence[Sequence[object]]]:
    return len(proposers) > 0 and all(map(is_sequence, proposers))


_Proposer = Annotated[Member, FromEndpoint(proposer_of)]


class Mixture(BaseMixture, recipe="mixture"):
    """Several models, merged by a large one.

    Each further layer reads the answers of the previous one. A proposer that fails or is late is
    left out, named in the trace, and not asked in the next layer. A small budget drops proposers,
    then layers, until the aggregator answers alone; the trace says so. If a further layer gives too
    few answers in time, the previous layer's are used. If the aggregator can't be asked, fails or
    is late, a proposal is the answer, and `by` names the proposer. A wrong setup, such as a wrong
    key, is an error. Only the aggregator's text is streamed; if it fails after that, the run fails.

    Raises:
        ConfigError: a layer has no proposers, or fewer than the quorum.
        CapabilityError: an endpoint can't complete.
        WiringError: a node doesn't take the type that it is given.

    Examples:
        >>> one = ScriptedEndpoint(["Fly."], name="one")
        >>> two = ScriptedEndpoint(["By train."], name="two")
        >>> large = ScriptedEndpoint(["Take the train."], name="large")
        >>> output = Mixture(proposers=[one, two], aggregator=large).run_sync("To Venice?").output
        >>> print(output.text, output.by)
        Take the train. aggregator
    """

    proposers: Annotated[
        Annotated[Sequence[_Proposer], Tag("one layer")]
        | Annotated[Sequence[Sequence[_Proposer]], Tag("layers")],
        Discriminator(_shape_of),
        lists_in_tables(_complete_proposers),
        BeforeValidator(_refuse_mixed),
    ]
    """Proposers of every layer, or one list per layer. `Proposer` gives an endpoint a temperature
    and a role. In a table: endpoints, or tables such as `{ endpoint = "small", role = "Mind the
    cost." }`; an endpoint listed twice gets a temperature of 0.7. Default: the small and the large
    model, if both can write; else only the aggregator is asked."""
    aggregator: Annotated[Member, FromEndpoint(aggregator_of)]
    """Writes the answer from the answers of the last layer."""
    layers: int = Field(default=1, ge=1)
    """Number of layers, if `proposers` is one list."""

    def prepare(self) -> None:
        """Set up the layers."""
        self.arrange([*self._layers()], node_of(self.aggregator))

    def _layers(self) -> Iterator[Sequence[Node[Never, object]]]:
        proposers: Sequence[object] = self.proposers
        if proposers == [[]]:  # from a table that names none, if only one model can write
            return
        layers = [[*filter(is_node, layer)] for layer in filter(is_sequence, proposers)]
        if not layers:
            yield from [[*filter(is_node, proposers)]] * self.layers
        elif len(layers) == len(proposers) and self.layers in (1, len(layers)):
            yield from layers
        else:
            raise ConfigError(
                f"{self.name}: give one list of proposers and the number of layers, or one list "
                f"for each of {self.layers} layers"
            )

    def sketch(self, sketch: Sketch) -> None:
        """Draw the proposers, layer by layer, and the aggregator."""
        before = sketch.input
        for depth, layer in enumerate(self.readers):
            prefix = f"layer {depth + 1} · " if len(self.readers) > 1 else ""
            nodes = [(reader.node, f"{prefix}{reader.name}") for reader in layer]
            before = sketch.side_by_side(before, nodes)
        sketch.arrow(before, sketch.box(self.top.node), sketch.output)


@dataclass(slots=True)
class _Run:
    """State of one run, which asks the proposers as far as budget and time allow."""

    mixture: BaseMixture
    request: str | BaseModel
    context: RunContext
    asked: LayerRequest = field(init=False)
    """Input of the next layer, or of the aggregator."""
    missing: list[str] = field(default_factory=list[str])
    """Names of the proposers that gave no answer in a layer."""
    agreed: int | None = None
    """Index of the answer that enough proposers of the last layer agree on."""
    _affordable: tuple[int, ...] = ()
    """Number of proposers in each further layer that the budget allowed at the last check."""

    def __post_init__(self) -> None:
        self.asked = LayerRequest(self.request)
        self._affordable = tuple(len(layer) for layer in self.mixture.readers)

    async def propose(self) -> None:
        """Ask layer after layer, until all are done, enough agree, or the budget is too small.

        If a further layer gives too few answers in its share of the time, the previous layer's are
        kept.

        Raises:
            MoaError: the first layer gave too few answers; see `fan_out`.
        """
        self._warn()
        for depth in range(len(self.mixture.readers)):
            members = self._members(depth)
            affords = self._affords(depth, members)
            if not affords:
                return
            try:
                await self._ask(depth, members[:affords])
            except (QuorumNotMet, BudgetExceeded, DeadlineExceeded) as error:
                if not depth:
                    raise
                message = (
                    f"the answers of layer {depth} stand, since the next gave too few: {error}"
                )
                self.context.note("degraded", message)
                return
            if self.agreed is not None:
                return

    def finish(self, text: str, by: str) -> MixtureReply:
        """Return the output of the run."""
        proposals = dict(zip(self.asked.names, self.asked.answers, strict=True))
        return MixtureReply(text=text, by=by, proposals=proposals, missing=tuple(self.missing))

    def _members(self, depth: int) -> list[Reader]:
        """Return the proposers of a layer, except those that failed before, unless all have."""
        layer = self.mixture.readers[depth]
        members = [member for member in layer if member.name not in self.missing]
        if not members:
            return list(layer)
        for member in layer:
            if member.name in self.missing:
                message = f"{member.name!r} is not asked again, since it gave no answer before"
                self.context.note("skipped", message)
        return members

    async def _ask(self, depth: int, members: Sequence[Reader]) -> None:
        mixture, context = self.mixture, self.context
        if len(mixture.readers) > 1:
            context = context.nested(f"layer {depth + 1}")
        hurry_s, timeout_s = self._part_of_the_time(depth), mixture.proposer_timeout_s
        if depth and hurry_s is not None:  # there are answers, so late ones aren't waited for
            timeout_s = min(hurry_s, timeout_s or hurry_s)
        agrees = None if mixture.agree is None else agreement_test(mixture.agree)
        results = await fan_out(
            members,
            self.asked,
            context,
            quorum=mixture.quorum and min(mixture.quorum, len(members)),
            timeout_s=timeout_s,
            straggler_timeout_s=mixture.straggler_timeout_s,
            hurry_s=hurry_s,
            is_enough=agrees,
        )
        answers = tuple(result.output for result in results)
        names = tuple(result.name for result in results)
        self.asked = LayerRequest(self.request, answers, names)
        if agrees is not None and agrees(answers):
            self.agreed = find_most_agreed(answers)
        else:
            self.missing += [member.name for member in members if member.name not in names]

    def _part_of_the_time(self, depth: int) -> float | None:
        """Return a layer's share of the remaining seconds: as many as each later step gets."""
        left = self.context.remaining_s()
        return None if left is None else left / (len(self.mixture.readers) - depth + 1)

    def _affords(self, depth: int, members: Sequence[Reader]) -> int:
        """Return how many proposers of a layer the budget allows, together with all later calls."""
        if not self.context.has_budget:
            return len(members)
        answers, further = self.asked.answers, 0
        calls: list[list[Call]] = []
        for layer in (members, *self.mixture.readers[depth + 1 :]):
            calls.append([member.estimate_call(self.request, answers, further) for member in layer])
            answers, further = (), sum(member.max_tokens for member in layer)
        ending = self.mixture.top.estimate_call(self.request, answers, further)
        layers, limit = affordable(calls, [ending] * self.mixture.aggregations, self.context)
        if limit and layers != self._affordable:
            sizes = tuple(len(layer) for layer in calls)
            self.context.note(
                "degraded",
                f"the budget is thin ({limit}): {_sizes(layers, depth)} "
                f"instead of {_sizes(sizes, depth)}",
            )
        self._affordable = layers[1:]
        return layers[0] if layers else 0

    def _warn(self) -> None:
        top = self.mixture.top
        small = {m.name: m for layer in self.mixture.readers[1:] for m in layer if m.is_small}
        if top.is_small:
            small[top.name] = top
        for name in small:
            self.context.note("degraded", f"{name!r} is a small model: {_READ_EACH_OTHER}")


def _sizes(layers: Sequence[int], depth: int) -> str:
    if not layers:
        return "no further layer" if depth else "one model alone"
    sizes = " and ".join(str(size) for size in layers)
    return f"{len(layers)} {'layer' if len(layers) == 1 else 'layers'} of {sizes}"


def affordable(
    layers: Sequence[Sequence[Call]], ending: Sequence[Call], context: RunContext
) -> tuple[tuple[int, ...], str]:
    """Return the largest part of a mixture that the budget pays for.

    A small budget drops proposers first, the last ones of each layer, then layers, until one model
    is left. Whether it pays for that one is checked when it is asked. `layers` are the calls of the
    layers still to run, and `ending` those of the aggregator.

    Returns:
        The number of proposers to ask in each layer, from the first on, without layers if one model
        answers alone; and the limit that the whole would exceed, such as `calls=9 of 8`, empty if
        none.
    """
    limit = ""
    for part in _parts(tuple(len(layer) for layer in layers)):
        calls = [call for layer, size in zip(layers, part, strict=False) for call in layer[:size]]
        overrun = context.limit_ahead([*calls, *ending])
        if overrun is None:
            return part, limit
        limit = limit or overrun
    return (), limit


def _parts(sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield all parts, the largest first. None cuts a layer to one proposer, which is useless."""
    yield sizes
    for depth in range(len(sizes), 0, -1):
        part = sizes[:depth]
        if depth < len(sizes):
            yield part
        for limit in range(max(part) - 1, 1, -1):
            yield tuple(min(size, limit) for size in part)
