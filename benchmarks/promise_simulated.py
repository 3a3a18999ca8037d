"""What a cascade that learns keeps of its promise, on simulated streams that are built to break it.

    python benchmarks/promise_simulated.py --streams 100 --kept FILE

Vectors are drawn, a large model labels them, a head is fitted (a Gaussian for each label), and the
coin, the looks, their thresholds and the audit are those of `moa.learning.epochs`. The true
risk of each head that was used is measured on 8,000 further inputs. No model is asked. What is
found is kept in a file, so that it can be stopped and gone on with.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kept import Kept
from moa.decisions.audit import Audit
from moa.decisions.guarantee import upper_bound
from moa.learning.epochs import (
    LOOKS,
    RISK,
    Coin,
    HeldOutRows,
    Side,
    count_due,
    find_distinct,
    judge_head,
    level_of,
    propose,
    start_audit,
)
from report import table, write

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
ROWS, POOL = 4000, 8000


@dataclass(frozen=True)
class World:
    """Where inputs come from, and how the large model answers them."""

    name: str
    says: str
    labels: int = 6
    parts: int = 10
    apart: float = 2.0
    """How far the means of two labels are apart, in standard deviations of an input."""
    rare: float = 0.0
    """Share of the first label where it is given; the others share the rest."""
    noise: float = 0.0
    """Share of inputs to which the large model gives any label, wherever they lie."""
    texts: int = 0
    """Different texts there are, which come as often as Zipf says; 0: each comes once."""
    burst: int = 0
    """Longest run of near-copies; 0: none."""
    fails: float = 0.0
    """Share of calls that fail, of those alone in which the head would differ."""
    others: bool = False
    """Whether the first label says that another decision differs, so that it is never accepted."""
    turns_at: int = 0
    """Row from which on the large model calls one label by another's name; 0: none."""


WORLDS = (
    World("clear", "ten labels far apart", labels=10, apart=4.5),
    World("close", "labels that are nearer", apart=3.5),
    World("blurred", "labels that overlap", labels=4, apart=2.5),
    World("edge", "6 % of the answers are drawn by lot, wherever", apart=6.0, noise=0.072),
    World("just above", "5.2 % are", apart=6.0, noise=0.0624),
    World("rare", "one label in fifty, and it overlaps", labels=2, rare=0.02, apart=1.5),
    World("rare, hidden", "the same, 6 % and hardly told", labels=2, rare=0.06, apart=0.6),
    World("copies", "400 texts, the frequent ones often", apart=3.2, texts=400),
    World(
        "drawn copies",
        "2,000 texts, and 4 % of answers drawn by lot",
        apart=4.5,
        texts=2000,
        noise=0.05,
    ),
    World("bursts", "runs of up to 20 near-copies", apart=3.2, burst=20),
    World(
        "several decisions",
        "for one input in eight another decision differs",
        rare=0.12,
        apart=3.5,
        others=True,
    ),
    World("failures", "calls fail where the head differs", apart=4.0, fails=0.5),
    World(
        "turn", "at row 1,500 one label takes another's name", apart=4.5, labels=6, turns_at=1500
    ),
)


