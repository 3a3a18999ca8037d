"""Fits what is known of criteria in words, from benchmarks/data: `python benchmarks/relevance.py`.

Learnt from are criteria that are written out with texts that meet them or nearly do, and what the
intents of businesses mean, with messages that have them or others of the same business. It is
ridge regression with a kernel: the product of how like two criteria are and how like two texts are
(linear in the text, so that what is learnt of a criterion is one vector). Two things keep it from
learning what a text that meets *something* is like, rather than what meets a criterion: texts that
meet other criteria are examples that don't meet this one, and a part that knows nothing of the
criterion takes part in the fit and is left out after it.

What is told of criteria never seen is of folds that leave out whole groups of like criteria, and
all businesses of a writer. `criteria_held_out.jsonl` is looked at beside; `criteria_unseen.jsonl`
is never read here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moa.core.context import RunContext
from moa.local.encoders import JointEncoder, MultilingualEncoder, UniversalEncoder
from moa.local.relevance import BOTH, PHRASE, WELL_READ, Directions, strip_negation

HERE = Path(__file__).parent
DATA = HERE / "data"
HEADS = HERE.parent / "src" / "moa" / "local" / "heads"
BUSINESS = "a message in which {means}"
MESSAGES = 16
"""Messages of a business with an intent, and without it."""
OTHERS = 6
"""Texts that meet other criteria, taken for texts that don't meet a criterion."""
LIKE_WEIGHTS, COUNTS, RIDGE, RIDGE_OTHERS, CONSTANT, NEAR = 2.0, 2.0, 0.5, 2.0, 0.3, 0.7
"""Sharpness and weight of the kernel of criteria, the ridge for texts that are labelled and for
those that are taken for it, the constant part of texts, and how much of the nearness that alone
fits best is kept. By cross-validation; none of them matters much."""
LIKE_QUALITY = 16.0
CUT = 1.2
"""Where a criterion begins to be met, in standard deviations of ordinary texts."""
LANGUAGES, FEW = 10, 15
"""Directions of languages that don't count, and texts of a language that takes part in them."""
APART = 0.75
"""Cosine distance up to which criteria are of one group."""
FOLDS, STEPS = 5, 40


@dataclass(frozen=True)
class Pairs:
    """Texts, criteria, and whether each meets its own."""

    texts: Any
    criteria: Any
    words: list[str]
    of: Any
    met: Any
    group: Any
    """Of each criterion; -1 is held out."""
    ordinary: Any


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def criteria_rows(name: str) -> list[dict[str, Any]]:
    """Rows of a file; where a criterion says "not", what it says else, and the answer turned."""
    found: list[dict[str, Any]] = []
    for row in read(DATA / name):
        words, is_turned = strip_negation(row["criterion"])
        met = row["met"] != is_turned
        found.append({"criterion": words, "text": row["text"], "met": met, "from": name})
    return found


