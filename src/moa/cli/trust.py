"""moa trust: trust in configurations that were found and not named."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from moa.cli import options, screen
from moa.core.errors import ConfigError


def trust(
    file: Annotated[
        Path | None,
        typer.Argument(help="Configuration; else $MOA_CONFIG, else ./moa.toml.", metavar="FILE"),
    ] = None,
    *,
    yes: options.Agree = False,
    every: Annotated[bool, typer.Option("--list", help="List the files that are trusted.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Trust the file no longer.")] = False,
) -> None:
    """Trust a configuration, after showing what in it needs trust.

    A moa.toml found in the working directory may come from anybody. Until you trust it, commands
    refuse it if it has code (FILE.py:OBJECT), a program, arguments or variables of vLLM, paths
    outside its folder, texts to hosts other than this machine and known vendors, or a vendor's key
    for another host. A file that you name, by --config or $MOA_CONFIG, needs no trust. This command
    runs nothing of the file.

    Trust ends when the file changes, a FILE.py that it names, or a module that this imports from
    its own folder or the project's. Installed packages and what code loads in other ways aren't
    checked. --yes shows the file and doesn't ask. Commands that write into a trusted moa.toml, such
    as moa models add, keep it trusted.

    Exit codes: 0 trusted, or nothing in it needs trust; 1 not trusted; 2 usage, or no such file.

        moa trust                             show ./moa.toml, and ask
        moa trust --yes                       in a script
        moa trust --list
        moa trust --revoke moa.toml
    """
    from moa.config import find

    if every:
        _list()
        return
    if file is not None and not file.is_file() and not revoke:
        raise ConfigError(f"there is no file {str(file)!r}")
    file = file or find()
    if file is None:
        raise ConfigError("there is no ./moa.toml. Name the file: moa trust FILE")
    if revoke:
        from moa.config.trust import revoke as forget

        was = forget(file)
        screen.results_console().print(
            f"{file} {'is trusted no longer' if was else 'was not trusted'}"
        )
    elif not _ask_about(file, yes=yes):
        raise typer.Exit(1)


def _ask_about(file: Path, *, yes: bool) -> bool:
    """Show what needs trust, and keep that it has it if the user agrees."""
    from moa.config import read
    from moa.config.trust import modules_of, needs
    from moa.config.trust import trust as keep

    config, data = read(file, variables=False)
    file_needs, console = needs(config), screen.results_console()
    if not file_needs:
        console.print(f"{file} does nothing that needs trust")
        return True
    console.print(f"{file} does what needs trust:")
    for need in file_needs:
        console.print(f"  {need}")
    for module in modules_of(config):
        console.print(f"  imports {str(module)!r}")
    if not yes and not _agrees(file):
        console.print("not trusted: nothing was changed")
        return False
    try:
        keep(config, data)
    except OSError as error:
        raise ConfigError(f"that it is trusted can't be kept: {error}") from error
    console.print(f"trusted, until it changes. No longer: moa trust --revoke {_quote(file)}")
    return True


def _agrees(file: Path) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(
            f"nobody is there to be asked. If you trust it: moa trust {_quote(file)} --yes"
        )
    return typer.confirm(f"Do you trust {file}?")


def _list() -> None:
    from moa.config.trust import entries

    rows = [(str(entry.file), entry.state) for entry in entries()]
    console = screen.results_console()
    console.print(screen.make_table(("file", "state"), rows) if rows else "no file is trusted")


def _quote(file: Path) -> str:
    return shlex.quote(str(file))
