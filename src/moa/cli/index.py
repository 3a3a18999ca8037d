"""moa index: documents as an index that is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from moa.documents.index import Index


def index(
    sources: Annotated[list[Path], typer.Argument(metavar="FOLDER|FILE…", help="What to read.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Write the index there.")],
    embedder: Annotated[
        str | None,
        typer.Option(
            "--embedder",
            metavar="NAME",
            help="Endpoint of moa.toml that turns texts into vectors, so that passages are found "
            "by meaning too; none: the built-in sentence encoder, where it is installed.",
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Make no vectors: find passages by words alone.")
    ] = False,
    passage_tokens: Annotated[
        int | None, typer.Option("--passage-tokens", min=1, help="Maximum tokens of a passage.")
    ] = None,
    config: options.ConfigFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Read documents into an index, or bring one up to date.

    Repeat it to read only new and changed files, and drop removed ones:

        moa index manuals --out manuals.index

    Ask it: put two lines into moa.toml, and `moa run rag` brings the index up to date by itself:

        [graphs.rag]
        documents = "manuals"
        index = "manuals.index"

        moa run rag --text "How do I change the filter?"

    It names unreadable files, with the reason, and continues.

    Exit codes: 0 all read, 1 some files could not be read, 2 usage or configuration, 130 stopped:
    files read so far stay in the index.

    Read a folder of text, Markdown, HTML and PDF files into an index:

        moa index manuals --out manuals.index
    """
    from moa.documents.index import MAX_TOKENS, Index

    index = Index(out, max_tokens=passage_tokens or MAX_TOKENS)
    with screen.waiting() as tell:
        changes = index.update(sources, progress=tell)
        if not words:
            asyncio.run(_embed(index, embedder, config, tell))
    for unread in changes.unread:
        screen.err().print(f"not read: {unread}")
    for note in changes.notes:
        screen.err().print(f"incomplete: {note}")
    summary = f"{changes.summary}: {len(index.passages())} passages in {index.path}"
    screen.details().print(summary)
    raise typer.Exit(1 if changes.unread else 0)


async def _embed(
    index: Index, embedder: str | None, config: Path | None, tell: Callable[[str], None]
) -> None:
    from moa.config.endpoints import Endpoints
    from moa.local.encoders import sentence_encoder

    async with Endpoints(options.load_config(config)) as endpoints:
        endpoint = endpoints.named(embedder) if embedder else sentence_encoder()
        if endpoint is not None:
            await index.vectors(
                index.passages(),
                endpoint,
                progress=lambda count, total: tell(f"vectors: {count} of {total} passages"),
            )
