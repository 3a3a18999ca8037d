"""The commands inside a conversation: what begins with a slash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moa._files import replace_text
from moa._terminal import escaped
from moa.cli import screen
from moa.cli.tables import by_node, cost_of, listed

if TYPE_CHECKING:
    from moa.cli.conversing import Talk


class Ended(Exception):
    """Whoever talks wants to end."""


class Command(NamedTuple):
    """One of them."""

    takes: str
    does: str
    obey: Callable[[Talk, str], None]


def _help(talk: Talk, rest: str) -> None:
    del talk, rest
    rows = [(f"/{name} {c.takes}".strip(), c.does) for name, c in COMMANDS.items()]
    screen.out().print(listed(["command", "does"], rows))


def _new(talk: Talk, rest: str) -> None:
    names = {thread.name for thread in talk.run(talk.chat.threads.list())}
    number = 2
    while f"{talk.thread}-{number}" in names:
        number += 1
    talk.thread = rest or f"{talk.thread}-{number}"
    talk.enter()


def _threads(talk: Talk, rest: str) -> None:
    del rest
    rows = [
        (
            f"{'*' if thread.name == talk.thread else ' '} {thread.name}",
            f"{thread.last_at.astimezone():%Y-%m-%d %H:%M}",
            f"{thread.turns}",
            cost_of(thread.usage),
            f"{thread.opening}{' (unfinished)' if thread.unfinished else ''}",
        )
        for thread in talk.run(talk.chat.threads.list())
    ]
    screen.out().print(listed(["thread", "last", "turns", "cost", "begins"], rows))


def _thread(talk: Talk, rest: str) -> None:
    if not rest:
        talk.tell(f"This is thread {talk.thread!r}. /thread NAME goes to another one")
        return
    talk.thread = rest
    talk.enter()


def _usage(talk: Talk, rest: str) -> None:
    del rest
    kept = talk.run(talk.chat.threads.load(talk.thread))
    screen.out().print(by_node(kept.usage))
    talk.tell(f"Thread {talk.thread!r}, over all restarts: {cost_of(kept.usage)}")
    if kept.cut_off:
        talk.tell(f"{kept.cut_off} answers were cut off; what those took is not known")
    if kept.summary is not None:
        talk.tell(f"Turns 1 to {kept.summary.turns} are read as a summary:\n{kept.summary.text}")


def _export(talk: Talk, rest: str) -> None:
    whole = talk.run(talk.chat.threads.transcript(talk.thread)).model_dump_json(indent=2)
    if not rest:
        talk.show(f"{escaped(whole)}\n")
        return
    replace_text(Path(rest), f"{whole}\n")
    talk.tell(f"Written to {rest}")


def _delete(talk: Talk, rest: str) -> None:
    if not rest:
        talk.tell("Say which: /delete NAME")
    elif talk.run(talk.chat.threads.delete(rest)):
        talk.tell(f"Thread {rest!r} is deleted")
    else:
        talk.tell(f"There is no thread {rest!r}. /threads lists them")


def _quit(talk: Talk, rest: str) -> None:
    del talk, rest
    raise Ended


COMMANDS = {
    "help": Command("", "lists the commands", _help),
    "new": Command("[NAME]", "begins another thread", _new),
    "threads": Command("", "lists the threads", _threads),
    "thread": Command("NAME", "goes to a thread", _thread),
    "usage": Command("", "says what the thread has cost, and what is read of it", _usage),
    "export": Command("[FILE]", "writes the thread as JSON", _export),
    "delete": Command("NAME", "deletes a thread", _delete),
    "quit": Command("", "ends; so does Ctrl-D", _quit),
}
"""By name, without the slash."""
