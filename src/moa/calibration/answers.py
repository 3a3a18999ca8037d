"""Answers: what a cascade that learns keeps of a stream, in a database that many processes share.

It holds a vector and the large model's answer of each row, the looks with the heads that they
tested, the epochs and the audits. Texts are kept only where that was asked for. What several
processes may do at the same moment is one statement, or changes nothing where it comes second.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from moa._sqlite import SQLite, columns_of
from moa.calibration.answer_rows import (
    DROPPED,
    FIGURES,
    FORGOTTEN,
    TABLES,
    Answered,
    Drawn,
    Row,
    Rows,
    Spent,
    State,
)
from moa.calibration.epochs import DRAWS, Coin, Side
from moa.decisions.arrays import np
from moa.errors import ConfigError, MoaError
from moa.rows._stores import Postgres, Store, is_address

T = TypeVar("T")
STALE_S = 600.0
"""Seconds after which a call that nobody has answered counts as failed: its process is gone."""


class AnswerStore:
    """The answers of one stream, in a file of this machine or in Postgres.

        with AnswerStore("answers.db") as store:
            store.bind("topic", "e5")
            place = store.add(row)
            store.settle(place, Answered("card"))

    A file can be read by its owner alone (0600): vectors are personal data.

    Args:
        where: A file, or `postgresql://USER@HOST/DATABASE#NAME`.
        begun: Whether it must be there already; then it may be one that can only be read.

    Raises:
        ConfigError: when it is opened: it can't be used, or must be there and isn't.
        MissingDependency: it is Postgres, and its client isn't installed.
    """

    def __init__(self, where: str | Path, *, begun: bool = False) -> None:
        self._store: Store
        self._file = None if is_address(where) else Path(where)
        self._begun = begun
        if self._file is None:
            self._store = Postgres(str(where), TABLES, what="answers")
        else:
            what = f"the answers in {where}"
            tables = "" if begun else TABLES  # another database stays as it is
            self._store = SQLite(self._file, tables, what=what, may_only_read=begun)
        self._lock = threading.Lock()
        self._is_open = False
        self.coin: Coin

    @property
    def where(self) -> str:
        """Where it is, in words: an address may hold a password."""
        return self._store.where if self._file is None else str(self._file)

    def open(self) -> Self:
        """Open it, once."""
        with self._lock:
            if self._is_open:
                return self
            if self._begun and self._file is not None and not self._file.is_file():
                raise ConfigError(f"there are no answers in {self._file}")
            self._store.open()
            try:
                self._check_tables()
            except MoaError:
                self._store.close()
                raise
            self._is_open = True
        return self

    def _check_tables(self) -> None:
        """Make sure that they are those of this version."""
        asked = "select name from pragma_table_info(?)"
        if self._file is None:
            asked = "select column_name from information_schema.columns where table_name = ?"
        tables = columns_of(TABLES)
        found = {table: {name for (name,) in self._store.run(asked, table)} for table in tables}
        if not found["moa_learn"]:
            raise ConfigError(f"{self.where} holds no answers that a cascade learns from")
        lacks = [name for table, names in tables.items() for name in names - found[table]]
        if lacks:
            raise ConfigError(
                f"the answers in {self.where} were begun by an older version of moa, and lack "
                f"{', '.join(sorted(lacks))}. Name another file or #NAME in learn, in which "
                "learning begins anew; this one stays, for the version that began it"
            )

    def close(self) -> None:
        """Close it; it is opened again by `open`."""
        with self._lock:
            if self._is_open:
                self._store.close()
            self._is_open = False

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def beside(self, work: Callable[[], T]) -> T:
        """Do something with it without holding up the event loop for long."""
        return await self._store.beside(work)

    def bind(self, question: str, made_of: str) -> None:
        """Begin with a question and what reads it, or make sure that it was begun with these.

        Raises:
            ConfigError: it belongs to another question, or to other models.
        """
        self._run(
            "insert into moa_learn (job, secret, question, made_of) values (?, ?, ?, ?) "
            "on conflict (job) do nothing",
            *(secrets.token_hex(32), question, made_of),
        )
        self._run(
            "insert into moa_learn_epochs (job, epoch, at, first, why) values (?, 1, ?, 1, '') "
            "on conflict (job, epoch) do nothing",
            self._store.now(),
        )
        about = self.question()
        for was, here, what in zip(about, (question, made_of), _BOUND_TO, strict=True):
            if was != here:
                raise ConfigError(
                    f"the answers in {self.where} were begun with another {what}: "
                    f"{_difference(was, here)}. Give another file, or what it was begun with"
                )

    def question(self) -> tuple[str, str]:
        """Return the question that it was begun with, and what reads it, both as JSON.

        Raises:
            ConfigError: nothing was begun.
        """
        found = self._run("select secret, question, made_of from moa_learn where job = ?")
        if not found:
            raise ConfigError(f"there are no answers in {self.where}")
        secret, question, made_of = found[0]
        self.coin = Coin(bytes.fromhex(secret))
        return question, made_of

    def state(self) -> State:
        """Return where the learning is."""
        found = self._run(
            "select one.epoch, one.first, "
            "(select count(*) from moa_learn_looks l where l.job = one.job and l.epoch = one.epoch)"
            ", (select max(look) from moa_learn_looks l where l.job = one.job "
            "and l.epoch = one.epoch and used = 1) "
            "from moa_learn join moa_learn_epochs one on one.job = moa_learn.job "
            "where moa_learn.job = ? order by one.epoch desc limit 1"
        )
        return State(*found[0])

    def add(self, row: Row, epoch: int) -> int:
        """Keep a row before it is answered, and return its place."""
        vector = None if row.vector is None else np.asarray(row.vector, "<f2").tobytes()
        values = (
            *(epoch, row.side.key, int(row.held), row.source, self._store.now(), vector),
            *(int(row.by_small), int(row.by_small), row.look, _int(row.accepts), row.guess),
            *(row.sure, row.length, row.language, row.text),
        )
        while True:  # two processes that take the same place: the second takes the next
            found = self._run(
                "insert into moa_learn_rows (job, place, epoch, key, held, source, at, vector, "
                "done, by_small, look, accepts, guess, sure, length, language, given) "
                "values (?, (select coalesce(max(place), 0) + 1 from moa_learn_rows where job = ?)"
                f"{', ?' * len(values)}) on conflict (job, place) do nothing returning place",
                *(self._store.job, *values),
            )
            if found:
                return int(found[0][0])

    def settle(self, place: int, said: Answered) -> None:
        """Keep what the large model said. What counted as failed meanwhile stays so."""
        self._end(
            place,
            "label = ?, again = ?, calls = ?, tokens = ?, cost = ?, seconds = ?, moot = ?",
            *(*said[:-1], int(said.moot)),
        )

    def spare(self, place: int, *, moot: bool) -> None:
        """Keep that the large model isn't asked about a row, since the small one's answer is given.

        Args:
            place: Of the row.
            moot: Whether it wouldn't be asked whatever the small one says.
        """
        self._end(place, "by_small = 1, moot = ?", int(moot), where="done = 0 and held = 0")

    def drop(self, place: int) -> None:
        """Empty a row that nobody could have answered, whatever it is: the key was wrong.

        Its place stays taken. Given to another row, it would be one that audits have read already.
        """
        key = f"{DROPPED} {place}"
        self._end(place, f"{_EMPTY}, held = 0, look = null, source = ?, key = ?", DROPPED, key)

    def forget(self, place: int) -> bool:
        """Drop all that was read of a row, and its label; return whether there was such a row.

        It is still counted. Held out, it counts as a difference at later looks; drawn for people,
        as a wrong one. Of a file nothing of it is left on the disk.
        """
        if self._file is not None:
            self._store.run("pragma secure_delete = on")
        self._run(  # the key would tell whether a text was there
            "delete from moa_learn_exceptions where job = ? and key = (select key from "
            "moa_learn_rows r where r.job = ? and place = ? and not exists (select 1 from "
            "moa_learn_rows o where o.job = r.job and o.key = r.key and o.place <> r.place))",
            *(self._store.job, place),
        )
        key = f"{FORGOTTEN}{place}"
        found = self._end(place, f"{_EMPTY}, label = null, again = null, key = ?", key, where="1=1")
        self._run(
            "update moa_learn_people set label = null, key = ? where job = ? and place = ?",
            *(key, self._store.job, place),
            job_first=False,
        )
        if self._file is not None:
            self._store.run("pragma wal_checkpoint(truncate)")
        return found

    def _end(self, place: int, what: str, *values: object, where: str = "done = 0") -> bool:
        """Change a row that is done then; `False`: there is no such row."""
        found = self._run(
            f"update moa_learn_rows set done = 1, {what} where job = ? and place = ? and {where} "
            "returning place",
            *(*values, self._store.job, place),
            job_first=False,
        )
        return bool(found)

    def places_of(self, side: Side) -> list[int]:
        """Return the places of the rows with a text."""
        found = self._run(
            "select place from moa_learn_rows where job = ? and key = ? order by place", side.key
        )
        return [int(place) for (place,) in found]

    def held_out(self, state: State) -> int:
        """Count the different texts that are held out in the epoch, and in none before."""
        found = self._run(
            f"select count(distinct key) from moa_learn_rows r where job = ? and {_NEW_HELD}",
            *(state.epoch, state.first),
        )
        return int(found[0][0])

    def last(self) -> int:
        """Return the place of the last row; 0: there is none."""
        found = self._run("select coalesce(max(place), 0) from moa_learn_rows where job = ?")
        return int(found[0][0])

    def place_of_held(self, state: State, count: int) -> int | None:
        """Return the row by which so many different texts of the epoch were held out."""
        found = self._run(
            f"select min(place) as place from moa_learn_rows r where job = ? and {_NEW_HELD} "
            "group by key order by min(place) limit 1 offset ?",
            *(state.epoch, state.first, count - 1),
        )
        return int(found[0][0]) if found else None

    def answered_up_to(self) -> int:
        """Return the last row by which all that is held out is answered, or has failed."""
        now = self._store.now()
        self._run(  # a clock that was set back may have dated rows later than now
            "update moa_learn_rows set done = 1, calls = 1 where job = ? and done = 0 "
            "and at not between ? and ?",
            *(now - STALE_S, now + STALE_S),
        )
        last = self.last()
        first = "select min(place) from moa_learn_rows where job = ? and held = 1 and done = 0"
        waits = self._run(first)[0][0]
        return last if waits is None else min(last, int(waits) - 1)

    def to_fit(self, state: State, cut: int, most: int) -> Rows:
        """Return the latest rows with a label that are not held out, up to a place.

        Rows whose text is held out in the epoch are no such rows.
        """
        return self._read(
            "held = 0 and label is not null and vector is not null and place <= ? and not exists "
            "(select 1 from moa_learn_rows h where h.job = r.job and h.key = r.key "
            f"and h.epoch = ? and h.held = 1) order by place desc limit {most:d}",
            *(cut, state.epoch),
        )

    def to_test(self, state: State, cut: int) -> Rows:
        """Return the rows of texts that are held out in the epoch, and in none before."""
        return self._read(
            f"{_NEW_HELD} and place <= ? order by place desc", state.epoch, state.first, cut
        )

    def to_audit(self, state: State, after: int) -> tuple[Rows, int]:
        """Return held-out rows that came after a place, each text once, and where to go on.

        What is being answered stops it.
        """
        end = max(after, self.answered_up_to())
        rows = self._read(
            "held = 1 and epoch = ? and place > ? and place <= ? and not exists (select 1 from "
            "moa_learn_rows h where h.job = r.job and h.key = r.key and h.place < r.place "
            "and h.held = 1) order by place desc",
            *(state.epoch, after, end),
        )
        return rows, end

    def answered(self, state: State) -> Rows:
        """Return all rows of the epoch that the large model was asked about, with a vector."""
        return self._read(
            "epoch = ? and done = 1 and by_small = 0 and vector is not null order by place desc",
            state.epoch,
        )

    def to_watch(self, state: State, after: int) -> tuple[list[Mapping[str, Any]], int]:
        """Return what was seen of rows that the head in use was asked about, and where to go on."""
        end = self.last()
        found = self._run(
            "select accepts, sure, length, language from moa_learn_rows where job = ? "
            "and epoch = ? and look = ? and place > ? and place <= ? order by place",
            *(state.epoch, state.used, after, end),
        )
        names = ("accepts", "sure", "length", "language")
        return [dict(zip(names, one, strict=True)) for one in found], end

    def claim(self, spent: Spent) -> bool:
        """Spend a look, with all that its outcome follows from; `False`: another process has it.

        From now on it is spent, whatever becomes of this process.
        """
        found = self._run(
            "insert into moa_learn_looks (job, epoch, look, at, cut, head, thresholds) "
            "values (?, ?, ?, ?, ?, ?, ?) on conflict (job, epoch, look) do nothing returning look",
            *(spent.epoch, spent.look, self._store.now(), spent.cut, spent.head),
            json.dumps(spent.thresholds),
        )
        return bool(found)

    def unfinished(self, state: State) -> Spent | None:
        """Return a look that was spent, and whose outcome nobody has written yet."""
        found = self._run(
            "select epoch, look, cut, head, thresholds from moa_learn_looks where job = ? "
            "and epoch = ? and said is null order by look limit 1",
            state.epoch,
        )
        if not found:
            return None
        epoch, look, cut, head, thresholds = found[0]
        return Spent(epoch, look, cut, head, tuple(json.loads(thresholds)))

    def finish(
        self,
        spent: Spent,
        said: Mapping[str, Any],
        *,
        head: str,
        used: bool,
        audit: str | None,
        drift: str | None,
        exceptions: Sequence[str],
    ) -> None:
        """Write what a look says; a second time changes nothing."""
        insert = (
            "insert into moa_learn_exceptions (job, epoch, look, key) values (?, ?, ?, ?) "
            "on conflict (job, epoch, look, key) do nothing"
        )
        self._store.many(insert, [(spent.epoch, spent.look, key) for key in exceptions])
        last = self.last()
        self._run(
            "update moa_learn_looks set said = ?, head = ?, used = ?, audit = ?, drift = ?, "
            "audited = ?, drifted = ? where job = ? and epoch = ? and look = ? and said is null",
            *(json.dumps(said), head, int(used), audit, drift, spent.cut, last),
            *(self._store.job, spent.epoch, spent.look),
            job_first=False,
        )

    def head(self, state: State) -> tuple[str, frozenset[str]] | None:
        """Return the head in use, and the texts that it doesn't answer."""
        if state.used is None:
            return None
        found = self._run(
            "select head from moa_learn_looks where job = ? and epoch = ? and look = ?",
            *(state.epoch, state.used),
        )
        keys = self._run(
            "select key from moa_learn_exceptions where job = ? and epoch = ? and look = ?",
            *(state.epoch, state.used),
        )
        return found[0][0], frozenset(key for (key,) in keys)

    def watching(self, state: State) -> tuple[str, int, str | None, int]:
        """Return the audit of the head in use, its drift, and how far each of them has read."""
        found = self._run(
            "select audit, audited, drift, drifted from moa_learn_looks where job = ? "
            "and epoch = ? and look = ?",
            *(state.epoch, state.used),
        )
        return found[0]

    def watched(
        self, state: State, kind: Literal["audit", "drift"], value: str, was: int, end: int
    ) -> bool:
        """Replace an audit or a drift that has read on; `False`: another process has done so."""
        found = self._run(
            f"update moa_learn_looks set {kind} = ?, {kind}ed = ? where job = ? and epoch = ? "
            f"and look = ? and {kind}ed = ? returning look",
            *(value, end, self._store.job, state.epoch, state.used, was),
            job_first=False,
        )
        return bool(found)

    def withdraw(self, state: State, why: str) -> None:
        """End the epoch, and begin the next; a second time changes nothing."""
        self._run(
            "insert into moa_learn_epochs (job, epoch, at, first, why) values (?, ?, ?, ?, ?) "
            "on conflict (job, epoch) do nothing",
            *(state.epoch + 1, self._store.now(), self.last() + 1, why),
        )

    def draw(self, state: State, most: int) -> list[Drawn]:
        """Draw texts at random, for people to label, of those that the head in use has accepted.

        Each text is drawn once. While some of a draw have no label, these are given once more.

        Raises:
            ConfigError: no head is in use, there is nothing more to draw, or no draw is left.
        """
        if state.used is None:
            raise ConfigError("no head is in use, so there is nothing that people could check yet")
        known = self.drawn(state)
        if waiting := [one for one in known if one.label is None and one.text is not None]:
            return waiting
        number = 1 + max((one.draw for one in known), default=-1)
        if number >= len(DRAWS):
            raise ConfigError(f"this head was drawn for {number} times, and may not be once more")
        found = self._run(
            "select min(place), key from moa_learn_rows r where job = ? and epoch = ? and look = ? "
            "and accepts = 1 and given is not null and not exists (select 1 from moa_learn_people "
            "p where p.job = r.job and p.epoch = r.epoch and p.look = r.look and p.key = r.key) "
            "and not exists (select 1 from moa_learn_exceptions e where e.job = r.job "
            "and e.epoch = r.epoch and e.look = r.look and e.key = r.key) group by key",
            *(state.epoch, state.used),
        )
        if len(found) < most:
            raise ConfigError(
                f"{most} texts are to be drawn, and of those that the head in use has accepted "
                f"{len(found)} are kept and not drawn yet: set keep_texts = true in learn, and "
                "wait for more, or draw fewer"
            )
        some = secrets.SystemRandom().sample(found, most)
        self._store.many(
            "insert into moa_learn_people (job, epoch, look, draw, place, key) "
            "values (?, ?, ?, ?, ?, ?) on conflict (job, epoch, look, place) do nothing",
            [(state.epoch, state.used, number, place, key) for place, key in some],
        )
        return [one for one in self.drawn(state) if one.draw == number]

    def drawn(self, state: State) -> list[Drawn]:
        """Return what was drawn for people of the head in use."""
        found = self._run(
            "select p.draw, p.place, r.given, r.guess, p.label from moa_learn_people p "
            "join moa_learn_rows r on r.job = p.job and r.place = p.place "
            "where p.job = ? and p.epoch = ? and p.look = ? order by p.draw, p.place",
            *(state.epoch, state.used),
        )
        return [Drawn(*one) for one in found]

    def label_drawn(self, side: Side, label: str) -> bool:
        """Keep what people say of a text that was drawn for them; `False`: it waits for none."""
        found = self._run(
            "update moa_learn_people set label = ? where job = ? and key = ? and label is null "
            "returning place",
            *(label, self._store.job, side.key),
            job_first=False,
        )
        return bool(found)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return what figures are made of, of each row in its order; see `FIGURES`."""
        *columns, excepted = FIGURES
        return self._run(
            f"select {', '.join(columns)}, exists (select 1 from moa_learn_exceptions e "
            "where e.job = r.job and e.epoch = r.epoch and e.look = r.look and e.key = r.key) "
            f"as {excepted} from moa_learn_rows r where job = ? order by place"
        )

    def epochs(self) -> list[tuple[int, float, int, str]]:
        """Return each epoch: its number, when it began, its first row, and why it was begun."""
        found = self._run(
            "select epoch, at, first, why from moa_learn_epochs where job = ? order by epoch"
        )
        return [(int(epoch), float(at), int(first), why) for epoch, at, first, why in found]

    def looks(self) -> list[tuple[int, int, int, str | None, int]]:
        """Return each look: epoch, number, last row, what it said, if it is used."""
        found = self._run(
            "select epoch, look, cut, said, used from moa_learn_looks where job = ? "
            "order by epoch, look"
        )
        return [(int(e), int(n), int(cut), said, int(used)) for e, n, cut, said, used in found]

    def _read(self, which: str, *values: object) -> Rows:
        found = self._run(
            "select place, key, vector, label, epoch, length, language from moa_learn_rows r "
            f"where job = ? and {which}",
            *values,
        )[::-1]
        read = [None if one[2] is None else np.frombuffer(one[2], "<f2") for one in found]
        parts = next((len(one) for one in read if one is not None), 0)
        nothing = np.full(parts, np.nan, "<f2")
        vectors = np.array([nothing if one is None else one for one in read], float)
        return Rows(
            places=np.array([one[0] for one in found], np.intp),
            keys=tuple(one[1] for one in found),
            vectors=vectors.reshape(len(found), parts),
            labels=tuple(one[3] for one in found),
            epochs=np.array([one[4] for one in found], np.intp),
            lengths=tuple(one[5] for one in found),
            languages=tuple(one[6] for one in found),
        )

    def _run(self, sql: str, *values: object, job_first: bool = True) -> list[tuple[Any, ...]]:
        """Run a statement, whose first value is the name of the store unless said otherwise."""
        return self._store.run(sql, *((self._store.job,) if job_first else ()), *values)


_EMPTY = "vector = null, given = null, guess = null, language = null, length = 0"
"""What is no longer known of a row."""
_BOUND_TO = ("question", "set of models")
_NEW_HELD = """held = 1 and epoch = ? and place >= ? and not exists (select 1 from moa_learn_rows h
    where h.job = r.job and h.key = r.key and h.held = 1 and h.epoch < r.epoch)"""


def _difference(was: str, here: str) -> str:
    """Say in words how two questions differ, or two sets of models, that are written as JSON."""
    try:
        old, new = (dict(_parts(json.loads(one))) for one in (was, here))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{was}, and not {here}"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    said = (f"{n}: was {old.get(n, 'nothing')}, is {new.get(n, 'nothing')}" for n in names)
    return "; ".join(said)


def _parts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    options = record.get("options", ())
    if options:
        yield "its options", ", ".join(one["name"] for one in options)
    for one in options:
        yield f"what {one['name']!r} means", json.dumps(one.get("description"), ensure_ascii=False)
    for name, value in record.items():
        if name != "options":
            yield f"its {name}", json.dumps(value, ensure_ascii=False)


def _int(value: bool | None) -> int | None:
    return None if value is None else int(value)