def business_rows() -> list[dict[str, Any]]:
    """What each intent of a business means, with messages of the business."""
    found: list[dict[str, Any]] = []
    draw = random.Random(0)
    for path in sorted((DATA / "businesses").glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = [r for r in read(path.with_suffix(".jsonl")) if not (r["spam"] or r["injection"])]
        for name, intent in table["intents"].items():
            means = intent["means"].rstrip(". ")
            criterion = BUSINESS.format(means=means[0].lower() + means[1:])
            for met in (True, False):
                those = [row for row in rows if (row["intent"] == name) == met]
                for row in draw.sample(those, min(MESSAGES, len(those))):
                    text = "\n\n".join(p for p in (row.get("subject"), row["text"]) if p)
                    pair = {"criterion": criterion, "text": text, "met": met}
                    found.append(pair | {"from": path.stem, "language": row["language"]})
    return found


KINDS = {
    "topic": "about|concerning|related to|on |dealing with",
    "asks or wants": "ask|a request|wants|giving someone a task|a demand|an appeal|looking for"
    "|in which the writer wants|in which the writer asks|invites|a question|an invitation",
    "says that": "says",
    "speech act": "an? (apology|promise|warning|refusal|compliment|thank|expression|complaint|toast"
    "|threat|confession|vote|accusation|suggestion|reminder)|congratul|thank|agree|offer|reject"
    "|advise|express|accept|warn|confirm|turning|recommend|boast|praise|defends",
    "fact": "mention|contain|gives (a|the) (name|number|meas)|stating",
    "tone": "rude|polite|an angry|sad|calm|lively|joyful|arrogant|meant to be funny|flirt|condesc"
    "|hesitant|optimis|pessim|confident|solemn|dry|showing|shows|emotional|nostalgic|disappoint"
    "|grateful|impatient|jealous|proud|sceptical|uncertain|toxic|mocks|exagger",
    "who writes": "written by|from ",
    "form": "written (in|as|to)|a list|very short|in very|a poem|part of|an unfinished|simple"
    "|full of|computer|gibberish|just a|talks about",
}
"""Kinds of criteria that are written out, by how they begin; others are left out."""
WRITERS = (
    {"bank", "hotel", "energy", "game"},
    {"school", "airline", "landlord", "gym"},
    {"townhall", "marketplace", "museum", "farmsupply"},
)


class Vectors:
    """Vectors of texts, kept in a file from run to run."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def __call__(self, name: str, texts: Sequence[str], encoders: Sequence[Any]) -> Any:
        path, known = self.cache / f"relevance_{name}.npz", dict[str, Any]()
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                known = dict(zip(file["texts"].tolist(), file["vectors"], strict=True))
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known |= zip(new, asyncio.run(encoded(new, encoders)), strict=True)
            vectors = np.array(list(known.values()), np.float32)
            np.savez(path, texts=np.array(list(known)), vectors=vectors)
        return np.array([known[text] for text in texts], float)


async def encoded(texts: Sequence[str], encoders: Sequence[Any]) -> Any:
    found: list[Any] = []
    for start in range(0, len(texts), 50):
        some = texts[start : start + 50]
        parts = [np.array((await each.embed(some, RunContext())).vectors) for each in encoders]
        found.append(np.hstack(parts))
        print(f"\r{start + len(some)} of {len(texts)} encoded", end="", flush=True)
    print()
    return np.vstack(found)


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def languages_of(rows: Sequence[dict[str, Any]], texts: Any) -> Any:
    """Directions in which texts of several languages differ, orthonormal in each encoder."""
    spoken = np.array([row.get("language", "") for row in rows])
    some = [name for name in np.unique(spoken) if name and (spoken == name).sum() >= FEW]
    means = np.array([texts[spoken == name].mean(0) for name in some])
    means = means - means.mean(0)
    parts = [np.linalg.svd(means[:, part], full_matrices=False)[2][:LANGUAGES] for part in BOTH]
    return np.hstack(parts)


def nearness(texts: Any, criteria: Any, ordinary: Any) -> Any:
    """Of each text to its criterion, by encoder, in standard deviations of ordinary texts."""
    found: list[Any] = []
    for part in BOTH:
        usual = ordinary[:, part] @ criteria[:, part].T
        each = (texts[:, part] * criteria[:, part]).sum(1)
        found.append((each - usual.mean(0)) / usual.std(0))
    return np.array(found).T


def groups(rows: Sequence[dict[str, Any]], words: Sequence[str], criteria: Any) -> Any:
    """The group of each criterion: of like ones, of a writer of businesses, or held out."""
    from sklearn.cluster import AgglomerativeClustering

    source = {row["criterion"]: row["from"] for row in reversed(rows)}
    plain = [i for i, word in enumerate(words) if source[word].startswith("criteria_")]
    like = AgglomerativeClustering(
        n_clusters=None, distance_threshold=APART, metric="cosine", linkage="average"
    ).fit_predict(unit(criteria[plain][:, BOTH[1]]))
    found = np.zeros(len(words), int)
    found[plain] = like
    for i, word in enumerate(words):
        if not source[word].startswith("criteria_"):
            writer = [k for k, names in enumerate(WRITERS) if source[word] in names]
            found[i] = 10_000 + (writer[0] if writer else 100)
        elif source[word] == "criteria_held_out.jsonl":
            found[i] = -1
    return found


def pairs(vectors: Vectors) -> tuple[Pairs, dict[str, Any]]:
    rows = [
        *criteria_rows("criteria_learn.jsonl"),
        *criteria_rows("criteria_learn_more.jsonl"),
        *business_rows(),
        *criteria_rows("criteria_held_out.jsonl"),
    ]
    words = sorted({row["criterion"] for row in rows})
    place = {word: i for i, word in enumerate(words)}
    plain = [row["text"] for row in read(HEADS / "ordinary.jsonl")]
    both = [JointEncoder()]
    ordinary = vectors("texts", [*plain, *(row["text"] for row in rows)], both)
    texts, ordinary = ordinary[len(plain) :], ordinary[: len(plain)]
    passages = [MultilingualEncoder(passage=True), UniversalEncoder()]
    criteria = vectors("criteria", [PHRASE.format(criterion=word) for word in words], passages)
    centre, middle = ordinary.mean(0), criteria.mean(0)
    none = np.zeros((0, len(centre)))
    directions = Directions(middle, none)(criteria)
    languages = languages_of(rows, Directions(centre, none)(texts))
    direction = Directions(centre, languages)
    texts, ordinary = direction(texts), direction(ordinary)
    of = np.array([place[row["criterion"]] for row in rows])
    made = Pairs(
        texts=texts,
        criteria=directions,
        words=words,
        of=of,
        met=np.array([row["met"] for row in rows]),
        group=groups(rows, words, directions),
        ordinary=ordinary,
    )
    return made, {"centre": centre, "middle": middle, "languages": languages}


def with_others(p: Pairs, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Texts by place, criteria, targets and ridge, with texts of other groups that don't meet."""
    draw = np.random.RandomState(seed)
    place, of = np.arange(len(p.of)), p.of
    target, ridge = np.where(p.met, 1.0, -1.0), np.full(len(p.of), RIDGE)
    is_business = p.group >= 10_000
    for one in np.flatnonzero(p.group != -1):
        apart = (p.group != p.group[one]) & (p.group != -1) & (is_business == is_business[one])
        some = draw.choice(np.flatnonzero(p.met & apart[p.of]), OTHERS, replace=False)
        place, of = np.r_[place, some], np.r_[of, np.full(OTHERS, one)]
        target, ridge = np.r_[target, -np.ones(OTHERS)], np.r_[ridge, np.full(OTHERS, RIDGE_OTHERS)]
    return place, of, target, ridge


def solved(times: Callable[[Any], Any], target: Any, ridge: Any) -> Any:
    """Solve (K + ridge) x = target by conjugate gradients (Hestenes and Stiefel 1952)."""
    x, left = np.zeros_like(target), target.copy()
    scaled = left / (1 + ridge)
    step, was = scaled.copy(), float(left @ scaled)
    for _ in range(STEPS):
        moved = times(step) + ridge * step
        far = was / float(step @ moved)
        x, left = x + far * step, left - far * moved
        scaled = left / (1 + ridge)
        now = float(left @ scaled)
        step, was = scaled + now / was * step, now
    return x


def fitted(p: Pairs, rows: Any, given: tuple[Any, Any, Any, Any]) -> tuple[Any, Any]:
    """Weights of each criterion learnt from, and how much nearness counts, by encoder."""
    place, of, target, ridge = (each[rows] for each in given)
    order = np.argsort(of, kind="stable")
    place, of, target, ridge = (each[order] for each in (place, of, target, ridge))
    near = nearness(p.texts[place], p.criteria[of], p.ordinary)
    counts = NEAR * np.linalg.solve(near.T @ near + 10 * np.eye(2), near.T @ target)
    target = (target - near @ counts).astype(np.float32)
    x = np.c_[p.texts[place], np.full(len(place), CONSTANT)].astype(np.float32)
    starts = np.flatnonzero(np.r_[True, np.diff(of) > 0])
    which, mine = of[starts], np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(of)]))
    own = p.criteria[which]
    # The 1 is the part that knows nothing of the criterion.
    alike = (COUNTS * np.exp(LIKE_WEIGHTS * (own @ own.T - 1)) + 1).astype(np.float32)

    def times(v: Any) -> Any:
        return np.einsum("nd,nd->n", x, (alike @ np.add.reduceat(x * v[:, None], starts))[mine])

    duals = solved(times, target, ridge.astype(np.float32))
    weights = np.zeros((len(p.words), p.texts.shape[1]))
    sums = np.add.reduceat(x * duals[:, None], starts)[:, :-1]  # the constant cancels out
    weights[which] = COUNTS * sums
    return weights, counts


