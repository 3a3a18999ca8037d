"""The shop's inbox as a stream, for `promise.py`: what support learns, with the shop left out.

Mood, urgency and spam are decided by heads that were fitted to other businesses alone, as they
decide in an inbox that nobody knew. Messages that these send to a large model or to people whatever
their intent is are left out, since the intent saves nothing there. The label is the intent; where
gold has another mood, urgency or spam than the heads, it is `OTHERWISE`, as in `support`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from heads import INTENTS, LANDMARKS, LESS, Pieces, fit, rival, strongest, with_sentences
from machines import Head, Space
from messages import SHOP, learning
from moa.inbox.support import INTENTS as SHIPPED
from moa.learning.labelled import OTHERWISE

NAMES = (*INTENTS, OTHERWISE)


def inbox(cache: Path) -> tuple[list[str], list[str]]:
    """Give the messages of the shop whose intent matters, and their labels."""
    messages = learning()
    vectors, pieces = with_sentences(messages.texts, cache)
    shop = messages.business == SHOP
    space, heads = fit(messages.only(~shop), vectors[~shop], pieces.only(~shop), LANDMARKS)
    own, likeness = messages.only(shop), space.likeness(vectors[shop])
    unwanted = stopped(space, heads, likeness, pieces.only(shop))
    unhappy = heads["sentiment"].logs(likeness).argmax(1) == 0
    urgent = heads["urgency"].logs(likeness).argmax(1) == 2
    texts, labels = list[str](), list[str]()
    for place, (row, text) in enumerate(zip(own.rows, own.texts, strict=True)):
        if unwanted[place] or unhappy[place] or urgent[place]:
            continue
        alike = not (row["spam"] or row["injection"])
        alike = alike and row["sentiment"] != "negative" and row["urgency"] != "now"
        texts.append(text)
        labels.append(str(row["intent"]) if alike else OTHERWISE)
    return texts, labels


def stopped(
    space: Space, heads: dict[str, Head], likeness: object, pieces: Pieces
) -> Sequence[bool]:
    """Say which messages are quarantined."""
    found = np.zeros(len(likeness), bool)
    by_piece = space.likeness(pieces.vectors)
    for name in ("spam", "injection"):
        above = rival(heads[name].logs(likeness), 0)
        if (less := LESS.get(name)) is not None:
            above = strongest(above, rival(heads[name].logs(by_piece), 0), pieces.of, less)
        found |= above > 0
    return found


def meanings() -> dict[str, str]:
    """Say what each intent of the shop means, as the graph tells it a model."""
    return {name: one.means for name, one in SHIPPED.items()}
