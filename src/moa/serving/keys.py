"""Keys: callers of a server, with what each may run and spend.

A key is a secret of 256 random bits, whose SHA-256 is stored. A slow hash would protect a password,
which can be guessed. Nobody guesses one of 2**256 keys, so requests are spared that cost.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import threading
import tomllib
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, Protocol, TypeVar

import tomlkit
from filelock import FileLock
from pydantic import StringConstraints, ValidationError

from moa.core._files import save_text
from moa.core._json import JSON, is_object, object_of
from moa.core.budget import Budget, Look, Share
from moa.core.context import Reference, RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    MoaError,
    RequestRefused,
    StoreBusy,
    StoreError,
)
from moa.core.usage import Usage
from moa.rows._stores import is_address
from moa.serving.ledger import Grant, Ledger, busy_refusal
from moa.serving.limits import Limits, spent_error

T = TypeVar("T")
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
_PREFIX = "moa-"
"""Prefix of each secret, so that secret scanners find it in files."""
_HEAD = "Keys of moa serve: hashes of secrets, and no secrets. See moa keys --help"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 0.5
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
_logger = logging.getLogger(__name__)


class Key(Limits):
    """A stored key: its limits, and the hash of its secret."""

    name: KeyName
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    graphs: tuple[str, ...] | None = None
    """Names of the nodes that it may run; `None`: all that are served."""

    @property
    def limits(self) -> dict[str, int | float]:
        """The limits that are set, by name."""
        limits = {name: getattr(self, name) for name in Limits.model_fields}
        return {
            name: float(limit) if isinstance(limit, Decimal) else limit
            for name, limit in limits.items()
            if limit is not None
        }

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything but its name, as JSON."""
        graphs = {} if self.graphs is None else {"graphs": [*self.graphs]}
        return graphs | self.limits | {"sha256": self.sha256}


def new_secret() -> str:
    """Make the secret of a key."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """Hash a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Caller:
    """A caller of the server. This one is anyone, and may run everything without a limit."""

    name = ""
    """Name under which its runs, jobs and threads are stored."""

    def may_run(self, name: str) -> bool:
        """Return True if it may see and run the node that is served under a name."""
        del name
        return True

    async def check(self) -> None:
        """Refuse a caller that may begin no run at the moment, before its request is read.

        Nothing is counted. `admit` decides.

        Raises:
            KeySpent: nothing is left.
            RequestRefused: it has too many runs at once or in a minute (429).
            StoreError: its usage can't be read.
        """

    @asynccontextmanager
    async def admit(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        reference: Reference | None = None,
        is_request: bool = True,
    ) -> AsyncGenerator[RunContext]:
        """Open the context of one run. Its budget is what this caller has left.

        When the block ends, in any way, the run is settled with `context.usage`. What a call may
        cost is reserved before it is sent.

        Args:
            name: Name of the node to run.
            timeout_s: Seconds until the run's deadline.
            reference: The large model to compare the cost with.
            is_request: False for a job, whose request was counted when it came.

        Raises:
            KeySpent: nothing is left. Calls of the run may raise it too.
            RequestRefused: it may not run the node (403), or has too many runs at once or in a
                minute (429).
            StoreError: its usage can't be read or written.
        """
        del name, is_request
        yield RunContext(timeout_s=timeout_s, reference=reference, keep_notes=False)


ANYONE = Caller()


class Keys:
    """The keys of a server. This one has none: every caller is `ANYONE`."""

    ledger: Ledger
    """Ledger of what callers have spent, which also stores their answers. It is open while this
    is."""

    async def caller(self, authorization: str | None) -> Caller:
        """Return the caller of a request by its `Authorization` header.

        Raises:
            RequestRefused: the key is missing, unknown or revoked (401).
        """
        del authorization
        return ANYONE

    async def caller_by_name(self, name: str) -> Caller | None:
        """Return a caller by name, to go on with its jobs; `None` if it no longer exists.

        Raises:
            RequestRefused: the keys can't be read at the moment (503).
            StoreBusy: another program has locked them.
        """
        return ANYONE if name == ANYONE.name else None

    async def open(self) -> None:
        """Open the ledger, when the server starts."""
        self._folder = TemporaryDirectory(prefix="moa-")
        self.ledger = Ledger(Path(self._folder.name) / "ledger.sqlite")
        self.ledger.open()

    async def close(self) -> None:
        """Close the ledger, when the server ends."""
        await self.ledger.finish()
        self.ledger.close()
        self._folder.cleanup()


