"""Answer rows: what is kept of a stream that a cascade learns from, and in which tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from moa.calibration.epochs import Side
from moa.decisions.arrays import Floats, Ints

FORGOTTEN = "forgotten "
"""What the keys of forgotten rows begin with."""
Source = Literal["run", "log", "person"]
"""Where a label comes from: the large model in use, a log of it, or people. The first two are drawn
as they come; those of people are fitted to, and never held out."""
DROPPED = "dropped"
"""What stands in the place of a source where a row was dropped: it counts for nothing."""
TABLES = """
create table if not exists moa_learn (
    job text primary key, secret text not null, question text not null, made_of text not null);
create table if not exists moa_learn_epochs (
    job text not null, epoch int not null, at double precision not null,
    first bigint not null, why text not null, primary key (job, epoch));
create table if not exists moa_learn_looks (
    job text not null, epoch int not null, look int not null, at double precision not null,
    cut bigint not null, head text not null, thresholds text not null, said text,
    used int not null default 0, audit text, audited bigint not null default 0,
    drift text, drifted bigint not null default 0, primary key (job, epoch, look));
create table if not exists moa_learn_exceptions (
    job text not null, epoch int not null, look int not null, key text not null,
    primary key (job, epoch, look, key));
create table if not exists moa_learn_rows (
    job text not null, place bigint not null, epoch int not null, key text not null,
    held int not null, source text not null, at double precision not null, vector bytea,
    label text, again text, done int not null default 0, by_small int not null default 0,
    look int, accepts int, guess text, sure double precision,
    length int not null, language text, calls int not null default 0, tokens bigint,
    cost double precision, seconds double precision, moot int not null default 0, given text,
    primary key (job, place));
create table if not exists moa_learn_people (
    job text not null, epoch int not null, look int not null, draw int not null,
    place bigint not null, key text not null, label text, primary key (job, epoch, look, place));
create index if not exists moa_learn_held on moa_learn_rows (job, epoch, held, place);
create index if not exists moa_learn_keys on moa_learn_rows (job, key)
"""


@dataclass(frozen=True, slots=True)
class State:
    """Where the learning is."""

    epoch: int
    first: int
    """Place of the first row of the epoch."""
    looks: int
    """Looks of the epoch that are spent."""
    used: int | None
    """The look whose head is in use; `None`: all goes to the large model."""


class Row(NamedTuple):
    """A row, as it comes in."""

    side: Side
    held: bool
    source: Source
    vector: Sequence[float] | None
    """What was read of the text; `None` where it couldn't be."""
    length: int
    language: str | None = None
    text: str | None = None
    look: int | None = None
    """The look whose head was asked."""
    accepts: bool | None = None
    """Whether that head accepts it."""
    guess: str | None = None
    """What it says."""
    sure: float | None = None
    by_small: bool = False
    """Whether the small model's answer is given, so that there will be no label."""


class Answered(NamedTuple):
    """What the large model said to a row, and what it took."""

    label: str | None
    """`None`: nothing, which counts as another answer than any."""
    again: str | None = None
    """What it said when it was asked once more."""
    calls: int = 1
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    moot: bool = False
    """Whether it is asked whatever the small one says."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows with vectors, and with labels, in the order in which they came."""

    places: Ints
    keys: tuple[str, ...]
    vectors: Floats
    """Rows, parts of a vector; `nan` where the text wasn't read."""
    labels: tuple[str | None, ...]
    epochs: Ints
    lengths: tuple[int, ...]
    languages: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.keys)


class Drawn(NamedTuple):
    """A row that was drawn for people to label."""

    draw: int
    """Number of the draw, from 0 on."""
    place: int
    text: str | None
    """`None`: it is no longer kept."""
    guess: str | None
    """What the head in use says."""
    label: str | None
    """What people say; `None`: nothing yet."""


class Spent(NamedTuple):
    """A look that is spent, and perhaps not yet finished."""

    epoch: int
    look: int
    cut: int
    """Place of the last row that takes part."""
    head: str
    thresholds: tuple[float, ...]


FIGURES = (
    *("place", "epoch", "held", "source", "at", "label", "again", "done", "by_small"),
    *("accepts", "guess", "sure", "given", "calls", "tokens", "cost", "seconds", "moot"),
    "excepted",
)
"""What `AnswerStore.rows` gives of each; the last is whether the head that was asked makes an
exception of its text."""
