"""Log-probabilities: answers questions by the log-probabilities of their labels' words.

The vLLM fields are those of version 0.32:
<https://docs.vllm.ai/en/stable/serving/openai_compatible_server/>.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from moa.core._async import gather
from moa.core._json import JSON, at, list_of, number_of, object_of, objects_of
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointUnsupported, InvalidResponse
from moa.core.questions import Answer
from moa.core.usage import NOTHING, Amount
from moa.endpoints import Decision, DecisionRequest
from moa.endpoints.client import Client
from moa.endpoints.decide import LABELS_TITLE
from moa.endpoints.layouts import LabelPrompt, label_prompt
from moa.endpoints.sent import SentPrompt, show
from moa.endpoints.tokens import estimate_of, neutralise

_PUSH = 8.0
"""Bias added to the logits of the labels, so that the server sends their probabilities. It is
undone after, which keeps four digits if the labels have up to 0.98 of the mass."""
_HARD_PUSH = 60.0
"""Bias that leaves nothing to other tokens, to reveal labels that the first push did not."""
_OTHERS = 20
"""Number of probabilities requested in addition to those of the labels."""
_MOST_AT_ONCE = 128
"""Maximum tokens of one `logprob_token_ids` in vLLM."""
_MOST_IN_VOCABULARY = 1_000_000
"""A number larger than any vocabulary."""
_NO_TEXT = ("", "\N{REPLACEMENT CHARACTER}")
_MOST_SPELT = 10_000
"""Maximum number of labels and examples whose tokens are cached."""
_SMALLEST = 1e-45
"""Replaces a probability that was rounded to zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReading:
    """The probability of each label as the continuation of a prompt."""

    logprobs: tuple[float, ...]
    """Natural logarithms, one per label, in order. Their `exp` sums to `label_mass`."""
    label_mass: float
    """Total probability of the labels' first tokens, 0 to 1."""
    amount: Amount

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Normalised probabilities."""
        highest = max(self.logprobs)
        weights = [math.exp(logprob - highest) for logprob in self.logprobs]
        total = sum(weights)
        return tuple(weight / total for weight in weights)


@dataclass(frozen=True, slots=True)
class TokenReading:
    """Probabilities of some tokens as the next one, among the whole vocabulary."""

    logprobs: tuple[float, ...]
    amount: Amount


ReadTokens = Callable[[Sequence[int], Sequence[int]], Awaitable[TokenReading]]
"""Reads the log-probabilities of the second tokens as the next one after the first tokens."""


async def walk_labels(labels: Sequence[Sequence[int]], read: ReadTokens) -> LabelReading:
    """Read labels of any length, with one request per position where they differ.

    `read` is called with the tokens after the prompt, and the candidates. The first token is
    weighed against the whole vocabulary, a later one only against those by which other labels
    continue. Tokens at other positions count as certain, since the sum of all log-probabilities
    would penalise long labels.

    `labels` has the tokens of each label. `ConfigError`: a label is equal to another or its start.
    """
    for first, second in pairwise(sorted(map(tuple, labels))):
        if second[: len(first)] == first:
            raise ConfigError(
                "a label is the start of another, as the model's tokens have it: end both with "
                "what ends a label in the prompt, or choose other words"
            )
    logprobs = [0.0] * len(labels)
    mass, amount = 1.0, NOTHING
    branches: list[tuple[int, list[int]]] = [(0, list(range(len(labels))))]
    while branches:
        depth, members = branches.pop()
        by_token: dict[int, list[int]] = {}
        for label in members:
            by_token.setdefault(labels[label][depth], []).append(label)
        if depth == 0 or len(by_token) > 1:
            reading = await read(labels[members[0]][:depth], [*by_token])
            amount += reading.amount
            total = _log_sum(reading.logprobs)
            mass = min(1.0, math.exp(total)) if depth == 0 else mass
            for group, logprob in zip(by_token.values(), reading.logprobs, strict=True):
                for label in group:
                    logprobs[label] += logprob if depth == 0 else logprob - total
        branches += [(depth + 1, group) for group in by_token.values() if len(group) > 1]
    return LabelReading(logprobs=tuple(logprobs), label_mass=mass, amount=amount)


def _log_sum(logprobs: Sequence[float]) -> float:
    highest = max(logprobs)
    return highest + math.log(sum(math.exp(logprob - highest) for logprob in logprobs))


class LabelReader(ABC):
    """Decides by the log-probabilities of the labels' words, as continuations of a prompt.

    Questions about one text are asked in a row, so that the server caches the start of their
    prompts.
    """

    title = LABELS_TITLE
    side_by_side: ClassVar[bool]
    """True if parallel requests share the server's cache."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def decide(self, request: DecisionRequest, context: RunContext) -> Decision:
        """Answer typed questions about a text; see `Backend.decide`."""
        text, questions, examples = request
        name, model = self._client.name, self._client.model
        prompts = [label_prompt(question, text, examples) for question in questions]
        await show(lambda: map(self._describe, prompts), context)
        readings = await self._read_all(prompts, context)
        answers = (
            Answer(
                question=question,
                probabilities=reading.probabilities,
                label_mass=reading.label_mass,
                source="logprob",
            )
            for question, reading in zip(questions, readings, strict=True)
        )
        context.note("answered", model, endpoint=name)
        amount = sum((reading.amount for reading in readings), NOTHING)
        return Decision(answers=tuple(answers), endpoint=name, model=model, amount=amount)

    async def _read_all(
        self, prompts: Sequence[LabelPrompt], context: RunContext
    ) -> list[LabelReading]:
        """Read prompts, the first one alone, so that the others find its start cached."""
        first, *rest = prompts
        readings = [await self.read_labels(first, context)]
        if self.side_by_side:
            return readings + await gather(self.read_labels(prompt, context) for prompt in rest)
        return readings + [await self.read_labels(prompt, context) for prompt in rest]

    def _describe(self, prompt: LabelPrompt) -> SentPrompt:
        text = neutralise(prompt.text)
        client = self._client
        return SentPrompt(
            client.name, client.model, self.title, (("prompt", text),), labels=prompt.labels
        )

    @abstractmethod
    async def read_labels(self, prompt: LabelPrompt, context: RunContext, /) -> LabelReading:
        """Read the probability of each label after a prompt without control tokens."""

    async def _tokenize(self, body: Mapping[str, object], context: RunContext) -> list[int]:
        """Tokenize on the server, which is free."""
        client = self._client
        answer, _ = await client.post("/tokenize", body, context, estimate=NOTHING, at_root=True)
        sent = list_of(answer.get("tokens"))
        tokens = [token for token in sent if isinstance(token, int)]
        if not tokens or len(tokens) < len(sent):
            raise InvalidResponse("the tokenizer sent no tokens", endpoint=client.name)
        return tokens


