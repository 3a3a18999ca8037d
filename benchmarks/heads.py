"""Fits the heads that ship, from benchmarks/data: `python benchmarks/heads.py support`.

They are support vector machines on how like a text's vectors are to landmarks (a radial kernel;
Nystroem 1930, as in Williams and Seeger 2001), whose margins are made probabilities by a slope
(Platt 1999). scikit-learn fits them, and numpy applies what is written to src/moa/decisions/heads.
Strength and slope are chosen by cross-validation on the same texts; the messages of the inbox and
those held out are never read here.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moa.context import RunContext
from moa.decisions.arrays import log_softmax
from moa.decisions.heads import encode
from moa.endpoints.encoders import JointEncoder, MultilingualEncoder

HERE = Path(__file__).parent
DATA = HERE / "data"
HEADS = HERE.parent / "src" / "moa" / "decisions" / "heads"
INTENTS = ("delivery", "refund", "broken", "payment", "account", "question", "thanks")
GAMMA = 0.7
STRENGTHS = (1.0,)
PARTS = 8
LIKE_CRITERIA, LIKE_TEXTS, RIDGE, CORRECTION = 2.0, 2.0, 0.3, 6.0
"""Sharpness of the two kernels, the ridge, and how much the correction counts: the best of a few
by cross-validation over criteria."""
CALLED_NOW = 0.045
"""Share of the messages that aren't urgent and may be called so, by cross-validation."""
STOPPED = 0.006
"""Share of the genuine messages that may look like spam, and like injections."""


class Space:
    """The likeness of vectors to landmarks, and what whitens it."""

    def __init__(self, vectors: Any, landmarks: int, seed: int = 0) -> None:
        half = vectors.shape[1] // 2
        self.centre = vectors.mean(0)
        far = vectors - self.centre
        sizes = [np.linalg.norm(part, axis=1).mean() for part in (far[:, :half], far[:, half:])]
        # As heavy as `encode` makes the sentences, once each part is as long as the other.
        self.scale = np.r_[np.full(half, sizes[0]), np.full(half, sizes[1] / 0.7)]
        inside = far / self.scale
        self.scale = self.scale * np.linalg.norm(inside, axis=1).mean()
        inside = far / self.scale
        few = np.random.RandomState(seed).permutation(len(inside))[:landmarks]
        points = inside[np.sort(few)]
        self.step = float(np.abs(points).max() / 127)
        self.points = np.round(points / self.step).astype(np.int8)
        near = self.likeness_of(self.landmarks)
        values, axes = np.linalg.eigh(near)
        kept = values > 1e-6 * values[-1]
        self.whiten = axes[:, kept] / np.sqrt(values[kept])

    @property
    def landmarks(self) -> Any:
        return self.points.astype(float) * self.step

    def likeness_of(self, inside: Any) -> Any:
        far = (inside**2).sum(1)[:, None] + (self.landmarks**2).sum(1)
        return np.exp(-GAMMA * np.maximum(far - 2 * inside @ self.landmarks.T, 0))

    def features(self, vectors: Any) -> Any:
        return self.likeness_of((vectors - self.centre) / self.scale) @ self.whiten


def crossed(features: Any, labels: Any, seed: int = 0) -> tuple[Any, float, float]:
    """Probabilities of each text by machines fitted without it, the strength, and the slope."""
    from scipy.optimize import minimize_scalar
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.svm import LinearSVC

    best: tuple[float, Any, float, float] | None = None
    for strength in STRENGTHS:
        margins = cross_val_predict(
            LinearSVC(C=strength),
            features,
            labels,
            cv=StratifiedKFold(PARTS, shuffle=True, random_state=seed),
            method="decision_function",
        )
        margins = margins if margins.ndim > 1 else np.c_[-margins, margins] / 2

        def loss(slope: float, margins: Any = margins) -> float:
            logs = log_softmax(slope * margins)
            return float(-logs[np.arange(len(labels)), labels].mean())

        found = minimize_scalar(loss, bounds=(0.1, 20), method="bounded")
        if best is None or found.fun < best[0]:
            best = (found.fun, np.exp(log_softmax(found.x * margins)), strength, found.x)
    assert best is not None
    return best[1:]


def head(space: Space, features: Any, labels: Any, fit: tuple[float, float]) -> tuple[Any, Any]:
    """Weights and bias of all classes, on the likeness itself."""
    from sklearn.svm import LinearSVC

    strength, slope = fit
    machine = LinearSVC(C=strength).fit(features, labels)
    weights, bias = slope * machine.coef_, slope * machine.intercept_
    if len(machine.classes_) == 2:  # scikit-learn gives the second class alone
        weights, bias = np.vstack([-weights, weights]) / 2, np.r_[-bias, bias] / 2
    return space.whiten @ weights.T, bias


