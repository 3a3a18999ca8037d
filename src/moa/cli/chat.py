"""moa chat: a conversation in the terminal.

It reads lines, streams the answers, and runs commands.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.cli.screen import cost_of, make_table, usage_by_node
from moa.core._terminal import escape_json
from moa.core.context import RunContext
from moa.core.errors import ConfigError, MoaError
from moa.core.trace import Event, TextDelta

if TYPE_CHECKING:
    from moa.chat.graph import Chat
    from moa.chat.messages import ChatReply
    from moa.core.node import Result

_NOTE_KINDS = ("truncated", "degraded", "failed", "retried")
"""Kinds of notes to show."""
_NO_LARGE_MODEL = (
    "No large model is configured, so a small one answers everything. Take what it says for a "
    "draft: small models are there to decide, and the built-in one writes badly. "
    "`moa chat --help` says how to name one."
)


def chat(
    *,
    thread: Annotated[
        str, typer.Option("--thread", metavar="NAME", help="Conversation to continue.")
    ] = "default",
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="FILE|URL", help="Store of the conversations."),
    ] = None,
    persona: Annotated[
        str | None, typer.Option("--persona", help='Who answers, and how: "You are a pirate."')
    ] = None,
    config: options.ConfigFile = None,
) -> None:
    r"""Talk with a small and a large model, over many turns.

    The conversation is stored in chat.sqlite, beside moa.toml if there is one. --store takes
    another file, the URL of a Postgres database, or :memory: to store nothing. An answer
    interrupted by a crash is written again at the next start.

    Ctrl-C stops an answer; at the prompt it ends moa. A line that begins with / is a command:

        /threads        list the threads        /usage     what the thread has cost
        /thread NAME    open or begin a thread  /export    print the thread as JSON
        /help           list the commands       /quit      end; so does Ctrl-D

    From a pipe each line is a message, and the answers go to standard output:

        printf 'I am Ann.\nWho am I?\n' | moa chat --thread script

    By default the tiny built-in model answers, badly. These lines in moa.toml add a large one; if
    you add a small one too, it answers small talk:

        [endpoints.large]
        tier = "llm"
        model = "gpt-5-mini"

    Exit codes: 0 ended, 1 a message was not answered, 2 usage or configuration, 130 stopped.

        moa chat                                 continue where you left off
        moa chat --thread holidays               a separate conversation
        moa chat --persona "You are a pirate."   set the persona
    """
    from moa.chat.graph import Chat
    from moa.chat.messages import is_file
    from moa.config.endpoints import Endpoints
    from moa.config.loading import load_graph

    if not thread:
        raise ConfigError("a conversation has a name: give --thread one, or leave it out")
    if store is not None and is_file(store):
        store = str(Path(store).absolute())  # a path is relative to this folder
    arguments = {"store": store, "persona": persona}
    settings = {name: value for name, value in arguments.items() if value is not None}
    with asyncio.Runner() as runner:
        endpoints = Endpoints(options.load_config(config))
        try:
            node = load_graph("chat", endpoints, options=settings)
            assert isinstance(node, Chat), "its name is built in"
            talk = Talk(node, runner, thread=thread)
            if endpoints.used_slm_as_llm:
                talk.tell(_NO_LARGE_MODEL)
                runner.run(endpoints.warm())
            raise typer.Exit(talk.hold())
        except KeyboardInterrupt:
            raise typer.Exit(options.STOPPED) from None
        finally:
            runner.run(endpoints.close())


class Talk:
    """A conversation at the terminal, or through a pipe.

    The runner runs each answer, so that Ctrl-C cancels it.
    """

    def __init__(self, chat: Chat, runner: asyncio.Runner, *, thread: str) -> None:
        self.chat = chat
        self.thread = thread
        self.run = runner.run
        self._live = sys.stdin.isatty()
        self._failed = False
        self._shown = False
        self._why = ""
        """Reason for the model of the last reply, shown only when it changes."""

    def hold(self) -> int:
        """Talk until the input ends; return the exit code."""
        lines = self._lines()
        first = None if self._live else next(lines, None)
        self.enter(text=first)
        for line in lines if first is None else chain((first,), lines):
            if line == "/quit":
                break
            self._take(line)
        return int(self._failed)

    def enter(self, *, text: str | None = None) -> None:
        """Continue the thread: show its last turn, and finish an unfinished answer.

        An answer isn't finished if the same message comes next.
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
        elif text is None or text.strip() != last.text:
            self.tell(
                f"The answer to your last message is unfinished, and is written anew: {last.text}"
            )
            self._say(last.text, id=last.id)

    def tell(self, text: str) -> None:
        """Print a remark on standard error."""
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
            import readline as readline  # makes the arrow keys work in `input`
        while True:
            try:
                line = input("\n> ").strip()
            except EOFError:
                return
            if line:
                yield line

    def _take(self, line: str) -> None:
        """Run a command, or send a message; a leading `//` stands for `/`."""
        if not line.startswith("/") or line.startswith("//"):
            self._say(line.removeprefix("/"))
            return
        name, _, rest = line[1:].partition(" ")
        try:
            match name:
                case "help":
                    self._help()
                case "threads":
                    self._threads()
                case "thread":
                    self.thread = rest.strip() or self.thread
                    self.enter()
                case "usage":
                    self._usage()
                case "export":
                    transcript = self.run(self.chat.threads.transcript(self.thread))
                    self.show(f"{escape_json(transcript.model_dump_json(indent=2))}\n")
                case _:
                    self._wrong(
                        f"There is no command /{name}. /help lists them; // begins a message with /"
                    )
        except MoaError as error:
            self._wrong(str(error))

    def _help(self) -> None:
        self.tell("/threads lists the threads; /thread NAME goes to one, or begins it")
        self.tell("/usage says what the thread has cost; /export prints it as JSON; /quit ends")

    def _threads(self) -> None:
        rows = [
            (
                f"{'*' if thread.name == self.thread else ' '} {thread.name}",
                f"{thread.last_at.astimezone():%Y-%m-%d %H:%M}",
                f"{thread.turns}",
                cost_of(thread.usage),
                f"{thread.opening}{' (unfinished)' if thread.unfinished else ''}",
            )
            for thread in self.run(self.chat.threads.list())
        ]
        screen.results_console().print(
            make_table(["thread", "last", "turns", "cost", "begins"], rows)
        )

    def _usage(self) -> None:
        conversation = self.run(self.chat.threads.load(self.thread))
        screen.results_console().print(usage_by_node(conversation.usage))
        if conversation.summary is not None:
            turns = f"Turns 1 to {conversation.summary.turns} are read as a summary"
            self.tell(f"{turns}:\n{conversation.summary.text}")

    def _say(self, text: str, *, id: str | None = None) -> None:
        """Send a message, and stream the answer."""
        from moa.chat.messages import UserMessage

        message = UserMessage(text=text, thread=self.thread, id=id)
        self._shown = False
        context = RunContext(listener=self._listen)
        try:
            result = self.run(self.chat.run(message, context))
        except KeyboardInterrupt:
            self.show("\n")
            self.tell("Stopped; what was written is kept.")
            if not self._live:
                raise
        except MoaError as error:
            self.show("\n" if self._shown else "")
            self._wrong(str(error))
        else:
            self._finish(result)

    def _listen(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._shown = True
            self.show(event.text)

    def _finish(self, result: Result[ChatReply]) -> None:
        reply = result.output
        self.show("\n" if self._shown else f"{reply.text}\n")
        for note in result.trace:
            if note.kind in _NOTE_KINDS:
                self.tell(f"({note.kind}: {note.text})")
        if self._live:
            usage = result.usage
            tokens = usage.input_tokens + usage.output_tokens
            reason = f", as {reply.reason}" if reply.reason not in ("", self._why) else ""
            self._why = reply.reason
            self.tell(f"— {reply.endpoint}{reason} · {tokens} tokens · {cost_of(usage)}")

    def _wrong(self, text: str) -> None:
        self._failed = True
        self.tell(f"moa: {text}")
