"""The rules of extraction, with models that answer by rule: no test asks a real one."""

from __future__ import annotations

import json
from pathlib import Path

from graph import Details, by_patterns, extraction

from moa import Text
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

SMALL = SimulatedEndpoint(rule=lambda _: {"wish": {"refund": 0.9}})
MAIL = Text(text="Order 48213, the lamp of 3 May 2026: please pay the 39.90 euros back.")


def test_what_has_a_fixed_form_is_found_without_a_model() -> None:
    assert by_patterns(MAIL) == Details(order="48213", amount="39.90 euros", date="3 May 2026")


def test_a_large_model_fills_in_what_no_pattern_finds() -> None:
    large = ScriptedEndpoint([Details(order="1", product="lamp")], tier="llm")
    mail = extraction(SMALL, large).run_sync(MAIL).output
    assert (mail.order, mail.product, mail.wish) == ("48213", "lamp", "refund")


def test_what_the_mail_does_not_say_is_left_out() -> None:
    large = ScriptedEndpoint([Details(product="a brass chandelier")], tier="llm")
    assert extraction(SMALL, large).run_sync(MAIL).output.product is None


def test_a_wish_that_is_unsure_is_for_people_to_read() -> None:
    unsure = SimulatedEndpoint(rule=lambda _: {"wish": {"refund": 0.6}})
    assert extraction(unsure).run_sync(MAIL).output.wish is None


def test_each_order_of_the_ten_mails_is_found() -> None:
    lines = Path(__file__).with_name("mails.jsonl").read_text("utf-8").splitlines()
    orders = [by_patterns(Text(text=json.loads(line)["text"])).order for line in lines]
    assert sum(order is not None for order in orders) == 7