class VLLMLabelReader(LabelReader):
    """Reads label log-probabilities by `logprob_token_ids`. Unlike a top 20, it misses no label."""

    side_by_side = True

    def __init__(self, client: Client, *, priority: int = 0) -> None:
        super().__init__(client)
        self._priority = priority
        self._tokens: dict[tuple[str, str], tuple[int, ...]] = {}

    async def read_labels(self, prompt: LabelPrompt, context: RunContext, /) -> LabelReading:
        """Read the probability of each label after a prompt; see `LabelReader`."""
        text = neutralise(prompt.text)
        line = text.rpartition("\n")[2]  # a label continues the last line
        tokens = await self._label_tokens(line, prompt.labels, context)
        prompt_tokens: list[int] = []

        async def read(after: Sequence[int], candidates: Sequence[int]) -> TokenReading:
            if after and not prompt_tokens:
                prompt_tokens.extend(await self._tokens_of(text, context, special=True))
            # Where possible, the server tokenizes the text itself, with its own special tokens.
            sent = [*prompt_tokens, *after] if after else text
            return await self._read(sent, candidates, context, text=text)

        return await walk_labels([tokens[label] for label in prompt.labels], read)

    async def _read(
        self, prompt: str | list[int], candidates: Sequence[int], context: RunContext, *, text: str
    ) -> TokenReading:
        logprobs: list[float] = []
        amount = NOTHING
        for start in range(0, len(candidates), _MOST_AT_ONCE):
            batch = candidates[start : start + _MOST_AT_ONCE]
            body: JSON = {
                "model": self._client.model,
                "prompt": prompt,
                "max_tokens": 1,
                "temperature": 0.0,
                "logprobs": len(batch),
                "logprob_token_ids": list(batch),
                "return_tokens_as_token_ids": True,
            }
            if self._priority:
                body["priority"] = self._priority
            estimate = estimate_of(text, max_tokens=1, price=self._client.price)
            reply, batch_amount = await self._client.post(
                "/completions", body, context, estimate=estimate
            )
            logprobs += self._logprobs(reply, batch)
            amount += batch_amount
        return TokenReading(tuple(logprobs), amount)

    def _logprobs(self, reply: JSON, candidates: Sequence[int]) -> list[float]:
        try:
            top_logprobs = at(reply, "choices", 0, "logprobs", "top_logprobs", 0)
            return [number_of(at(top_logprobs, f"token_id:{token}")) for token in candidates]
        except KeyError as error:
            raise EndpointUnsupported(
                f"log-probabilities of chosen tokens are not there ({error}). "
                "vLLM 0.32 or newer has them; update it, or decide by text",
                endpoint=self._client.name,
            ) from error
        except (TypeError, IndexError, ValueError) as error:
            raise InvalidResponse(
                "the answer holds no log-probabilities", endpoint=self._client.name
            ) from error

    async def _label_tokens(
        self, line: str, labels: Sequence[str], context: RunContext
    ) -> dict[str, tuple[int, ...]]:
        """Tokenize each new label in its position. Some tokenizers join it to the line before."""
        missing = [label for label in labels if (line, label) not in self._tokens]
        if missing:
            texts = [line] * bool(line) + [line + label for label in missing]
            token_lists = await gather(
                self._tokens_of(text, context, special=False) for text in texts
            )
            first = token_lists.pop(0) if line else []
            for label, tokens in zip(missing, token_lists, strict=True):
                if tokens[: len(first)] != first or len(tokens) == len(first):
                    tokens = [*first, *await self._tokens_of(label, context, special=False)]
                self._tokens[line, label] = tuple(tokens[len(first) :])
        return {label: self._tokens[line, label] for label in labels}

    async def _tokens_of(self, text: str, context: RunContext, *, special: bool) -> list[int]:
        body = {"model": self._client.model, "prompt": text, "add_special_tokens": special}
        return await self._tokenize(body, context)


