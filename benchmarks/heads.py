"""Fits the heads that ship, from benchmarks/data: `python benchmarks/heads.py support`.

`machines.py` says what they are. scikit-learn and numpy fit them, and numpy applies what is written
to src/moa/local/heads. What is chosen, such as from when a message is urgent, is chosen by
cross-validation on the texts that are learnt from; the messages of the inbox and those held out are
never read for it. `support` also writes how heads do on businesses that they weren't fitted to, nor
to any other by the same writer.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from machines import Head, Machine, Space, Sums, cut, rival, save, strongest
from messages import (
    FEELINGS,
    LEVELS,
    MIXED,
    SHOP,
    Messages,
    encoded,
    learning,
    read,
    read_shop,
)
from moa.decisions.heads import sentences
from moa.local.encoders import E5_PARTS, USE_PARTS
from moa.local.heads import FOLDER as HEADS
from report import table, write

INTENTS = ("delivery", "refund", "broken", "payment", "account", "question", "thanks", "None")
LANDMARKS = 2000
"""Texts that others are compared with: as many as make a file of 2.5 MB."""
VECTORS = "messages.npz"
"""The file of vectors that were encoded before."""
FOLDS = 8
"""Parts of texts of one writer, each of which is scored by machines without it."""
CALLED: dict[str, tuple[int, float, float]] = {
    "urgency": (2, 0.06, 0.16),
    "spam": (0, 0.01, 0.03),
    "injection": (0, 0.01, 0.03),
}
"""The class that is looked for, and the share of the others that may be called it, as the mean over
businesses and of any one: `now` of the genuine, and spam and injections."""
UNWANTED = ("spam", "injection")
LESS = {"injection": 0.3}
"""What a sentence's log-odds lose beside those of the whole text, of questions that one sentence
decides: an order to the machine is hidden in a long message."""
NAMES: dict[str, Sequence[str]] = {
    "intent": INTENTS,
    "sentiment": FEELINGS,
    "urgency": LEVELS,
    "spam": ("True", "False"),
    "injection": ("True", "False"),
}
TEXT = """
## Heads on businesses left out

Heads as they ship, fitted without a business and all others by the writer of its messages, and read
on that business. *The shop* is `support_held_out.jsonl`, read with the heads that ship. Sentiment
and urgency are of the genuine messages, urgent is what is labelled `now`. *By the rule*: a calm
report of something that went wrong (labelled neutral, and `today` or `now`) may be called negative.
Stopped and quarantined is what spam or injection are more likely than not. The mean is over
businesses. From when a message is urgent or unwanted was chosen without the writer, too.

{rows}
"""
COLUMNS = (
    "sentiment right",
    "by the rule",
    "urgent found",
    "others called urgent",
    "unwanted stopped",
    "genuine quarantined",
)


class Pieces(NamedTuple):
    """The sentences of some messages."""

    vectors: Any
    of: Any
    """The place of each one's message."""

    def only(self, rest: Any) -> Pieces:
        """Keep those of some messages."""
        kept = rest[self.of]
        return Pieces(self.vectors[kept], (np.cumsum(rest) - 1)[self.of[kept]])


def fit(
    messages: Messages, vectors: Any, pieces: Pieces, landmarks: int
) -> tuple[Space, dict[str, Head]]:
    """Fit the heads of a support inbox."""
    space = Space(vectors, (E5_PARTS, USE_PARTS), landmarks)
    features, heads = space.features(vectors), dict[str, Head]()
    by_piece = space.features(pieces.vectors)
    shop = messages.genuine & (messages.writer == SHOP)
    parts = np.random.RandomState(0).permutation(len(shop)) % FOLDS
    for asked, rest, folds in (
        (("intent",), shop, parts),  # the shop's own
        (("sentiment", "urgency"), messages.genuine, messages.writer),
        (UNWANTED, messages.genuine | True, messages.writer),
    ):
        if not rest.any():  # the shop is left out
            continue
        sums, own = Sums(features[rest], folds[rest]), messages.only(rest)
        labels = {question: own.labels(question, NAMES[question]) for question in asked}
        for question in asked:
            beside = [one for other, one in labels.items() if other != question]
            machine = Machine(space, sums, labels[question], beside)
            by, less = 0.0, LESS.get(question)
            if question in CALLED:
                above = rival(machine.logs, CALLED[question][0])
                if less is not None:
                    logs = machine.logs_of(by_piece, own.writer[pieces.of])
                    above = strongest(above, rival(logs, 0), pieces.of, less)
                by = called(question, above, machine.labels, own)
            head = machine.head.moved(CALLED.get(question, (0,))[0], by)
            heads[question] = head._replace(less=less)
    return space, heads


def called(question: str, above: Any, labels: Any, messages: Messages) -> float:
    """Say how much is taken from the class that is looked for, so that few others are called it."""
    place, mean, worst = CALLED[question]
    is_it = labels == place
    judged = messages.genuine | is_it  # spam isn't wrongly called an injection
    return cut(above[judged], is_it[judged], messages.business[judged], mean, worst)


