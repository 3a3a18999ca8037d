"""Answer rows: the records and tables of the stream that a cascade learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from moa.decisions.arrays import Floats, Ints
from moa.learning.epochs import Side

FORGOTTEN = "forgotten "
"""Prefix of the keys of forgotten rows."""
Source = Literal["run", "log", "person"]
"""Origin of a label: the large model in use, a log of it, or people. The first two are drawn as
they come; labels of people are fitted to and never held out."""
DROPPED = "dropped"
"""Source of a dropped row, which counts for nothing."""
RETRIED = "retried"
"""Source of a row without an answer whose input was tried again, and has a later row."""
UNRECORDED = 0
"""Index of an input that has no row."""
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
class LearningState:
    """The current epoch, its looks and the head in use."""

    epoch: int
    first: int
    """Index of the epoch's first row."""
    looks: int
    """Number of spent looks of the epoch."""
    used: int | None
    """The look whose head is in use; `None`: all rows go to the large model."""
    since: int = 1
    """First epoch that is about the current large node."""


class NewRow(NamedTuple):
    """A row as it arrives."""

    side: Side
    held: bool
    source: Source
    vector: Sequence[float] | None
    """The values read from the text; `None` if it couldn't be read."""
    length: int
    language: str | None = None
    text: str | None = None
    look: int | None = None
    """The look whose head was asked."""
    accepts: bool | None = None
    """True if that head accepts the row."""
    guess: str | None = None
    """The head's label."""
    sure: float | None = None
    by_small: bool = False
    """True if the small model answers it, so that no label will come."""
    retries: int | None = None
    """Index of an earlier row of the same input. If that one has ended without an answer, it is no
    input of its own once this row is there."""


class StartedRow(NamedTuple):
    """A row that a run has stored before it was killed."""

    place: int
    held: bool


class LargeAnswer(NamedTuple):
    """The large model's answer to a row, and its cost."""

    label: str | None
    """`None`: no answer, which differs from every label."""
    again: str | None = None
    """The answer to the same question asked a second time."""
    calls: int = 1
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    moot: bool = False
    """True if the large model is asked whatever the small one says."""


@dataclass(frozen=True, slots=True, eq=False)
class RowArrays:
    """Rows with their vectors and labels, in order of arrival."""

    places: Ints
    keys: tuple[str, ...]
    vectors: Floats
    """Rows, parts of a vector; `nan` if the text wasn't read."""
    labels: tuple[str | None, ...]
    epochs: Ints
    lengths: tuple[int, ...]
    languages: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.keys)


class DrawnRow(NamedTuple):
    """A row drawn for people to label."""

    draw: int
    """Number of the draw, from 0."""
    place: int
    text: str | None
    """`None`: no longer stored."""
    guess: str | None
    """The label of the head in use."""
    label: str | None
    """The label given by people; `None`: none yet."""


class SpentLook(NamedTuple):
    """A look that is spent, but perhaps not finished."""

    epoch: int
    look: int
    cut: int
    """Index of the last row that takes part."""
    head: str
    thresholds: tuple[float, ...]


class WatchedRow(NamedTuple):
    """A row that the head in use was asked about, as the drift check reads it."""

    accepts: int | None
    sure: float
    length: int
    language: str | None


class LabelPair(NamedTuple):
    """The large model's label of a text, beside the small model's own answer."""

    large: str
    small: str
    again: str | None = None
    """The large model's answer to the same question asked a second time."""


class FigureRow(NamedTuple):
    """The columns of a row that figures are computed from, as the store has them."""

    place: int
    epoch: int
    held: int
    source: str
    at: float
    label: str | None
    again: str | None
    done: int
    by_small: int
    accepts: int | None
    guess: str | None
    sure: float | None
    given: str | None
    calls: int
    tokens: int | None
    cost: float | None
    seconds: float | None
    moot: int
    excepted: int
    """True if the head that was asked makes an exception of its text."""
