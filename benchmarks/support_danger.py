"""How many messages in which people are in danger go to people first: `support_danger.py`.

Vectors of the messages are kept in a folder, as `heads.py` keeps them. What the graph makes of the
two probabilities is worked out from them, for the shipped urgency and the words of `DANGER`.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from heads import LANDMARKS
from machines import Machine, Space, Sums
from messages import DATA, LEVELS, MIXED, SHOP, Messages, encoded, learning, read_shop
from moa.core.context import RunContext
from moa.inbox.reading import DANGER, MAY_BE, SURE, DangerFinder
from moa.inbox.support import Support
from moa.local.encoders import E5_PARTS, USE_PARTS
from moa.local.heads import shipped_heads
from moa.local.relevance import words_head
from moa.testing import SimulatedEndpoint
from report import table, write

CHOSEN_ON = ("1", "2", "3")
"""Writers on whose messages the words and the thresholds were chosen."""
TEXT = """
## Danger in support messages

{dangers} of {all} genuine messages to twenty-four businesses, to forty other trades and to the shop
(held out) tell of danger to people: somebody is hurt or ill, or may be soon. One reader labelled
them, among those whose urgency is `now`. *Found* is what goes to the queue `danger`; *false* are
others that do, and *of them not urgent* those that aren't `now` either. The words and the
threshold of urgent messages were chosen on the writers named first, that of others on all but the
shop's. The head of urgency was fitted to all of these messages but those to the shop, so that in
new ones fewer are found: the last row reads them by heads that were fitted without their writer.

{rows}
"""


def urgencies_apart(messages: Messages, vectors: Any) -> Any:
    """Give the probabilities of urgency of genuine messages by heads without their writer."""
    space = Space(vectors, (E5_PARTS, USE_PARTS), LANDMARKS)
    own = messages.only(messages.genuine)
    sums = Sums(space.features(vectors[messages.genuine]), own.writer)
    return np.exp(Machine(space, sums, own.labels("urgency", LEVELS)).logs)


def called(vectors: Any, urgency: Any = None) -> Any:
    """Say of each message whether it goes to people first, as `with_danger` does.

    Args:
        vectors: Of the messages.
        urgency: Probabilities of its levels; `None`: those of the shipped head.
    """
    finder = DangerFinder(SimulatedEndpoint())
    (question,) = finder.questions
    head = asyncio.run(words_head(question, RunContext())).head
    danger = np.exp(head(vectors))[:, 0]
    if urgency is None:
        urgency = np.exp(shipped_heads("support")["urgency"](vectors))
    least = Support.__pydantic_fields__["danger_threshold"].default  # type: ignore[attr-defined]
    urgent = urgency.argmax(1) == 2
    return (urgent & (danger >= least)) | ((urgency[:, 2] >= MAY_BE) & (danger >= max(least, SURE)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("/tmp"), help="where vectors are kept")
    given = parser.parse_args()
    learnt, held = learning(), read_shop("support_held_out")
    parts = [learnt.only(learnt.genuine & (learnt.writer != SHOP)), held.only(held.genuine)]
    ids = np.array([row["id"] for part in parts for row in part.rows])
    now = np.array([row["urgency"] == "now" for part in parts for row in part.rows])
    writer = np.concatenate([part.writer for part in parts])
    texts = [text for part in parts for text in part.texts]
    danger = np.isin(ids, (DATA / "support_danger.txt").read_text("utf-8").split())
    found = encoded(given.cache / "messages.npz", [*learnt.texts, *texts])
    whole, vectors = found[: len(learnt.rows)], found[len(learnt.rows) :]
    first = called(vectors)
    not_shops = learnt.writer[learnt.genuine] != SHOP
    apart = called(whole[learnt.genuine][not_shops], urgencies_apart(learnt, whole)[not_shops])
    groups = {
        f"writers {', '.join(CHOSEN_ON)}: chosen on": np.isin(writer, CHOSEN_ON),
        "the other writers": ~np.isin(writer, CHOSEN_ON),
        "of these, to forty trades": writer == MIXED,
        "of these, to the shop, held out": writer == SHOP,
    }
    rows: list[list[object]] = []
    for name, own in groups.items():
        right, false = first & danger & own, first & ~danger & own
        rows.append(
            [
                name,
                int(own.sum()),
                f"{right.sum()} of {(danger & own).sum()}",
                f"{false.sum()} of {(~danger & own).sum()}",
                int((false & ~now).sum()),
            ]
        )
    few = slice(len(apart))
    rows.append(
        [
            "all but the shop's, urgency without their writer",
            len(apart),
            f"{(apart & danger[few]).sum()} of {danger[few].sum()}",
            f"{(apart & ~danger[few]).sum()} of {(~danger[few]).sum()}",
            int((apart & ~danger[few] & ~now[few]).sum()),
        ]
    )
    shown = table(["", "messages", "found", "false", "of them not urgent"], rows)
    body = TEXT.format(dangers=int(danger.sum()), all=len(ids), rows=shown)
    print(f"{DANGER}\n{body}")
    write("support danger", "python benchmarks/support_danger.py", body)


if __name__ == "__main__":
    main()
