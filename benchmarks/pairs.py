"""Fits the scorer of pairs and reports it: `python benchmarks/pairs.py --data DIR`.

Sets of labels are the businesses, banking77 cut to some of its labels, and the shop. Each writer's
sets are left out in turn; what decides is then fitted to all. scipy fits, and numpy applies what is
written to src/moa/local/heads/pairs.npz.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from heads import FOLDS, LANDMARKS, NAMES, VECTORS
from machines import Machine, Space, Sums
from messages import (
    BUSINESSES,
    DATA,
    SHOP,
    Messages,
    encoded,
    intents_of,
    messages_of,
    read,
    read_shop,
    writer_of,
)
from moa.decisions.arrays import expected_curve, log_softmax, logit
from moa.inbox.support import INTENTS, Intent
from moa.local.encoders import E5_PARTS, USE_PARTS
from moa.local.heads import EXPECTED
from moa.local.heads import FOLDER as HEADS
from moa.local.pairs import (
    FILE,
    Background,
    Compatibility,
    Labels,
    compatibility_inputs,
    constants,
    fewness_of,
    none_inputs,
    scores,
    unit,
)
from report import table, write

BANK = "banking77"
BESIDE = (SHOP, BANK)
"""Sets of other kinds, which count for less."""
SHOP_TEXTS = 900
FOREIGN, FOREIGN_TEXTS, FOREIGN_WEIGHT = 12, 600, 0.25
"""Texts about all sorts of things that are put to each set and want none of its labels, of so many,
and what each counts for. With a weight of 1, .73 of them are told and .713 of the messages with
four examples are right; with .25, .37 and .728. None of them is reported on."""
EXAMPLES = (0, 1, 2, 4, 10)
"""Examples a label: four are those of the business, more are messages, which are then left out."""
TOLD = (0.9, 0.95, 0.98)
SHARE_OF_SETS = 0.2
"""Share of the sets left out that may fall short of an expected precision."""
FEWEST = 10
"""Decisions of a set from which on a share of them that is right says something."""
LANGUAGES, SPOKEN = 8, 15
"""Directions of languages that are taken out, and texts of a language from which on it counts."""
RANKS = 48
RIDGE_TEXT, RIDGE_LABEL = 10.0, 30.0
PENALTY = 0.01
MOST_TEXTS = 150
BANK_CUTS = (
    (3, 0),
    (3, 4),
    (8, 0),
    (8, 1),
    (8, 2),
    (8, 4),
    (8, 4),
    (8, 8),
    (16, 4),
    (16, 2),
    (40, 4),
)
"""Labels that banking77 is cut to, and examples of each."""
TEXT = """
## Labels of one's own

Intents that nobody fitted anything to: a sentence and some examples for each. Every row is a
business left out with all others of its writer; `moa.local.pairs` was fitted to the rest. Right
is the share of the genuine messages, those that want none of the intents included. Accepted is the
share of them with a label from an expected precision on, and right how many of these were right;
the thresholds come from the other writers too.

{by_business}

By the number of examples a label, on the mean over the {count} businesses, of the messages that
want one of the intents:

{by_examples}

"Centroids" are the nearest centroid of the examples, by both encoders (of none: the meanings).
"""


class Set(NamedTuple):
    """Texts with labels of one set, and what is said of the labels."""

    writer: str
    texts: list[str]
    labels: list[int]
    """-1 for none of them."""
    languages: list[str]
    """Empty where all are in one."""
    meanings: list[str]
    examples: list[list[str]]


@dataclass(frozen=True, eq=False)
class Source:
    """Texts of a business, or of another set of labels, as vectors."""

    name: str
    writer: str
    texts: Any
    labels: Any
    """-1 for none of them."""
    examples: list[Any]
    """Of each label."""
    meanings: Any


@dataclass(eq=False)
class Episode:
    """A set of labels with some examples, and the texts to be decided."""

    source: str
    writer: str
    examples: int
    weight: float
    texts: Any
    """The last ones are foreign."""
    y: Any
    """Of those that aren't foreign: -1 for none of the labels."""
    labels: Labels
    plain: Any = None
    """Likenesses but the learnt one."""


