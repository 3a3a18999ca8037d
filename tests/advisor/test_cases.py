"""Choosing, case by case: the table stands in `cases.py`."""

from __future__ import annotations

import pytest

from moa.advisor.choice import choose

from .cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_ranking_of_a_case_is_what_an_engineer_would_say(case: Case) -> None:
    ranking = choose(case.task, case.machine, hourly_usd=case.hourly_usd)
    told = "\n".join(map(str, (ranking, *ranking.rejected)))
    if not case.best:
        assert not ranking.plans, told
        words = "\n".join(ranking.suggestions)
        assert words, "nothing fits, and nothing is said of what would"
    else:
        best = ranking.best
        assert best is not None, told
        assert best.pattern in case.best, told
        words = "\n".join(best.reasons)
        sizes = [m.model.parameters / 1e9 for m in best.members if m.model.parameters]
        assert not sizes or case.sizes[0] <= max(sizes) <= case.sizes[1], told
    for word in case.says:
        assert word in words, words
    assert not {plan.pattern for plan in ranking.plans} & set(case.never), told
    assert set(case.rejected) <= {one.cause for one in ranking.rejected}, told
    assert case.holds(ranking), told
