"""What labels gain in an inbox of one's own: `python benchmarks/inbox.py`.

Of each business a third of the messages, drawn at random, is left out, and so many of the others
are labelled as `moa label` picks them; `moa learn` learns from these. The graph then reads the
messages that were left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

from moa.config.endpoints import Endpoints
from moa.core.context import RunContext
from moa.decisions.guarantee import Guarantee
from moa.evals.labelling import UnlabelledRow, pick_texts
from moa.evals.learning import Lesson, Terms, learn_from
from moa.learning.labelled_graph import Learner, Message, agents_of, decide_option
from report import table, write

DATA = Path(__file__).parent / "data" / "businesses"
"""Those that ship, which the heads and the scorer of intents have seen."""
BUSINESSES = ("bank", "landlord", "museum", "gym", "hotel", "townhall")
SIZES = (0, 40, 100, 200)
TEXT = """
## Your inbox

What labels gain in [an inbox of one's own](inbox.md): {names}, eight intents each with a sentence
and four examples. A third of the messages of each is left out, the labels are of the others,
picked as `moa label` does and learned from as `moa learn` does. Cells are shares of the messages
that were left out, pooled, and counts. Settled is what goes to a queue without a large model;
right of these is what has the right intent. A row has the businesses that have so many messages
beside those left out. {seen}

{table}
"""

SEEN = """The heads that ship, and the scorer of intents, were fitted to these businesses among
others, so the first rows are better than those of a business that nobody has seen: for that give
--data."""
UNSEEN = "Nothing that ships was fitted to these businesses."


class Found(NamedTuple):
    """Of some messages: intents that are right, what is settled, and what is settled rightly."""

    messages: int
    right: int
    settled: int
    settled_right: int


def configured(data: Path, name: str, folder: Path) -> Path:
    """Write a configuration with the intents of a business, each with a queue."""
    intents = tomllib.loads((data / f"{name}.toml").read_text("utf-8"))["intents"]
    file = folder / f"{name}.toml"
    file.write_text(
        "\n".join(
            f"[graphs.support.intents.{intent}]\nmeans = {json.dumps(one['means'])}\n"
            f"examples = {json.dumps(one['examples'])}\nqueue = {json.dumps(intent)}\n"
            for intent, one in intents.items()
        )
    )
    return file


async def learned(
    learner: Learner, messages: list[Message], size: int, context: RunContext
) -> dict[str, Lesson]:
    """Label as many messages, and learn from them."""
    if not size:
        return {}
    rows = [UnlabelledRow(str(m.fields["text"]), m.fields, m.texts) for m in messages]
    picks = await pick_texts(learner.agents, rows, most=size, context=context)
    given = [messages[pick.place]._replace(marks={"chosen": pick.chosen}) for pick in picks]
    terms = Terms(guarantee=Guarantee(0.1))
    found: dict[str, Lesson] = {}
    for name, question in learner.questions.items():
        labelled = learner.collect_labelled(name, given)
        made = await learn_from(learner.agents[name], question, labelled, terms, context=context)
        if isinstance(made, Lesson):
            found[name] = made
    return found


async def business(data: Path, name: str, sizes: list[int], folder: Path) -> dict[int, Found]:
    """Measure one business after each number of labels."""
    with (data / f"{name}.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    random.Random(0).shuffle(lines)
    found: dict[int, Found] = {}
    async with Endpoints(configured(data, name, folder)) as endpoints:
        learner, context = Learner("support", endpoints), RunContext(keep_notes=False)
        rows = [(f"{name}, {n}", line) for n, line in enumerate(lines)]
        messages = await learner.messages(rows, context)
        out, pool = messages[: len(messages) // 3], messages[len(messages) // 3 :]
        genuine = [m for m in out if m.labels["spam"] == m.labels["injection"] == "no"]
        for size in sizes:
            if size > len(pool):
                continue
            lessons = await learned(learner, pool, size, context)
            taken = {key: one.new_calibration for key, one in lessons.items()}
            node = learner.build({key: it for key, it in taken.items() if it is not None})
            agent = agents_of(node)["intent"]
            right = [
                await decide_option(agent, m.texts["intent"], context) == m.labels["intent"]
                for m in genuine
            ]
            settled = await learner.count_settled(node, genuine, context)
            found[size] = Found(len(genuine), sum(right), settled.settled, settled.right)
            print(
                name, size, found[size], sorted(key for key, it in taken.items() if it), flush=True
            )
    return found


def names_in(data: Path | None) -> list[str]:
    """Name the businesses of a folder; `None`: some of those that ship."""
    return sorted(path.stem for path in data.glob("*.toml")) if data else [*BUSINESSES]


def share(part: int, of: int) -> str:
    """Write a share with its counts."""
    return f"{part / of:.2f} ({part}/{of})" if of else "none"


async def main() -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--business", action="append", help="One of them; default: six.")
    parser.add_argument("--labels", type=int, action="append", help="How many; default: 0 to 200.")
    parser.add_argument("--data", type=Path, help="A folder of businesses that nobody has seen.")
    parser.add_argument("--no-write", action="store_true", help="Print the table alone.")
    given = parser.parse_args()
    data: Path = given.data or DATA
    names, sizes = given.business or names_in(given.data), given.labels or [*SIZES]
    with tempfile.TemporaryDirectory() as folder:
        every = {name: await business(data, name, sizes, Path(folder)) for name in names}
    rows: list[tuple[object, ...]] = []
    for size in sizes:
        known = [found[size] for found in every.values() if size in found]
        if known:
            all_of = Found(*map(sum, zip(*known, strict=True)))
            cells = (
                share(all_of.right, all_of.messages),
                share(all_of.settled, all_of.messages),
                share(all_of.settled_right, all_of.settled),
            )
            rows.append((size, len(known), *cells))
    head = ("labels", "businesses", "intents right", "settled", "right of the settled")
    body = TEXT.format(
        names=", ".join(names), table=table(head, rows), seen=UNSEEN if given.data else SEEN
    )
    print(body)
    if not given.no_write:
        write("inbox", "python benchmarks/inbox.py", body)


if __name__ == "__main__":
    asyncio.run(main())
