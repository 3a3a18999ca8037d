"""Packing: fits the answers of others into the context window of an aggregator.

The request comes first and the answers last, so that a server's prompt cache holds all that does
not change. Answers have no names, and a new random order for each request, since models prefer the
first of several. If they don't fit, near duplicates are merged. Then the longest answers that
others agree with are cut in the middle, and last those that no other agrees with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Never

from pydantic import BaseModel

from moa.core.context import RunContext
from moa.core.errors import InputError, OutputError
from moa.core.node import Consultation, Node, Result, text_of, unique_names
from moa.core.usage import Amount, Tier
from moa.endpoints import Endpoint
from moa.endpoints.tokens import approximate_tokens, tokens_of, window_of
from moa.graphs.mixing.answer_extraction import stated
from moa.graphs.mixing.voting import likeness

Call = tuple[Tier, Amount]
"""A call still to be made: the tier of its endpoint, and its expected usage."""
Count = Callable[[str], Awaitable[int]]
"""Counts the tokens of a text, as its reader does."""

CUT = " […] "
"""Replaces the middle of an answer that was cut."""
_NEARLY_THE_SAME = 0.8
"""Minimum likeness at which two answers are merged."""
_AROUND = 160
"""Upper bound of the tokens of the rule about data, the chat template and its roles."""
_MAX_TOKENS = 512
_HEAD = 0.6
"""Share of a cut answer that is its beginning. The rest is its end, with the conclusion."""
_SHORTEST = 24
"""Minimum tokens of a cut answer. Below that it is left out."""
_SLACK = 0.95
"""Factor that makes cut texts a little too short, since tokens vary in length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The text to read, and what became of each answer, by its index."""

    consulted: Consultation
    order: tuple[int, ...]
    """Indices of the answers in it, in the order in which they are written."""
    tokens: int
    """Tokens of everything that is read, at most the available room."""
    cut: dict[int, int] = field(default_factory=dict[int, int])
    """Tokens that are left of each cut answer."""
    merged: dict[int, int] = field(default_factory=dict[int, int])
    """Near duplicates, each with the answer that stands for it."""
    left_out: tuple[int, ...] = ()
    """Indices of the answers that found no room."""


async def pack(
    request: str,
    answers: Sequence[str],
    *,
    write: Callable[[Consultation], str],
    count: Count,
    room: int | None,
    seed: int | str = 0,
) -> Packing:
    """Fit a request and answers into one prompt. The request is never cut.

    `room` is the maximum number of tokens of what `write` returns, which is all that the model
    reads; `None`: no limit. The seed and the request decide the order.

    Raises:
        InputError: the request alone is too long.
    """
    seed_hash = blake2b(f"{seed}\n{request}".encode("utf-8", "surrogatepass"))

    def lot(index: int) -> bytes:
        hasher = seed_hash.copy()
        hasher.update(index.to_bytes(4))
        return hasher.digest()

    async def consult() -> tuple[Consultation, int]:
        consulted = Consultation(request=request, answers=tuple(texts[index] for index in order))
        return consulted, await count(write(consulted))

    texts = list(answers)
    order = sorted(range(len(answers)), key=lot)
    consulted, tokens = await consult()
    if room is None or tokens <= room:
        return Packing(consulted=consulted, order=tuple(order), tokens=tokens)
    merged = _twins(answers)
    remarks = {index: _note_repeats(times) for index, times in Counter(merged.values()).items()}
    texts = [text + remarks.get(index, "") for index, text in enumerate(answers)]
    order = [index for index in order if index not in merged]
    keys = [stated(answer) for answer in answers]
    alone = {p for p in order if keys.count(keys[p]) == 1 and p not in remarks}
    cut, left_out = dict[int, int](), list[int]()
    sizes = {index: await count(texts[index]) for index in order}
    consulted, tokens = await consult()
    while tokens > room:
        if not order:
            raise InputError(
                f"the request alone has {tokens} tokens as it is read, and there is room for "
                f"{room}. Shorten it, or ask a model with a larger context window"
            )
        levels = _levels(sizes, alone.intersection(order), sum(sizes.values()) - (tokens - room))
        shorter = {index: level for index, level in levels.items() if level < sizes[index]}
        if shorter and min(shorter.values()) >= _SHORTEST:
            for index, level in shorter.items():
                end = remarks.get(index, "")
                texts[index], sizes[index] = await _cut(answers[index], end, level, count)
                cut[index] = sizes[index]
        else:  # drop the longest that others agree with, else the longest of all
            longest = max(set(order) - alone or order, key=lambda index: (sizes[index], index))
            order.remove(longest)
            del sizes[longest]
            cut.pop(longest, None)
            left_out.append(longest)
        consulted, tokens = await consult()
    return Packing(
        consulted=consulted,
        order=tuple(order),
        tokens=tokens,
        cut=cut,
        merged=merged,
        left_out=tuple(left_out),
    )


def _twins(answers: Sequence[str]) -> dict[int, int]:
    """Find near duplicates, each with the first answer that stands for it."""
    merged: dict[int, int] = {}
    for index, text in enumerate(answers):
        for twin in range(index):
            if twin not in merged and likeness(text, answers[twin]) >= _NEARLY_THE_SAME:
                merged[index] = twin
                break
    return merged


def _note_repeats(count: int) -> str:
    """Return the remark appended to an answer whose near duplicates were left out."""
    say = "another answer says" if count == 1 else f"{count} other answers say"
    return f"\n[{say} nearly the same]"


async def _cut(text: str, end: str, level: int, count: Count) -> tuple[str, int]:
    """Cut out the middle until at most `level` tokens are left."""
    size, keep = await count(text), len(text)
    while True:
        keep = min(keep - 1, int(keep * level / max(size, 1) * _SLACK))
        head = max(0, int(keep * _HEAD))
        tail = max(0, keep - head)
        cut_text = text[:head].rstrip() + CUT + text[len(text) - tail :].lstrip() + end
        size = await count(cut_text)
        if size <= level or keep <= 0:
            return cut_text, size


def _levels(sizes: dict[int, int], alone: set[int], room: int) -> dict[int, int]:
    """Return the length of each answer. Answers that no other agrees with stay whole, if possible.

    The rest is shared by max-min fairness: shorter answers stay whole, and longer ones get equal
    lengths.
    """
    agreed = {index: size for index, size in sizes.items() if index not in alone}
    left = room - sum(sizes[index] for index in alone)
    if agreed and left >= _SHORTEST * len(agreed):
        return {index: sizes[index] for index in alone} | _share(agreed, left)
    return _share(sizes, room)


def _share(sizes: dict[int, int], room: int) -> dict[int, int]:
    levels: dict[int, int] = {}
    for rank, index in enumerate(sorted(sizes, key=lambda index: sizes[index])):
        levels[index] = max(0, min(sizes[index], room // (len(sizes) - rank)))
        room -= levels[index]
    return levels


@dataclass(frozen=True, slots=True)
class LayerRequest:
    """Input of a layer: the request, and the answers of the layer before."""

    request: str | BaseModel
    answers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Author of each answer, only for the trace."""