class Inputs:
    """Draws of a world."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        means = rng.normal(size=(world.labels, world.parts))
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        self.means = means * world.apart
        self.shares = np.full(world.labels, 1.0 / world.labels)
        if world.rare:
            self.shares = np.full(world.labels, (1 - world.rare) / (world.labels - 1))
            self.shares[0] = world.rare
        if world.texts:
            self.table = self._fresh(world.texts)
            weights = 1.0 / np.arange(1, world.texts + 1)
            self.weights = weights / weights.sum()

    def _fresh(self, n: int) -> tuple[Floats, Ints]:
        label = self.rng.choice(self.world.labels, size=n, p=self.shares)
        return self.means[label] + self.rng.normal(size=(n, self.world.parts)), label

    def draw(self, n: int) -> tuple[Floats, Ints, Ints]:
        """Vectors, the large model's answers, and which text each is."""
        world, rng = self.world, self.rng
        texts = np.arange(n)
        if world.texts:
            texts = rng.choice(world.texts, size=n, p=self.weights)
            x, y = self.table[0][texts], self.table[1][texts]
        elif world.burst:
            runs = rng.integers(1, world.burst + 1, size=n)
            which = np.repeat(np.arange(n), runs)[:n]
            own, label = self._fresh(int(which.max()) + 1)
            x = own[which] + 0.15 * rng.normal(size=(n, world.parts))
            y = label[which]
        else:
            x, y = self._fresh(n)
        lots = rng.random(n) < world.noise
        y = np.where(lots, rng.integers(0, world.labels, size=n), y)
        return x, y, texts


