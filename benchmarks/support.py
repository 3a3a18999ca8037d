"""What the support graph reaches on messages it never learnt from: `python benchmarks/support.py`.

The shipped graph reads the example inbox and the held-out messages. Beside it, on the inbox: the
small model alone with its examples, and with `--slm` and `--chat` models from GGUF files.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from kept import Kept
from moa import EmbeddedEndpoint
from moa.core.context import RunContext
from moa.inbox.support import Ticket
from moa.local import encoders
from report import table, write
from support_reading import Alone, Read, Row, chat_reader, graph_reader

HERE = Path(__file__).parent
INBOX = HERE.parent / "examples" / "support" / "inbox.jsonl"
AT_ONCE = 8
"""As `moa run` does."""
REPEATS = 3
WARM = Ticket(text="Hello, which number do I call on Saturdays?")
"""Read before the clock starts: loads weights, and lets agents find out the model's bias."""
TARGETS: dict[str, tuple[str, float]] = {
    "intent": ("at least", 0.88),
    "sentiment": ("at least", 0.92),
    "sentiment by the rule": ("at least", 0.92),
    "urgent found": ("at least", 0.90),
    "others called urgent": ("at most", 0.05),
    "unwanted stopped": ("at least", 0.90),
    "genuine quarantined": ("at most", 0.02),
    "genuine dropped": ("at most", 0.0),
}
BY_LANGUAGE = [name for name in TARGETS if name != "genuine dropped"]
SECONDS = 40.0
SHIPPED = ("shipped, inbox", "shipped, held out")
TEXT = """
## Support

The support graph as `moa run support` runs it, {at_once} messages at once at most, on the example
inbox ({inbox} messages; one is empty, is dropped, and counts in the times alone) and on {held}
held-out messages in ten languages. No head was fitted to either; both were looked at a few times
while the heads were made, so new messages may do a little worse. Cells are shares, and counts.
Intent, sentiment and urgency are of the genuine messages: what is unwanted has no intent, and goes
to quarantine. *By the rule*: a calm report of something that went wrong (labelled neutral, and
`today` or `now`) may be called neutral or negative. Urgent is what is labelled `now`. Stopped is
what is quarantined or dropped.

Seconds are for all messages, after the start: of the shipped graph medians of {repeats} repeats, of
the others one run. Other work ran on the two cores meanwhile, more of it at some times than at
others, so they are upper bounds, and small differences mean nothing. Tokens are prompt tokens of
the model a message, cached ones included; the encoder's are not among them.

{ways}

*The graph, with a model*: it stands in place of SmolLM2 beside the encoder, whose shipped heads
decide, so it isn't asked. *Alone*: the same graph without the encoder, so the model decides, shown
the graph's examples. *As a chat*: asked once, at temperature 0, for all five answers as JSON held
to a schema, with the labels and their meanings, without examples and without the graph's rules;
with another prompt the same model has had 30 of 40 intents right, so take it for one try.

{goals}

The shipped graph on the held-out messages, by language; few messages each, so one of them is much:

{languages}
"""


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def measured(read: Read, rows: Sequence[Row], repeats: int) -> Row:
    """Read all rows; seconds are without the start, and of several repeats all are kept."""
    begun = time.perf_counter()
    await read(WARM.model_dump(exclude_none=True))
    start, seconds, found = time.perf_counter() - begun, list[float](), dict[str, Row]()
    for _ in range(repeats):
        for encoding in (encoders.e5_encoding(), encoders.use_encoding()):
            encoding.clear()  # or the repeats would find every vector there
        left, begun = iter(rows), time.perf_counter()

        async def work(left: Any = left) -> None:
            for row in left:
                found[row["id"]] = await read(row)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        seconds.append(time.perf_counter() - begun)
    return {"found": found, "start_s": start, "seconds": seconds}


def fraction(flags: Sequence[bool]) -> tuple[int, int]:
    return sum(flags), len(flags)


def by_rule(gold: Row, said: str) -> bool:
    """A calm report of something that went wrong may be neutral or negative."""
    calm = gold["sentiment"] == "neutral" and gold["urgency"] in ("today", "now")
    return said == gold["sentiment"] or (calm and said == "negative")


def scored(gold: Sequence[Row], found: dict[str, Row]) -> dict[str, tuple[int, int]]:
    """Count what is right."""
    pairs = [(row, found[row["id"]]) for row in gold if row.get("sentiment")]
    fair = [(g, f) for g, f in pairs if not (g["spam"] or g["injection"])]
    bad = [f for g, f in pairs if g["spam"] or g["injection"]]
    now = [(g["urgency"] == "now", f.get("urgency") == "now") for g, f in fair]
    return {
        "intent": fraction([f.get("intent", "") == g["intent"] for g, f in fair]),
        "sentiment": fraction([f.get("sentiment") == g["sentiment"] for g, f in fair]),
        "sentiment by the rule": fraction([by_rule(g, f.get("sentiment", "")) for g, f in fair]),
        "urgent found": fraction([said for true, said in now if true]),
        "others called urgent": fraction([said for true, said in now if not true]),
        "unwanted stopped": fraction([f["dropped"] or f["quarantined"] for f in bad]),
        "genuine quarantined": fraction([f.get("quarantined", False) for _, f in fair]),
        "genuine dropped": fraction([f["dropped"] for _, f in fair]),
    }


