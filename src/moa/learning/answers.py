"""Answers: the database of a learning cascade, which many processes share.

It holds a vector and the large model's answer for each row, the looks with the heads they tested,
the epochs and the audits. Texts are stored only on request. Each change that several processes may
attempt at once is a single statement, or changes nothing the second time.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel

from moa.adapters.sqlite import BUSY_S, SQLite, columns_of, may_pass
from moa.core._json import at, object_of, objects_of
from moa.core.errors import ConfigError, MoaError, StoreError
from moa.decisions.arrays import np
from moa.decisions.audit import Audit
from moa.decisions.drift import Drift
from moa.decisions.file import Calibration
from moa.decisions.guarantee import Bound
from moa.learning.answer_rows import (
    DROPPED,
    FORGOTTEN,
    RETRIED,
    TABLES,
    DrawnRow,
    FigureRow,
    LabelPair,
    LargeAnswer,
    LearningState,
    NewRow,
    RowArrays,
    SpentLook,
    StartedRow,
    WatchedRow,
)
from moa.learning.epochs import DRAWS, Coin, Side
from moa.learning.labelled import OTHERWISE
from moa.rows._stores import Postgres, Store, is_address

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
STALE_S = 600.0
"""Seconds after which an unanswered call counts as failed, since its process is gone."""
AUDIT, DRIFT = "the audit of the head in use", "the drift check of the head in use"
"""Names of stored values in errors."""
_BLOCK = 1000
"""Rows read at once, some 8 MB of vectors, if all of an epoch are looked at."""
_BUSY_S = 0.2
"""Seconds that a cascade waits for another process that holds what it needs."""


class AnswerStore:
    """The answers of one stream, in a file of this machine or in Postgres.

        with AnswerStore("answers.db") as store:
            store.bind("topic", "e5")
            place = store.add(row)
            store.settle(place, Answered("card"))

    Only its owner can read a file (0600): vectors are personal data.

    Args:
        address: A file, or `postgresql://USER@HOST/DATABASE#NAME`.
        must_exist: True to raise an error if it doesn't exist; the file may then be read-only.

    Raises:
        ConfigError: on opening: it can't be used, or must exist and doesn't.
        StoreError: on opening: the disk is full, or another program has locked the file.
        MissingDependency: it is Postgres, and its client isn't installed.
    """

    def __init__(self, address: str | Path, *, must_exist: bool = False) -> None:
        self._store: Store
        self._file = None if is_address(address) else Path(address)
        self._must_exist = must_exist
        if self._file is None:
            self._store = Postgres(str(address), TABLES, what="answers")
        else:
            description = f"the answers in {address}"
            tables = "" if must_exist else TABLES  # another database stays as it is
            # A cascade can do without a write, and asks the large model then: see `Recorder`.
            busy_s = BUSY_S if must_exist else _BUSY_S
            self._store = SQLite(
                self._file, tables, what=description, may_only_read=must_exist, busy_s=busy_s
            )
        self._lock = threading.Lock()
        self._is_open = False
        self._large: str | None = None
        """The large node whose answers this process stores; `None`: any."""
        self.coin: Coin

    @property
    def location(self) -> str:
        """Its location in words, without the password of an address."""
        return self._store.where if self._file is None else str(self._file)

    def open(self) -> Self:
        """Open it, once."""
        with self._lock:
            if self._is_open:
                return self
            if self._must_exist and self._file is not None and not self._file.is_file():
                raise ConfigError(
                    f"there are no answers in {self._file}{_name_of_keys(self._file)}"
                )
            try:
                self._store.open()
            except ConfigError as error:
                if may_pass(error.__cause__):
                    raise StoreError(str(error)) from error
                raise
            try:
                self._check_tables()
            except MoaError:
                self._store.close()
                raise
            self._is_open = True
        return self

    def _check_tables(self) -> None:
        """Raise `ConfigError` unless the tables are those of this version."""
        sql = "select name from pragma_table_info(?)"
        if self._file is None:
            sql = "select column_name from information_schema.columns where table_name = ?"
        tables = columns_of(TABLES)
        columns = {table: {name for (name,) in self._store.run(sql, table)} for table in tables}
        if not columns["moa_learn"]:
            raise ConfigError(f"{self.location} holds no answers that a cascade learns from")
        lacks = [name for table, names in tables.items() for name in names - columns[table]]
        if lacks:
            raise ConfigError(
                f"the answers in {self.location} were begun by an older version of moa, and lack "
                f"{', '.join(sorted(lacks))}. Name another file or #NAME in learn, in which "
                "learning begins anew; this one stays, for the version that began it"
            )

    def close(self) -> None:
        """Close it; `open` opens it again."""
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

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Run work on the store without blocking the event loop for long.

        Raises:
            StoreBusy: another program holds it, or it is away.
        """
        store = self._store
        if isinstance(store, SQLite):  # which waits no longer by itself
            return await store.offload(work)
        return await store.offload(lambda: store.within(_BUSY_S, work))

    def bind(self, question: str, made_of: str) -> None:
        """Store the question and the models on first use; afterwards check that they are the same.

        Raises:
            ConfigError: it belongs to another question, or to other models, or what it belongs to
                is lost.
        """

        def begin() -> None:
            begins = self._run(
                "insert into moa_learn (job, secret, question, made_of) values (?, ?, ?, ?) "
                "on conflict (job) do nothing returning job",
                *(secrets.token_hex(32), question, made_of),
            )
            first = self._run(
                "insert into moa_learn_epochs (job, epoch, at, first, why) "
                "values (?, 1, ?, 1, '') on conflict (job, epoch) do nothing returning epoch",
                self._store.now(),
            )
            if (begins or first) and self.last_place():  # a head of before would be used anew
                raise ConfigError(str(self._damaged("its question and epochs")))

        self._store.atomically(begin)
        secret, *about = self._read_bound()
        with suppress(StoreError):  # `read_state` tells it of each input, and nothing is stored
            self.coin = Coin(secrets.token_bytes(32))
            self.coin = self._coin_of(secret)
        for stored, current, subject in zip(about, (question, made_of), _BOUND_TO, strict=True):
            if stored != current:
                raise ConfigError(
                    f"the answers in {self.location} were begun with another {subject}: "
                    f"{_difference(stored, current)}. Give another file, or what it was begun with"
                )

    def bind_large(self, model: str, parts: Mapping[str, str]) -> None:
        """Begin a new epoch if another large node answered before: tests were about that one.

        From then on only answers of this one are stored here: once another process has bound
        another one, `read_state` and `add` raise a `StoreError`.

        Args:
            model: Name of its model.
            parts: Fingerprint of each part of the large node. A file of an older version has none,
                and gets these if the model is the same.
        """
        large = f"{model}\n{json.dumps(parts, sort_keys=True)}"

        def bind() -> None:
            self.touch()  # others that bind wait from here on
            readers, before = self._read_made_of()
            if before.large == large:
                return
            since = before.since
            if reason := _why_another(before.large, large):
                since = self._begin_epoch(reason)
            made_of = f"{readers}\n{large}\n{since}"
            values = (made_of, self._store.job)
            self._run("update moa_learn set made_of = ? where job = ?", *values, job_first=False)

        self._store.atomically(bind)
        self._large = large

    def _begin_epoch(self, reason: str) -> int:
        """Begin a new epoch, after one that another process may just have begun."""
        while True:
            state = self._read_state()[0]
            if self.withdraw(state, reason):
                return state.epoch + 1

    def read_question(self) -> tuple[str, str]:
        """Return the question and the models that it was created with, both as JSON.

        Raises:
            ConfigError: nothing is stored yet.
            StoreError: it is damaged.
        """
        secret, question, readers = self._read_bound()
        self.coin = self._coin_of(secret)
        return question, readers

    def read_options(self) -> tuple[str, ...]:
        """Return the names of the options of its question.

        Raises:
            ConfigError: nothing is stored yet.
            StoreError: it is damaged.
        """
        question, _ = self.read_question()
        try:
            options = objects_of(at(json.loads(question), "options"))
            return tuple(str(option["name"]) for option in options)
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged("its question", error) from error

    def _read_bound(self) -> tuple[str, str, str]:
        rows = self._run("select secret, question, made_of from moa_learn where job = ?")
        if not rows:
            raise ConfigError(f"there are no answers in {self.location}")
        secret, question, made_of = rows[0]
        return secret, question, made_of.partition("\n")[0]

    def _read_made_of(self) -> tuple[str, _BoundLarge]:
        made_of = self._run("select made_of from moa_learn where job = ?")[0][0]
        return made_of.partition("\n")[0], _BoundLarge.of(made_of)

    def _coin_of(self, secret: str) -> Coin:
        try:
            return Coin(bytes.fromhex(secret))
        except ValueError as error:
            raise self._damaged("the secret of its random draws", error) from error

    def parse(self, kind: type[Model], text: str, what: str) -> Model:
        """Parse a stored value.

        Args:
            kind: Type of the value.
            text: The value as JSON.
            what: Its name in the error.

        Raises:
            StoreError: it can't be parsed, so that the store is damaged.
        """
        try:
            return kind.model_validate_json(text)
        except ValueError as error:
            raise self._damaged(what, error) from error

    def _damaged(self, what: str, error: Exception | None = None) -> StoreError:
        reason = f" ({str(error).splitlines()[0]})" if error else ""
        return StoreError(
            f"the answers in {self.location} are damaged: {what} can't be read{reason}. Nothing is "
            "guaranteed any more. Remove the file and what lies beside it with -wal and -shm at "
            "its end, then bring it back from a copy; or name another file or #NAME in learn, in "
            "which learning begins anew"
        )

    def read_state(self) -> LearningState:
        """Return the state of the learning.

        Raises:
            StoreError: it is damaged, its file was removed or replaced, or another process has
                bound another large node.
        """
        self._check_file()
        state, large, secret = self._read_state()
        self._coin_of(secret)
        self._check_large(large)
        return state

    def _check_large(self, large: str) -> None:
        if self._large is not None and (reason := _why_another(large, self._large)):
            raise StoreError(
                f"the answers in {self.location} are now those of another large node, by another "
                f"process ({reason}). Start this one again as the other one is set up, or name "
                "another file or #NAME in learn"
            )

    def _check_file(self) -> None:
        if isinstance(self._store, SQLite):
            self._store.check_in_place()

    def _read_state(self) -> tuple[LearningState, str, str]:
        """Return the state, the large node that it is about, and the secret, all of one moment."""
        rows = self._run(
            "select moa_learn.secret, moa_learn.made_of, one.epoch, one.first, "
            "(select count(*) from moa_learn_looks l where l.job = one.job and l.epoch = one.epoch)"
            ", (select max(look) from moa_learn_looks l where l.job = one.job "
            "and l.epoch = one.epoch and used = 1) "
            "from moa_learn join moa_learn_epochs one on one.job = moa_learn.job "
            "where moa_learn.job = ? order by one.epoch desc limit 1"
        )
        if not rows:
            raise self._damaged("its question and epochs")
        secret, made_of, *state = rows[0]
        bound = _BoundLarge.of(made_of)
        return LearningState(*state, since=bound.since), bound.large, secret

    def add(self, row: NewRow, epoch: int) -> int:
        """Store a row before it is answered, and return its index.

        Raises:
            StoreError: it can't be stored, or another process has bound another large node.
        """
        vector = None if row.vector is None else np.asarray(row.vector, "<f2").tobytes()
        values = (
            *(epoch, row.side.key, int(row.held), row.source, self._store.now(), vector),
            *(
                int(row.by_small),
                int(row.by_small),
                row.look,
                None if row.accepts is None else int(row.accepts),
                row.guess,
            ),
            *(row.sure, row.length, row.language, row.text),
        )

        def insert() -> list[tuple[Any, ...]]:
            self._check_file()
            self._check_large(self._read_made_of()[1].large)
            if row.retries is not None:
                self._run(
                    "update moa_learn_rows set source = ? where job = ? and place = ? and key = ? "
                    f"and {_IS_VAIN}",
                    *(RETRIED, self._store.job, row.retries, row.side.key),
                    job_first=False,
                )
            return self._run(
                "insert into moa_learn_rows (job, place, epoch, key, held, source, at, vector, "
                "done, by_small, look, accepts, guess, sure, length, language, given) "
                "values (?, (select coalesce(max(place), 0) + 1 from moa_learn_rows where job = ?)"
                f"{', ?' * len(values)}) on conflict (job, place) do nothing returning place",
                *(self._store.job, *values),
            )

        while True:  # two processes that take the same place: the second takes the next
            if rows := self._store.atomically(insert):
                return int(rows[0][0])

    def resume(self, index: int, side: Side) -> StartedRow | None:
        """Return a row of a text that is tried again; `None` if it is to have a new one.

        It has if the first has ended without an answer.
        """
        rows = self._run(
            "select place, held from moa_learn_rows where job = ? and place = ? and key = ? "
            f"and source = 'run' and not ({_IS_VAIN})",
            *(index, side.key),
        )
        return StartedRow(int(rows[0][0]), bool(rows[0][1])) if rows else None

    def settle(self, index: int, answer: LargeAnswer) -> None:
        """Store the large model's answer. A row that counted as failed meanwhile stays failed."""
        self._finish_row(
            index,
            "label = ?, again = ?, calls = ?, tokens = ?, cost = ?, seconds = ?, moot = ?",
            *(*answer[:-1], int(answer.moot)),
        )

    def settle_by_small(self, index: int, *, moot: bool) -> None:
        """Record that the small model answered a row, so the large one isn't asked.

        Args:
            index: Index of the row.
            moot: True if the large model wouldn't be asked, whatever the small one answers.
        """
        self._finish_row(
            index, "by_small = 1, moot = ?", int(moot), condition="done = 0 and held = 0"
        )

    def drop(self, index: int) -> None:
        """Empty a row that could never be answered, because of a wrong key.

        Its index stays taken: audits have already passed it, and would miss another row there.
        """
        key = f"{DROPPED} {index}"
        self._finish_row(
            index, f"{_EMPTY}, held = 0, look = null, source = ?, key = ?", DROPPED, key
        )

    def forget(self, index: int) -> bool:
        """Delete everything read from a row, and its label; return False if there is no such row.

        The row still counts: as a difference at later looks if held out, and as wrong if drawn for
        people. Nothing of it stays in a file on disk.
        """
        if self._file is not None:
            self._store.run("pragma secure_delete = on")
        self._run(  # the key would tell whether a text was there
            "delete from moa_learn_exceptions where job = ? and key = (select key from "
            "moa_learn_rows r where r.job = ? and place = ? and not exists (select 1 from "
            "moa_learn_rows o where o.job = r.job and o.key = r.key and o.place <> r.place))",
            *(self._store.job, index),
        )
        key = f"{FORGOTTEN}{index}"
        exists = self._finish_row(
            index, f"{_EMPTY}, label = null, again = null, key = ?", key, condition="1=1"
        )
        self._run(
            "update moa_learn_people set label = null, key = ? where job = ? and place = ?",
            *(key, self._store.job, index),
            job_first=False,
        )
        if self._file is not None:
            self._store.run("pragma wal_checkpoint(truncate)")
        return exists

    def touch(self) -> None:
        """Write something that changes nothing, to see whether it can be written.

        In a transaction, it locks out others that do so.
        """
        self._run("update moa_learn set job = job where job = ?")

    def _finish_row(
        self, index: int, assignments: str, *values: object, condition: str = "done = 0"
    ) -> bool:
        """Change a row and mark it as done; return False if there is no such row."""
        rows = self._run(
            f"update moa_learn_rows set done = 1, {assignments} where job = ? and place = ? "
            f"and {condition} returning place",
            *(*values, self._store.job, index),
            job_first=False,
        )
        return bool(rows)

    def indices_of(self, side: Side) -> list[int]:
        """Return the indices of the rows with a text."""
        rows = self._run(
            "select place from moa_learn_rows where job = ? and key = ? order by place", side.key
        )
        return [int(place) for (place,) in rows]

    def count_held_out(self, state: LearningState) -> int:
        """Count the distinct texts held out in this epoch and in none before."""
        rows = self._run(
            f"select count(distinct key) from moa_learn_rows r where job = ? and {_NEW_HELD}",
            *(state.epoch, state.first),
        )
        return int(rows[0][0])

    def last_place(self) -> int:
        """Return the index of the last row; 0 without rows."""
        rows = self._run("select coalesce(max(place), 0) from moa_learn_rows where job = ?")
        return int(rows[0][0])

    def find_held_out_place(self, state: LearningState, count: int) -> int | None:
        """Return the row at which the epoch's count of held-out texts reached `count`."""
        rows = self._run(
            f"select min(place) as place from moa_learn_rows r where job = ? and {_NEW_HELD} "
            "group by key order by min(place) limit 1 offset ?",
            *(state.epoch, state.first, count - 1),
        )
        return int(rows[0][0]) if rows else None

    def last_answered_place(self) -> int:
        """Return the last index up to which all held-out rows are answered or failed."""
        now = self._store.now()
        self._run(  # a clock that was set back may have dated rows later than now
            "update moa_learn_rows set done = 1, calls = 1 where job = ? and done = 0 "
            "and at not between ? and ?",
            *(now - STALE_S, now + STALE_S),
        )
        last = self.last_place()
        first = "select min(place) from moa_learn_rows where job = ? and held = 1 and done = 0"
        waits = self._run(first)[0][0]
        return last if waits is None else min(last, int(waits) - 1)

    def read_fit_rows(self, state: LearningState, cut: int, most: int) -> RowArrays:
        """Return the latest labelled rows up to `cut` that are not held out.

        A row is also left out if its text is held out in this epoch, or another large node answered
        it.
        """
        return self._read(
            f"epoch >= {state.since:d} and held = 0 and label is not null and vector is not null "
            "and place <= ? and not exists (select 1 from moa_learn_rows h "
            "where h.job = r.job and h.key = r.key "
            f"and h.epoch = ? and h.held = 1) order by place desc limit {most:d}",
            *(cut, state.epoch),
        )

    def read_test_rows(self, state: LearningState, cut: int) -> RowArrays:
        """Return the rows whose texts are held out in this epoch and in none before."""
        return self._read(
            f"{_NEW_HELD} and place <= ? order by place desc", state.epoch, state.first, cut
        )

    def read_audit_rows(self, state: LearningState, after: int) -> tuple[RowArrays, int]:
        """Return held-out rows after an index, each text once, and the index to continue from.

        Reading stops at a row whose answer is pending.
        """
        end = max(after, self.last_answered_place())
        rows = self._read(
            "held = 1 and epoch = ? and place > ? and place <= ? and not exists (select 1 from "
            "moa_learn_rows h where h.job = r.job and h.key = r.key and h.place < r.place "
            "and h.held = 1) order by place desc",
            *(state.epoch, after, end),
        )
        return rows, end

    def read_answered_rows(self, state: LearningState) -> Iterator[RowArrays]:
        """Yield the epoch's rows that the large model was asked about, with a vector, in blocks."""
        last = 0
        while True:
            rows = self._read(
                "epoch = ? and done = 1 and by_small = 0 and vector is not null and place > ? "
                f"order by place limit {_BLOCK}",
                *(state.epoch, last),
            )
            if not len(rows):
                return
            last = int(rows.places.max())
            yield rows

    def read_watched_rows(self, state: LearningState, after: int) -> tuple[list[WatchedRow], int]:
        """Return what the head in use saw after an index, and the index to continue from."""
        end = self.last_place()
        rows = self._run(
            f"select {', '.join(WatchedRow._fields)} from moa_learn_rows where job = ? "
            "and epoch = ? and look = ? and place > ? and place <= ? order by place",
            *(state.epoch, state.used, after, end),
        )
        return [WatchedRow(*row) for row in rows], end

    def read_label_pairs(
        self, state: LearningState, options: Sequence[str], most: int
    ) -> list[LabelPair]:
        """Return the first answers of the current large node, beside the small model's own.

        Each text counts once. Rows are left out whose label was asked for because a head in use
        wasn't sure of them: on these the models agree less. So are labels of people, and
        `OTHERWISE`, which the small model's own answer never is.

        Args:
            state: The state of the learning.
            options: Names of the question's options.
            most: Maximum number of texts.
        """
        own = len(options) * np.dtype("<f2").itemsize  # its probabilities begin the vector
        rows = self._run(
            f"select label, substr(vector, 1, {own:d}), again from moa_learn_rows where job = ? "
            "and place in (select min(place) from moa_learn_rows where job = ? and epoch >= ? "
            "and label is not null and label <> ? and vector is not null "
            "and source in ('run', 'log') and (held = 1 or look is null) "
            f"group by key order by min(place) limit {most:d}) order by place",
            *(self._store.job, state.since, OTHERWISE),
        )
        names = [name for name in options if name != OTHERWISE]
        return [
            LabelPair(label, names[int(np.frombuffer(logs, "<f2")[: len(names)].argmax())], again)
            for label, logs, again in rows
        ]

    def claim(self, spent: SpentLook) -> bool:
        """Spend a look, and store all that determines its outcome.

        Return False if another process did. The look stays spent even if this process dies.
        """
        rows = self._run(
            "insert into moa_learn_looks (job, epoch, look, at, cut, head, thresholds) "
            "values (?, ?, ?, ?, ?, ?, ?) on conflict (job, epoch, look) do nothing returning look",
            *(spent.epoch, spent.look, self._store.now(), spent.cut, spent.head),
            json.dumps(spent.thresholds),
        )
        return bool(rows)

    def find_unfinished_look(self, state: LearningState) -> SpentLook | None:
        """Return a spent look whose outcome is not stored yet."""
        rows = self._run(
            "select epoch, look, cut, head, thresholds from moa_learn_looks where job = ? "
            "and epoch = ? and said is null order by look limit 1",
            state.epoch,
        )
        if not rows:
            return None
        epoch, look, cut, head, thresholds = rows[0]
        return SpentLook(epoch, look, cut, head, tuple(json.loads(thresholds)))

    def finish(
        self,
        spent: SpentLook,
        answer: Mapping[str, object],
        *,
        head: str,
        used: bool,
        audit: str | None,
        drift: str | None,
        exceptions: Sequence[str],
    ) -> None:
        """Store the outcome of a look; a second call changes nothing."""
        insert = (
            "insert into moa_learn_exceptions (job, epoch, look, key) values (?, ?, ?, ?) "
            "on conflict (job, epoch, look, key) do nothing"
        )
        self._store.execute_many(insert, [(spent.epoch, spent.look, key) for key in exceptions])
        last = self.last_place()
        self._run(
            "update moa_learn_looks set said = ?, head = ?, used = ?, audit = ?, drift = ?, "
            "audited = ?, drifted = ? where job = ? and epoch = ? and look = ? and said is null",
            *(json.dumps(answer), head, int(used), audit, drift, spent.cut, last),
            *(self._store.job, spent.epoch, spent.look),
            job_first=False,
        )

    def read_head(self, state: LearningState) -> UsedHead | None:
        """Return the head in use; `None` if there is none.

        Raises:
            StoreError: it or its checks are damaged.
        """
        if state.used is None:
            return None
        rows = self._run(
            "select head, audit, drift from moa_learn_looks where job = ? and epoch = ? "
            "and look = ?",
            *(state.epoch, state.used),
        )
        head, audit, drift = rows[0]
        calibration = self.parse(Calibration, head, "the head in use")
        if calibration.bound is None:
            raise self._damaged("the guarantee of the head in use")
        checks = self.parse(Audit, audit, AUDIT), drift and self.parse(Drift, drift, DRIFT)
        keys = self._run(
            "select key from moa_learn_exceptions where job = ? and epoch = ? and look = ?",
            *(state.epoch, state.used),
        )
        exceptions = frozenset(key for (key,) in keys)
        return UsedHead(calibration, calibration.bound, checks[0], exceptions)

    def read_checks(self, state: LearningState) -> tuple[str, int, str | None, int]:
        """Return the audit and the drift check of the head in use, each with its last row."""
        rows = self._run(
            "select audit, audited, drift, drifted from moa_learn_looks where job = ? "
            "and epoch = ? and look = ?",
            *(state.epoch, state.used),
        )
        return rows[0]

    def replace_check(
        self, state: LearningState, kind: Literal["audit", "drift"], value: str, was: int, end: int
    ) -> bool:
        """Store an audit or drift check that has read on; return False if another process did."""
        rows = self._run(
            f"update moa_learn_looks set {kind} = ?, {kind}ed = ? where job = ? and epoch = ? "
            f"and look = ? and {kind}ed = ? returning look",
            *(value, end, self._store.job, state.epoch, state.used, was),
            job_first=False,
        )
        return bool(rows)

    def withdraw(self, state: LearningState, reason: str) -> bool:
        """End the epoch and begin the next; a second call changes nothing, and returns False."""
        rows = self._run(
            "insert into moa_learn_epochs (job, epoch, at, first, why) values (?, ?, ?, ?, ?) "
            "on conflict (job, epoch) do nothing returning epoch",
            *(state.epoch + 1, self._store.now(), self.last_place() + 1, reason),
        )
        return bool(rows)

    def draw(self, state: LearningState, most: int) -> list[DrawnRow]:
        """Draw random texts for people to label, from those that the head in use accepted.

        Each text is drawn once. If some of the last draw have no label, return these again.

        Raises:
            ConfigError: no head is in use, there is nothing more to draw, or no draw is left.
        """
        if state.used is None:
            raise ConfigError("no head is in use, so there is nothing that people could check yet")
        drawn_rows = self.read_drawn_rows(state)
        if waiting := [row for row in drawn_rows if row.label is None and row.text is not None]:
            return waiting
        number = 1 + max((row.draw for row in drawn_rows), default=-1)
        if number >= len(DRAWS):
            raise ConfigError(f"this head was drawn for {number} times, and may not be once more")
        candidates = self._run(
            "select min(place), key from moa_learn_rows r where job = ? and epoch = ? and look = ? "
            "and accepts = 1 and given is not null and not exists (select 1 from moa_learn_people "
            "p where p.job = r.job and p.epoch = r.epoch and p.look = r.look and p.key = r.key) "
            "and not exists (select 1 from moa_learn_exceptions e where e.job = r.job "
            "and e.epoch = r.epoch and e.look = r.look and e.key = r.key) group by key",
            *(state.epoch, state.used),
        )
        if len(candidates) < most:
            raise ConfigError(
                f"{most} texts are to be drawn, and of those that the head in use has accepted "
                f"{len(candidates)} are kept and not drawn yet: set keep_texts = true in learn, "
                "and wait for more, or draw fewer"
            )
        sample = secrets.SystemRandom().sample(candidates, most)
        self._store.execute_many(
            "insert into moa_learn_people (job, epoch, look, draw, place, key) "
            "values (?, ?, ?, ?, ?, ?) on conflict (job, epoch, look, place) do nothing",
            [(state.epoch, state.used, number, place, key) for place, key in sample],
        )
        return [row for row in self.read_drawn_rows(state) if row.draw == number]

    def read_drawn_rows(self, state: LearningState) -> list[DrawnRow]:
        """Return the rows drawn for people under the head in use."""
        rows = self._run(
            "select p.draw, p.place, r.given, r.guess, p.label from moa_learn_people p "
            "join moa_learn_rows r on r.job = p.job and r.place = p.place "
            "where p.job = ? and p.epoch = ? and p.look = ? order by p.draw, p.place",
            *(state.epoch, state.used),
        )
        return [DrawnRow(*row) for row in rows]

    def add_person_label(self, side: Side, label: str) -> bool:
        """Store a person's label of a drawn text; return False if none is awaited."""
        rows = self._run(
            "update moa_learn_people set label = ? where job = ? and key = ? and label is null "
            "returning place",
            *(label, self._store.job, side.key),
            job_first=False,
        )
        return bool(rows)

    def read_figure_rows(self) -> list[FigureRow]:
        """Return the columns that figures are computed from, of all rows in order."""
        *columns, excepted = FigureRow._fields
        rows = self._run(
            f"select {', '.join(columns)}, exists (select 1 from moa_learn_exceptions e "
            "where e.job = r.job and e.epoch = r.epoch and e.look = r.look and e.key = r.key) "
            f"as {excepted} from moa_learn_rows r where job = ? order by place"
        )
        return [FigureRow(*row) for row in rows]

    def read_epochs(self) -> list[tuple[int, float, int, str]]:
        """Return each epoch: number, start time, first row, and the reason for it."""
        rows = self._run(
            "select epoch, at, first, why from moa_learn_epochs where job = ? order by epoch"
        )
        return [
            (int(epoch), float(start), int(first), reason) for epoch, start, first, reason in rows
        ]

    def read_looks(self) -> list[tuple[int, int, int, str | None, int]]:
        """Return each look: epoch, number, last row, outcome, and whether its head is used."""
        rows = self._run(
            "select epoch, look, cut, said, used from moa_learn_looks where job = ? "
            "order by epoch, look"
        )
        return [
            (int(e), int(n), int(cut), outcome, int(is_used))
            for e, n, cut, outcome, is_used in rows
        ]

    def _read(self, condition: str, *values: object) -> RowArrays:
        rows = self._run(
            "select place, key, vector, label, epoch, length, language from moa_learn_rows r "
            f"where job = ? and {condition}",
            *values,
        )[::-1]
        raw_vectors = [None if row[2] is None else np.frombuffer(row[2], "<f2") for row in rows]
        parts = next((len(vector) for vector in raw_vectors if vector is not None), 0)
        nothing = np.full(parts, np.nan, "<f2")
        vectors = np.array([nothing if vector is None else vector for vector in raw_vectors], float)
        return RowArrays(
            places=np.array([row[0] for row in rows], np.intp),
            keys=tuple(row[1] for row in rows),
            vectors=vectors.reshape(len(rows), parts),
            labels=tuple(row[3] for row in rows),
            epochs=np.array([row[4] for row in rows], np.intp),
            lengths=tuple(row[5] for row in rows),
            languages=tuple(row[6] for row in rows),
        )

    def _run(self, sql: str, *values: object, job_first: bool = True) -> list[tuple[Any, ...]]:
        """Run a statement; the store's name is its first value if `job_first`."""
        return self._store.run(sql, *((self._store.job,) if job_first else ()), *values)