class LlamaCppReader(LabelReader):
    """Reads label log-probabilities from llama.cpp's server.

    Its list of the most probable tokens may omit labels. So the same `logit_bias` is added to all
    labels, probabilities are read after sampling, and the bias is undone: if the labels then have
    the probabilities q with sum s, each had q / (s + (1 - s) exp(push)).
    """

    side_by_side = False  # each slot has its own cache

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._spellings: dict[str, tuple[int, ...]] = {}

    async def read_labels(self, prompt: LabelPrompt, context: RunContext, /) -> LabelReading:
        """Read the probability of each label after a prompt; see `LabelReader`."""
        labels = [await self._spelling(label, context) for label in prompt.labels]
        start = await self.tokenize(prompt.text, context, whole=True)

        async def read(after: Sequence[int], tokens: Sequence[int]) -> TokenReading:
            return await self.read_next_tokens([*start, *after], tokens, context)

        return await walk_labels(labels, read)

    async def read_next_tokens(
        self, prompt: Sequence[int], tokens: Sequence[int], context: RunContext, /
    ) -> TokenReading:
        """Read the log-probabilities of `tokens` as the next one, among the whole vocabulary."""
        pushed, amount = await self._probabilities(prompt, tokens, context, push=_PUSH)
        if pushed is None:
            return await self._read_vocabulary(prompt, tokens, context, before=amount)
        total = math.fsum(pushed.values())
        scale = total + max(0.0, 1.0 - total) * math.exp(_PUSH)
        probabilities = {token: p / scale for token, p in pushed.items()}
        if len(probabilities) < len(tokens):
            relative, second_amount = await self._probabilities(
                prompt, tokens, context, push=_HARD_PUSH
            )
            amount += second_amount
            if relative is None:
                return await self._read_vocabulary(prompt, tokens, context, before=amount)
            if len(relative) < len(tokens):
                raise self._missing_labels()
            probabilities = _merge_readings(probabilities, relative)
        logprobs = tuple(math.log(max(probabilities[token], _SMALLEST)) for token in tokens)
        return TokenReading(logprobs, amount)

    async def tokenize(self, text: str, context: RunContext, /, *, whole: bool) -> list[int]:
        """Tokenize a text, as the start of a prompt (`whole`) or a later piece.

        Control tokens have no meaning: the whole text is data.
        """
        body = {"content": text, "add_special": whole, "parse_special": False}
        return await self._tokenize(body, context)

    async def _spelling(self, label: str, context: RunContext) -> tuple[int, ...]:
        if label not in self._spellings:
            if len(self._spellings) >= _MOST_SPELT:
                self._spellings.clear()
            self._spellings[label] = tuple(await self.tokenize(label, context, whole=False))
        return self._spellings[label]

    async def _probabilities(
        self, prompt: Sequence[int], tokens: Sequence[int], context: RunContext, *, push: float
    ) -> tuple[dict[int, float] | None, Amount]:
        """Read the tokens' probabilities after a push, or `None`; see `_sample`."""
        is_hard = push == _HARD_PUSH
        sampling: JSON = {
            "samplers": ["top_k", "temperature"] if is_hard else ["temperature"],
            "top_k": len(tokens) if is_hard else 0,
            "logit_bias": [[token, push] for token in tokens],
            "n_probs": len(tokens) + _OTHERS,
            "post_sampling_probs": True,
        }
        probabilities, amount = await self._sample(prompt, sampling, context)
        if probabilities is None:
            return None, amount
        return {token: p for token, p in probabilities.items() if token in set(tokens)}, amount

    async def _read_vocabulary(
        self, prompt: Sequence[int], tokens: Sequence[int], context: RunContext, *, before: Amount
    ) -> TokenReading:
        """Read tokens from the whole vocabulary, which is slow.

        The server sends nothing if the sampled token writes no text, so a full stop is sampled.
        """
        *_, stop = await self._spelling(".", context)
        sampling = {"logit_bias": [[stop, _HARD_PUSH]], "n_probs": _MOST_IN_VOCABULARY}
        logprobs, amount = await self._sample(prompt, sampling, context)
        if logprobs is None or not logprobs.keys() >= set(tokens):
            raise self._missing_labels()
        return TokenReading(tuple(logprobs[token] for token in tokens), before + amount)

    async def _sample(
        self, prompt: Sequence[int], sampling: Mapping[str, object], context: RunContext
    ) -> tuple[dict[int, float] | None, Amount]:
        """Sample a token. Return probabilities, or their logarithms before sampling, as requested.

        `None`: the server sends none, since the sampled token writes no text. It is a control
        token, or part of a character, as the first token of a Japanese label may be.
        """
        body: JSON = {
            "model": self._client.model,
            "prompt": list(prompt),
            "max_tokens": 1,
            "temperature": 1.0,
            "cache_prompt": True,
            "ignore_eos": True,  # no probabilities are sent if the end is sampled
            **sampling,
        }
        estimate = self._client.price.charge(
            Amount(calls=1, input_tokens=len(prompt), output_tokens=1)
        )
        answer, amount = await self._client.post("/completions", body, context, estimate=estimate)
        try:
            choice = at(answer, "choices", 0)
            if at(choice, "logprobs") is None and str(at(choice, "text")).strip() in _NO_TEXT:
                return None, amount
            sent = object_of(at(choice, "logprobs", "content", 0))
            tokens, value = ("top_logprobs", "logprob")
            if "top_probs" in sent:
                tokens, value = ("top_probs", "prob")
            entries = objects_of(sent[tokens])
            return {
                int(number_of(entry["id"])): number_of(entry[value]) for entry in entries
            }, amount
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InvalidResponse(
                "the answer holds no probabilities", endpoint=self._client.name
            ) from error

    def _missing_labels(self) -> InvalidResponse:
        message = "the answer leaves out labels that were asked for"
        return InvalidResponse(message, endpoint=self._client.name)


def _merge_readings(first: dict[int, float], second: dict[int, float]) -> dict[int, float]:
    """Add the tokens that only the second reading has, scaled by those that both have."""
    shared = math.fsum(second[token] for token in first)
    # If the first push shows no label at all, each had less than this.
    scale = math.fsum(first.values()) / shared if shared else math.exp(-_PUSH) / _OTHERS
    return {token: p * scale for token, p in second.items()} | first
