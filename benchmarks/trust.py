"""What decisions can be trusted with: `python benchmarks/trust.py --data DIR`.

Each step writes its own section of docs/benchmarks.md, on rows that took no part in fitting.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import trust_bounds
import trust_calibration
import trust_learning
import trust_routing
from kept import Kept

STEPS = ("bounds", "learning", "calibration", "routing")


def main() -> None:
    sets = [target.name for target in trust_calibration.TARGETS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument(
        "--sets", nargs="+", choices=sets, default=sets, help="of the step calibration"
    )
    parser.add_argument(
        "--resume", type=Path, help="file that keeps what was measured, and is read again"
    )
    parser.add_argument(
        "--rows",
        type=int,
        help="a trial of calibration with so many labels, which writes no page",
    )
    parser.add_argument(
        "--scores",
        type=Path,
        help="of the step learning: the file of a model's scores, made by MOA_MODEL if missing",
    )
    given = parser.parse_args()
    if "bounds" in given.steps and given.rows is None:
        trust_bounds.run()
    if "learning" in given.steps and given.rows is None:
        trust_learning.run(given.scores, given.data)
    if given.data is None and not set(given.steps) <= {"bounds", "learning"}:
        raise SystemExit("give the folder of the sets by --data or $MOA_DATA")
    kept = Kept(given.resume)
    if "calibration" in given.steps:
        trust_calibration.run(given.data, kept, given.sets, few=given.rows)
    if "routing" in given.steps and given.rows is None:
        trust_routing.run(given.data, kept)


if __name__ == "__main__":
    main()
