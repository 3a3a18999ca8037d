"""Writes what a benchmark found into its section of a page, docs/benchmarks.md by default."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from sections import Stamp, commit_here, files_here, modules_of, section_of

COMMIT, FILES = commit_here(), files_here()
"""Those of the code that is measured: as it was when the benchmark was started."""
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Each section is written by the command it names, and `python benchmarks/all.py` runs them all. A
section is *of older code* where modules that it measures have changed since. Figures are medians
over repeats in one run; ratios travel between machines, absolute times don't.
"""


def machine() -> str:
    """Name the machine: processor, cores in use, memory, system, Python."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        cpu = found[1]
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu}, {cores} {'core' if cores == 1 else 'cores'}, {memory_gib:.0f} GiB, no GPU, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def verdict(value: float, way: str, target: float, aim: float) -> str:
    """Say whether a figure reaches its target, and its aim; `way` is `at most` or `at least`."""

    def within(goal: float) -> bool:
        return value <= goal if way == "at most" else value >= goal

    return "aim reached" if within(aim) else "target reached" if within(target) else "**missed**"


def write(section: str, command: str, body: str, *, page: Path = PAGE) -> None:
    """Replace a section of a page, or append it, and say of which code it is."""
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    today = datetime.date.today().isoformat()
    ran = f"`{command}`, {today}, on {machine()}."
    code = Stamp(COMMIT, modules_of(section_of(section), FILES))
    text = f"{begin}{code}\n\n{ran}\n\n{body.strip()}\n\n{end}"
    whole = page.read_text() if page.exists() else HEAD
    if begin in whole:
        before, _, rest = whole.partition(begin)
        whole = before + text + rest.partition(end)[2]
    else:
        whole = f"{whole.rstrip()}\n\n{text}\n"
    page.parent.mkdir(exist_ok=True)
    page.write_text(whole)
    print(f"wrote the section {section!r} of {page.name}")
