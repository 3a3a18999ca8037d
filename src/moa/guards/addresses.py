"""Addresses: recognisers of e-mail addresses and URLs that take linear time on every text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from moa.guards.findings import Finding

_AT = re.compile(r"(?<=[!#$%&'*+\-/=?^_`{|}~\w])@(?=\w)")
_BEFORE = re.compile(r"[!#$%&'*+\-/=?^_`{|}~.\w]++")
_DOMAIN = re.compile(r"\w++(?:-++\w++)*+(?:\.\w++(?:-++\w++)*+)++")
_WORD = re.compile(r"\w")
_ADDRESS = re.compile(r"(https?://)?((?:(?!https?://)[a-z0-9.-]){1,253})", re.IGNORECASE)
_PATH = re.compile(r"(?::\d{1,5})?/[^\s()<>\"']*")


class EmailAddresses:
    """Finds e-mail addresses by their form; whether the domain is there isn't looked up.

    What it takes for one is what presidio's pattern matches, which takes quadratic time.
    """

    name = "EMAIL"

    def find(self, text: str, /) -> Iterator[Finding]:
        """Find them, each up to the end of its domain."""
        end = 0
        for at in _AT.finditer(text):
            place = at.start()
            if place < end:
                continue
            domain = _DOMAIN.match(text, place + 1)
            before = text[max(end, text.rfind("@", end, place) + 1) : place]
            local = _BEFORE.match(before[::-1])
            if domain is None or local is None:
                continue
            first = _WORD.search(before, len(before) - local.end())
            if first is not None:
                end = domain.end()
                yield Finding("EMAIL", place - len(before) + first.start(), end, 1.0)


class Urls:
    """Finds addresses with a scheme, a path or `www`, of the domains that presidio knows.

    Its own pattern tries each of 1,400 domains at each of 253 places for each character. Without
    any of the three it also takes `great.by`, two sentences without a blank, for one.

    Args:
        pattern: Presidio's, for the domains in it.
    """

    name = "URL"

    def __init__(self, pattern: str) -> None:
        self._domains = frozenset(re.findall(r"\(\?:([a-z]+)\)", pattern))

    def find(self, text: str, /) -> Iterator[Finding]:
        """Find them, each up to the end of its path."""
        if "." not in text:
            return
        end = 0
        for found in _ADDRESS.finditer(text):
            if found.start() < end or "." not in found[2]:  # within the path of the last one
                continue
            host = found[2].casefold()
            while (domain := host.rpartition("."))[0] and domain[2] not in self._domains:
                host = domain[0]
            end = found.start(2) + len(host)
            if not domain[0]:
                continue
            path = _PATH.match(text, end)
            if path or found[1] or host.lstrip(".-").startswith("www"):
                end = path.end() if path else end
                yield Finding("URL", found.start(), end, 0.6 if found[1] else 0.5)