def keys_in(address: str | None) -> Keys:
    """Return the keys in a file, or in a Postgres table; `None`: no keys are needed.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    if address is None:
        return Keys()
    if not is_address(address):
        KeyFile(Path(address)).all()
    return StoredKeys(address)


class KeyStore(Protocol):
    """A store of keys."""

    def all(self) -> Mapping[str, Key]:
        """Return the current keys by name.

        Raises:
            ConfigError: they can't be read.
        """
        ...

    def find_by_digest(self, digest: str) -> Key | None:
        """Find a key by the hash of its secret."""
        ...

    def add(self, key: Key) -> None:
        """Add a key.

        Raises:
            ConfigError: a key has this name already, or the keys can't be written.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a key.

        Raises:
            ConfigError: no key has this name, or the keys can't be written.
        """
        ...


class KeyFile:
    """Keys in a TOML file, with a table for each key. It is read again whenever it has changed.

    Comments stay when it is written. A new file can be read only by its owner.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int, int] | None = None
        self._keys: Mapping[str, Key] = {}
        self._by_digest: Mapping[str, Key] = {}
        self._ledger = ""
        self._lock = threading.Lock()

    @property
    def ledger(self) -> str | Path:
        """Address of the ledger: `ledger = …` in the file, or an SQLite file beside it."""
        self.all()
        if is_address(self._ledger):
            return self._ledger
        return self._path.parent / (self._ledger or f"{self._path.stem}.ledger.sqlite")

    def all(self) -> Mapping[str, Key]:
        """See `KeyStore`."""
        with self._lock:
            try:
                stat = self._path.stat()
                version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if version != self._read_at:
                    self._parse(self._path.read_bytes())
                    self._read_at = version
            except FileNotFoundError as error:
                raise ConfigError(
                    f"there is no file of keys {str(self._path)!r}: moa keys new NAME --keys "
                    f"{self._path} makes one"
                ) from error
            except OSError as error:
                raise ConfigError(f"{self._path} can't be read: {error.strerror}") from error
        return self._keys

    def find_by_digest(self, digest: str) -> Key | None:
        """See `KeyStore`."""
        self.all()
        return self._by_digest.get(digest)

    def add(self, key: Key) -> None:
        """See `KeyStore`."""

        def write(tables: JSON) -> None:
            if key.name in tables:
                raise ConfigError(
                    f"there is a key {key.name!r} already: revoke it, or name another"
                )
            tables[key.name] = tomlkit.item(key.settings)

        self._change(write)

    def remove(self, name: str) -> None:
        """See `KeyStore`."""

        def write(tables: JSON) -> None:
            if name not in tables:
                raise ConfigError(f"there is no key {name!r} in {self._path}")
            del tables[name]

        self.all()
        self._change(write)

    def _parse(self, data: bytes) -> None:
        """Parse the content of the file."""
        try:
            document = tomllib.loads(data.decode())
        except ValueError as error:
            raise ConfigError(f"{self._path} is no TOML: {error}") from error
        ledger, tables = document.pop("ledger", ""), document.pop("keys", {})
        if document or not isinstance(ledger, str) or not is_object(tables):
            entry = next(iter(document), "keys")
            raise ConfigError(
                f"{self._path} has {entry!r}, and takes a table [keys.NAME] for each key, and "
                'ledger = "…" above them'
            )
        keys = [self._key(name, table) for name, table in tables.items()]
        self._keys = {key.name: key for key in keys}
        self._by_digest = {key.sha256: key for key in keys}
        self._ledger = ledger
        if len(self._by_digest) < len(keys):
            raise ConfigError(f"{self._path}: two keys have the same sha256")

    def _key(self, name: str, table: object) -> Key:
        try:
            return Key.model_validate({**object_of(table), "name": name})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{self._path}: [keys.{name}] {field}: {first['msg']}") from error

    def _change(self, write: Callable[[JSON], None]) -> None:
        """Write the file again, under a lock against other processes."""
        path = self._path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if path.exists():
                    self.all()  # raise its faults, rather than overwrite them
                    document = tomlkit.parse(path.read_text(encoding="utf-8"))
                else:
                    document = tomlkit.document()
                    document.add(tomlkit.comment(_HEAD))
                if "keys" not in document:
                    document["keys"] = tomlkit.table(is_super_table=True)
                write(object_of(document["keys"]))
                save_text(path, tomlkit.dumps(document), private=True)
        except OSError as error:
            raise ConfigError(f"{path} can't be written: {error.strerror}") from error


