"""NVIDIA: the library that tells of its GPUs."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def nvidia() -> tuple[Any, int]:
    """Start the library, and count the GPUs that the driver knows.

    It stays started for as long as the process lives: what was read may be read again.

    Returns:
        `pynvml`, and the count; 0 where there is no driver, or the package is not installed.
    """
    try:
        library: Any = import_module("pynvml")
    except ImportError:
        return None, 0
    try:
        library.nvmlInit()
        return library, library.nvmlDeviceGetCount()
    except library.NVMLError:
        return library, 0
