"""How soon a cascade that learns notices that its inputs have changed, and how often it errs.

    python benchmarks/promise_drift.py --streams 100

What `moa.learning.looks` watches of each input is drawn: how long it is, its language,
whether the head accepts it, and how sure the head is of what it accepts. No model is asked.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from moa.decisions.drift import Drift, Value
from moa.learning.looks import TOLERANCE, round_confidence
from report import table, write

KNOWN, INPUTS = 200, 800
"""Held-out inputs that it compares with, and inputs that follow."""
Seen = Mapping[str, Value | None]


@dataclass(frozen=True)
class Kind:
    """Inputs of one kind."""

    longer: float = 1.0
    foreign: float = 0.02
    accepted: float = 0.95
    doubt: float = 6e-5
    """Mean of what the confidence in an accepted answer lacks."""

    def draw(self, rng: random.Random) -> Seen:
        """Draw what is watched of an input."""
        accepts = rng.random() < self.accepted
        sure = 1.0 - rng.expovariate(1.0) * self.doubt
        return {
            "length": float(round(self.longer * rng.lognormvariate(4.3, 0.7))),
            "language": rng.choice(["de", "es"]) if rng.random() < self.foreign else "en",
            "accepted": float(accepts),
            "accepted confidence": max(0.5, sure) if accepts else None,
        }


BEFORE = Kind()
CHANGES: tuple[tuple[str, float, Kind], ...] = (
    ("none", 1.0, BEFORE),
    ("too small to matter: confidences of .99993 in place of .99994", 1.0, Kind(doubt=7e-5)),
    ("too small to matter: texts a tenth longer", 1.0, Kind(longer=1.1)),
    ("too small to matter: one input in twenty of another kind", 0.05, Kind(3.0, 1.0, 0.2, 0.1)),
    ("half of the inputs of another kind", 0.5, Kind(3.0, 1.0, 0.2, 0.1)),
    ("texts twice as long", 1.0, Kind(longer=2.0)),
    ("seven in ten accepted, in place of 19 in 20", 1.0, Kind(accepted=0.7)),
    ("confidences of .97 in place of .99994", 1.0, Kind(doubt=0.03)),
    ("half of the inputs in another language", 1.0, Kind(foreign=0.5)),
)
AS_IS: Callable[[float], float] = float
WAYS = (
    ("any change, as before", 0.0, AS_IS),
    ("a change that matters", TOLERANCE, round_confidence),
)
TEXT = f"""## Changes that a cascade that learns notices

An alarm ends an epoch, and costs some 400 calls of the large model until the next promise. So it
takes a change of more than {100 * TOLERANCE:.0f} % of the inputs, and by a hundredth of a
confidence. Simulated: {KNOWN} inputs to compare with, then {INPUTS:,} that are changed from the
first one on. Of the streams, how many have an alarm, and after how many inputs in the median."""
HEAD = ("change", *(head for way, *_ in WAYS for head in (f"{way}: alarms", "after")))


def alarm(
    share: float, kind: Kind, tolerance: float, sure: Callable[[float], float], seed: int
) -> int | None:
    """Give the inputs until an alarm; `None`: there was none."""
    rng = random.Random(seed)

    def draw(kind: Kind) -> Seen:
        found = kind.draw(rng)
        how = found["accepted confidence"]
        return found if how is None else {**found, "accepted confidence": sure(float(how))}

    known = [draw(BEFORE) for _ in range(KNOWN)]
    values = {name: [v for one in known if (v := one[name]) is not None] for name in known[0]}
    drift = Drift.of(values, tolerance=tolerance, seed=seed)
    for number in range(1, INPUTS + 1):
        drift = drift.update(draw(kind if rng.random() < share else BEFORE))
        if drift.alarms:
            return number
    return None


def main() -> None:
    """Run all changes, and write what was noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100, help="of each change")
    given = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    for says, share, kind in CHANGES:
        row: list[object] = [says]
        for _, tolerance, sure in WAYS:
            found = [alarm(share, kind, tolerance, sure, seed) for seed in range(given.streams)]
            after = [one for one in found if one is not None]
            row += [len(after), f"{np.median(after):.0f}" if after else "-"]
        rows.append(tuple(row))
        print(rows[-1], flush=True)
    command = f"python benchmarks/promise_drift.py --streams {given.streams}"
    write("promise drift", command, f"{TEXT}\n\n{table(HEAD, rows)}")


if __name__ == "__main__":
    main()
