"""Grams: texts as weighted counts of their short runs of characters, in a fixed number of buckets.

Runs of 2 to 4 characters inside words, with a space at both ends of a word; digits count as one
digit. Hashing (Weinberger et al. 2009, arXiv 0902.2206) keeps a fitted model small.
"""

from __future__ import annotations

import re
from collections import Counter
from math import log
from zlib import crc32

BUCKETS = 2**13
_LENGTHS = (2, 3, 4)
_LONGEST = 20_000
"""Characters of a text that are looked at."""
_DIGITS = re.compile(r"\d+")


def grams(text: str) -> dict[int, float]:
    """Count the runs of a text by bucket; a count n weighs 1 + ln n."""
    counts: Counter[int] = Counter()
    for word in _DIGITS.sub("0", text[:_LONGEST].lower()).split():
        padded = f" {word} ".encode()
        for length in _LENGTHS:
            for start in range(len(padded) - length + 1):
                counts[crc32(padded[start : start + length]) % BUCKETS] += 1
    return {bucket: 1 + log(count) for bucket, count in counts.items()}
