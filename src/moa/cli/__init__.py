"""The command line: parses, calls, prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

USAGE = 2
"""Exit code for usage or configuration."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, and leave with its exit code.

    Args:
        args: Words after `moa`; `None` takes them from the process.
    """
    from moa.cli.app import app
    from moa.cli.screen import plain_streams
    from moa.core.errors import MoaError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few letters
    with plain_streams():
        try:
            app(args)
        except MoaError as error:
            print(f"moa: {error}", file=sys.stderr)  # noqa: T201
            sys.exit(USAGE)
        except KeyboardInterrupt:
            sys.exit(130)
