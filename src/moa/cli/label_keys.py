"""Label keys: a person labels texts, one key a label."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moa.cli import screen
from moa.cli.label_file import LabelFile, Unlabelled

if TYPE_CHECKING:
    from moa._terminal import Console
    from moa.calibration.active_learning import Pick
    from moa.calibration.file import Calibration

PERSON = "person"
DONE, NOTHING, STOPPED = 0, 1, 130
KEYS = "123456789abcdefghijklmnopqrstuvwxyz0ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&()*+,-./:;<=>?@[]_{|}"
"""One for each label, in their order: enough for 87."""
_SKIP, _BACK, _END, _STOP = " ", "\x7f\b", "\r\n", "\x03"


def by_keys(
    made: Calibration, rows: Sequence[Unlabelled], picks: Sequence[Pick], file: LabelFile
) -> int:
    """Show one text after another, and write the label whose key is pressed; the exit code.

    Raises:
        ConfigError: there are more labels than keys, or the file can't be written.
    """
    from moa.errors import ConfigError

    console = screen.err()
    keys = dict(zip(KEYS, made.labels, strict=False))
    if len(keys) < len(made.labels):
        raise ConfigError(
            f"{len(made.labels)} labels are more than there are keys ({len(KEYS)}): let the large "
            "model label by --by-llm"
        )
    if not picks:
        console.print("all texts are labelled already")
        return DONE
    console.print(made.question.text, style="bold")
    code = _labelled(console, keys, rows, picks, file)
    console.print(f"\n{file.added} labelled into {file.path}")
    return code if file.added or code == STOPPED else NOTHING


def _labelled(
    console: Console,
    keys: dict[str, str],
    rows: Sequence[Unlabelled],
    picks: Sequence[Pick],
    file: LabelFile,
) -> int:
    place, labelled = 0, list[int]()
    while place < len(picks):
        row = rows[picks[place].place]
        _show(console, keys, row.text, f"{place + 1} of {len(picks)}")
        key = _key()
        if not key or key in _END:
            return DONE
        if key == _STOP:
            return STOPPED
        if key in _BACK:
            if labelled:
                place = labelled.pop()
                file.take_back()
        elif key == _SKIP:
            place += 1
        elif key in keys:
            file.label(row, keys[key], by=PERSON, chosen=picks[place].chosen)
            labelled.append(place)
            place += 1
    return DONE


def _show(console: Console, keys: dict[str, str], text: str, where: str) -> None:
    from rich.text import Text

    console.rule(where)
    console.print(text)
    console.print(Text("  ".join(f"{key} {name}" for key, name in keys.items()), "bold"))


def _key() -> str:
    """Wait for one key; empty where no more will come."""
    import typer

    if not sys.stdin.isatty():
        return sys.stdin.read(1)
    try:
        return typer.getchar()
    except KeyboardInterrupt:
        return _STOP
    except EOFError:
        return ""