class Reader:
    """A proposer or an aggregator: passes a request and the answers of others to a node.

    The node takes a text, or a `Consultation` with the answers of others, in an order that the seed
    and the request decide. Its output is taken as text.
    """

    def __init__(
        self, node: Node[Never, object], *, name: str | None = None, seed: int = 0
    ) -> None:
        self.node: Node[Any, Any] = node
        self.name = name or node.name
        self.seed = seed
        self.endpoint: Endpoint | None = getattr(node, "endpoint", None)
        self.max_tokens = int(getattr(node, "max_tokens", _MAX_TOKENS))
        """Maximum number of tokens that it writes."""
        self._instructions = str(getattr(node, "instructions", ""))

    @property
    def is_small(self) -> bool:
        """True if the node's model is small (tier `slm`)."""
        return self.endpoint is not None and self.endpoint.tier == "slm"

    async def run(self, request: LayerRequest, context: RunContext | None = None, /) -> Result[str]:
        """Answer, and return the answer as text."""
        context = context or RunContext()
        if self.name != self.node.name:
            context = context.nested(self.name)
        result = await self.node.run(await self._prepare_request(request, context), context)
        text = text_of(result.output)
        if not text.strip():
            raise OutputError("its answer is empty", node=self.name, text=text)
        return replace(result, output=text)

    def estimate_call(self, request: str | BaseModel, answers: Sequence[str], further: int) -> Call:
        """Return an upper bound of its call, with `further` tokens of answers besides `answers`."""
        if self.endpoint is None:
            return "llm", Amount(calls=1)
        texts = (self._instructions, text_of(request), *answers)
        read = sum(map(approximate_tokens, texts)) + further + _AROUND
        amount = Amount(calls=1, input_tokens=read, output_tokens=self.max_tokens)
        return self.endpoint.tier, self.endpoint.price.charge(amount)

    async def _prepare_request(self, request: LayerRequest, context: RunContext) -> str | BaseModel:
        if not request.answers:
            return request.request
        inner = context.nested(self.node.name)
        room = self._room()

        async def count(text: str) -> int:
            # A text never has more tokens than bytes, so many need no counting.
            if room is None or len(text.encode("utf-8", "surrogatepass")) <= room:
                return approximate_tokens(text)
            return await tokens_of(self.endpoint, text, inner)

        packed = await pack(
            text_of(request.request),
            request.answers,
            write=getattr(self.node, "user_prompt", Consultation.model_dump_json),
            count=count,
            room=room,
            seed=f"{self.seed}/{self.name}",
        )
        _note_packing(packed, request.names, room, inner)
        return packed.consulted

    def _room(self) -> int | None:
        """Return the number of tokens available for the prompt; `None`: no limit."""
        window = window_of(self.endpoint)
        if window is None:
            return None
        around = approximate_tokens(self._instructions) + _AROUND
        return max(0, window - self.max_tokens - around)


def readers_of(nodes: Sequence[Node[Never, object]], *, seed: int = 0) -> list[Reader]:
    """Make a reader for each node, with unique names."""
    names = unique_names([node.name for node in nodes])
    return [Reader(node, name=name, seed=seed) for node, name in zip(nodes, names, strict=True)]


def _note_packing(
    packed: Packing, names: Sequence[str], room: int | None, context: RunContext
) -> None:
    """Note in the trace whose answers are read, in which order, and what was cut."""
    order = ", ".join(repr(names[index]) for index in packed.order)
    limit = "" if room is None else f" of {room}"
    context.note("packed", f"reads the answers of {order}, {packed.tokens}{limit} tokens in all")
    for index, twin in sorted(packed.merged.items()):
        context.note("packed", f"{names[index]!r} is nearly the same as {names[twin]!r}: left out")
    for index, tokens in sorted(packed.cut.items()):
        context.note("truncated", f"the answer of {names[index]!r}, to {tokens} tokens")
    for index in packed.left_out:
        context.note("truncated", f"the answer of {names[index]!r} is left out: no room for it")