class KeyTable:
    """Keys in a table of the ledger's database."""

    def __init__(self, ledger: Ledger) -> None:
        self._store = ledger.store

    def all(self) -> Mapping[str, Key]:
        """See `KeyStore`."""
        rows = self._rows("select name, settings from moa_keys where job = ? order by name")
        return {key.name: key for key in map(_row, rows)}

    def find_by_digest(self, digest: str) -> Key | None:
        """See `KeyStore`."""
        rows = self._rows(
            "select name, settings from moa_keys where job = ? and sha256 = ?", digest
        )
        return _row(rows[0]) if rows else None

    def add(self, key: Key) -> None:
        """See `KeyStore`."""
        added = self._rows(
            "insert into moa_keys (job, name, sha256, settings) values (?, ?, ?, ?) "
            "on conflict (job, name) do nothing returning name",
            *(key.name, key.sha256, key.model_dump_json(exclude_none=True)),
        )
        if not added:
            raise ConfigError(f"there is a key {key.name!r} already: revoke it, or name another")

    def remove(self, name: str) -> None:
        """See `KeyStore`."""
        if not self._rows("delete from moa_keys where job = ? and name = ? returning name", name):
            raise ConfigError(f"there is no key {name!r} in {self._store.where}")

    def _rows(self, sql: str, *values: object) -> Sequence[tuple[object, ...]]:
        return self._store.run(sql, self._store.job, *values)


def _row(row: tuple[object, ...]) -> Key:
    name, settings = row
    try:
        return Key.model_validate_json(str(settings))
    except ValidationError as error:
        raise ConfigError(f"the key {name!r} in the database is none of this version") from error


@contextmanager
def key_store(address: str) -> Generator[KeyStore]:
    """Open a store of keys to change them.

    Raises:
        ConfigError: the store can't be used.
        MissingDependency: the store is Postgres, and its client isn't installed.
    """
    if is_address(address):
        with Ledger(address) as ledger:
            yield KeyTable(ledger)
    else:
        yield KeyFile(Path(address))


def keys_and_ledger(address: str) -> tuple[KeyStore, Ledger]:
    """Return a store of keys and its ledger, which must be opened first.

    Raises:
        ConfigError: there is no file of keys, or it holds something else.
    """
    if is_address(address):
        ledger = Ledger(address)
        return KeyTable(ledger), ledger
    keys = KeyFile(Path(address))
    return keys, Ledger(keys.ledger)


class StoredKeys(Keys):
    """Keys in a file or a table, with what they have spent."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.store: KeyStore

    async def open(self) -> None:
        """See `Keys`."""
        self.store, self.ledger = keys_and_ledger(self._address)
        await asyncio.to_thread(self.ledger.open)
        await asyncio.to_thread(self.ledger.start_heartbeat)

    async def close(self) -> None:
        """See `Keys`."""
        await self.ledger.finish()
        await asyncio.to_thread(self.ledger.close)

    async def caller(self, authorization: str | None) -> Caller:
        """See `Keys`."""
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise _key_error("this server asks for a key: send Authorization: Bearer moa-…")
        sha256 = digest(secret.strip())

        key = await self._find(lambda: self.store.find_by_digest(sha256))
        # A hash that was found tells nothing about the secret. It is compared in constant time
        # nevertheless, however the store looks it up.
        if not hmac.compare_digest(key.sha256 if key else _NOBODY, sha256) or key is None:
            raise _key_error("this key is unknown here, or was revoked")
        return KeyCaller(self, key)

    async def caller_by_name(self, name: str) -> Caller | None:
        """See `Keys`."""
        key = await self._find(lambda: self.store.all().get(name))
        return KeyCaller(self, key) if key else None

    async def _find(self, find: Callable[[], Key | None]) -> Key | None:
        def read() -> Key | None:
            return self._read(find)

        # A file is no part of the ledger, so it waits for nobody there.
        return read() if isinstance(self.store, KeyFile) else await self.ledger.run(read)

    def current(self, name: str) -> Key:
        """Return the current state of a key.

        Raises:
            RequestRefused: it was revoked (401).
        """
        key = self._read(self.store.all).get(name)
        if key is None:
            raise _key_error("this key was revoked")
        return key

    def _read(self, read: Callable[[], T]) -> T:
        """Read keys. If they can't be read, nobody is let in, since any may be revoked."""
        try:
            return read()
        except (ConfigError, StoreError) as error:
            _logger.error("the keys can't be read, so that nobody is let in: %s", error)
            raise RequestRefused(
                "the keys of this server can't be read at the moment: its log says why",
                status=503,
                code="keys_unreadable",
                retry_after_s=5,
            ) from error


