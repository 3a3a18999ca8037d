"""What every test runs under."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

_SETTINGS = ("MOA_CONFIG", "OPENAI_API_KEY", "OPENAI_BASE_URL", "GEMINI_API_KEY")


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start, also where the whole run was started to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for by its mark."""
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test sees no configuration and no key of the machine it runs on."""
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    yield
    assert "OPENAI_API_KEY" not in os.environ
