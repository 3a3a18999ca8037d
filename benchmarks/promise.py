"""What a cascade that learns saves on real texts: `python benchmarks/promise.py --data DIR`.

Each task is a stream of 1,000 rows, shuffled some times. The large model is the right answer
itself, or a real one: `--answers FILE` holds what it said, by the hash of what it was asked, and
`--large VENDOR:MODEL` (or a GGUF file) is asked for what is missing there. All but the encoding of
texts is what `Cascade(small, large, learn=…)` does. What is found is kept in a folder, so that it
can be stopped and gone on with; several may run at once, with other `--tasks`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kept import Kept
from moa import EmbeddedEndpoint
from moa.core.errors import MoaError
from moa.decisions.guarantee import upper_bound
from moa.endpoints import Endpoint
from moa.endpoints.named import as_endpoint
from moa.learning.epochs import RISK
from promise_beside import FIRST, LIKE, ROUTER, SURE, WAYS, beside, routed
from promise_streams import (
    PRICED,
    ROWS,
    TASKS,
    Found,
    Stream,
    Task,
    answers_of,
    large_of,
    load,
    run,
)
from report import PAGE, table, write

PICTURE = PAGE.parent / "promise.svg"
DRAWN = """![Calls of the large model a hundred rows, and how many of the small answers differ]\
(promise.svg)

"""
HUNDREDS = ROWS // 100
CERTAIN = 0.99
MOST = 1000
"""Shuffles that are looked for among what was found."""
LABELLED = "the large model alone"
TEXT = """## The bill falls by itself{by}

Calls of the large model a hundred rows, the second ones included that tell how it differs from
itself, in streams of {rows:,} rows: means over shuffles, as many of each set as stand in the second
table. The large model is {large}.
Texts were encoded once; all else is `Cascade(small, large, learn=…)`, on a database of its own for
each shuffle. The small model knows the names of the labels, and nothing was fitted to the sets
before: no head for sentiment is used, and of the intents, which the scorer of pairs learnt from,
the small model says nothing at first. The inbox is the shop's, with mood, urgency and spam decided
by heads that were fitted to other businesses: only messages whose intent matters are in the stream,
and where gold has another mood, urgency or spam, no intent is right. Schedule and constants come
from simulation and from spam. The other sets were run with one other choice of thresholds before,
and with this one first on a dozen shuffles, then on more.

{picture}{calls}

{aims}
A stream has a guarantee once a test has passed. `Differ` is the share of what the small model
answered that the large model answers otherwise, over all shuffles. A stream is `above 5 %` where
the exact lower bound ({certain:.0f} %) of its own share passes 5 %. Right is the share of all rows
with the gold label; the small model alone has read the labels' names and no example. Dollars are
for {rows:,} rows, at the price of {priced} for a prompt of mean length and {written} tokens of
answer.

{kept}

Beside it, on the same shuffles: a head that is fitted to the large model's answers to the first
{first} rows, which is as many as the cascade asks before its first look, and that answers from then
on where it is surer than {sure}, or always, as SetFit's heads do (the encoder isn't tuned); and
caches that give the answer to an earlier row where the text is the same, or the cosine of their
vectors (of the Universal Sentence Encoder) is at least {like}. And aurelio's semantic-router 1.1
(`IndexedRouter`) on the same vectors: of the first {first} rows 300 are its utterances, `fit`
calibrates its confidence on the other 100, and a route is taken from .95 on. None of these
guarantees anything.