def scores(p: Pairs, weights: Any, counts: Any, one: int, texts: Any) -> Any:
    """Score texts for a criterion."""
    direction = p.criteria[one]
    alike = np.exp(LIKE_WEIGHTS * (p.criteria @ direction - 1))
    near = nearness(texts, np.tile(direction, (len(texts), 1)), p.ordinary)
    return texts @ (alike @ weights) + near @ counts


def crossed(p: Pairs, given: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Scores above the cut and spread of each criterion, by fits without its group; the fold."""
    draw = np.random.RandomState(0)
    plain = np.unique(p.group[(p.group >= 0) & (p.group < 10_000)])
    fold_of = {group: i % FOLDS for i, group in enumerate(draw.permutation(plain))}
    fold = np.array([fold_of.get(g, g % 10_000 % FOLDS if g >= 0 else FOLDS) for g in p.group])
    found, spread = np.zeros(len(p.of)), np.zeros(len(p.words))
    for out in range(FOLDS + 1):
        rest = np.flatnonzero((fold[given[1]] != out) & (fold[given[1]] != FOLDS))
        weights, counts = fitted(p, rest, given)
        for one in np.flatnonzero(fold == out):
            mine = p.of == one
            usual = scores(p, weights, counts, one, p.ordinary)
            spread[one] = usual.std()
            cut = usual.mean() + CUT * spread[one]
            found[mine] = scores(p, weights, counts, one, p.texts[mine]) - cut
        print(f"fold {out + 1} of {FOLDS + 1}", flush=True)
    return found, spread, fold


def balanced(above: Any, met: Any) -> float:
    return float(((above[met] > 0).mean() + (above[~met] <= 0).mean()) / 2)


def ranked(above: Any, met: Any) -> float:
    """Share of pairs of a text that meets it and one that doesn't, in the right order."""
    return float((above[met][:, None] > above[~met]).mean())


def told(p: Pairs, above: Any, which: Any) -> str:
    each = [(balanced(above[p.of == i], p.met[p.of == i]), i) for i in which]
    order = np.mean([ranked(above[p.of == i], p.met[p.of == i]) for i in which])
    values = np.array([value for value, _ in each])
    low = (values < 0.65).mean()
    return f"{len(which)}: balanced {values.mean():.3f}, under .65 {low:.2f}, in order {order:.3f}"


def main() -> None:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("/tmp"), help="where vectors are kept")
    cache = parser.parse_args().cache
    p, middles = pairs(Vectors(cache))
    given = with_others(p)
    above, spread, fold = crossed(p, given)
    learnt = np.flatnonzero(p.group != -1)
    business = np.flatnonzero(p.group >= 10_000)
    held = np.flatnonzero(p.group == -1)
    plain = np.setdiff1d(learnt, business)
    for name, which in (("criteria", plain), ("businesses", business), ("held out", held)):
        print(f"{name}, {told(p, above, which)}")
    for kind, begins in KINDS.items():
        those = [i for i in plain if re.match(begins, p.words[i])]
        print(f"{kind}, {told(p, above, those)}")
    quality = np.array([ranked(above[p.of == i], p.met[p.of == i]) for i in range(len(p.words))])
    right = np.array([balanced(above[p.of == i], p.met[p.of == i]) for i in range(len(p.words))])
    kin = np.exp(LIKE_QUALITY * (p.criteria @ p.criteria.T - 1))
    kin = kin * (fold[:, None] != fold) * (fold != FOLDS)
    signs = np.c_[kin @ quality / kin.sum(1), spread]
    expecting = LinearRegression().fit(signs[learnt], right[learnt])
    expected = expecting.predict(signs)
    for name, which in (("learnt", learnt), ("held out", held)):
        low = expected[which] < WELL_READ
        marked, others = right[which][low], right[which][~low]
        alike = np.corrcoef(expected[which], right[which])[0, 1]
        print(
            f"{name}, expected: {len(marked)} badly told {marked.mean():.3f}"
            f", others {others.mean():.3f}, correlation {alike:.2f}"
        )
    rows = np.isin(p.of, learnt)
    by_expected = np.c_[above, above * (expected - WELL_READ)[p.of]][rows]
    slope = LogisticRegression(C=100, fit_intercept=False).fit(by_expected, p.met[rows]).coef_[0]
    print(
        f"expected {np.quantile(expected, [0, 0.1, 0.25, 0.5, 1]).round(2)}, slope {slope.round(2)}"
    )
    every = np.flatnonzero(np.isin(given[1], learnt))
    weights, counts = fitted(p, every, given)
    weights, known = weights[learnt], p.criteria[learnt]
    step = np.abs(weights).max(1) / 127
    arrays = {
        **{name: value.astype(np.float32) for name, value in middles.items()},
        **whole("directions", known),
        **whole("ordinary", p.ordinary),
        "weights": np.round(weights / step[:, None]).astype(np.int8),
        "weights step": step.astype(np.float32),
        "quality": quality[learnt].astype(np.float16),
        "near": counts,
        "like weights": LIKE_WEIGHTS,
        "like quality": LIKE_QUALITY,
        "cut": CUT,
        "expect": np.r_[expecting.intercept_, expecting.coef_],
        "slope": slope,
    }
    path = HEADS / "relevance.npz"
    np.savez_compressed(path, **arrays)
    print(path, path.stat().st_size // 1000, "kB")


def whole(name: str, values: Any) -> dict[str, Any]:
    """Write values as whole numbers of a step."""
    step = float(np.abs(values).max() / 127)
    return {name: np.round(values / step).astype(np.int8), f"{name} step": step}


if __name__ == "__main__":
    main()
