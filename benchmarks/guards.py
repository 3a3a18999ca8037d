"""What the guards stop, and what passes: `python benchmarks/guards.py --data DIR`.

Each step writes its own section of docs/benchmarks.md. Nothing was fitted to these sets: the rules
were written, and the threshold set, before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

import guards_injection
import guards_lines
import guards_spam
from moa import EmbeddedEndpoint

STEPS = ("injection", "spam", "lines")


async def run(data: Path, steps: list[str], *, rows: int | None, write: bool) -> None:
    async with EmbeddedEndpoint(timeout_s=600) as slm:
        if "injection" in steps:
            await guards_injection.run(slm, data, rows=rows, writes=write)
        if "spam" in steps:
            await guards_spam.run(slm, data, rows=rows, writes=write)
        if "lines" in steps:
            await guards_lines.run(slm, data, rows=rows or guards_lines.ROWS, writes=write)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--rows", type=int, help="of each set; for a try, which writes nothing")
    given = parser.parse_args()
    if given.data is None:
        raise SystemExit("give the folder of the sets by --data or $MOA_DATA")
    asyncio.run(run(given.data, given.steps, rows=given.rows, write=given.rows is None))


if __name__ == "__main__":
    main()
