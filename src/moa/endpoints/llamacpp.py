"""llama.cpp: what only its server understands."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from moa.context import RunContext
from moa.endpoints.client import Client
from moa.endpoints.labels import LabelPrompt, LabelReading, TokenReading, walk_labels
from moa.errors import EndpointError, EndpointRejected, InvalidResponse
from moa.usage import NOTHING, Amount

_PUSH = 8.0
"""Added to the logits of the labels, so that they are among the probabilities that are sent. What
it did is worked out again, which keeps four digits where the labels have up to 0.98 of the mass."""
_HARD_PUSH = 60.0
"""Leaves nothing to other tokens: shows the labels that the first push did not bring to light."""
_OTHERS = 20
"""Probabilities asked for beyond those of the labels."""
_MOST_SPELT = 10_000
"""Labels and examples whose tokens are kept."""
_SMALLEST = 1e-45
"""What a probability that was rounded to zero is taken for."""
_TOO_LONG = re.compile(r"\((\d+) tokens\) is too large to process.*size: (\d+)\)")


class LlamaCppReader:
    """Reads label log-probabilities from llama.cpp's server.

    Its own list of the most probable tokens leaves labels out, so labels are pushed up by an
    equal `logit_bias`, read after sampling, and the push is taken back: if the pushed labels
    have the probabilities q with sum s, each had q / (s + (1 - s) exp(push)).

    Args:
        client: Talks to the server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._spellings: dict[str, tuple[int, ...]] = {}
        self._templates: dict[int, list[tuple[int, ...]]] = {}
        """The tokens around the turns of a chat, by the number of turns."""

    async def read_labels(self, prompt: LabelPrompt, context: RunContext, /) -> LabelReading:
        """Read how probable each label is after a prompt; see `LabelReader.read_labels`.

        Raises:
            ConfigError: a label is the start of another.
            EndpointError: a request failed; `EndpointRejected` where the prompt is too long.
            BudgetExceeded: a limit would be passed; nothing was sent.
            DeadlineExceeded: the run's time is up.
        """
        spellings = [await self._spelling(label, context) for label in prompt.labels]
        if prompt.layout == "chat":
            start = await self._turns([*prompt.before, prompt.text], context)
        else:
            start = await self.tokens(prompt.text, context, whole=True)

        async def read(after: Sequence[int], tokens: Sequence[int]) -> TokenReading:
            return await self.next_tokens([*start, *after], tokens, context)

        return await walk_labels(spellings, read)

    async def next_tokens(
        self, prompt: Sequence[int], tokens: Sequence[int], context: RunContext, /
    ) -> TokenReading:
        """Read the log-probabilities of `tokens` as the next one, in the whole vocabulary."""
        pushed, amount = await self._probabilities(prompt, tokens, context, push=_PUSH)
        found = math.fsum(pushed.values())
        scale = found + max(0.0, 1.0 - found) * math.exp(_PUSH)
        known = {token: p / scale for token, p in pushed.items()}
        if len(known) < len(tokens):
            relative, more = await self._probabilities(prompt, tokens, context, push=_HARD_PUSH)
            if len(relative) < len(tokens):
                raise InvalidResponse(
                    "the answer leaves out labels that were asked for", endpoint=self._client.name
                )
            known = _completed(known, relative)
            amount += more
        logprobs = tuple(math.log(max(known[token], _SMALLEST)) for token in tokens)
        return TokenReading(logprobs, amount)

    async def tokens(
        self, text: str, context: RunContext, /, *, whole: bool, control: bool = False
    ) -> list[int]:
        """Tokenise a text.

        Args:
            text: Is data from end to end, or, with `control`, none of it is.
            context: Deadline; tokenising is free.
            whole: Whether it is the start of a prompt, and not a piece.
            control: Whether control tokens in it are meant.
        """
        body = {"content": text, "add_special": whole, "parse_special": control}
        answer, _ = await self._client.post(
            "/tokenize", body, context, estimate=NOTHING, at_root=True
        )
        tokens: Any = answer.get("tokens")
        if not isinstance(tokens, list) or not tokens:
            raise InvalidResponse("the tokenizer sent no tokens", endpoint=self._client.name)
        return [int(token) for token in tokens]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]

    async def _turns(self, turns: Sequence[str], context: RunContext) -> list[int]:
        """Tokenise turns of user and assistant as the model's chat template has them.

        The template is rendered with marks in the place of the turns, whose texts stay data.
        """
        if len(turns) not in self._templates:
            marks = [f"@{place}@" for place in range(len(turns))]
            messages = [
                {"role": ("user", "assistant")[place % 2], "content": mark}
                for place, mark in enumerate(marks)
            ]
            answer, _ = await self._client.post(
                "/apply-template", {"messages": messages}, context, estimate=NOTHING, at_root=True
            )
            pieces = re.split("|".join(marks), str(answer.get("prompt", "")))
            if len(pieces) != len(marks) + 1:
                raise InvalidResponse(
                    "the model's chat template leaves out turns", endpoint=self._client.name
                )
            self._templates[len(turns)] = [
                tuple(await self.tokens(piece, context, whole=not place, control=True))
                if piece
                else ()
                for place, piece in enumerate(pieces)
            ]
        *shown, last = turns  # those that are shown come again and again
        spelt = [await self._spelling(turn, context) for turn in shown]
        spelt.append(tuple(await self.tokens(last, context, whole=False)))
        first, *rest = self._templates[len(turns)]
        return [*first, *(t for turn, end in zip(spelt, rest, strict=True) for t in (*turn, *end))]

    async def _spelling(self, label: str, context: RunContext) -> tuple[int, ...]:
        if label not in self._spellings:
            if len(self._spellings) >= _MOST_SPELT:
                self._spellings.clear()
            self._spellings[label] = tuple(await self.tokens(label, context, whole=False))
        return self._spellings[label]

    async def _probabilities(
        self, prompt: Sequence[int], tokens: Sequence[int], context: RunContext, *, push: float
    ) -> tuple[dict[int, float], Amount]:
        hard = push == _HARD_PUSH
        body: dict[str, Any] = {
            "model": self._client.model,
            "prompt": list(prompt),
            "max_tokens": 1,
            "temperature": 1.0,
            "samplers": ["top_k", "temperature"] if hard else ["temperature"],
            "top_k": len(tokens) if hard else 0,
            "logit_bias": [[token, push] for token in tokens],
            "n_probs": len(tokens) + _OTHERS,
            "post_sampling_probs": True,
            "cache_prompt": True,
            "ignore_eos": True,  # where the end is sampled, no probabilities are sent
        }
        estimate = self._client.price.charge(
            Amount(calls=1, input_tokens=len(prompt), output_tokens=1)
        )
        answer, amount = await self._client.post("/completions", body, context, estimate=estimate)
        wanted = set(tokens)
        try:
            sent = answer["choices"][0]["logprobs"]["content"][0]["top_probs"]
            return {t["id"]: float(t["prob"]) for t in sent if t["id"] in wanted}, amount
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InvalidResponse(
                "the answer holds no probabilities", endpoint=self._client.name
            ) from error


def _completed(known: dict[int, float], relative: dict[int, float]) -> dict[int, float]:
    """Place the tokens that only the second reading shows beside those that both show."""
    shared = math.fsum(relative[token] for token in known)
    # Where the first push shows no label at all, each had less than this.
    scale = math.fsum(known.values()) / shared if shared else math.exp(-_PUSH) / _OTHERS
    return {token: p * scale for token, p in relative.items()} | known


def too_long_to_embed(error: EndpointError) -> EndpointRejected | None:
    """Read what llama.cpp says, as a failure of its own, of a text longer than its batch."""
    found = _TOO_LONG.search(str(error))
    if found is None:
        return None
    return EndpointRejected(
        f"a text of {found[1]} tokens is too long to embed: {found[2]} fit. Split it",
        endpoint=error.endpoint,
        status=error.status,
    )
