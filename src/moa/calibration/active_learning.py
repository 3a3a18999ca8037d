"""Active learning: which unlabelled texts help a calibration most, once somebody has labelled them.

Half of the texts that are picked are drawn at random: a promise can only be found on such. The
others are those that the scorer is unsure of, or that lie close to its threshold, each far from
those before it: the gradients that their labels could cause are compared, as BADGE does (Ash et
al. 2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", arXiv
1906.03671), and always the farthest is taken (Gonzalez 1985).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, zip_longest

from moa.calibration.calibrated import Calibrated, read_texts
from moa.calibration.features import Progress, VectorFeature
from moa.calibration.labelled import same_text
from moa.context import RunContext
from moa.decisions.arrays import Floats, np

MOST_READ = 500
"""Texts that are read to choose among, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A text to be labelled."""

    place: int
    """Of the text."""
    chosen: bool
    """Whether it was chosen since it helps; otherwise it was drawn at random."""


async def picked(
    calibrated: Calibrated,
    texts: Sequence[str],
    *,
    most: int,
    known: Sequence[str] = (),
    most_read: int = MOST_READ,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> list[Pick]:
    """Pick the texts to label next, drawn and chosen ones in turn, the most helpful first.

    Which texts can be drawn, and in which order, depends on their words alone. So it makes no
    difference to the promise whether they are labelled in one session or in several.

    Args:
        calibrated: A calibration with its endpoints.
        texts: Unlabelled ones. A text that comes twice counts once.
        most: Texts to pick.
        known: Texts that are labelled already, and picked no more.
        most_read: Texts that the calibration's features read, to choose among.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how far each feature is.

    Raises:
        CalibrationError: a model is another one than the calibration's, or can't be read.
        EndpointError: a request failed.
    """
    done = {same_text(text) for text in known}
    places = {same_text(text): place for place, text in reversed(list(enumerate(texts)))}
    new = {key: place for key, place in places.items() if key not in done}
    order = sorted((sha256(key.encode()).digest(), place) for key, place in new.items())
    drawn = [Pick(place, chosen=False) for digest, place in order if digest[0] % 2 == 0]
    others = [place for digest, place in order if digest[0] % 2][:most_read]
    found: list[int] = []
    if others:
        context = context or RunContext(keep_notes=False)
        read = await read_texts(calibrated, [texts[place] for place in others], context, progress)
        found = helpful(calibrated, [reading.values for reading in read], most=most)
    chosen = [Pick(others[place], chosen=True) for place in found]
    mixed = chain.from_iterable(zip_longest(chosen, drawn))
    return [pick for pick in mixed if pick is not None][:most]


def helpful(calibrated: Calibrated, readings: Sequence[Floats], *, most: int) -> list[int]:
    """Give the places of the texts whose labels help most, by what each feature read of them."""
    calibration = calibrated.calibration
    full = calibration.full.blend()
    p = np.exp(full.logs(full.stacked(readings)))
    error = p - np.eye(p.shape[1])[p.argmax(1)]
    unsure = np.linalg.norm(error, axis=1)
    worth = unsure / max(float(unsure.max()), 1e-12)
    if (threshold := calibration.bound.threshold) is not None:
        sure = calibration.judge(readings).sure
        worth = np.maximum(worth, np.exp(-np.abs(_logit(sure) - _logit(np.array([threshold])))))
    direction = error / np.maximum(unsure, 1e-12)[:, None]
    return _farthest(worth[:, None] * direction, _told(calibrated, readings), most)


def _told(calibrated: Calibrated, readings: Sequence[Floats]) -> Floats:
    """What tells texts apart: vectors where there are any, else log-probabilities."""
    features = calibrated.calibration.features
    vectors = [isinstance(feature, VectorFeature) for feature in features]
    used = [
        reading if is_vector else reading - reading.mean(1, keepdims=True)
        for reading, is_vector in zip(readings, vectors, strict=True)
        if is_vector or not any(vectors)
    ]
    sizes = [np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in used]
    return np.concatenate([one / size for one, size in zip(used, sizes, strict=True)], 1)


def _farthest(slopes: Floats, vectors: Floats, most: int) -> list[int]:
    """Take the largest gradient, then always the one that is farthest from all that were taken.

    A gradient is the outer product of a slope and a vector; it is never written out.
    """
    sizes = (slopes**2).sum(1) * (vectors**2).sum(1)
    away = sizes.copy()
    taken: list[int] = []
    while len(taken) < min(most, len(sizes)):
        place = int(away.argmax())
        taken.append(place)
        shared = (slopes @ slopes[place]) * (vectors @ vectors[place])
        away = np.minimum(away, sizes + sizes[place] - 2 * shared)
        away[taken] = -np.inf
    return taken


def _logit(p: Floats) -> Floats:
    safe = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(safe / (1 - safe))
