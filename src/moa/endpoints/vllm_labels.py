"""Labels of vLLM: exact log-probabilities of chosen tokens.

The fields are those of vLLM 0.32: <https://docs.vllm.ai/en/stable/serving/openai_compatible_server/>.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from moa.context import RunContext
from moa.endpoints.client import JSON, Client
from moa.endpoints.control_tokens import neutralise
from moa.endpoints.labels import LabelPrompt, LabelReading, TokenReading, walk_labels
from moa.endpoints.tokens import estimate_of
from moa.errors import EndpointUnsupported, InvalidResponse
from moa.usage import NOTHING, Amount

_MOST_TOKENS = 128
"""Tokens that vLLM takes in one `logprob_token_ids`."""


class VLLMLabelReader:
    """Reads label log-probabilities by `logprob_token_ids`, which misses none, unlike a top 20.

    Args:
        client: The connection to the server.
        priority: Lower is served earlier; other than 0 needs `--scheduling-policy priority`.
    """

    def __init__(self, client: Client, *, priority: int = 0) -> None:
        self._client = client
        self._priority = priority
        self._tokens: dict[tuple[str, str], tuple[int, ...]] = {}

    async def read_labels(self, prompt: LabelPrompt, context: RunContext, /) -> LabelReading:
        """Read how probable each label is after a prompt; see `LabelReader.read_labels`."""
        text = neutralise(prompt.text)
        chat = prompt.layout == "chat"
        # A label stands at the start of the assistant's turn, or goes on the last line.
        line = "" if chat else text.rpartition("\n")[2]
        tokens = await self._label_tokens(line, prompt.labels, context)
        prompt_tokens: list[int] = []
        if chat:
            turns = [*map(neutralise, prompt.before), text]
            prompt_tokens += await self._turns(turns, context)
            text = "\n".join(turns)

        async def read(after: Sequence[int], candidates: Sequence[int]) -> TokenReading:
            if after and not prompt_tokens:
                prompt_tokens.extend(await self._tokenized(text, context, special=True))
            # The server reads the text itself, with its own special tokens, where it can.
            sent = [*prompt_tokens, *after] if after or chat else text
            return await self._read(sent, candidates, context, text=text)

        return await walk_labels(tokens, read)

    async def _read(
        self,
        prompt: str | list[int],
        candidates: Sequence[int],
        context: RunContext,
        *,
        text: str,
    ) -> TokenReading:
        logprobs: list[float] = []
        amount = NOTHING
        for start in range(0, len(candidates), _MOST_TOKENS):
            few = candidates[start : start + _MOST_TOKENS]
            body: dict[str, Any] = {
                "model": self._client.model,
                "prompt": prompt,
                "max_tokens": 1,
                "temperature": 0.0,
                "logprobs": len(few),
                "logprob_token_ids": list(few),
                "return_tokens_as_token_ids": True,
            }
            if self._priority:
                body["priority"] = self._priority
            estimate = estimate_of(text, max_tokens=1, price=self._client.price)
            reply, used = await self._client.post("/completions", body, context, estimate=estimate)
            logprobs += self._logprobs(reply, few)
            amount += used
        return TokenReading(tuple(logprobs), amount)

    def _logprobs(self, reply: JSON, candidates: Sequence[int]) -> list[float]:
        try:
            found: Mapping[str, Any] = reply["choices"][0]["logprobs"]["top_logprobs"][0]
            return [float(found[f"token_id:{token}"]) for token in candidates]
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
    ) -> list[tuple[int, ...]]:
        """Tokenize each label where it will stand, once; some tokenizers join it to the line."""
        missing = [label for label in labels if (line, label) not in self._tokens]
        if missing:
            texts = [line] * bool(line) + [line + label for label in missing]
            rest = await self._all(texts, context)
            first = rest.pop(0) if line else []
            for label, whole in zip(missing, rest, strict=True):
                if whole[: len(first)] != first or len(whole) == len(first):
                    whole = [*first, *await self._tokenized(label, context, special=False)]
                self._tokens[line, label] = tuple(whole[len(first) :])
        return [self._tokens[line, label] for label in labels]

    async def _all(self, texts: Sequence[str], context: RunContext) -> list[list[int]]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._tokenized(text, context, special=False))
                    for text in texts
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [task.result() for task in tasks]

    async def _tokenized(self, text: str, context: RunContext, *, special: bool) -> list[int]:
        return await self._tokens_of({"prompt": text, "add_special_tokens": special}, context)

    async def _turns(self, turns: Sequence[str], context: RunContext) -> list[int]:
        """Tokenise turns of user and assistant as the model's chat template has them."""
        messages = [
            {"role": ("user", "assistant")[place % 2], "content": turn}
            for place, turn in enumerate(turns)
        ]
        return await self._tokens_of({"messages": messages, "add_generation_prompt": True}, context)

    async def _tokens_of(self, asked: Mapping[str, Any], context: RunContext) -> list[int]:
        body = {"model": self._client.model, **asked}
        reply, _ = await self._client.post(
            "/tokenize", body, context, estimate=Amount(), at_root=True
        )
        tokens = reply.get("tokens")
        if not isinstance(tokens, list):
            raise InvalidResponse("the tokenizer sent no tokens", endpoint=self._client.name)
        return [int(token) for token in cast("list[int]", tokens)]