def scored(
    messages: Messages, space: Space, heads: dict[str, Head], vectors: Any, pieces: Pieces
) -> list[float]:
    """Judge heads on messages: a share for each of `COLUMNS`."""
    likeness, fair = space.likeness(vectors), messages.genuine
    said = {name: head.logs(likeness).argmax(1) for name, head in heads.items()}
    by_piece = space.likeness(pieces.vectors)
    for name, less in LESS.items():
        whole, each = (rival(heads[name].logs(one), 0) for one in (likeness, by_piece))
        said[name] = (strongest(whole, each, pieces.of, less) <= 0).astype(int)
    feels = messages.only(fair).labels("sentiment", FEELINGS)
    urgent = messages.only(fair).labels("urgency", LEVELS)
    right = said["sentiment"][fair] == feels
    calm = (feels == 1) & (urgent > 0) & (said["sentiment"][fair] == 0)
    called = said["urgency"][fair] == 2
    stopped = (said["spam"] == 0) | (said["injection"] == 0)
    flags = (right, right | calm, called[urgent == 2], called[urgent < 2], stopped[~fair])
    return [float(np.mean(one)) for one in (*flags, stopped[fair])]


def with_sentences(texts: Sequence[str], cache: Path) -> tuple[Any, Pieces]:
    """Encode texts, and their sentences."""
    split = [sentences(text) for text in texts]
    found = encoded(cache / VECTORS, [*texts, *(one for own in split for one in own)])
    of = np.repeat(np.arange(len(texts)), [len(own) for own in split])
    return found[: len(texts)], Pieces(found[len(texts) :], of)


def support(cache: Path, landmarks: int) -> None:
    """What a writer feels, how urgent it is, whether it is unwanted; what those to a shop want."""
    messages, held = learning(), read_shop("support_held_out")
    vectors, pieces = with_sentences(messages.texts, cache)
    held_vectors, held_pieces = with_sentences(held.texts, cache)
    shares: dict[str, list[float]] = {}
    for writer in sorted(set(messages.writer.tolist()) - {SHOP, MIXED}):
        rest = messages.writer != writer
        made = fit(messages.only(rest), vectors[rest], pieces.only(rest), landmarks)
        for business in sorted(set(messages.business[~rest].tolist())):
            own = messages.business == business
            share = scored(messages.only(own), *made, vectors[own], pieces.only(own))
            shares[f"{business}, by writer {writer}"] = share
            print(business, *(f"{one:.3f}" for one in share), flush=True)
    made = fit(messages, vectors, pieces, landmarks)
    save(HEADS / "support.npz", *made)
    shares["**mean**"] = np.mean(list(shares.values()), 0).tolist()
    shares["the shop, held out"] = scored(held, *made, held_vectors, held_pieces)
    wants = made[1]["intent"].logs(made[0].likeness(held_vectors)).argmax(1) == held.labels(
        "intent", INTENTS
    )
    print(f"the shop's intents, held out: {wants[held.genuine].mean():.3f}")
    rows = [[name, *(f"{share:.3f}" for share in own)] for name, own in shares.items()]
    body = TEXT.format(rows=table(["", *COLUMNS], rows))
    print(body)
    write("heads", "python benchmarks/heads.py support", body)


def sentiment(cache: Path, landmarks: int, data: Path) -> None:
    """What the writer of any text feels: rated films, products, posts and news, and messages."""
    messages = learning()
    genuine = messages.only(messages.genuine)
    rated = [
        (row["text"], row["label"])
        for name in ("movie", "amazon", "tweets", "nyt")
        for row in read(next((data / f"sentiment3_{name}").glob("*.jsonl")))
        if not for_report(row["text"])
    ]
    rows = [*zip(genuine.texts, (row["sentiment"] for row in genuine.rows), strict=True), *rated]
    vectors = encoded(cache / VECTORS, [text for text, _ in rows])
    labels = np.array([FEELINGS.index(label) for _, label in rows])
    folds = np.random.RandomState(0).permutation(len(rows)) % FOLDS
    space = Space(vectors, (E5_PARTS, USE_PARTS), landmarks)
    features, two = space.features(vectors), labels != 1
    three = Machine(space, Sums(features, folds), labels)
    both = Machine(space, Sums(features[two], folds[two]), labels[two] // 2)
    for name, machine in (("three", three), ("two", both)):
        right = (machine.logs.argmax(1) == machine.labels).mean()
        print(f"{name} feelings: {right:.3f} right")
    heads = {"sentiment": three.head, "negative or positive": both.head}
    save(HEADS / "sentiment.npz", space, heads)


def for_report(text: str) -> bool:
    """Whether a rated text is measured on, and so never learnt from: about three in ten."""
    return hashlib.sha256(text.encode()).digest()[0] < 77


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["support", "sentiment"])
    parser.add_argument("--cache", type=Path, default=Path("/tmp"), help="where vectors are kept")
    parser.add_argument("--landmarks", type=int, help="texts that others are compared with")
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    given = parser.parse_args()
    if given.what == "support":
        support(given.cache, given.landmarks or LANDMARKS)
    else:
        sentiment(given.cache, given.landmarks or 1500, given.data)


if __name__ == "__main__":
    main()
