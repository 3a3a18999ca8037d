"""Long texts: whatever they hold, guards and the preprocessor read them in linear time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from moa.agents.preprocessor import Preprocessor
from moa.guards.injection import InjectionRules
from moa.guards.pii import Pii

MAIL = """Hello, I have not received order 4411-2291 of 12.03.2026. Please call +49 30 1234567 or
write to anna.schmidt@example.com. My IBAN is DE89 3704 0044 0532 0130 00. I paid 129.90 EUR.
See https://shop.example.com/orders/4411?x=1, or call me at (555) 123-4567 by 14:33.

"""
JSON = '{"id": 12345, "phone": "+1 212 555 0100", "mail": "x@y.org", "t": "2026-01-02T10:11:12Z"}\n'
UNITS = (
    *("\n", " ", "a.", "a. ", "www.", "@", "a@", "a@a.", "a.com/", "https://", "1", "1.", "12-34-"),
    *("<", "<!--", "<a ", '<a style="', "&#", "&#x41;", "[", "[EMAIL_", "> a\n", "From: a\n"),
    *("030 1234567, ", "(555) 123-4567\n", "+49 30 1234567 ", "+49", "4111 1111 1111 1111 "),
    *("DE89 3704 0044 0532 0130 00 ", "1.2.3.4 ", "1:", "00:11:22:33:44:55 ", "123-45-6789 "),
    *("ä日本🙂\u200b٣", "\u200b", "ﷺ", "Ã©", "ignore ", "forget all ", MAIL, JSON),
)
"""Where an algorithm takes quadratic time, one of them shows it, many times over."""
LENGTH = 200_000


@pytest.mark.parametrize("node", [Pii(), Preprocessor(), InjectionRules()], ids=type)
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: repr(unit[:16]))
async def test_no_text_takes_more_than_linear_time(node: Any, unit: str) -> None:
    begun = time.process_time()
    await node.run(unit * (LENGTH // len(unit)))
    assert time.process_time() - begun < 5


async def test_numbers_that_are_all_different_take_no_longer() -> None:
    numbers = " ".join(f"+49 {30 + i % 900} {1234567 + i * 7919}" for i in range(12_000))
    begun = time.process_time()
    await Pii().run(numbers)
    assert time.process_time() - begun < 10