def shift(scores: Any, is_class: Any, share: float) -> float:
    """What to take from the log-odds of a class so that so few others are called it."""
    others = np.sort(scores[~is_class])[::-1]
    return float(others[int(share * len(others))])


def odds(p: Any) -> Any:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(row: dict[str, Any]) -> str:
    return "\n\n".join(part for part in (row.get("subject"), row["text"]) if part)


async def vectors(texts: Sequence[str]) -> Any:
    encoder, found = JointEncoder(), list[tuple[float, ...]]()
    for start in range(0, len(texts), 50):
        found += await encode(encoder, texts[start : start + 50], RunContext())
        print(f"\r{len(found)} of {len(texts)} texts encoded", end="", flush=True)
    print()
    return np.array(found)


def kept(path: Path, texts: Sequence[str]) -> Any:
    """Encode, or take what was encoded before."""
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            if list(file["texts"]) == list(texts):
                return file["vectors"]
    found = asyncio.run(vectors(texts))
    np.savez_compressed(path, texts=np.array(texts), vectors=found)
    return found


def write(name: str, space: Space, heads: dict[str, tuple[Any, Any]]) -> None:
    HEADS.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {
        "centre": space.centre.astype(np.float32),
        "scale": space.scale.astype(np.float32),
        "landmarks": space.points,
        "step": space.step,
        "gamma": GAMMA,
    }
    for question, (weights, bias) in heads.items():
        arrays[f"weights {question}"] = weights.astype(np.float32)
        arrays[f"bias {question}"] = bias.astype(np.float32)
    np.savez_compressed(HEADS / f"{name}.npz", **arrays)
    print(HEADS / f"{name}.npz", (HEADS / f"{name}.npz").stat().st_size // 1000, "kB")


def support(cache: Path, landmarks: int) -> None:
    """What a message to a shop wants, feels, how urgent it is, and whether it is unwanted."""
    rows = read(DATA / "support_learn.jsonl")
    found = kept(cache / "support.npz", [text_of(row) for row in rows])
    space = Space(found, landmarks)
    features = space.features(found)
    genuine = np.array([not (row["spam"] or row["injection"]) for row in rows])
    heads: dict[str, tuple[Any, Any]] = {}
    options = {
        "intent": [*INTENTS, "None"],
        "sentiment": ["negative", "neutral", "positive"],
        "urgency": ["can wait", "today", "now"],
        "spam": ["True", "False"],
        "injection": ["True", "False"],
    }
    for question, names in options.items():
        rest = genuine if question in ("intent", "sentiment", "urgency") else genuine | True
        labels = np.array([names.index(str(row[question])) for row in rows])[rest]
        p, *fit = crossed(features[rest], labels)
        weights, bias = head(space, features[rest], labels, fit)
        said = f"{question}: {(p.argmax(1) == labels).mean():.3f} right, C={fit[0]:g}"
        if question == "urgency":
            now = labels == names.index("now")
            rival = np.log(np.maximum(p[:, 2], 1e-9)) - np.log(np.maximum(p[:, :2], 1e-9)).max(1)
            cut = shift(rival, now, CALLED_NOW)
            bias[2] -= cut
            said += f", now found {(rival[now] > cut).mean():.3f} at {CALLED_NOW:.1%} of others"
        if question in ("spam", "injection"):
            is_it, rival = labels == 0, odds(p[:, 0])
            fair = genuine | is_it
            cut = shift(rival[fair], is_it[fair], STOPPED)
            bias[0] -= cut
            said += f", found {(rival[is_it] > cut).mean():.3f} at {STOPPED:.1%} of the genuine"
        heads[question] = (weights, bias)
        print(said)
    write("support", space, heads)


def sentiment(cache: Path, landmarks: int, data: Path) -> None:
    """What the writer of any text feels: rated films, products, posts and news, and messages."""
    ours = [
        (text_of(row), row["sentiment"])
        for row in read(DATA / "support_learn.jsonl")
        if not (row["spam"] or row["injection"])
    ]
    rated = [
        (row["text"], row["label"])
        for name in ("movie", "amazon", "tweets", "nyt")
        for row in read(next((data / f"sentiment3_{name}").glob("*.jsonl")))
        if not for_report(row["text"])
    ]
    rows = ours + rated
    found = kept(cache / "sentiment.npz", [text for text, _ in rows])
    names = ["negative", "neutral", "positive"]
    labels = np.array([names.index(label) for _, label in rows])
    space = Space(found, landmarks)
    features = space.features(found)
    p, *fit = crossed(features, labels)
    print(f"three feelings: {(p.argmax(1) == labels).mean():.3f} right, C={fit[0]:g}")
    heads = {"sentiment": head(space, features, labels, fit)}
    two = labels != 1
    p, *fit = crossed(features[two], labels[two] // 2)
    print(f"two feelings: {(p.argmax(1) == labels[two] // 2).mean():.3f} right, C={fit[0]:g}")
    heads["negative or positive"] = head(space, features[two], labels[two] // 2, fit)
    write("sentiment", space, heads)


def for_report(text: str) -> bool:
    """Whether a rated text is measured on, and so never learnt from: about three in ten."""
    return hashlib.sha256(text.encode()).digest()[0] < 77


def relevance(cache: Path) -> None:
    """Whether a text meets any criterion in words, by criteria with texts that do and don't.

    The score of a text for a criterion is how near they are, in standard deviations of ordinary
    texts, and a correction: kernel ridge regression on what is left, with a kernel that is the
    product of how like two criteria are and how like two texts are.
    """
    from sklearn.linear_model import LogisticRegression

    rows = read(DATA / "criteria_learn.jsonl")
    ordinary = kept(cache / "ordinary.npz", [row["text"] for row in read(HEADS / "ordinary.jsonl")])
    found = kept(cache / "criteria.npz", [row["text"] for row in rows])
    half = found.shape[1] // 2
    centre = ordinary[:, :half].mean(0)
    texts, plain = unit(found[:, :half] - centre), unit(ordinary[:, :half] - centre)
    words = sorted({row["criterion"] for row in rows})
    of = np.array([words.index(row["criterion"]) for row in rows])
    met = np.array([row["met"] for row in rows])
    criteria = asyncio.run(criteria_of(words))
    middle = criteria.mean(0)
    directions = unit(criteria - middle)
    near = np.einsum("td,td->t", texts, criteria[of])
    usual = plain @ criteria.T
    base = (near - usual.mean(0)[of]) / usual.std(0)[of]
    alike = np.exp(LIKE_CRITERIA * (directions @ directions.T - 1))
    like = np.exp(LIKE_TEXTS * (texts @ texts.T - 1))
    plainly = np.exp(LIKE_TEXTS * (plain @ texts.T - 1))
    target = np.where(met, 1.0, -1.0) - np.tanh(base / 2)

    def solved(rest: Any) -> Any:
        gram = alike[np.ix_(of[rest], of[rest])] * like[np.ix_(rest, rest)]
        return np.linalg.solve(gram + RIDGE * np.eye(len(rest)), target[rest])

    parts = np.random.RandomState(0).permutation(len(words)) % PARTS
    scores = np.zeros(len(rows))
    for part in range(PARTS):
        rest, out = np.flatnonzero(parts[of] != part), np.flatnonzero(parts[of] == part)
        duals = solved(rest)
        for one in np.unique(of[out]):
            mine = out[of[out] == one]
            weights = alike[one][of[rest]] * duals
            usually = (plain @ criteria[one] - usual.mean(0)[one]) / usual.std(0)[one]
            usually = usually + CORRECTION * plainly[:, rest] @ weights
            corrected = base[mine] + CORRECTION * like[np.ix_(mine, rest)] @ weights
            scores[mine] = corrected - usually.mean()
    fitted = LogisticRegression(C=100).fit(scores[:, None], met)
    balanced = [((scores[of == one] > 0) == met[of == one]).mean() for one in range(len(words))]
    print(f"criteria never seen: {np.mean(balanced):.3f} right, slope {fitted.coef_[0, 0]:.2f}")
    step = float(np.abs(texts).max() / 127)
    arrays = {
        "centre": centre.astype(np.float32),
        "landmarks": np.round(texts / step).astype(np.int8),
        "step": step,
        "of": of.astype(np.int16),
        "duals": (CORRECTION * solved(np.arange(len(rows)))).astype(np.float32),
        "middle": middle.astype(np.float32),
        "directions": directions.astype(np.float16),
        "ordinary": plain.astype(np.float16),
        "like_criteria": LIKE_CRITERIA,
        "like_texts": LIKE_TEXTS,
        "slope": float(fitted.coef_[0, 0]),
    }
    np.savez_compressed(HEADS / "relevance.npz", **arrays)
    print(HEADS / "relevance.npz", (HEADS / "relevance.npz").stat().st_size // 1000, "kB")


async def criteria_of(words: Sequence[str]) -> Any:
    from moa.decisions.heads import PHRASE

    encoder = MultilingualEncoder(passage=True)
    phrases = [PHRASE.format(criterion=word) for word in words]
    return np.array((await encoder.embed(phrases, RunContext())).vectors)


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["support", "sentiment", "relevance"])
    parser.add_argument("--cache", type=Path, default=Path("/tmp"), help="where vectors are kept")
    parser.add_argument("--landmarks", type=int, help="texts that others are compared with")
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    given = parser.parse_args()
    if given.what == "support":
        support(given.cache, given.landmarks or 5000)
    elif given.what == "sentiment":
        sentiment(given.cache, given.landmarks or 1500, given.data)
    else:
        relevance(given.cache)


if __name__ == "__main__":
    main()