def _key_error(problem: str) -> RequestRefused:
    headers = {"www-authenticate": "Bearer"}
    return RequestRefused(problem, status=401, code="invalid_api_key", headers=headers)


class KeyCaller(Caller):
    """A caller with a key."""

    def __init__(self, keys: StoredKeys, key: Key) -> None:
        self.name = key.name
        self._keys = keys
        self._key = key

    def may_run(self, name: str) -> bool:
        """See `Caller`."""
        return self._key.graphs is None or name in self._key.graphs

    async def check(self) -> None:
        """See `Caller`."""
        ledger = self._keys.ledger
        if not self._key.limits:
            return
        try:
            await ledger.run(lambda: ledger.check(self.name, self._key))
        except StoreBusy as error:
            raise busy_refusal(error) from error

    @asynccontextmanager
    async def admit(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        reference: Reference | None = None,
        is_request: bool = True,
    ) -> AsyncGenerator[RunContext]:
        """See `Caller`."""
        if not self.may_run(name):
            problem = f"the key {self.name!r} may not run {name!r}"
            raise RequestRefused(problem, status=403, code="model_not_allowed", param="model")
        context = RunContext(
            budget=self._key.budget, timeout_s=timeout_s, reference=reference, keep_notes=False
        )
        context.owner = self.name
        ledger, run = self._keys.ledger, secrets.token_hex(16)
        uncounted = {} if is_request else {"requests_per_minute": None}
        limits = self._key.model_copy(update=uncounted)

        async def settle() -> None:
            spent = context.usage.total
            await ledger.run_surely(run, lambda: ledger.settle(run, spent))

        try:
            usage = await ledger.run(lambda: ledger.begin(self.name, limits, run))
        except StoreBusy as error:  # it has not begun, so there is nothing to settle
            raise busy_refusal(error) from error
        except BaseException:  # it may have begun, such as if this task was cancelled meanwhile
            await settle()
            raise
        try:
            free_budget = usage.free(self._key).as_budget(context.budget)
            _Purchase(self._keys, self._key, run, context, free_budget)
            yield context
        finally:
            await settle()


class _Purchase:
    """Reservations in the ledger for the calls of one run."""

    def __init__(
        self, keys: StoredKeys, key: Key, run: str, context: RunContext, most: Budget
    ) -> None:
        self._keys = keys
        self._key = key
        self._run = run
        self._context = context
        self._lock = threading.Lock()
        self._waits = 0
        self._refusal: Grant | None = None
        self._share = Share(self._request_more, self._request_more_now, most, self._refusal_error)
        self._grow = context.share_budget(self._share)

    @contextmanager
    def _ending_by_errors(self) -> Generator[None]:
        """End the run by an error of the keys or the ledger: no call after it could be paid."""
        try:
            yield
        except MoaError as error:
            self._context.ended_by = error
            raise

    async def _request_more(self, look: Look) -> bool:
        with self._ending_by_errors():
            answer = await self._keys.ledger.run(lambda: self._ask(look))
        if answer == "wait":
            await asyncio.sleep(min(_FIRST_WAIT_S * 1.5**self._waits, _LONGEST_WAIT_S))
        self._waits = min(self._waits + 1, 9) if answer == "wait" else 0
        return answer != "spent"

    def _request_more_now(self, look: Look) -> bool:
        with self._ending_by_errors():
            return self._keys.ledger.run_now(lambda: self._ask(look)) == "granted"

    def _ask(self, look: Look) -> Literal["granted", "wait", "spent"]:
        # Calls of one run ask from several threads. Each first looks at what the last one got.
        with self._lock:
            lacking, budget = look(), self._context.budget
            if lacking is None:
                return "granted"
            key = self._keys.current(self._key.name)
            grant = self._keys.ledger.reserve(
                self._run,
                key.name,
                key,
                spent=self._context.usage.total,
                granted=budget,
                budget=budget.with_more(lacking.limits),
                may_settle=lacking.may_settle,
            )
            if grant.answer == "gone":
                raise StoreError(
                    "this server was away from the ledger of its keys for so long that the run "
                    "was taken to be dead, and charged"
                )
            self._grow(grant.granted.as_budget(budget))
            self._share.most = grant.most.as_budget(budget)
            self._refusal = None if grant.answer == "granted" else grant
            return grant.answer

    def _refusal_error(self, passed: str, spent: Usage) -> BudgetExceeded:
        refusal = self._refusal
        if refusal is None:
            error = BudgetExceeded(f"the key {self._key.name!r}: {passed}", spent=spent)
        else:
            error = spent_error(self._key.name, self._key, refusal.usage, refusal.short, spent)
        self._context.ended_by = error
        return error