def sets_of(data: Path) -> dict[str, Set]:
    """Read all sets of labels."""
    sets: dict[str, Set] = {}
    for path in sorted(BUSINESSES.glob("*.toml")):
        given = messages_of(path.with_suffix(".jsonl"), path.stem, writer_of(path))
        sets[path.stem] = set_of(given.only(given.genuine), intents_of(path))
    shop = read_shop("support_learn")
    shop = shop.only(shop.genuine)
    drawn = np.zeros(len(shop.rows), bool)
    drawn[np.random.RandomState(0).permutation(len(drawn))[:SHOP_TEXTS]] = True
    sets[SHOP] = set_of(shop.only(drawn), INTENTS)
    rows = read(data / "intent_banking77" / "dev.jsonl")
    names = sorted({row["label"] for row in rows})
    sets[BANK] = Set(
        writer=BANK,
        texts=[row["text"] for row in rows],
        labels=[names.index(row["label"]) for row in rows],
        languages=[],
        meanings=[name.replace("_", " ").replace("?", "") for name in names],
        examples=[[] for _ in names],
    )
    return sets


def set_of(messages: Messages, intents: Mapping[str, Intent]) -> Set:
    wants = [row["intent"] for row in messages.rows]
    return Set(
        writer=str(messages.writer[0]),
        texts=messages.texts,
        labels=[-1 if name is None else list(intents).index(name) for name in wants],
        languages=[row["language"] for row in messages.rows],
        meanings=[intent.means for intent in intents.values()],
        examples=[list(intent.examples) for intent in intents.values()],
    )


def all_texts(sets: Mapping[str, Set]) -> list[str]:
    """Every text that is encoded, once."""
    found = [row["text"] for row in read(HEADS / "ordinary.jsonl")] + foreign_texts()
    for one in sets.values():
        found += [*one.texts, *one.meanings, *(text for own in one.examples for text in own)]
    return list(dict.fromkeys(found))


def sources_of(sets: Mapping[str, Set], vectors: Mapping[str, Any]) -> list[Source]:
    def of(texts: Sequence[str]) -> Any:
        found = np.array([vectors[text] for text in texts])
        return found.reshape(len(texts), 2 * (E5_PARTS + USE_PARTS))

    return [
        Source(
            name=name,
            writer=one.writer,
            texts=of(one.texts),
            labels=np.array(one.labels),
            examples=[of(several) for several in one.examples],
            meanings=of(one.meanings),
        )
        for name, one in sets.items()
    ]


def background_of(
    sets: Mapping[str, Set], vectors: Mapping[str, Any]
) -> tuple[Background, Any, float]:
    """Ordinary texts as they ship, and the directions of languages."""
    ordinary = np.array([vectors[row["text"]] for row in read(HEADS / "ordinary.jsonl")])
    step = float(np.abs(ordinary).max() / 127)
    packed = np.round(ordinary / step).astype(np.int8)
    spoken = [
        (language, vectors[text])
        for name, one in sets.items()
        if name not in BESIDE
        for language, text in zip(one.languages, one.texts, strict=True)
    ]
    known = np.array([language for language, _ in spoken])
    wholes = np.array([vector for _, vector in spoken])
    axes: list[Any] = []
    for part in (slice(0, 384), slice(384, 896)):
        found = unit(wholes[:, part])
        middle = found.mean(0)
        often = [one for one in sorted(set(known)) if (known == one).sum() >= SPOKEN]
        away = np.array([found[known == one].mean(0) - middle for one in often])
        axes.append(np.linalg.svd(away, full_matrices=False)[2][:LANGUAGES].astype(np.float16))
    floats = (axes[0].astype(float), axes[1].astype(float))
    return Background(packed.astype(float) * step, floats), packed, step


