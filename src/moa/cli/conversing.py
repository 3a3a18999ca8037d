"""Conversing: reads lines, has them answered, and shows the answers as they are written."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from moa.chat.messages import ChatReply, UserMessage
from moa.cli import screen
from moa.cli.configuration import configured
from moa.cli.conversing_commands import COMMANDS, Ended
from moa.cli.session import ANSWERED, FAILED, STOPPED
from moa.cli.tables import cost_of
from moa.config.endpoints import Endpoints
from moa.context import RunContext
from moa.errors import MoaError, StoreError
from moa.graphs.loading import load_graph
from moa.node import Result
from moa.trace import Event, TextDelta

if TYPE_CHECKING:
    from moa.chat.graph import Chat

T = TypeVar("T")

_TOLD = ("truncated", "degraded", "failed", "retried")
"""Kinds of notes that whoever talks should know of."""
_ALONE = (
    "No large model is configured, so a small one answers everything, as well as it can. "
    "`moa chat --help` says how to name one."
)


def held(config: Path | None, settings: Mapping[str, object], *, thread: str) -> int:
    """Hold a conversation on standard input and output, and give the exit code.

    Args:
        config: The configuration.
        settings: What comes before the settings of its table.
        thread: Name of the thread to go on with.

    Raises:
        MoaError: the configuration or the store can't be used.
    """
    with asyncio.Runner() as runner:
        endpoints = Endpoints(configured(config))
        try:
            node = load_graph("chat", endpoints, given=settings)
            talk = Talk(cast("Chat", node), runner, thread=thread)
            if endpoints.stood_in:
                talk.tell(_ALONE)
                runner.run(endpoints.warm())
            return talk.hold()
        except KeyboardInterrupt:
            return STOPPED
        finally:
            runner.run(endpoints.close())


class Talk:
    """A conversation with whoever sits at the terminal, or with a pipe.

    Args:
        chat: Answers.
        runner: Runs each answer; Ctrl-C cancels the one it runs.
        thread: Name of the thread.
    """

    def __init__(self, chat: Chat, runner: asyncio.Runner, *, thread: str) -> None:
        self.chat = chat
        self.thread = thread
        self._runner = runner
        self._live = sys.stdin.isatty()
        self._failed = False
        self._shown = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something."""
        return self._runner.run(work)

    def hold(self) -> int:
        """Talk until the end of the lines, or of the patience; give the exit code.

        Raises:
            StoreError: the store can't be read.
        """
        lines = self._lines()
        first = None if self._live else next(lines, None)
        self.enter(said=first)
        try:
            while True:
                line = next(lines, None) if first is None else first
                first = None
                if line is None:
                    break
                self._take(line)
        except Ended:
            pass
        return FAILED if self._failed else ANSWERED

    def enter(self, *, said: str | None = None) -> None:
        """Go on with the thread: tell what was said last, and finish what was cut off.

        Args:
            said: What will be said next, where that is known; it may be said again.

        Raises:
            StoreError: the store can't be read.
        """
        last = self.run(self.chat.threads.load(self.thread)).last
        if self._live:
            was = "begins" if last is None else f"goes on after {last.number} turns"
            self.tell(f"Thread {self.thread!r} in {self.chat.threads.store.shown} {was}. /help")
        if last is None:
            return
        if not last.unfinished:
            if self._live:
                self.tell(f"> {last.text}")
                self.show(f"{last.reply}\n")
        elif said is None or said.strip() != last.text:
            self.tell(
                f"The answer to your last message is unfinished, and is written anew: {last.text}"
            )
            self._say(UserMessage(text=last.text, thread=self.thread, id=last.id))

    def tell(self, text: str) -> None:
        """Say something beside the conversation, on standard error."""
        screen.err().print(text, style="dim")

    def show(self, text: str) -> None:
        """Write to standard output, at once."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def _lines(self) -> Iterator[str]:
        if not self._live:
            reconfigure = getattr(sys.stdin, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="replace")
            yield from (line.strip() for line in sys.stdin if line.strip())
            return
        with suppress(ImportError):
            import readline as readline  # the arrows work in `input` from here on
        while True:
            try:
                line = input("\n> ").strip()
            except EOFError:
                return
            if line:
                yield line

    def _take(self, line: str) -> None:
        """Obey a command, or say a message; `//` at its beginning stands for `/`."""
        if not line.startswith("/") or line.startswith("//"):
            self._say(UserMessage(text=line.removeprefix("/"), thread=self.thread))
            return
        name, _, rest = line[1:].partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            self._wrong(
                f"There is no command /{name}. /help lists them; // begins a message with /"
            )
            return
        try:
            command.obey(self, rest.strip())
        except (MoaError, OSError) as error:
            self._wrong(str(error))

    def _say(self, said: UserMessage) -> None:
        """Have a message answered, and show the answer while it is written."""
        self._shown = False
        context = RunContext(listener=self._heard)
        try:
            result = self.run(self.chat.run(said, context))
        except KeyboardInterrupt:
            self.show("\n")
            self.tell("Stopped; what was written is kept.")
            if not self._live:
                raise
        except MoaError as error:
            self.show("\n" if self._shown else "")
            again = "Your message is kept: say it again to have it answered"
            self._wrong(f"{error}. {again}" if self._is_kept(said) else str(error))
        else:
            self._finish(result)

    def _is_kept(self, said: UserMessage) -> bool:
        try:
            last = self.run(self.chat.threads.load(said.thread)).last
        except StoreError:
            return False
        return last is not None and last.text == said.text and last.status != "answered"

    def _heard(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._shown = True
            self.show(event.text)

    def _finish(self, result: Result[ChatReply]) -> None:
        reply = result.output
        self.show("\n" if self._shown else f"{reply.text}\n")
        for note in result.trace:
            if note.kind in _TOLD:
                self.tell(f"({note.kind}: {note.text})")
        if self._live:
            usage = result.usage
            tokens = usage.input_tokens + usage.output_tokens
            why = f", as {reply.reason}" if reply.reason else ""
            self.tell(f"— {reply.endpoint}{why} · {tokens} tokens · {cost_of(usage)}")

    def _wrong(self, text: str) -> None:
        self._failed = True
        self.tell(f"moa: {text}")
