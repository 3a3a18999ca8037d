"""The Universal Sentence Encoder, made ready from a file of `moa`'s cache folder."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from moa.local.encoders import UniversalEncoder
from moa.local.universal import load_universal

pytestmark = pytest.mark.skipif(UniversalEncoder.missing() is not None, reason="not installed")
TEXTS = [
    "Where is my parcel?",
    "W\uff4f ist mein Paket?! \n\t 5€",
    "我的包裹在哪里",
    "e\u0301 \ufdfa \0 ▁",
]


@pytest.fixture(name="cache")
def cache_(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOA_VECTORS", "1")
    return tmp_path / "cache"


def loaded() -> Any:
    """Load it, and wait until its file is written."""
    encoder = load_universal()
    for thread in threading.enumerate():
        if thread.name == "moa universal":
            thread.join()
    return encoder


def test_what_is_kept_encodes_as_the_package_does_and_a_damaged_file_is_made_anew(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = loaded().encode(TEXTS)
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    whole = file.read_bytes()
    caplog.set_level(logging.INFO, "moa.local.universal")
    assert (loaded().encode(TEXTS) == expected).all()
    assert not caplog.records, "the second is loaded from the file"
    lacks = whole.replace(b'"_prefixes"', b'"_suffixes"', 1)
    for damaged in (whole[:-64], lacks):
        file.unlink()
        file.write_bytes(damaged)
        assert loaded().encode(TEXTS[:1])[0].tolist() == pytest.approx(
            expected[0].tolist(), abs=1e-6
        )
        assert file.read_bytes() == whole


@pytest.mark.parametrize("wish", ["0", "1"])
def test_where_nothing_may_be_kept_the_package_is_read(
    wish: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_VECTORS", wish)
    if wish == "1":
        cache.write_text("a file stands where the folder would be made")
    assert loaded().encode(TEXTS).shape == (len(TEXTS), 512)
    assert not cache.is_dir()
