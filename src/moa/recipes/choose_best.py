"""Choose best: samples several models, and believes the one that agrees most with itself.

After Wang et al. 2025, "SLM-MUX: Orchestrating small language models for reasoning",
arXiv:2510.05077: small models that read each other get worse, while choosing among them improves
results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Generic

from pydantic import Field

from moa.agents.base import In
from moa.agents.proposer import sampler
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.node import Node
from moa.graphs.engine.types import signature_of
from moa.graphs.fields import FromEndpoint, TableReader, lists_in_tables
from moa.graphs.mixing.answer_extraction import Key, stated, write_answer
from moa.graphs.mixing.fan_out import fan_out
from moa.graphs.mixing.voting import Tally, VotedReply, unreadable_error
from moa.graphs.recipe import Recipe, Sketch


class ChosenReply(VotedReply):
    """Reply of the most self-consistent model; `votes` counts the samples of this model only."""

    model: str
    """Name of the chosen node."""
    shares: dict[str, float]
    """Share of each node's samples that give its most frequent answer, by name."""
    tied_models: tuple[str, ...] = ()
    """Other nodes that agree with themselves as much and rank the same."""


def _complete_models(models: list[object] | None, table: TableReader) -> list[object]:
    """Return the models of a table; if there are none, every configured small one."""
    return models or [*table.names("slm")] or [{}]


class ChooseBest(Recipe[In, ChosenReply], Generic[In], recipe="choose_best"):
    """Samples several models, and gives the answer of the one that agrees most with itself.

    No model sees another's answers. A failed or unreadable sample counts against its model. A model
    without a readable sample can't be chosen.

    Raises:
        ConfigError: there are no models, two have the same name, or `accuracy` names an unknown
            one.

    Examples:
        >>> one = ScriptedEndpoint(["It is 5.", "It is 6."])
        >>> two = ScriptedEndpoint(["It is 7."] * 2)
        >>> nodes = [
        ...     Agent(model, "Work it out.", name=name, temperature=0.7)
        ...     for name, model in (("one", one), ("two", two))
        ... ]
        >>> output = ChooseBest(nodes=nodes, samples=2).run_sync("3 + 4?").output
        >>> print(output.model, output.answer)
        two 7
    """

    nodes: Annotated[
        Sequence[Annotated[Node[In, object], FromEndpoint(sampler, "slm")]],
        lists_in_tables(_complete_models),
    ]
    """Models, each a node that answers the request, with its own name and a temperature above 0. In
    a table: endpoints; if missing, every configured small one."""
    samples: int = Field(default=3, ge=1)
    """Number of samples, and so calls, of each model."""
    key: Key = stated
    """Function that turns a node's output into the value to compare; see `SelfConsistency`."""
    accuracy: Mapping[str, float] = Field(default_factory=dict[str, float])
    """Share of right answers of each model on your own labelled rows, by name. It decides between
    models that agree with themselves equally often. Without it, the first is chosen."""

    def prepare(self) -> None:
        """Check that names are distinct, and that the key can read the models' outputs."""
        names = [node.name for node in self.nodes]
        unknown = sorted(set(self.accuracy) - set(names))
        if not names:
            raise ConfigError(f"{self.name}: 0 models: give 1 or more")
        if len(set(names)) < len(names):
            raise ConfigError(f"{self.name}: models need different names, got {', '.join(names)}")
        if unknown:
            raise ConfigError(
                f"{self.name}: accuracy of {unknown[0]!r}, which is none of its models"
            )
        self.input_type = signature_of(self.nodes[0]).input(0)

    async def answer(self, request: In, context: RunContext) -> ChosenReply:
        """Sample every model in parallel, and choose.

        Raises:
            QuorumNotMet: all samples of all models failed; with the cause of each.
            OutputError: no sample has a readable answer.
        """
        members = [node for node in self.nodes for _ in range(self.samples)]
        results = await fan_out(members, request, context, straggler_timeout_s=None)
        outputs: list[dict[int, object]] = [{} for _ in self.nodes]
        for result in results:
            model, sample = divmod(result.place, self.samples)
            outputs[model][sample] = result.output
        choice = self._choose(outputs, len(results))
        if choice.partial:
            context.note(
                "degraded",
                f"{len(results)} of {len(members)} samples came, and the others could have changed "
                "the choice",
            )
        return choice

    def sketch(self, sketch: Sketch) -> None:
        """Draw the models, and the choice among their answers."""
        nodes = [(node, f"{node.name} x {self.samples}") for node in self.nodes]
        answers = sketch.side_by_side(sketch.input, nodes)
        sketch.arrow(answers, sketch.box(label="choice"), sketch.output)

    def _choose(self, outputs: Sequence[Mapping[int, object]], came: int) -> ChosenReply:
        """Return the answer of the best model, with the models that rank the same."""
        tallies = [
            Tally.of(
                {index: self.key(output) for index, output in model_outputs.items()}, self.samples
            )
            for model_outputs in outputs
        ]
        names = [node.name for node in self.nodes]
        # Shares of all samples: one that fails or can't be read doesn't count as agreement.
        shares = [max(t.counts.values(), default=0) / self.samples for t in tallies]
        read = [index for index, tally in enumerate(tallies) if tally.leaders]
        if not read:
            output = next(output for model_outputs in outputs for output in model_outputs.values())
            raise unreadable_error(came, self.name, write_answer(output, None))
        ranks = {index: (shares[index], self.accuracy.get(names[index], 0.0)) for index in read}
        best = max(read, key=ranks.__getitem__)  # ties: the first one
        voted = tallies[best].majority(outputs[best], self.name)
        overtaken = any(
            tally.lost and share + tally.lost / self.samples >= shares[best]
            for index, (tally, share) in enumerate(zip(tallies, shares, strict=True))
            if index != best
        )
        return ChosenReply(
            **voted.model_dump(exclude={"confidence", "partial"}),
            confidence=shares[best],
            partial=voted.partial or overtaken,
            model=names[best],
            shares=dict(zip(names, shares, strict=True)),
            tied_models=tuple(names[p] for p in read if p != best and ranks[p] == ranks[best]),
        )
