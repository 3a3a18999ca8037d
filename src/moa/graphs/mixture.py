"""Mixture: layers of proposers that read each other, and an aggregator that writes the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from pydantic import BaseModel

from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.errors import ConfigError, MoaError
from moa.graphs.building.builder import Graph
from moa.graphs.building.gathering import gathered
from moa.graphs.building.handles import Handle
from moa.graphs.building.plan import Plan
from moa.graphs.pattern import Pattern
from moa.handoffs import Consulted, Reply
from moa.mixing.layering import Layering, Terms
from moa.mixing.listening import counted
from moa.mixing.packing import Asked, Reader, as_node, readers_of
from moa.mixing.passing import passes
from moa.mixing.voting import most_agreed
from moa.node import Node
from moa.trace import Piece
from moa.usage import UNLIMITED, Budget

Member = Endpoint | Node[Any, Any]
"""An endpoint, which is asked as a `Proposer`, or a node that takes a text and a `Consulted`."""


class Mixed(Reply):
    """What a mixture wrote, and what it is made of."""

    by: str
    """Who wrote the text: the aggregator, or a proposer where it was not asked, or failed."""
    proposals: dict[str, str]
    """What the last layer answered, by proposer."""
    missing: tuple[str, ...] = ()
    """Proposers that gave no answer in one of the layers; the trace says why."""


class Mixture(Pattern[str | BaseModel, Mixed]):
    """What `mixture` makes."""

    aggregations = 1
    """Calls of the aggregator in a run."""

    def __init__(
        self,
        layers: Sequence[Sequence[Member]],
        aggregator: Member,
        *,
        name: str,
        terms: Terms,
        seed: int,
        budget: Budget,
    ) -> None:
        super().__init__(name=name, budget=budget)
        self.layers = tuple(tuple(readers_of(layer, seed=seed)) for layer in layers)
        self.aggregator = Reader(as_node(aggregator, name="aggregator"), seed=seed)
        self.terms = terms
        _check(self.name, self.layers, terms)
        _ = self.plan  # nodes that don't fit together are found where it is built

    async def answer(self, request: str | BaseModel, context: RunContext) -> Mixed:
        """Ask the proposers, layer by layer, and have their answers made into one.

        Raises:
            QuorumNotMet: too few proposers of the first layer answered.
            DeadlineExceeded: the time was up before any had.
            MoaError: no proposer could be asked, and the aggregator failed alone; or it is set up
                wrong, or broke off when some of its text was streamed.
        """
        run = Layering(
            layers=self.layers,
            aggregator=self.aggregator,
            terms=self.terms,
            request=request,
            context=context,
            aggregations=self.aggregations,
        )
        await run.run()
        if run.agreed is not None:
            return self._chosen(run, run.agreed, "the proposers agree")
        shown, heard = counted(context)
        try:
            text = await self.aggregate(run.asked, heard)
        except MoaError as error:
            if shown() or not run.asked.answers or not passes(error):
                raise
            context.note("failed", f"{self.aggregator.name!r} gave no answer: {error}")
            best = most_agreed(run.asked.answers)
            said = f"a proposal stands in for what {self.aggregator.name!r} would have written"
            context.note("degraded", said)
            return self._chosen(run, best, "it is the one most alike to the others")
        return self._mixed(run, text, self.aggregator.name)

    async def aggregate(self, asked: Asked, context: RunContext) -> str:
        """Have one answer made of several."""
        return (await self.aggregator.run(asked, context)).output

    @property
    def plan(self) -> Plan:
        """The layers as a graph, to be drawn; it runs otherwise."""
        g: Graph[Any] = Graph(self.name, cast("Any", str | BaseModel))
        source: Handle[Any] = g.input
        for depth, layer in enumerate(self.layers):
            prefix = f"layer {depth + 1} · " if len(self.layers) > 1 else ""
            asked = [g.add(m.node, source, name=f"{prefix}{m.name}") for m in layer]
            source = gathered(g, asked, into=consulted)
        return g.build(g.add(self.aggregator.node, source, name=self.aggregator.name)).plan

    def _chosen(self, run: Layering, place: int, why: str) -> Mixed:
        by, text = run.asked.names[place], run.asked.answers[place]
        run.context.note("answered", f"the answer is that of {by!r}: {why}")
        run.context.emit(Piece(run.context.node, text))
        return self._mixed(run, text, by)

    def _mixed(self, run: Layering, text: str, by: str) -> Mixed:
        proposals = dict(zip(run.asked.names, run.asked.answers, strict=True))
        return Mixed(text=text, by=by, proposals=proposals, missing=tuple(run.missing))


def mixture(
    proposers: Sequence[Member] | Sequence[Sequence[Member]],
    aggregator: Member,
    *,
    layers: int = 1,
    name: str = "mixture",
    quorum: int | None = None,
    timeout_s: float | None = None,
    patience_s: float | None = 0.2,
    agree: int | None = None,
    seed: int = 0,
    budget: Budget = UNLIMITED,
) -> Mixture:
    """Ask several models, let further layers read what the ones before wrote, and have it merged.

    A proposer that fails or is late is left out, named in the trace, and not asked in the next
    layer. A budget that is too thin for all takes proposers away, then layers, and leaves the
    aggregator alone at last; the trace says so. Where a further layer gives too few answers in the
    time it has, those of the one before stand. Where the aggregator can't be asked, fails or is
    late, a proposal stands in, and the output's `by` says whose; what is set up wrong, such as its
    key, is an error. Only what the aggregator writes is streamed: where it breaks off then, there
    is no stand-in.

    Sources: Wang et al. 2024, "Mixture-of-Agents enhances large language model capabilities",
    arXiv:2406.04692. The aggregator's quality decides, so let it be a large model; small models
    that read each other's text get worse.

    Args:
        proposers: Who is asked in each layer; or one list for each layer. `Proposer` gives an
            endpoint a temperature and a role.
        aggregator: Who writes the answer from those of the last layer.
        layers: How often the proposers are asked, where one list is given.
        name: Shown in traces, errors and drawings.
        quorum: Fewest answers of a layer to go on with; see `fan_out` for `None`.
        timeout_s: Seconds that a proposer may take, retries included; `None`: as long as the run
            has. Of a run with a deadline, time is kept back for what follows.
        patience_s: Seconds that the others get once the quorum of a layer is there; `None` waits
            for all.
        agree: Answers that say the same, from which on nobody else is asked, and one of them is
            the answer; `None` asks all.
        seed: Decides, with the request, the order in which answers are shown.
        budget: Limits on each run, on top of those of the run it is part of.

    Raises:
        ConfigError: there are no proposers or layers, or fewer in a layer than must answer.
        CapabilityError: an endpoint can't complete.
        WiringError: a node does not take what it is given.
    """
    return Mixture(
        list(_layers(proposers, layers, name)),
        aggregator,
        name=name,
        terms=Terms(quorum=quorum, timeout_s=timeout_s, patience_s=patience_s, agree=agree),
        seed=seed,
        budget=budget,
    )


def _layers(proposers: Sequence[Any], layers: int, name: str) -> Iterator[Sequence[Member]]:
    if layers < 1 or not proposers:
        raise ConfigError(f"{name}: {layers} layers of {len(proposers)} proposers, but at least 1")
    lists = [isinstance(one, Sequence) for one in proposers]
    if not any(lists):
        yield from [proposers] * layers
    elif all(lists) and layers in (1, len(proposers)):
        yield from proposers
    else:
        raise ConfigError(
            f"{name}: give one list of proposers and the number of layers, or one list for each "
            f"of {layers} layers"
        )


def _check(name: str, layers: Sequence[Sequence[Reader]], terms: Terms) -> None:
    """Refuse what could never answer.

    Raises:
        ConfigError: a layer has fewer proposers than must answer, or agree.
    """
    fewest = min(len(layer) for layer in layers)
    for what, least, number in (("quorum", 1, terms.quorum), ("agree", 2, terms.agree)):
        if number is not None and not least <= number <= fewest:
            raise ConfigError(
                f"{name}: {what}={number}, but it is at least {least}, and at most {fewest}, "
                "the proposers of the smallest layer"
            )
    if (terms.timeout_s is not None and terms.timeout_s <= 0) or (terms.patience_s or 0.0) < 0:
        raise ConfigError(f"{name}: timeout_s must be positive, and patience_s not negative")


def consulted(*answers: object) -> Consulted:
    """Stand for the packing in drawings; it is not run."""
    del answers
    raise AssertionError("a plan that is drawn is not run")
