"""What the support graph makes of the inboxes of businesses that its heads weren't fitted to.

`python benchmarks/businesses.py` fits heads without a business and all others of its writer, puts
them in the place of those that ship, and has the graph read that business's messages with its own
intents: a sentence and four examples each. `--data` reads other businesses (NAME.toml and
NAME.jsonl, as in benchmarks/data/businesses) with the heads that ship. `--kept` lets a run be
stopped and gone on with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pairs
from heads import LANDMARKS, fit, with_sentences
from kept import Kept
from machines import save
from messages import BUSINESSES, Row, intents_of, learning, read, writer_of
from moa import EmbeddedEndpoint
from moa.endpoints.named import as_endpoint
from moa.local import heads as shipped
from moa.local import pairs as scorer
from report import table, write
from support_reading import graph_reader

AT_ONCE = 8
"""As `moa run` does."""
EMBEDDED = "embedded"
TEXT = """
## Businesses left out

The support graph as `moa run support` runs it, {at_once} messages at once at most, on the inboxes
of {count} businesses, each with eight intents of its own: a sentence and four examples each, and a
queue. The heads and the scorer of pairs are fitted without the business and
without all others of its writer. Intent, sentiment and urgency are of the genuine messages.
*Settled* is what went to the queue of an intent, with no large model and nobody to read it first;
*right* those of them whose intent is right. *First* is seconds from the start of the process to
the first answer, with all models to load; messages a second are those after it. Each business
had a process of its own; other work ran on the machine, so times are upper bounds.

