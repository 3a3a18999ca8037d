"""moa models fetch: the weights of a model, brought to this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa.advisor.catalogue import Local
    from moa.config import Config

EXAMPLES = """

    moa models fetch medium               the model of [endpoints.medium], with serve = "llama.cpp"
    moa models fetch qwen3-4b             a model of: moa models list
    moa models fetch hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf

It comes from the Hugging Face hub, or from the mirror that $HF_ENDPOINT names; $HF_TOKEN is sent to
it where it is set. After Ctrl-C or a broken connection the same command goes on from where it was.
The file is kept in $MOA_CACHE, or the user's cache folder. Without a network, put a GGUF file
anywhere on this machine, and give its path: model = "FOLDER/FILE.gguf".
"""


def fetch_model(
    name: Annotated[
        str,
        typer.Argument(
            help="An endpoint, a model of the catalogue, or hf:OWNER/REPOSITORY/FILE.gguf.",
            metavar="NAME",
        ),
    ],
    *,
    config: options.ConfigFile = None,
) -> None:
    """Fetch the GGUF file of a model that runs in this machine, and check it by its SHA-256."""
    from rich.text import Text

    from moa.cli import screen
    from moa.cli.configuration import configured

    weights = _meant(configured(config), name)
    try:
        lines = _fetched(weights)
    except KeyboardInterrupt:
        screen.err().print("stopped: the same command goes on from there")
        raise
    console = screen.out()
    for line in lines:
        console.print(Text(line))


def _meant(config: Config, name: str) -> Local:
    """Find the weights that are asked for.

    Raises:
        ConfigError: there are none of this name, or somebody else serves them.
    """
    from pathlib import Path

    from moa.advisor.catalogue import BUILT_IN, local, models
    from moa.config import EMBEDDED, nearest
    from moa.errors import ConfigError
    from moa.tiers import weights_of

    if name == EMBEDDED:
        return local(BUILT_IN, folder=Path())
    if name in config.endpoints:
        if config.embeds(name):
            return weights_of(config, name)
        raise ConfigError(
            f"[endpoints.{name}] is asked over the network, and what serves it has weights of its "
            'own. Only those with serve = "llama.cpp" take a file of this machine'
        )
    if name.startswith("hf:") or name in models():
        return local(name, folder=Path())
    known = [*config.endpoints, *(it.name for it in models().values() if it.gguf)]
    raise ConfigError(
        f"{name!r} is no endpoint, no model of the catalogue, and no file of the hub, which is "
        f"written as hf:OWNER/REPOSITORY/FILE.gguf{nearest(name, known)}"
    )


def _fetched(weights: Local) -> list[str]:
    """Fetch them where they aren't there, and say what was done.

    Raises:
        ModelNotFound: they can't be had.
    """
    from moa.endpoints.weights import fetch, find_weights

    if weights.hub is None:
        there = weights.path.is_file()
        path = find_weights(weights.path).path
        return [f"already there: {path}" if there else f"fetched and checked: {path}"]
    done = fetch(weights.hub)
    if done.already:
        return [f"already there: {done.path}"]
    if done.sha256 is None:
        said = "not checked: neither the catalogue nor the hub says which SHA-256 it has to have"
    else:
        said = f"checked: its SHA-256 is {done.sha256}"
    return [f"fetched: {done.path}", said]