{beside}
"""


def main() -> None:
    """Read the arguments, and say what is wrong without a traceback."""
    given = _arguments()
    try:
        measure(given)
    except MoaError as error:
        raise SystemExit(str(error)) from error


def measure(given: Any) -> None:
    """Run the tasks that were given, and where these are all, write the page."""
    given.kept.mkdir(parents=True, exist_ok=True)
    llm = _large(given.large) if given.large else None
    answers = Kept(given.answers) if given.answers else None
    name = given.answers.stem if given.answers else "gold"
    kept = Kept(given.kept / f"streams {name}.jsonl")
    tasks = [task for task in TASKS if task.name in given.tasks]
    streams = [load(task, given.data, given.kept) for task in tasks]
    said: dict[str, list[str]] = {}
    larges = {stream.task.name: large_of(stream, answers, llm) for stream in streams}
    for stream in streams:
        large = larges[stream.task.name]
        said[stream.task.name] = answers_of(stream, large) if answers is not None else stream.gold
    for seed in range(given.shuffles):
        for stream in streams:
            large = larges[stream.task.name]
            _one(stream, seed, large, said[stream.task.name], kept)
            routes = f"router {stream.task.name} {seed}"
            if given.router and routes not in kept.found:
                kept.keep(routes, routed(stream, seed, said[stream.task.name], given.router))
    if given.page:
        large = "the right answer itself" if answers is None else _recorded(name, answers)
        _write(name, large, streams, said, kept.found)


def _large(spec: str) -> Endpoint:
    if spec.endswith(".gguf"):
        return EmbeddedEndpoint("large", tier="llm", model_path=Path(spec), timeout_s=600)
    return as_endpoint(spec, "llm")


def _recorded(name: str, answers: Kept) -> str:
    """Say who the large model is, and how long its answers took."""
    seconds = [one["seconds"] for one in answers.found.values()]
    p50, p95 = np.percentile(seconds, (50, 95))
    return f"{name}, by its recorded answers, which took {p50:.1f} s (95 %: {p95:.1f} s)"


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--shuffles", type=int, default=20, help="0: write of what was found")
    names = [task.name for task in TASKS]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    folder = Path(tempfile.gettempdir()) / "moa-promise"
    parser.add_argument("--kept", type=Path, default=folder, help="folder of what is found")
    parser.add_argument("--answers", type=Path, help="what a real large model said; else gold")
    parser.add_argument(
        "--large", metavar="VENDOR:MODEL", help="asked for answers missing there; or a GGUF file"
    )
    parser.add_argument(
        "--router", type=Path, metavar="PYTHON", help="of an environment with semantic-router"
    )
    given = parser.parse_args()
    if given.data is None:
        parser.error("give the folder of labelled sets, by --data or $MOA_DATA")
    if given.large and not given.answers:
        parser.error("--large takes --answers FILE, which keeps what it says")
    given.page = given.answers or given.tasks == names
    return given


def _one(stream: Stream, seed: int, large: Any, said: Sequence[str], kept: Kept) -> None:
    name = f"{stream.task.name} {seed}"
    if name not in kept.found:
        with tempfile.TemporaryDirectory() as inside:
            kept.keep(name, asyncio.run(run(stream, seed, large, Path(inside))))
        found = kept.found[name]
        print(name, found["calls"], _counts(found, stream, said, seed), flush=True)
    if f"beside {name}" not in kept.found:
        kept.keep(f"beside {name}", beside(stream, seed, said))


def _counts(found: Found, stream: Stream, said: Sequence[str], seed: int) -> dict[str, Any]:
    """Count small answers and those that differ, a hundred rows, and the right ones."""
    order = stream.order(seed)
    small = np.array(found["by_small"], bool)
    large = np.array([said[row] for row in order])
    gold = np.array([stream.gold[row] for row in order])
    given = np.array(found["given"])
    differ = small & (given != large)
    hundreds = (HUNDREDS, 100)
    return {
        "small": small.reshape(hundreds).sum(1),
        "differ": differ.reshape(hundreds).sum(1),
        "above": is_above(int(differ.sum()), int(small.sum())),
        "right": float((given == gold).mean()),
        "large": float((large == gold).mean()),
    }


def is_above(differ: int, answered: int) -> bool:
    """Whether so many differences say for certain that more than the risk differs."""
    if not answered:
        return False
    return 1.0 - upper_bound(answered - differ, answered, CERTAIN) > RISK


def _write(
    name: str,
    large: str,
    streams: Sequence[Stream],
    said: Mapping[str, Sequence[str]],
    kept: Mapping[str, Any],
) -> None:
    calls, counts, rows, others = {}, {}, [], []
    for stream in streams:
        task = stream.task
        seeds = [seed for seed in range(MOST) if f"{task.name} {seed}" in kept]
        if not seeds:
            continue
        found = [kept[f"{task.name} {seed}"] for seed in seeds]
        pairs = zip(found, seeds, strict=True)
        counted = [_counts(one, stream, said[task.name], seed) for one, seed in pairs]
        calls[task] = np.array([one["calls"] for one in found], float).mean(0)
        counts[task] = counted
        rows.append(_row(stream, found, counted))
        besides: dict[str, list[Found]] = {}
        for seed in seeds:
            ways = dict(kept.get(f"beside {task.name} {seed}", {}))
            if routes := kept.get(f"router {task.name} {seed}"):
                ways[ROUTER] = routes
            for way, one in ways.items():
                besides.setdefault(way, []).append(one)
        others += _beside_rows(task, calls[task], counted, besides)
    head = ("rows", *(task.name for task in calls))
    hundreds = [
        (f"{100 * at + 1:,} to {100 * (at + 1):,}", *(f"{one[at]:.0f}" for one in calls.values()))
        for at in range(HUNDREDS)
    ]
    body = TEXT.format(
        rows=ROWS,
        large=large,
        picture=DRAWN if name == "gold" else "",
        by="" if name == "gold" else f", with {name} as the large model",
        calls=table(head, hundreds),
        aims=_aimed(streams, calls) if name == "gold" else "",
        certain=100 * CERTAIN,
        priced=PRICED,
        written="five",
        kept=table(KEPT_HEAD, rows),
        first=FIRST,
        sure=SURE,
        like=LIKE,
        beside=table(BESIDE_HEAD, others),
    )
    command = "python benchmarks/promise.py --data DIR"
    command += "" if name == "gold" else " --answers FILE"
    write("promise shown" if name == "gold" else f"promise shown, {name}", command, body)
    if name == "gold":
        draw({task.name: one for task, one in calls.items()}, _shares(counts))


KEPT_HEAD = (
    "task",
    "streams with a guarantee",
    "withdrawn",
    "small answers of 1,000",
    "differ",
    "above 5 %",
    "right: cascade",
    "small alone",
    "large alone",
    "US$, cascade",
    "large alone",
)
BESIDE_HEAD = (
    "task",
    "way",
    "calls in 501-600",
    "901-1,000",
    "all",
    "differ",
    "above 5 %",
    "right",
)


def _row(stream: Stream, found: Sequence[Found], counted: Sequence[Any]) -> list[str]:
    small = sum(int(one["small"].sum()) for one in counted)
    differ = sum(int(one["differ"].sum()) for one in counted)
    alone = "-"
    if stream.task.by_words:
        own = [stream.labels[place] for place in stream.own.argmax(1)]
        alone = f"{np.mean([a == b for a, b in zip(own, stream.gold, strict=True)]):.3f}"
    spent = float(np.mean([one["spent"] for one in found]))
    calls = sum(sum(one["calls"]) for one in found) / len(found)
    return [
        stream.task.name,
        f"{sum(bool(one['promised']) for one in found)} of {len(found)}",
        str(sum(len(one["epochs"]) - 1 for one in found)),
        f"{small / len(found):.0f}",
        f"{100 * differ / small:.1f} %" if small else "-",
        str(sum(one["above"] for one in counted)),
        f"{np.mean([one['right'] for one in counted]):.3f}",
        alone,
        f"{np.mean([one['large'] for one in counted]):.3f}",
        f"{spent:.4f}",
        f"{spent * ROWS / calls:.4f}",
    ]


def _beside_rows(
    task: Task, calls: Any, counted: Sequence[Any], besides: Mapping[str, Sequence[Found]]
) -> list[list[str]]:
    """Say of each way what it asks and what becomes of it; the cascade first."""

    def line(way: str, calls: Any, pairs: Sequence[tuple[int, int]], right: float) -> list[str]:
        differ, small = sum(d for d, _ in pairs), sum(s for _, s in pairs)
        share = f"{100 * differ / small:.1f} %" if small else "-"
        above = str(sum(is_above(d, s) for d, s in pairs))
        asked = [f"{calls[5]:.0f}", f"{calls[9]:.0f}", f"{sum(calls):.0f}"]
        return [task.name, way, *asked, share, above, f"{right:.3f}"]

    own = [(int(one["differ"].sum()), int(one["small"].sum())) for one in counted]
    right = float(np.mean([one["right"] for one in counted]))
    lines = [line("a cascade that learns", calls, own, right)]
    large = float(np.mean([one["large"] for one in counted]))
    lines.append(line(LABELLED, [100.0] * HUNDREDS, [], large))
    for way in (*WAYS, ROUTER):
        found = besides.get(way, ())
        if not found:
            continue
        asked = np.array([one["calls"] for one in found], float).mean(0)
        pairs = [(one["differ"], one["small"]) for one in found]
        lines.append(line(way, asked, pairs, float(np.mean([one["right"] for one in found]))))
    return lines


def _aimed(streams: Sequence[Stream], calls: Mapping[Task, Any]) -> str:
    aims = [f"- {aim}" for stream in streams for aim in _aims(stream.task, calls)]
    head = "The aims, with gold as the large model, and what came of them:"
    return "\n".join((head, "", *aims, ""))


def _aims(task: Task, every: Mapping[Task, Any]) -> list[str]:
    """Say which aims were reached."""
    if task not in every:
        return [f"{task.name}, not run"]
    calls = every[task]
    places = ((5, "501 to 600"), (9, "901 to 1,000"))
    found: list[str] = []
    for aim, (at, rows) in zip(task.aims, places, strict=True):
        if aim is not None:
            said = "reached" if calls[at] <= aim else "**missed**"
            found.append(f"{task.name}, rows {rows}: {aim}, {said} with {calls[at]:.1f}")
    return found


def _shares(counts: Mapping[Task, Sequence[Any]]) -> dict[str, Any]:
    """Share of the small answers of a hundred rows that differ; none where they are few."""
    found: dict[str, Any] = {}
    for task, counted in counts.items():
        small = sum(one["small"] for one in counted)
        differ = sum(one["differ"] for one in counted)
        found[task.name] = np.where(small >= 100, 100 * differ / np.maximum(small, 1), np.nan)
    return found


def draw(calls: Mapping[str, Any], differ: Mapping[str, Any]) -> None:
    """Draw calls over rows, and the differences beneath."""
    import matplotlib
    from matplotlib.figure import Figure

    at = 100 * np.arange(1, HUNDREDS + 1)
    style = {"svg.fonttype": "none", "svg.hashsalt": "promise", "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for task, one in calls.items():
            upper.plot(at, one, marker=".", label=task)
            lower.plot(at, differ[task], marker=".")
        upper.set(ylabel="calls of the large model\nof 100 inputs", ylim=(0, None))
        upper.legend(loc="lower left", frameon=False)
        lower.axhline(100 * RISK, linestyle="--", color="grey")
        lower.annotate(
            "guaranteed: at most", (100, 100 * RISK), va="bottom", fontsize=8, color="grey"
        )
        lower.set(xlabel="inputs so far", ylabel="small answers\nthat differ, %", ylim=(0, 7))
        figure.savefig(PICTURE, metadata={"Date": None})
    follow_scheme(PICTURE)


DARK = """
@media (prefers-color-scheme: dark) {
  [style*="fill: #ffffff"] { fill: #0d1117 !important; }
  [style*="stroke: #000000"] { stroke: #c9d1d9 !important; }
  text { fill: #c9d1d9; }
}
"""


def follow_scheme(picture: Path) -> None:
    """Let a picture of Matplotlib be dark where its reader prefers that."""
    drawn = picture.read_text("utf-8")
    picture.write_text(drawn.replace("</style>", f"{DARK}</style>", 1), "utf-8")


if __name__ == "__main__":
    main()
