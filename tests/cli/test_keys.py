"""moa keys: made, listed with what they have spent, and revoked."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from command import told

from moa.core.usage import Amount
from moa.serving.keys import KeyFile, digest, keys_and_ledger


def test_a_secret_is_printed_once_and_only_its_hash_is_kept(folder: Path) -> None:
    said = told("keys", "new", "alice", "--usd-per-day", "5", "--graphs", "support,spam")
    secret = said.out.strip()
    kept = (folder / "keys.toml").read_text()
    assert secret not in kept
    assert secret not in said.err
    table = tomllib.loads(kept)["keys"]["alice"]
    assert (table["sha256"], table["usd_per_day"], table["graphs"]) == (
        digest(secret),
        5.0,
        ["support", "spam"],
    )
    assert secret not in told("keys", "list").words


def test_what_is_spent_is_listed_beside_the_limits() -> None:
    told("keys", "new", "alice", "--calls-per-day", "10", "--parallel", "2", "--quiet")
    told("keys", "new", "bob", "--quiet")
    keys, ledger = keys_and_ledger("keys.toml")
    with ledger:
        ledger.begin("alice", keys.all()["alice"], "one")
        ledger.settle("one", Amount(calls=3))
    alice, bob = told("keys", "list", "--json").lines
    assert alice["today"] == {"calls": 3, "usd": 0.0, "unpriced_calls": 0}
    assert alice["left"] == {"calls_per_day": 7}
    assert alice["limits"] == {"calls_per_day": 10, "parallel": 2}
    assert (bob["name"], bob["limits"]) == ("bob", {})
    assert "3 of 10 calls" in told("keys", "list").words


def test_a_revoked_key_is_gone_and_what_its_name_has_spent_stays(folder: Path) -> None:
    first = told("keys", "new", "alice", "--quiet").out
    keys, ledger = keys_and_ledger("keys.toml")
    with ledger:
        ledger.begin("alice", keys.all()["alice"], "one")
        ledger.settle("one", Amount(calls=3))
    told("keys", "revoke", "alice")
    assert not KeyFile(folder / "keys.toml").all()
    second = told("keys", "new", "alice", "--calls-per-day", "10", "--quiet").out
    assert first != second
    assert told("keys", "list", "--json").lines[0]["left"] == {"calls_per_day": 7}


def test_keys_in_postgres_are_made_and_listed_alike(postgres: str) -> None:
    where = f"{postgres}#shop"
    told("keys", "new", "alice", "--keys", where, "--calls-per-month", "9")
    assert told("keys", "list", "--keys", where, "--json").lines[0]["left"] == {
        "calls_per_month": 9
    }
    told("keys", "revoke", "alice", "--keys", where)
    assert not told("keys", "list", "--keys", where, "--json").out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("new", "a b"), "letters"),
        (("new", "alice"), "already"),
        (("new", "bob", "--graphs", "a,,b"), "--graphs"),
        (("new", "bob", "--usd-per-day", "nan"), "--usd-per-day"),
        (("new", "bob", "--parallel", "0"), "parallel"),
        (("revoke", "bob"), "no key 'bob'"),
        (("list", "--keys", "none.toml"), "no file of keys"),
        (("revoke", "alice", "--keys", "none.toml"), "no file of keys"),
    ],
)
def test_what_is_wrong_is_said(words: tuple[str, ...], says: str) -> None:
    told("keys", "new", "alice", "--quiet")
    assert says in told("keys", *words, leaves=2).words
