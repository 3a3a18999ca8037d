"""Files that commands write: they are looked at before anything else is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from command import moa
from disks import room

from moa.cli.screen import check_target, write_text
from moa.core._files import replace_text
from moa.core.errors import ConfigError

COMMANDS = {
    "learn": ("learn", "no.jsonl", "--task", "Spam?", "--out"),
    "learn-graph": ("learn", "no.jsonl", "--graph", "support", "--out"),
    "recheck": ("learn", "no.jsonl", "--recheck", "no.json", "--out"),
    "eval": ("eval", "no.json", "no.jsonl", "--report"),
    "compare-report": ("compare", "no.jsonl", "--report"),
    "compare-plot": ("compare", "no.jsonl", "--plot"),
    "route-fit": ("route", "fit", "no.jsonl", "--out"),
    "route-eval": ("route", "eval", "no.json", "no.jsonl", "--report"),
    "route-eval-plot": ("route", "eval", "no.json", "no.jsonl", "--plot"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_file_that_can_t_be_written_is_told_before_the_work(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows aren't even there, and nobody has looked for them yet."""
    assert moa(*words, "missing/x.png") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{words[-1]} " in said
    assert "missing/x.png can't be written: there is no folder" in said


def test_a_plot_of_another_kind_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moa("compare", "no.jsonl", "--plot", "r.pdf")
    assert "ending in .png or .svg" in " ".join(capsys.readouterr().err.split())


def test_a_folder_is_no_file_and_what_can_be_written_is_left_as_it_is() -> None:
    with pytest.raises(ConfigError, match="can't be written"):
        check_target("--out", Path())
    Path("there.json").write_text("{}")
    for name in ("there.json", "new.json"):
        check_target("--out", Path(name))
    assert Path("there.json").read_text() == "{}"
    assert not Path("new.json").exists()
    with pytest.raises(ConfigError, match="can't be written"):
        check_target("--out", Path("x" * 300))


def shown(file: Path) -> None:
    write_text("--json", file, "x" * 200)


def test_a_full_disk_leaves_what_was_there_and_nothing_else() -> None:
    Path("there.json").write_text("old")
    for name in ("there.json", "new.json"):
        with pytest.raises(ConfigError, match=rf"{name} can't be written: "), room(100):
            shown(Path(name))
    assert list(Path().iterdir()) == [Path("there.json")]
    assert Path("there.json").read_text() == "old"


def test_what_models_wrote_is_its_owner_s_alone_and_other_files_are_as_usual() -> None:
    replace_text(Path("kept.json"), "x")
    shown(Path("shown.json"))
    shown(Path("kept.json"))
    modes = [stat.S_IMODE(Path(name).stat().st_mode) for name in ("kept.json", "shown.json")]
    assert modes == [0o600, 0o666 & ~umask()]


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_a_link_is_followed_and_a_device_is_written_to() -> None:
    Path("link.json").symlink_to("there.json")
    shown(Path("link.json"))
    assert Path("link.json").is_symlink()
    assert Path("there.json").read_text() == "x" * 200
    shown(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()
