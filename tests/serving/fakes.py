"""Fake: a stand-in for vLLM, in a real process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import psutil

from moa.config import read
from moa.config.trust import trust
from moa.vllm.command import ServerSpec, specs_of
from moa.vllm.endpoint import free_port
from moa.vllm.settings import VLLMConfig

FAKE = Path(__file__).parent / "fake"


class Started(TypedDict):
    """What a server was started with."""

    argv: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class Fake:
    """The stand-in: what it is to do at each start, and what it was started with."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(FAKE), "FAKE_FOLDER": str(self.folder)}

    def plans(self, *plans: dict[str, object]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(plans))

    @property
    def started(self) -> Started:
        return json.loads((self.folder / "started.json").read_text())

    @property
    def starts(self) -> int:
        file = self.folder / "starts"
        return file.stat().st_size if file.exists() else 0

    @property
    def pids(self) -> list[int]:
        """Of all servers, and the engines that they started."""
        return [int(pid) for pid in (self.folder / "pids").read_text().split()]

    def left(self) -> list[int]:
        return [pid for pid in self.pids if _lives(pid)]

    def spec(self, **changes: object) -> ServerSpec:
        config = VLLMConfig(port=free_port(), python=sys.executable, env=self.env)
        (spec,) = specs_of("small", "Qwen/Qwen3-0.6B", config, base=self.folder)
        return spec.model_copy(update={"first_wait_s": 0.01, "grace_s": 2.0, **changes})

    def configured(self, port: int) -> str:
        """Write down an endpoint that this serves, as `moa.toml` does."""
        env = ", ".join(f'{name} = "{value}"' for name, value in self.env.items())
        return (
            '[endpoints.small]\ntier = "slm"\nmodel = "Qwen/Qwen3-0.6B"\nserve = "vllm"\n'
            f'[endpoints.small.vllm]\nport = {port}\npython = "{sys.executable}"\n'
            f"env = {{ {env} }}\n"
        )


def trusted(text: str) -> None:
    """Write `moa.toml` into the current folder, and trust it, as its user would."""
    file = Path("moa.toml")
    file.write_text(text)
    trust(*read(file, variables=False))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Look at what other processes do until it is so; they tell in no other way."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come to be so in time"
        time.sleep(0.02)
