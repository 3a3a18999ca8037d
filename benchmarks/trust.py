"""What decisions can be trusted with: `python benchmarks/trust.py --data DIR`.

Each step writes its own section of docs/benchmarks.md, on rows that took no part in fitting.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import trust_calibration
import trust_routing

STEPS = ("calibration", "routing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--sets", nargs="+", help="of the step calibration; all by default")
    parser.add_argument("--kept", type=Path, default=Path("trust.json"), help="to go on from")
    given = parser.parse_args()
    if given.data is None:
        raise SystemExit("give the folder of the sets by --data or $MOA_DATA")
    if "calibration" in given.steps:
        names = given.sets or [target.name for target in trust_calibration.TARGETS]
        trust_calibration.run(given.data, given.kept, names)
    if "routing" in given.steps:
        trust_routing.run(given.data, given.kept)


if __name__ == "__main__":
    main()
