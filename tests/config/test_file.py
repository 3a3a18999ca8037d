"""Writing `moa.toml`: one endpoint is added, and nothing else changes."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moa.config import load
from moa.config.file import write_endpoint
from moa.core.errors import ConfigError

TABLE = {"tier": "slm", "model": "org/model", "serve": "vllm", "vllm": {"port": 8001}}
WRITTEN = """# mine
[endpoints.large]   # the good one
tier = "llm"
model = "gpt-4o"  # keep

[tiers]
llm = "large"

[graphs.support]
company = "Northwind"  # ours
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "moa.toml"
    path.write_text(WRITTEN)
    return path


def test_a_missing_file_is_made(tmp_path: Path) -> None:
    path = write_endpoint(tmp_path / "moa.toml", "small", TABLE)
    assert path.read_text() == (
        '[endpoints.small]\ntier = "slm"\nmodel = "org/model"\nserve = "vllm"\n\n'
        "[endpoints.small.vllm]\nport = 8001\n"
    )
    assert load(path).served_endpoints["small"].vllm.port == 8001


def test_without_a_path_it_is_the_file_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_endpoint(None, "small", TABLE)
    assert load().endpoints["small"].model == "org/model"
    monkeypatch.setenv("MOA_CONFIG", str(tmp_path / "other.toml"))
    assert write_endpoint(None, "small", TABLE) == tmp_path / "other.toml"


def test_every_line_and_comment_stays_as_it_was(file: Path) -> None:
    write_endpoint(file, "small", TABLE)
    assert file.read_text().startswith(WRITTEN)
    assert set(load(file).endpoints) == {"large", "small"}


def test_an_endpoint_is_not_overwritten_unasked(file: Path) -> None:
    with pytest.raises(ConfigError, match="'large'"):
        write_endpoint(file, "large", TABLE)
    assert file.read_text() == WRITTEN


def test_an_overwritten_endpoint_stays_in_its_place(file: Path) -> None:
    write_endpoint(file, "large", TABLE, overwrite=True)
    written = file.read_text()
    assert load(file).endpoints["large"].model == "org/model"
    assert written.startswith("# mine\n[endpoints.large]")
    assert 'company = "Northwind"  # ours' in written
    assert list(tomllib.loads(written)) == ["endpoints", "tiers", "graphs"]


def test_tables_come_after_plain_values(tmp_path: Path) -> None:
    table = {"vllm": {"args": ("--seed", "1")}, "tier": "slm", "model": "m", "serve": "vllm"}
    path = write_endpoint(tmp_path / "moa.toml", "small", table)
    assert load(path).served_endpoints["small"].vllm.args == ("--seed", "1")


@pytest.mark.parametrize("name", ["", "embedded", "a.b", "two words", "[x]"])
def test_a_name_that_can_not_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        write_endpoint(tmp_path / "moa.toml", name, TABLE)
    assert not list(tmp_path.iterdir())


def test_what_the_configuration_would_not_take_is_not_written(file: Path) -> None:
    with pytest.raises(ConfigError, match="'modell'"):
        write_endpoint(file, "small", {"tier": "slm", "model": "m", "modell": "m"})
    assert file.read_text() == WRITTEN
    assert [path.name for path in file.parent.iterdir()] == ["moa.toml"]


ONE_LINE = 'endpoints = { large = { tier = "llm", model = "gpt-4o" } }\n'
TOO_DEEP = f"{WRITTEN}\n[graphs.x]\ny = {'[' * 200}{']' * 200}\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        pytest.param("large", "[endpoints\n", "is not valid TOML", id="no TOML"),
        pytest.param("large", TOO_DEEP, "can't be added to by moa", id="nested too deep"),
        pytest.param("large", ONE_LINE, r"(?s)by hand:\n\[endpoints\.large\]", id="in one line"),
        pytest.param("small", ONE_LINE, r"(?s)by hand:\n\[endpoints\.small\]", id="beside one"),
    ],
)
def test_what_cannot_be_added_to_is_left_alone(file: Path, name: str, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        write_endpoint(file, name, TABLE, overwrite=True)
    assert file.read_text() == text


def test_a_default_of_a_tier_is_written_with_it(tmp_path: Path) -> None:
    path = write_endpoint(tmp_path / "moa.toml", "small", TABLE, tiers={"slm": "small"})
    assert path.read_text().endswith('[tiers]\nslm = "small"\n')
    assert load(path).default_of("slm") == "small"


def test_a_default_goes_into_the_tiers_that_are_there(file: Path) -> None:
    write_endpoint(file, "small", TABLE, tiers={"slm": "small"})
    assert load(file).tiers.model_dump() == {"slm": "small", "llm": "large"}
    assert 'company = "Northwind"  # ours' in file.read_text()


def test_a_full_disk_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_endpoint(file, "small", TABLE)
    assert file.read_text() == WRITTEN
    assert [path.name for path in file.parent.iterdir()] == ["moa.toml"]


def test_a_link_stays_a_link_and_rights_stay_as_they_are(file: Path) -> None:
    file.chmod(0o600)
    link = file.parent / "link.toml"
    link.symlink_to(file)
    write_endpoint(link, "small", TABLE)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "small" in load(file).endpoints


NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True).filter(lambda n: n != "embedded")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None
)
@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True), model=TEXTS, again=TEXTS)
def test_any_endpoints_are_read_back_as_they_were_written(
    tmp_path: Path, names: list[str], model: str, again: str
) -> None:
    path = tmp_path / "moa.toml"
    path.unlink(missing_ok=True)
    for number, name in enumerate(names):
        write_endpoint(path, name, {**TABLE, "model": model, "vllm": {"port": 8000 + number}})
    write_endpoint(
        path, names[0], {**TABLE, "model": again, "vllm": {"port": 9000}}, overwrite=True
    )
    found = load(path).endpoints
    assert list(found) == names
    assert [found[name].model for name in names] == [again, *[model] * (len(names) - 1)]