{rows}
"""
COLUMNS = (
    "intent",
    "sentiment",
    "urgent found",
    "others called urgent",
    "unwanted stopped",
    "genuine quarantined",
    "settled",
    "right of settled",
)


async def read_all(path: Path, models: str, begun: float) -> Row:
    """Have the graph read the messages of a business."""
    intents = {
        name: one.model_copy(update={"queue": one.queue or name})
        for name, one in intents_of(path).items()
    }
    slm = EmbeddedEndpoint() if models == EMBEDDED else as_endpoint(models)
    found, seconds, left = dict[str, Row](), list[float](), iter(read(path.with_suffix(".jsonl")))

    async def work(reader: Any) -> None:
        for row in left:
            found[row["id"]] = await reader(row)
            seconds.append(time.time() - begun)

    async with slm:  # its engine starts when it is asked, if it is
        reader = graph_reader(slm, intents)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work(reader))
    return {"found": found, "first": min(seconds), "last": max(seconds)}


def measured(path: Path, models: str, folder: Path) -> Row:
    """Read a business's messages in a process of its own."""
    command = [sys.executable, __file__, "--one", str(path), "--heads", str(folder)]
    command += ["--models", models, "--begun", str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{path.stem}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def counts(gold: Sequence[Row], found: dict[str, Row]) -> dict[str, tuple[int, int]]:
    """Count what is right."""
    pairs = [(row, found[row["id"]]) for row in gold]
    fair = [(g, f) for g, f in pairs if not (g["spam"] or g["injection"])]
    bad = [f for g, f in pairs if g["spam"] or g["injection"]]
    wanted = [(g, f) for g, f in fair if g["intent"] is not None]
    now = [(g["urgency"] == "now", f.get("urgency") == "now") for g, f in fair]
    settled = [g["intent"] == f["intent"] for g, f in fair if f.get("settled")]

    def of(flags: Sequence[bool]) -> tuple[int, int]:
        return sum(flags), len(flags)

    return {
        "intent": of([f.get("intent", "") == g["intent"] for g, f in wanted]),
        "sentiment": of([f.get("sentiment") == g["sentiment"] for g, f in fair]),
        "urgent found": of([said for true, said in now if true]),
        "others called urgent": of([said for true, said in now if not true]),
        "unwanted stopped": of([f["dropped"] or f.get("quarantined", False) for f in bad]),
        "genuine quarantined": of([f.get("quarantined", False) for _, f in fair]),
        "settled": of([f.get("settled", False) for _, f in fair]),
        "right of settled": of(settled),
    }


def heads_without(writer: str, folder: Path, cache: Path, labelled: Path) -> Path:
    """Fit all that reads a message without a writer, and put it with what ships into a folder."""
    shutil.copytree(shipped.FOLDER, folder)
    messages = learning()
    vectors, pieces = with_sentences(messages.texts, cache)
    rest = messages.writer != writer
    made = fit(messages.only(rest), vectors[rest], pieces.only(rest), LANDMARKS)
    save(folder / "support.npz", *made)
    sets = {name: one for name, one in pairs.sets_of(labelled).items() if one.writer != writer}
    pairs.save(pairs.fitted(sets, cache)[0], folder / "pairs.npz")
    return folder


def body_of(results: dict[str, Row], gold: dict[str, Sequence[Row]]) -> str:
    rows, sums = list[list[object]](), dict.fromkeys(COLUMNS, (0, 0))
    for name, one in results.items():
        scores = counts(gold[name], one["found"])
        rate = (len(one["found"]) - 1) / max(one["last"] - one["first"], 1e-9)
        rows.append([name, *(share(scores[c]) for c in COLUMNS), f"{one['first']:.1f}"])
        rows[-1].append(f"{rate:.1f}")
        for column, (hits, of) in scores.items():
            sums[column] = sums[column][0] + hits, sums[column][1] + of
    rows.append(["all", *(f"{share(sums[c])} ({sums[c][0]}/{sums[c][1]})" for c in COLUMNS)])
    rows[-1] += ["", ""]
    shown = table(["", *COLUMNS, "first, s", "messages/s"], rows)
    return TEXT.format(at_once=AT_ONCE, count=len(results), rows=shown)


def key_of(path: Path, models: str) -> str:
    return f"{path.absolute()}, {models}"


def share(counts: tuple[int, int]) -> str:
    return f"{counts[0] / counts[1]:.3f}" if counts[1] else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="other businesses, read with the shipped heads")
    parser.add_argument("--writer", help="only the businesses by this writer")
    parser.add_argument(
        "--labelled", type=Path, default=os.environ.get("MOA_DATA"), help="folder of labelled sets"
    )
    parser.add_argument("--models", default=EMBEDDED, help='the small model: "VENDOR:MODEL"')
    parser.add_argument("--cache", type=Path, default=Path("/tmp"), help="where vectors are kept")
    parser.add_argument("--kept", type=Path, help="file that keeps what each business gave")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--heads", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--begun", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        shipped.FOLDER = args.heads
        scorer.FILE = args.heads / scorer.FILE.name
        print(json.dumps(asyncio.run(read_all(args.one, args.models, args.begun))))
        return
    paths = sorted((args.data or BUSINESSES).glob("*.toml"))
    paths = [path for path in paths if args.writer in (None, writer_of(path))]
    if not args.data and args.labelled is None:
        parser.error("give the folder of labelled sets, by --labelled or $MOA_DATA")
    kept, folders = Kept(args.kept), dict[str, Path]()
    with tempfile.TemporaryDirectory() as made:
        for path in paths:
            if key_of(path, args.models) in kept.found:
                continue
            writer = "" if args.data else writer_of(path)
            if writer not in folders:
                folder = Path(made) / f"without {writer}"
                folders[writer] = (
                    shipped.FOLDER
                    if args.data
                    else heads_without(writer, folder, args.cache, args.labelled)
                )
            found = measured(path, args.models, folders[writer])
            kept.keep(key_of(path, args.models), found)
            print(f"{path.stem}: {found['last']:.1f} s", flush=True)
    results = {path.stem: kept.found[key_of(path, args.models)] for path in paths}
    body = body_of(results, {path.stem: read(path.with_suffix(".jsonl")) for path in paths})
    print(body)
    if not args.data and args.models == EMBEDDED:
        only = f" --writer {args.writer}" if args.writer else ""
        write("businesses", f"python benchmarks/businesses.py{only}", body)


if __name__ == "__main__":
    main()
