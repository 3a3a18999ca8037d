"""moa chat: a conversation in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from moa.cli import options


def chat(
    *,
    thread: Annotated[
        str, typer.Option("--thread", metavar="NAME", help="Which conversation to go on with.")
    ] = "default",
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="FILE|URL", help="Where conversations are kept."),
    ] = None,
    persona: Annotated[
        str | None, typer.Option("--persona", help='Who answers, and how: "You are a pirate."')
    ] = None,
    config: options.ConfigFile = None,
) -> None:
    r"""Talk with a small and a large model, over many turns.

    What is said is kept in chat.sqlite, beside moa.toml where there is one. --store takes another
    file, the address of a Postgres database, or :memory: to keep nothing. An answer that was cut
    off, by a crash or a reboot, is written anew at the next start.

    Ctrl-C stops an answer; at the prompt it ends moa. A line that begins with / is a command:

        /help      what there is            /usage          what the thread has cost
        /new       begin another thread     /export FILE    write the thread as JSON
        /threads   list them                /delete NAME    delete one
        /thread X  go to one                /quit           end

    Lines from a pipe are said one after another, and the answers go to standard output:

        printf 'I am Ann.\nWho am I?\n' | moa chat --thread script

    The built-in model, which answers alone at first, is tiny and writes badly. These lines in
    moa.toml name a large one; with a small one of yours beside it, that one answers small talk:

        [endpoints.large]
        tier = "llm"
        model = "gpt-5-mini"

    Exit codes: 0 ended, 1 a message was not answered, 2 usage or configuration, 130 stopped.

        moa chat                                 goes on where you left off
        moa chat --thread holidays               a conversation of its own, by name
        moa chat --persona "You are a pirate."   who answers
    """
    from pathlib import Path

    from moa.chat.messages import is_file
    from moa.cli.talk import held
    from moa.errors import ConfigError

    if not thread:
        raise ConfigError("a conversation has a name: give --thread one, or leave it out")
    if store is not None and is_file(store):
        store = str(Path(store).absolute())  # what is given here stands in this folder
    given = {"store": store, "persona": persona}
    settings = {name: value for name, value in given.items() if value is not None}
    raise typer.Exit(held(config, settings, thread=thread))
