"""The money of a run: rows whose server never answers, and may bill, stop at the limit too."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import told, written
from counting import serving

PRICED = """\
[endpoints.large]
tier = "llm"
model = "m"
base_url = "{url}"
input_price = 1.0
output_price = 10.0
"""
ROWS, LIMIT = 12, 0.02


@pytest.mark.parametrize("into", [("--out", "out.jsonl"), ("--job", "job")], ids=["file", "job"])
def test_a_run_whose_gateway_always_gives_up_ends_at_its_budget(
    into: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = written("in.jsonl", ({"text": f"row {number}"} for number in range(ROWS)))
    with serving(status=504) as (url, asked):
        Path("moa.toml").write_text(PRICED.format(url=url))
        words = ("run", "generator", rows, *into, "--budget-usd", str(LIMIT))
        said = told(*words, "--concurrency", "1", leaves=1)
    assert 1 <= asked.total() <= LIMIT / 0.004
    assert "budget" in said.words