def cut(
    source: Source, labels: Sequence[int], count: int, weight: float, seed: int, bg: Any
) -> Any:
    """Take some labels of a set, with so many examples of each; texts of others want none."""
    rng = np.random.RandomState(seed)
    left = np.ones(len(source.texts), bool)
    examples: list[Any] = []
    for label in labels:
        own = list(rng.permutation(source.examples[label])[:count]) if count else []
        missing = count - len(own)
        if missing > 0:
            rows = rng.permutation(np.flatnonzero(source.labels == label))[:missing]
            own += list(source.texts[rows])
            left[rows] = False
        examples.append(own)
    place = {label: n for n, label in enumerate(labels)}
    y = np.array([place.get(int(label), -1) for label in source.labels])
    rows = np.flatnonzero(left & (y >= 0))
    others = rng.permutation(np.flatnonzero(left & (y < 0)))
    if len(labels) < len(source.examples):  # else as many as there are
        others = others[: max(1, len(rows) // 16)]
    most = MOST_TEXTS if weight == 1 else MOST_TEXTS // 2
    rows = np.sort(rng.permutation(np.r_[rows, others])[:most])
    flat = [one for several in examples for one in several]
    of = np.array([n for n, several in enumerate(examples) for _ in several], np.intp)
    given = np.array(flat).reshape(len(flat), source.texts.shape[1])
    made = Labels(source.meanings[list(labels)], given, of, bg)
    return Episode(source.name, source.writer, count, weight, source.texts[rows], y[rows], made)


def foreign_texts() -> list[str]:
    """Texts that criteria were learnt from."""
    texts = list(dict.fromkeys(row["text"] for row in read(DATA / "criteria_learn.jsonl")))
    return [texts[n] for n in np.random.RandomState(0).permutation(len(texts))[:FOREIGN_TEXTS]]


def with_foreign(episode: Episode, foreign: Any, seed: int) -> Episode:
    """Put foreign texts to a set, behind its own."""
    drawn = np.random.RandomState(seed).randint(len(foreign), size=FOREIGN)
    return replace(episode, texts=np.vstack([episode.texts, foreign[drawn]]))


def episodes_of(sources: Sequence[Source], foreign: Any, bg: Background) -> list[Episode]:
    found: list[Episode] = []
    for n, source in enumerate(sources):
        every = list(range(len(source.meanings)))
        if source.name == BANK:
            for m, (labels, count) in enumerate(BANK_CUTS * 2):
                picked = np.random.RandomState(m).permutation(77)[:labels]
                found.append(cut(source, [int(one) for one in picked], count, 0.15, m, bg))
            continue
        fewer = [int(one) for one in np.random.RandomState(n).permutation(every)[: 3 + n % 4]]
        counts = ((count, 1.0 if count == 4 else 0.4) for count in EXAMPLES)
        found += [cut(source, every, count, weight, n, bg) for count, weight in counts]
        found.append(cut(source, fewer, 4, 0.3, n, bg))
    found = [with_foreign(one, foreign, n) for n, one in enumerate(found)]
    for one in found:
        one.plain = one.labels.likenesses(one.texts).astype(np.float32)
    return found


def moments_of(source: Source, bg: Background) -> tuple[Any, Any, Any]:
    """Sum up what the compatibility is fitted to: 1 for the right label, -1 for all others."""
    named = [(n, x) for n, several in enumerate(source.examples) for x in several]
    if not named:
        named = list(zip(source.labels, source.texts, strict=True))
    given, of = np.array([x for _, x in named]), np.array([n for n, _ in named])
    targets = Labels(source.meanings, given, of, bg).targets
    rows = source.labels >= 0
    x, y = compatibility_inputs(source.texts[rows], bg), source.labels[rows]
    wanted = np.full((len(y), len(targets)), -1 / (len(targets) - 1))
    wanted[np.arange(len(y)), y] = 1
    weight = 0.4 if source.name in BESIDE else 1.0
    return weight * x.T @ x, weight * x.T @ (wanted @ targets), targets.T @ targets


def compatibility(moments: dict[str, Any], sources: Sequence[Source]) -> Compatibility:
    """Fit it to all texts of some sets."""
    xx, xs, ss = (sum(moments[source.name][n] for source in sources) for n in range(3))
    a, b = np.trace(xx) / len(xx), np.trace(ss) / len(ss)
    left = np.linalg.solve(xx + RIDGE_TEXT * a * np.eye(len(xx)), xs)
    whole = np.linalg.solve(ss + RIDGE_LABEL * b * np.eye(len(ss)), left.T).T
    # Of low rank, by the directions of its largest singular values (Halko et al. 2011).
    rng = np.random.RandomState(0)
    basis = np.linalg.qr(whole @ (whole.T @ (whole @ rng.randn(whole.shape[1], RANKS + 16))))[0]
    u, sizes, v = np.linalg.svd(basis.T @ whole, full_matrices=False)
    root = np.sqrt(sizes[:RANKS])
    return Compatibility((basis @ u[:, :RANKS]) * root, v[:RANKS].T * root)


def whole(episode: Episode, made: Compatibility, bg: Background) -> Any:
    learnt = made(compatibility_inputs(episode.texts, bg), episode.labels.targets)
    return np.concatenate([episode.plain, learnt[..., None].astype(np.float32)], -1)


def logit_fit(data: Sequence[tuple[Any, Episode]]) -> tuple[Any, Any, Any, Any]:
    """Fit the conditional logit: middle and spread of likenesses, weights, and those of none."""
    flat = np.concatenate([found.reshape(-1, found.shape[2]) for found, _ in data])
    middle, spread = flat.mean(0), flat.std(0) + 1e-6
    size = len(middle)
    own: list[Any] = []
    none: list[Any] = []
    starts: list[int] = []
    right: list[int] = []
    weights: list[Any] = []
    at = 0
    for found, episode in data:
        features = (found - middle) / spread
        fewness = fewness_of(episode.labels.counts)
        texts, labels = features.shape[:2]
        pairs = np.concatenate([features, features * fewness[:, None]], 2)
        own.append(pairs.reshape(texts * labels, 2 * size).astype(np.float32))
        none.append(none_inputs(features, fewness))
        begin = at + labels * np.arange(texts)
        starts += begin.tolist()
        wanted = np.r_[episode.y, np.full(FOREIGN, -1)]
        right += [int(b + y) if y >= 0 else -1 for b, y in zip(begin, wanted, strict=True)]
        weigh = np.where(np.arange(texts) < len(episode.y), 1.0, FOREIGN_WEIGHT)
        weights.append(episode.weight * weigh)
        at += texts * labels
    x, z, start = np.concatenate(own), np.concatenate(none), np.array(starts)
    to, weigh = np.array(right), np.concatenate(weights)
    counts = np.diff(np.r_[start, at])
    group = np.repeat(np.arange(len(start)), counts)
    total = weigh.sum()
    is_none = to < 0
    free = np.r_[np.ones(z.shape[1] - 3), 0.1, 0.1, 0.1]

    def loss(point: Any) -> tuple[float, Any]:
        w, v = point[: 2 * size], point[2 * size :]
        s, n = (x @ w.astype(np.float32)).astype(float), z @ v
        top = np.maximum(np.maximum.reduceat(s, start), n)
        es, en = np.exp(s - top[group]), np.exp(n - top)
        norm = np.add.reduceat(es, start) + en
        chosen = np.where(is_none, n, s[np.maximum(to, 0)])
        value = float((weigh * (top + np.log(norm) - chosen)).sum()) / total
        gs = es / norm[group] * weigh[group]
        np.add.at(gs, to[~is_none], -weigh[~is_none])
        gn = weigh * (en / norm - is_none)
        slope = np.r_[x.T @ gs.astype(np.float32), z.T @ gn] / total
        slope[: 2 * size] += PENALTY * w
        slope[2 * size :] += PENALTY * free * v
        return value + PENALTY / 2 * float(w @ w + (free * v) @ v), slope

    point = minimize(
        loss, np.zeros(2 * size + z.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 100}
    ).x
    return middle, spread, point[: 2 * size], point[2 * size :]


def probabilities(fit: tuple[Any, Any, Any, Any], found: Any, episode: Episode) -> Any:
    middle, spread, weights, none = fit
    features = (found - middle) / spread
    return np.exp(log_softmax(scores(features, fewness_of(episode.labels.counts), weights, none)))


def groups_of(sources: Sequence[Source]) -> list[str]:
    return sorted({source.writer for source in sources})


def left_out(
    sources: Sequence[Source], episodes: Sequence[Episode], bg: Background, moments: dict[str, Any]
) -> Iterator[tuple[Episode, Any]]:
    """Probabilities of each episode, by fits to the other writers' sets alone."""
    groups = groups_of(sources)
    learnt = {
        frozenset((a, b)): compatibility(moments, [s for s in sources if s.writer not in (a, b)])
        for a in groups
        for b in groups
        if a <= b
    }
    for out in groups:
        told: list[bool] = []
        data = [
            (whole(one, learnt[frozenset((out, one.writer))], bg), one)
            for one in episodes
            if one.writer != out
        ]
        fit = logit_fit(data)
        for one in episodes:
            if one.writer == out:
                p = probabilities(fit, whole(one, learnt[frozenset((out,))], bg), one)
                told += (p[len(one.y) :].argmax(1) == p.shape[1] - 1).tolist()
                yield one, p[: len(one.y)]
        print(f"writer {out} left out; of foreign texts {np.mean(told):.2f} told", flush=True)


def certainty_inputs(p: Any, episode: Episode) -> Any:
    same = np.tile(constants(episode.labels.counts), (len(p), 1))
    return np.c_[logit(p.max(1)), same]


def is_right(p: Any, y: Any) -> Any:
    return p.argmax(1) == np.where(y < 0, p.shape[1] - 1, y)


def certainty_fit(found: Sequence[tuple[Episode, Any]]) -> Any:
    """Logistic regression of whether a decision is right."""
    x = np.concatenate([certainty_inputs(p, one) for one, p in found])
    right = np.concatenate([is_right(p, one.y) for one, p in found])
    weight = np.concatenate([np.full(len(p), one.weight) for one, p in found])

    def loss(w: Any) -> tuple[float, Any]:
        s = np.where(right, 1, -1) * (x @ w)
        slope = -(weight / (1 + np.exp(s)) * np.where(right, 1, -1)) @ x
        return float(weight @ np.logaddexp(0, -s)), slope

    return minimize(loss, np.zeros(4), jac=True, method="L-BFGS-B").x


def certain(sure: Any, p: Any, episode: Episode) -> Any:
    return 1 / (1 + np.exp(-certainty_inputs(p, episode) @ sure))


def expectation(found: Sequence[tuple[Episode, Any]], sure: Any) -> Any:
    """Certainties, and the share right from each on that all but a fifth of the sets reach."""
    sets = [
        (certain(sure, p, one)[named], is_right(p, one.y)[named])
        for one, p in found
        for named in [p.argmax(1) < p.shape[1] - 1]
    ]
    points: list[tuple[float, float]] = []
    for cut_at in np.linspace(0.2, 0.995, 160):
        taken = [right[q >= cut_at] for q, right in sets if (q >= cut_at).sum() >= FEWEST]
        if len(taken) < len(sets) / 3:
            break
        points.append((float(cut_at), reached_by_most([(len(r), r.sum()) for r in taken])))
    rising = np.maximum.accumulate([share for _, share in points])
    return np.c_[[q for q, _ in points], rising]


def reached_by_most(counts: Sequence[tuple[int, int]]) -> float:
    """The share that all but a fifth of the sets reach, of decisions and right ones of each.

    How far sets are apart beyond the luck of few decisions is estimated by moments (DerSimonian
    and Laird 1986, "Meta-analysis in clinical trials", Controlled Clinical Trials 7).
    """
    n, right = np.array(counts, float).T
    mean = (right.sum() + 1) / (n.sum() + 2)  # so that all right has a variance too
    far = float((n * (right / n - mean) ** 2).sum())
    spread = (far - (len(n) - 1) * mean * (1 - mean)) / (n.sum() - (n**2).sum() / n.sum())
    return float(mean - NormalDist().inv_cdf(1 - SHARE_OF_SETS) * np.sqrt(max(0.0, spread)))


def accepted(q: Any, curve: Any, expected: float) -> Any:
    reached = curve[curve[:, 1] >= expected]
    return q >= (reached[0, 0] if len(reached) else 2.0)


def report(found: Sequence[tuple[Episode, Any]]) -> str:
    rows: list[list[str]] = []
    pooled: dict[float, list[tuple[int, int, int]]] = {p: [] for p in TOLD}
    shares: list[float] = []
    for one, p in found:
        if one.examples != 4 or one.source in BESIDE or p.shape[1] != 9:
            continue
        others = [(e, q) for e, q in found if e.writer != one.writer]
        sure = certainty_fit(others)
        curve, q = expectation(others, sure), certain(sure, p, one)
        right, named = is_right(p, one.y), p.argmax(1) < p.shape[1] - 1
        shares.append(float(right.mean()))
        cells: list[str] = []
        for told in TOLD:
            taken = named & accepted(q, curve, told)
            pooled[told].append((int(taken.sum()), int((taken & right).sum()), len(p)))
            cells.append(f"{taken.mean():.2f} / {right[taken].mean():.2f}" if taken.any() else "0")
        rows.append([one.source, f"{len(p)}", f"{right.mean():.2f}", *cells])
    cells = list[str]()
    for counts in pooled.values():
        taken, right, of = map(sum, zip(*counts, strict=True))
        cells.append(f"{taken / of:.2f} / {right / max(1, taken):.3f}")
    rows.append(["all", "", f"{np.mean(shares):.3f}", *cells])
    head = ["left out", "n", "right", *(f"accepted / right at {told:g}" for told in TOLD)]
    few_rows: list[list[str]] = []
    for count in EXAMPLES:
        mine = [
            (one, p, one.y >= 0)
            for one, p in found
            if one.examples == count and one.source not in BESIDE and p.shape[1] == 9
        ]
        plain = np.mean([(nearest(one) == one.y)[wants].mean() for one, _, wants in mine])
        ours = np.mean([is_right(p, one.y)[wants].mean() for one, p, wants in mine])
        few_rows.append([f"{count}", f"{plain:.3f}", f"{ours:.3f}"])
    return TEXT.format(
        by_business=table(head, rows),
        by_examples=table(["examples", "centroids", "pairs"], few_rows),
        count=len(rows) - 1,
    )


def nearest(episode: Episode) -> Any:
    """The label of the nearest centroid, by both encoders in equal weight."""
    plain = episode.plain[: len(episode.y)]
    return (plain[..., 0] + plain[..., 10]).argmax(1)


def save(made: dict[str, Any], file: Path = FILE) -> None:
    halves = ("left", "right", "languages e5", "languages use", "middle", "spread")
    np.savez_compressed(
        file, **{n: v.astype(np.float16) if n in halves else v for n, v in made.items()}
    )
    print(file, file.stat().st_size // 1000, "kB")


def fitted(sets: Mapping[str, Set], cache: Path) -> tuple[dict[str, Any], str]:
    """Fit the scorer to sets of labels; give what is saved, and how it does on those left out."""
    texts = all_texts(sets)
    vectors = dict(zip(texts, encoded(cache / VECTORS, texts), strict=True))
    bg, packed, step = background_of(sets, vectors)
    sources = sources_of(sets, vectors)
    foreign = np.array([vectors[text] for text in foreign_texts()])
    episodes = episodes_of(sources, foreign, bg)
    moments = {source.name: moments_of(source, bg) for source in sources}
    found = list(left_out(sources, episodes, bg, moments))
    learnt = {
        w: compatibility(moments, [s for s in sources if s.writer != w]) for w in groups_of(sources)
    }
    middle, spread, weights, none = logit_fit(
        [(whole(one, learnt[one.writer], bg), one) for one in episodes]
    )
    final = compatibility(moments, sources)
    sure = certainty_fit(found)
    made = {
        "ordinary": packed,
        "step": step,
        "languages e5": bg.languages[0],
        "languages use": bg.languages[1],
        "left": final.left,
        "right": final.right,
        "middle": middle,
        "spread": spread,
        "weights": weights.astype(np.float32),
        "none": none.astype(np.float32),
        "sure": sure,
        "expected": expectation(found, sure),
    }
    return made, report(found)


def shop_curve(cache: Path) -> list[tuple[float, float]]:
    """How right the shop's intents are from a confidence on, by cross-validation of its head."""
    shop = read_shop("support_learn")
    shop = shop.only(shop.genuine)
    vectors = encoded(cache / VECTORS, shop.texts)
    space = Space(vectors, (E5_PARTS, USE_PARTS), LANDMARKS)
    parts = np.random.RandomState(0).permutation(len(vectors)) % FOLDS
    labels = shop.labels("intent", NAMES["intent"])
    p = np.exp(Machine(space, Sums(space.features(vectors), parts), labels).logs)
    right, sure = p.argmax(1) == labels, p.max(1)
    print(f"the shop, by cross-validation: {right.mean():.3f} right")
    for told in (0.9, 0.95, 0.98):
        least = next((c for c, share in expected_curve(sure, right) if share >= told), 2.0)
        print(f"from {least:.2f} on {told:g} expected, {(sure >= least).mean():.2f} accepted")
    return [(round(c, 4), round(share, 4)) for c, share in expected_curve(sure, right)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("/tmp"), help="where vectors are kept")
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    given = parser.parse_args()
    if given.data is None:
        parser.error("give the folder of labelled sets, by --data or $MOA_DATA")
    known = {"support intent": shop_curve(given.cache)}
    EXPECTED.write_text(json.dumps(known) + "\n", encoding="utf-8")
    made, body = fitted(sets_of(given.data), given.cache)
    print(body)
    save(made)
    write("pairs", "python benchmarks/pairs.py --data DIR", body)


if __name__ == "__main__":
    main()