_EMPTY = "vector = null, given = null, guess = null, language = null, length = 0"
"""Assignments that clear the data of a row."""
_IS_VAIN = "source = 'run' and done = 1 and by_small = 0 and label is null"
"""Condition for a row of a run that has ended without an answer."""
_BOUND_TO = ("question", "set of models")
_NEW_HELD = """held = 1 and epoch = ? and place >= ? and not exists (select 1 from moa_learn_rows h
    where h.job = r.job and h.key = r.key and h.held = 1 and h.epoch < r.epoch)"""


class UsedHead(NamedTuple):
    """A head in use, with its audit."""

    calibration: Calibration
    bound: Bound
    audit: Audit
    exceptions: frozenset[str]
    """Keys of the texts that it doesn't answer."""


class _BoundLarge(NamedTuple):
    """The large node that a store is about."""

    large: str
    """Its model and the fingerprint of its parts, a line each; an older version left out the
    second, or both."""
    since: int
    """First epoch that is about it."""

    @classmethod
    def of(cls, made_of: str) -> _BoundLarge:
        """Read the lines after that of the small node's models."""
        lines = made_of.split("\n")[1:]
        return cls("\n".join(lines[:2]), int(lines[2]) if len(lines) > 2 else 1)


def _why_another(stored: str, current: str) -> str:
    """Say in which way two large nodes differ; empty if they don't, as far as is known."""
    (old_model, _, old), (model, _, new) = stored.partition("\n"), current.partition("\n")
    if not stored or stored == current or (old_model == model and not old):
        return ""
    if old_model != model:
        old_name, name = (one or "a graph" for one in (old_model, model))
        return f"another large model: was {old_name}, is {name}"
    before, after = object_of(json.loads(old)), object_of(json.loads(new))
    names = sorted(n for n in {*before, *after} if before.get(n) != after.get(n))
    return f"another large node: its {', '.join(names)} changed"


def _name_of_keys(file: Path) -> str:
    """Name the files beside this one in which a server learns for each of its keys."""
    files = sorted(file.parent.glob(f"{escape(file.stem)}.*{escape(file.suffix)}"))
    return f"; those of keys are in {', '.join(map(str, files))}" if files else ""


def _difference(stored: str, current: str) -> str:
    """Describe how two questions, or two sets of models, differ; both are JSON."""
    try:
        old, new = (dict(_describe_parts(json.loads(text))) for text in (stored, current))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{stored}, and not {current}"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    differences = (f"{n}: was {old.get(n, 'nothing')}, is {new.get(n, 'nothing')}" for n in names)
    return "; ".join(differences)


def _describe_parts(record: object) -> Iterator[tuple[str, str]]:
    record = object_of(record)
    options = [
        (str(option["name"]), option.get("description"))
        for option in objects_of(record.get("options"))
    ]
    if options:
        yield "its options", ", ".join(name for name, _ in options)
    for name, description in options:
        yield f"what {name!r} means", json.dumps(description, ensure_ascii=False)
    for name, value in record.items():
        if name != "options":
            yield f"its {name}", json.dumps(value, ensure_ascii=False)
