"""Whether choosing and mixing pay at one budget: `python benchmarks/mixing.py --data DIR`.

Each step writes its own section of docs/benchmarks.md; with fewer `--rows` it only prints.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import mixing_embedded
import mixing_simulated

ROWS = {"embedded": 30, "simulated": 200}
"""Rows of a step; with fewer it is a trial."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--steps", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rows", type=int, help="fewer, for a trial that writes nothing")
    given = parser.parse_args()
    if "embedded" in given.steps and given.data is None:
        raise SystemExit("give the folder of the sets by --data or $MOA_DATA")
    steps: dict[str, Callable[[int, bool], None]] = {
        "embedded": lambda rows, write: mixing_embedded.run(given.data, rows, write=write),
        "simulated": lambda rows, write: mixing_simulated.run(rows, write=write),
    }
    for step in given.steps:
        rows = min(given.rows or ROWS[step], ROWS[step])
        steps[step](rows, rows == ROWS[step])


if __name__ == "__main__":
    main()
