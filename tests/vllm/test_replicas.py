"""Two servers behind one name, of which one is killed under load: no row fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import tomlkit

from moa.config import load

from .conftest import CONFIG
from .messages import messages
from .test_restart import ALONE, lines, listener

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(1800)]


def free_pair() -> int:
    """Find two neighbouring ports on which nothing listens."""
    taken = {one.laddr.port for one in psutil.net_connections("tcp") if one.laddr}
    return next(port for port in range(18100, 19000, 2) if not {port, port + 1} & taken)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Serve the small model twice behind one name; give the configuration and the first port."""
    tables = tomlkit.parse(Path(CONFIG).read_text("utf-8")).unwrap()
    small, port = tables["endpoints"]["small"], free_pair()
    small["vllm"] = {**small["vllm"], "port": port, "replicas": 2}
    small["vllm"].pop("lora", None)
    small["model"] = load(Path(CONFIG)).endpoints["small"].model
    folder = Path(CONFIG).parent / small["model"]  # as `.ci/vllm` puts it beside its file
    config = tmp_path / "moa.toml"
    config.write_text(tomlkit.dumps({"tiers": {"slm": "small"}, "endpoints": {"small": small}}))
    if folder.is_dir():
        (tmp_path / small["model"]).symlink_to(folder)
    command = [sys.executable, "-m", "moa"]
    subprocess.run([*command, "up", "--config", str(config)], check=True, timeout=1500)
    yield config, port
    subprocess.run([*command, "down", "--config", str(config)], check=True, timeout=60)


def test_a_replica_that_is_killed_under_load_fails_no_row(
    pair: tuple[Path, int], tmp_path: Path
) -> None:
    config, port = pair
    texts = [message.text for message in messages() if message.text]
    given, out, graph = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "alone.py"))
    rows = [{"id": f"item-{n}", "text": text[:300]} for n, text in enumerate(texts * 2)]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    graph.write_text(ALONE, encoding="utf-8")
    words = ["run", f"{graph}:graph", str(given), "--config", str(config), "--out", str(out)]
    run = subprocess.Popen(
        [sys.executable, "-m", "moa", *words, "--concurrency", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(lines(out)) < len(rows) // 8:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    killed_at = len(lines(out))
    server = listener(port + 1)
    os.killpg(os.getpgid(server.pid), signal.SIGKILL)
    _, err = run.communicate(timeout=900)
    found = lines(out)
    assert run.returncode == 0, err
    assert {line["id"] for line in found} == {row["id"] for row in rows}
    assert len(found) == len(rows)
    assert {line["status"] for line in found} == {"answered"}
    moved = sum("to another replica" in json.dumps(line["trace"]) for line in found)
    asked = Counter(name for line in found for name in cast("Any", line["usage"])["by_endpoint"])
    print(  # noqa: T201
        f"{len(found)} rows, none failed; one of two servers killed after {killed_at}; "
        f"{moved} rows moved to the other; rows by server: {dict(asked)}"
    )
    assert moved > 0
    assert len(asked) == 2
