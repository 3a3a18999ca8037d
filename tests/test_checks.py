"""The checks of `moa doctor`: the packages of the extra, as the package's metadata has them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from moa.cli.checks import DOES, checks, optional


def test_every_package_of_the_extra_is_said_to_be_for_something() -> None:
    assert [requirement.name for requirement in optional()] == sorted(DOES)


async def test_a_package_that_is_missing_or_too_old_is_told_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "ftfy":
            raise PackageNotFoundError(name)
        return "0.1" if name == "termaid" else "9999.0"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moa.cli.checks.version", version)
    found = {check.name.split()[0]: check for check in await checks(None)}
    assert (found["ftfy"].passed, found["ftfy"].found) == (False, "not installed")
    assert (found["termaid"].passed, found["termaid"].found) == (False, "0.1, and >=0.10 is needed")
    assert found["termaid"].mend == 'Run: pip install "mixture-of-agents[local]"'
    assert found["numpy"].passed


async def test_a_variable_that_nothing_reads_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOA_CONFG", "other.toml")
    await checks(None)
    assert capsys.readouterr().err.count("MOA_CONFG") == 1
