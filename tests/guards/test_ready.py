"""Guards named in moa.toml stand around the ready graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from moa.config import load
from moa.config.endpoints import Endpoints
from moa.errors import ConfigError, WiringError
from moa.graphs.loading import load_graph
from moa.guards.guarded import Guarded
from moa.guards.injection import Injection
from moa.guards.pii import Pii


def endpoints(tmp_path: Path, text: str) -> Endpoints:
    file = tmp_path / "moa.toml"
    file.write_text(text)
    return Endpoints(load(file))


async def test_a_ready_graph_is_guarded_as_its_table_says(tmp_path: Path) -> None:
    text = '[graphs.generator]\nguards = ["pii", "injection"]\n[graphs.pii]\ndeny = ["Falcon"]\n'
    async with endpoints(tmp_path, text) as configured:
        node = load_graph("generator", configured)
    assert isinstance(node, Guarded)
    assert node.name == "generator"
    (mask,) = node.before
    assert isinstance(mask, Pii)
    assert [finding.kind for finding in mask.find("project falcon")] == ["PRIVATE"]
    (beside,) = node.beside
    assert isinstance(beside, Injection)


async def test_places_can_be_chosen(tmp_path: Path) -> None:
    text = '[graphs.generator]\nguards = { before = ["injection"], after = ["pii"] }\n'
    async with endpoints(tmp_path, text) as configured:
        node = load_graph("generator", configured)
    assert isinstance(node, Guarded)
    assert [guard.name for guard in (*node.before, *node.after)] == ["injection", "pii"]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ('["sentry"]', ConfigError, "sentry"),
        ('["sentiment"]', WiringError, "Verdict"),
        ('{ behind = ["pii"] }', ConfigError, "behind"),
        ('{ beside = ["pii"] }', WiringError, "before"),
    ],
)
async def test_what_is_no_guard_is_refused(
    tmp_path: Path, given: str, error: type[Exception], said: str
) -> None:
    async with endpoints(tmp_path, f"[graphs.generator]\nguards = {given}\n") as configured:
        with pytest.raises(error, match=said):
            load_graph("generator", configured)