def cell(counts: tuple[int, int]) -> str:
    return f"{counts[0] / counts[1]:.3f} ({counts[0]}/{counts[1]})" if counts[1] else "-"


async def run(args: argparse.Namespace) -> dict[str, Row]:
    kept = Kept(args.json)
    inbox, held = rows_of(INBOX), rows_of(HERE / "data" / "support_held_out.jsonl")

    async def way(name: str, rows: Sequence[Row], made: Any, slm: Any, repeats: int = 1) -> None:
        if name in kept.found:
            return
        async with slm:
            await slm.start(RunContext())
            kept.keep(name, await measured(made(slm), rows, repeats))
        print(f"{name}: {kept.found[name]['seconds']} s", flush=True)

    await way("shipped, inbox", inbox, graph_reader, EmbeddedEndpoint(), REPEATS)
    await way("shipped, held out", held, graph_reader, EmbeddedEndpoint(), REPEATS)
    await way("SmolLM2 alone", inbox, graph_reader, Alone())
    for file in args.slm:
        slm = EmbeddedEndpoint(model_path=file)
        await way(f"the graph, with {file.stem}", inbox, graph_reader, slm)
    for file in args.alone:
        await way(f"{file.stem} alone", inbox, graph_reader, Alone(model_path=file))
    for file in args.chat:
        chat = EmbeddedEndpoint(model_path=file, timeout_s=600)  # a long message takes minutes
        await way(f"{file.stem} as a chat", inbox, chat_reader, chat)
    return kept.found


def goals(scores: dict[str, Any], seconds: float) -> list[list[str]]:
    """Say of each target whether the shipped graph reaches it."""

    def line(name: str, value: float, shown: str, way: str, target: float) -> list[str]:
        met = value <= target if way == "at most" else value >= target
        return [name, shown, f"{way} {target:g}", "reached" if met else "**missed**"]

    rows = [
        line(f"{measure}; {name}", hits / of, cell((hits, of)), *TARGETS[measure])
        for name in SHIPPED
        for measure, (hits, of) in scores[name].items()
    ]
    return [*rows, line("48 messages, s; the inbox", seconds, f"{seconds:.1f}", "at most", SECONDS)]


def body_of(found: dict[str, Row]) -> str:
    held = rows_of(HERE / "data" / "support_held_out.jsonl")
    inbox = rows_of(HERE / "data" / "support_inbox.jsonl")
    scores = {
        name: scored(held if "held" in name else inbox, one["found"]) for name, one in found.items()
    }
    seconds = {name: median(one["seconds"]) for name, one in found.items()}
    tokens = [
        sum(f["tokens"] for f in one["found"].values()) / len(one["found"])
        for one in found.values()
    ]
    ways = [[measure, *(cell(scores[name][measure]) for name in found)] for measure in TARGETS]
    ways.append(["s, all messages", *(f"{s:.1f}" for s in seconds.values())])
    ways.append(["tokens a message", *(f"{count:.0f}" for count in tokens)])
    languages: list[list[object]] = []
    for language in sorted({row["language"] for row in held}):
        here = [row for row in held if row["language"] == language]
        counts = scored(here, found["shipped, held out"]["found"])
        languages.append([f"`{language}`", len(here), *(cell(counts[m]) for m in BY_LANGUAGE)])
    return TEXT.format(
        at_once=AT_ONCE,
        inbox=len(inbox),
        held=len(held),
        repeats=REPEATS,
        ways=table(["", *found], ways),
        goals=table(["goal", "measured", "target", ""], goals(scores, seconds[SHIPPED[0]])),
        languages=table(["", "n", *BY_LANGUAGE], languages),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slm", type=Path, nargs="*", default=[], help="GGUF files, as the SLM")
    parser.add_argument(
        "--alone", type=Path, nargs="*", default=[], help="GGUF files, without the encoder"
    )
    parser.add_argument("--chat", type=Path, nargs="*", default=[], help="GGUF files, as a chat")
    parser.add_argument("--json", type=Path, help="keeps what was measured, and is read again")
    args = parser.parse_args()
    body = body_of(asyncio.run(run(args)))
    print(body)
    write("support", "python benchmarks/support.py --slm FILE ... --chat FILE", body)


if __name__ == "__main__":
    main()
