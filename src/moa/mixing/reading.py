"""Reading: a node that answers after it was shown what others answered, as much as it can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import BaseModel

from moa.agents.proposer import Proposer
from moa.calibration.acceptance import text_of
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.counting import tokens_of, window_of
from moa.endpoints.tokens import approximate_tokens
from moa.errors import OutputError
from moa.handoffs import Consulted
from moa.mixing.naming import told_apart
from moa.mixing.packing import Packed, pack
from moa.mixing.thinning import Call
from moa.node import Node, Result
from moa.usage import Amount

_AROUND = 160
"""Tokens that the rule about data, the template of a chat and its roles may take."""
_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Asked:
    """What a layer is given: the request, and what the layer before answered."""

    request: str | BaseModel
    answers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Who gave each answer; shown to nobody but the trace."""


class Reader:
    """A proposer or an aggregator: gives the request to a node, with what others answered.

    Args:
        node: A node that takes a text, or a `Consulted` with the answers of others; its output
            is taken as text.
        name: Its own among those beside it; `None`: the node's.
        seed: Decides, together with the request, the order in which it sees the answers.
    """

    def __init__(self, node: Node[Any, Any], *, name: str | None = None, seed: int = 0) -> None:
        self.node = node
        self.name = name or node.name
        self.seed = seed
        self.endpoint: Endpoint | None = getattr(node, "endpoint", None)
        self._max_tokens = int(getattr(node, "max_tokens", _MAX_TOKENS))
        self._instructions = str(getattr(node, "instructions", ""))

    @property
    def is_small(self) -> bool:
        """Whether a small model writes."""
        return self.endpoint is not None and self.endpoint.tier == "slm"

    async def run(self, request: Asked, context: RunContext | None = None, /) -> Result[str]:
        """Answer, and give the answer as text.

        Raises:
            InputError: the request alone is too long for the model.
            MoaError: as the node.
        """
        context = context or RunContext()
        if self.name != self.node.name:
            context = context.nested(self.name)
        result = await self.node.run(await self._given(request, context), context)
        text = text_of(result.output)
        if not text.strip():
            raise OutputError("its answer is empty", node=self.name, text=text)
        return replace(result, output=text)

    def expected(self, request: str | BaseModel, answers: Sequence[str], further: int) -> Call:
        """Estimate its call from above.

        Args:
            request: What it is asked.
            answers: What it will read, as far as that is known.
            further: Tokens of answers that it will read besides.
        """
        if self.endpoint is None:
            return "llm", Amount(calls=1)
        texts = (self._instructions, text_of(request), *answers)
        read = sum(map(approximate_tokens, texts)) + further + _AROUND
        amount = Amount(calls=1, input_tokens=read, output_tokens=self._max_tokens)
        return self.endpoint.tier, self.endpoint.price.charge(amount)

    @property
    def max_tokens(self) -> int:
        """Most tokens that it writes."""
        return self._max_tokens

    async def _given(self, asked: Asked, context: RunContext) -> str | BaseModel:
        if not asked.answers:
            return asked.request
        own = context.nested(self.node.name)
        room = self._room()

        async def count(text: str) -> int:
            # No tokenizer makes more tokens of a text than it has bytes, so many need no counting.
            if room is None or len(text.encode("utf-8", "surrogatepass")) <= room:
                return approximate_tokens(text)
            return await tokens_of(self.endpoint, text, own)

        packed = await pack(
            text_of(asked.request),
            asked.answers,
            write=self._write(),
            count=count,
            room=room,
            seed=f"{self.seed}/{self.name}",
        )
        _tell(packed, asked.names, room, own)
        return packed.consulted

    def _room(self) -> int | None:
        """Tokens for all that `_write` writes."""
        window = window_of(self.endpoint)
        if window is None:
            return None
        around = approximate_tokens(self._instructions) + _AROUND
        return max(0, window - self._max_tokens - around)

    def _write(self) -> Callable[[Consulted], str]:
        return cast("Any", getattr(self.node, "prompt", Consulted.model_dump_json))


def readers_of(members: Sequence[Endpoint | Node[Any, Any]], *, seed: int = 0) -> list[Reader]:
    """Make a reader of each member, with names told apart; an endpoint becomes a `Proposer`.

    Raises:
        CapabilityError: an endpoint can't complete.
    """
    nodes = [as_node(member) for member in members]
    names = told_apart([node.name for node in nodes])
    return [Reader(node, name=name, seed=seed) for node, name in zip(nodes, names, strict=True)]


def as_node(member: Endpoint | Node[Any, Any], *, name: str | None = None) -> Node[Any, Any]:
    """Give a node as it is, and of an endpoint a `Proposer` with the endpoint's name.

    Raises:
        CapabilityError: an endpoint can't complete.
    """
    if hasattr(member, "run"):
        return cast("Node[Any, Any]", member)
    return Proposer(cast("Endpoint", member), name=name)


def _tell(packed: Packed, names: Sequence[str], room: int | None, context: RunContext) -> None:
    """Say in the trace what is read: whose answers, in which order, and what was cut."""
    order = ", ".join(repr(names[place]) for place in packed.order)
    of = "" if room is None else f" of {room}"
    context.note("packed", f"reads the answers of {order}, {packed.tokens}{of} tokens in all")
    for place, twin in sorted(packed.merged.items()):
        context.note("packed", f"{names[place]!r} is nearly the same as {names[twin]!r}: left out")
    for place, tokens in sorted(packed.cut.items()):
        context.note("truncated", f"the answer of {names[place]!r}, to {tokens} tokens")
    for place in packed.left_out:
        context.note("truncated", f"the answer of {names[place]!r} is left out: no room for it")