@dataclass(frozen=True)
class Gaussian:
    """A head: a Gaussian for each label, all of one covariance."""

    weights: Floats
    bias: Floats
    others: bool

    @classmethod
    def fit(cls, x: Floats, y: Ints, world: World) -> Gaussian:
        labels = world.labels
        target = np.eye(labels)[y]
        counts = target.sum(0)
        means = (target.T @ x) / np.maximum(counts, 1e-9)[:, None]
        inside = x - means[y]
        spread = inside.T @ inside / max(1, len(x) - labels) + 0.3 * np.eye(x.shape[1])
        weights = np.linalg.solve(spread, means.T)
        prior = np.log((counts + 0.5) / (counts + 0.5).sum())
        return cls(weights, prior - 0.5 * (means * weights.T).sum(1), world.others)

    def __call__(self, x: Floats) -> tuple[Ints, Floats]:
        """Labels, and how sure it is of each; below 0 of what is never accepted."""
        logs = x @ self.weights + self.bias
        p = np.exp(logs - logs.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        given = p.argmax(1)
        return given, np.where((given == 0) & self.others, -1.0, p.max(1))


@dataclass
class Used:
    """A head in use, from when on, and its true risk."""

    row: int
    head: Gaussian
    threshold: float
    risk: float
    exceptions: frozenset[str]
    given: Ints
    """Its answer to each row of the stream."""
    takes: Bools


@dataclass
class Stream:
    """What became of a stream."""

    epochs: int = 1
    broken: int = 0
    """Epochs in which the true risk of some head was above the promise."""
    promised: int = 0
    """Epochs with a head in use."""
    calls: list[bool] = field(default_factory=list[bool])
    noticed: int = 0
    """Rows from a turn to the withdrawal; 0: none."""


def fit_side(x: Floats, y: Ints, world: World, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """How sure, and right, fits without each row are."""
    sure, right = np.zeros(len(x)), np.zeros(len(x), bool)
    parts = rng.permutation(len(x)) % 10
    for part in range(10):
        out = parts == part
        given, sure[out] = Gaussian.fit(x[~out], y[~out], world)(x[out])
        right[out] = (given == y[out]) & (sure[out] >= 0)
    return np.maximum(sure, 0.0), right


def run(world: World, seed: int, held_at_first: float | None = None) -> Stream:
    """Let a cascade learn on one stream."""
    rng = np.random.default_rng(seed)
    inputs = Inputs(world, rng)
    coin = Coin(rng.bytes(32))
    x, y, texts = inputs.draw(ROWS)
    if world.turns_at:
        y[world.turns_at :] = np.where(y[world.turns_at :] == 0, 1, y[world.turns_at :])
    pool_x, pool_y, pool_texts = inputs.draw(POOL)
    sides = [coin.toss(str(text)) for text in texts.tolist()]
    pool_keys = [coin.toss(str(text)).key for text in pool_texts.tolist()] if world.texts else []
    kept = Stream()
    epoch = _Epoch(0, set())
    for row, side in enumerate(sides):
        kept.calls.append(_row(world, epoch, row, side, x, y, rng))
        if epoch.looks < len(LOOKS) and epoch.is_due(row):
            used = _look(world, epoch, row, x, y, rng, sides)
            if used is not None:
                gone = np.array([key in used.exceptions for key in pool_keys] or [False] * POOL)
                given, sure = used.head(pool_x)
                takes = (sure >= used.threshold) & ~gone
                late = bool(world.turns_at) and row >= world.turns_at
                truth = np.where(pool_y == 0, 1, pool_y) if late else pool_y
                used.risk = float((given != truth)[takes].mean()) if takes.any() else 0.0
                epoch.used.append(used)
                epoch.audit = start_audit()
        if epoch.audit is not None and epoch.audit.withdrawn:
            if world.turns_at and row >= world.turns_at and not kept.noticed:
                kept.noticed = row - world.turns_at
            _close(kept, epoch)
            kept.epochs += 1
            epoch = _Epoch(row + 1, epoch.held | epoch.before)
    _close(kept, epoch)
    return kept


def _close(kept: Stream, epoch: _Epoch) -> None:
    kept.promised += bool(epoch.used)
    kept.broken += any(used.risk > RISK for used in epoch.used)


class _Epoch:
    def __init__(self, first: int, before: set[str]) -> None:
        self.first, self.looks = first, 0
        self.before = before
        """Texts that were held out in an epoch before."""
        self.held = set[str]()
        self.held_rows = list[int]()
        self.fit_rows = list[int]()
        self.missing = set[int]()
        self.used = list[Used]()
        self.audit: Audit | None = None
        self.considered = (0, 0)
        self.new = 0
        """Texts of this epoch that were held out in none before."""

    def is_due(self, row: int) -> bool:
        planned = LOOKS[self.looks]
        there = self.new if planned.held_out else row - self.first + 1
        count = count_due(planned.held_out or planned.inputs, there)
        due = count is not None and (self.looks, count) != self.considered
        if due:
            self.considered = (self.looks, count or 0)
        return due


def _row(
    world: World, epoch: _Epoch, row: int, side: Side, x: Floats, y: Ints, rng: np.random.Generator
) -> bool:
    """Answer a row; whether the large model was called."""
    used = epoch.used[-1] if epoch.used else None
    takes, given = False, -1
    if used is not None:
        given = int(used.given[row])
        takes = bool(used.takes[row]) and side.key not in used.exceptions
    if side.is_held_out(epoch.looks):
        is_new = side.key not in epoch.held and side.key not in epoch.before
        epoch.new += is_new
        epoch.held.add(side.key)
        epoch.held_rows.append(row)
        differs = given != y[row]
        if world.fails and (differs or used is None) and rng.random() < world.fails * 0.02:
            epoch.missing.add(row)
            differs = True
        if takes and is_new and epoch.audit is not None:
            epoch.audit = epoch.audit.record(correct=not differs)
        return True
    if not takes:
        epoch.fit_rows.append(row)
    return not takes


def _look(
    world: World,
    epoch: _Epoch,
    row: int,
    x: Floats,
    y: Ints,
    rng: np.random.Generator,
    sides: list[Side],
) -> Used | None:
    level = level_of(epoch.looks)
    fit = np.array([r for r in epoch.fit_rows if sides[r].key not in epoch.held], dtype=np.intp)
    counted = [r for r in epoch.held_rows if sides[r].key not in epoch.before]
    if len(fit) < 20 or len(set(y[fit].tolist())) < 2 or not counted:
        return None
    head = Gaussian.fit(x[fit], y[fit], world)
    sure, right = fit_side(x[fit], y[fit], world, rng)
    rows = np.array(counted)
    given, how = head(x[rows])
    missing = np.array([r in epoch.missing for r in counted])
    keys = [sides[r].key for r in counted]
    before = epoch.used[-1] if epoch.used else None
    spread = float(find_distinct(x[fit], x[:0]).mean())
    proposed = propose(sure, right, len(set(keys)), level, spread)
    if not proposed.is_worth_it(float(before.takes[rows].mean()) if before else 0.0):
        return None
    epoch.looks += 1
    apart = find_distinct(x[rows], x[fit])
    seen = HeldOutRows(keys, how, (given == y[rows]) & ~missing, ~missing, apart)
    verdict = judge_head(proposed.thresholds, seen, level)
    if verdict.threshold is None:
        return None
    if (
        before is not None
        and verdict.accepted < (before.head(x[rows])[1] >= before.threshold).sum()
    ):
        return None
    known = [*epoch.fit_rows, *epoch.held_rows]
    answers = head(x[known])[0]
    differ = frozenset(sides[r].key for r, a in zip(known, answers, strict=True) if a != y[r])
    labels, how = head(x)
    return Used(row, head, verdict.threshold, 0.0, differ, labels, how >= verdict.threshold)


TEXT = f"""## What a cascade that learns promises

Simulated streams of {ROWS:,} inputs, built to break the promise that at most 5 % of what a head
accepts differs from the large model. `broken` are epochs in which the true risk of a head that was
used passed 5 %, when it began to be used; `at most` is the exact upper bound (95 %) of their share.
Calls of the large model are those of a hundred inputs, the held-out ones included. What is said of
two processes and of kills is tested on the store itself."""
HEAD = ("world", "epochs", "with a promise", "broken", "at most", "calls 501-600", "901-1,000")


def main() -> None:
    """Run all worlds, and write what was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100, help="of each world")
    parser.add_argument("--only", default="", help="a part of the names of worlds; no page")
    parser.add_argument("--kept", type=Path, help="file of what is found")
    given = parser.parse_args()
    kept = Kept(given.kept)
    worlds = [world for world in WORLDS if given.only in world.name]
    for seed in range(given.streams):  # so that all worlds have as many, whenever it is stopped
        for world in worlds:
            if _name(world, seed) not in kept.found:
                kept.keep(_name(world, seed), _told(run(world, seed)))
    rows = [
        _row_of(world, [kept.found[_name(world, seed)] for seed in range(given.streams)])
        for world in worlds
    ]
    every, bad = sum(int(row[1]) for row in rows), sum(int(row[3]) for row in rows)
    rows.append(["all", every, "", bad, _at_most(bad, every), "", ""])
    body = f"{TEXT}\n\n{table(HEAD, rows)}"
    if given.only:
        print(body)
    else:
        command = f"python benchmarks/promise_simulated.py --streams {given.streams}"
        write("promise", command, body)


def _name(world: World, seed: int) -> str:
    return f"{world.name} {seed}"


def _told(stream: Stream) -> dict[str, Any]:
    """Say what is counted of a stream."""
    calls = np.array(stream.calls, float)
    return {
        "epochs": stream.epochs,
        "promised": stream.promised,
        "broken": stream.broken,
        "noticed": stream.noticed,
        "calls": [100 * calls[500:600].mean(), 100 * calls[900:1000].mean()],
    }


def _row_of(world: World, found: Sequence[dict[str, Any]]) -> list[Any]:
    epochs, broken = (sum(one[name] for one in found) for name in ("epochs", "broken"))
    says = world.says
    if world.turns_at:
        noticed = [one["noticed"] for one in found if one["noticed"]]
        says += f"; withdrawn {np.median(noticed):.0f} rows later in {len(noticed)} streams"
    calls = np.array([one["calls"] for one in found]).mean(0)
    promised = sum(one["promised"] for one in found)
    most = _at_most(broken, epochs)
    at = [f"{one:.0f}" for one in calls]
    return [f"{world.name}: {says}", epochs, promised, broken, most, *at]


def _at_most(broken: int, epochs: int) -> str:
    return f"{100 * upper_bound(broken, epochs, 0.95):.1f} %"


if __name__ == "__main__":
    main()
