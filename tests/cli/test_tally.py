"""What the closing table says a run was worth."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import told, written
from pydantic import BaseModel

from moa.core.batch import Item, Status
from moa.core.node import Became, Dropped, Result, Text
from moa.core.questions import Answer, Choice, Option, Question
from moa.core.trace import Note, NoteKind
from moa.core.usage import Amount, Part, Usage
from moa.decisions.guarantee import Guarantee, min_rows
from moa.rows.tally import Tally

BLIND = """
from moa.agents.filter import Filter
from moa.decisions.defaults import make_unfitted
from moa.testing import SimulatedEndpoint

asked = SimulatedEndpoint(rule=lambda _: {"spam": {"yes": 0.3}})
sure = Filter(asked, "advertising", action="drop", name="spam")
made = make_unfitted(sure.questions[0], origin="a test")
why = made.model_copy(update={"doubtful": "the model says 'no' whatever the text is"})
blind = Filter(asked, "advertising", action="drop", name="spam", calibration=why)
"""


class Ended(BaseModel):
    """Says of itself what became of a message, as the outcomes of the support graph do."""

    became: Became
    mood: Choice[str] | None = None


TEMPLATE, WRITTEN = Ended(became="replied"), Ended(became="written")
DRAFT, DROPPED = Ended(became="drafted"), Ended(became="dropped")


def rows_of(*outputs: BaseModel) -> dict[str, str]:
    return dict(tally_of(*outputs).rows())


def tally_of(*outputs: BaseModel) -> Tally:
    tally = Tally()
    for output in outputs:
        result = Result(output=output)
        status: Status = "dropped" if isinstance(output, Dropped) else "answered"
        tally.add(Item(number=1, id=1, input="hello", status=status, result=result))
    return tally


def test_danger_is_counted_apart_and_first() -> None:
    rows = tally_of(Ended(became="in danger"), TEMPLATE).rows()
    assert rows[0] == ("in danger, to people first", "1")


def test_where_a_large_model_wrote_drafts_the_next_step_is_to_read_them() -> None:
    tally = tally_of(DRAFT)
    assert "add an LLM" in dict(tally.rows())["next"]
    tally.usage += Usage({Part("llm", "reply", "large"): Amount(calls=1)})
    assert dict(tally.rows())["next"] == "read the drafts, and send what is right: 1"


def test_an_endpoint_that_did_not_answer_at_once_is_in_the_closing_table() -> None:
    tally = Tally()
    noted: list[list[NoteKind]] = [[], ["retried", "retried"], ["retried", "waited"], ["fell back"]]
    for kinds in noted:
        trace = tuple(Note(kind, "node", "HTTP 503", "large") for kind in kinds)
        tally.add(Item(number=1, id=1, input="hello", status="answered", trace=trace))
    said = "large: retried in 2, waited in 1, fell back in 1 of 4 items"
    assert dict(tally.rows())["in trouble"] == said


def test_an_outcome_is_accepted_where_the_decisions_in_it_are_that_say_so() -> None:
    mood = Choice[str](probabilities={"good": 1.0})
    said = [mood.model_copy(update={"accepted": accepted}) for accepted in (True, True, False)]
    rows = rows_of(*(Ended(became="written", mood=one) for one in (*said, mood)))
    assert rows["accepted"] == "2 of 4"


def test_what_was_settled_waits_or_was_set_aside_is_counted() -> None:
    waiting, unwanted = Ended(became="waiting"), Ended(became="quarantined")
    routed = Ended(became="routed")
    rows = rows_of(TEMPLATE, TEMPLATE, routed, waiting, DRAFT, unwanted, DROPPED, WRITTEN)
    assert rows == {
        "settled": "3 of 8 (38%): 2 replies by template, 1 to people's queues",
        "written by the LLM": "1",
        "waiting for an LLM or people": "2, 1 of them with a draft to read",
        "doubtful": "none",
        "next": "add an LLM in moa.toml to have 2 replies written\nlook through quarantine: 1",
    }


def test_what_a_guard_stopped_is_counted_as_dropped_beside_what_the_graph_dropped() -> None:
    tally = tally_of(TEMPLATE, DROPPED, Dropped(reason="it is spam"))
    assert dict(tally.rows())["settled"].startswith("1 of 3 (33%)")
    assert tally.outcomes["dropped"] == 2
    assert rows_of(Dropped(reason="it is spam")) == {"settled": "0 of 1 (0%)"}


def test_nothing_comes_next_where_nothing_is_left_to_do_or_outputs_say_nothing() -> None:
    assert "next" not in rows_of(TEMPLATE, WRITTEN)
    assert rows_of(Text(text="hello")) == {"settled": "1 of 1 (100%)"}


def test_an_answer_that_is_doubtful_is_named_without_a_trace_too() -> None:
    question = Question("mood", "choice", "How?", (Option("good", "good"), Option("bad", "bad")))
    answer = Answer(question=question, probabilities=(0.6, 0.4), doubt="it guesses")
    mood = Choice[str].of(answer)
    assert rows_of(mood, Text(text="x"))["doubtful"] == "'mood' is DOUBTFUL, in 1 of 2"
    read_again = Ended.model_validate_json(Ended(became="dropped", mood=mood).model_dump_json())
    assert rows_of(read_again)["doubtful"].startswith("'mood' is DOUBTFUL")


def test_a_doubtful_question_is_named_once_at_the_end_with_what_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    Path("graph.py").write_text(BLIND)
    source = written("in.txt", ("one", "two", "three"))
    out = told("run", "graph.py:blind", source).out
    said = "'spam' is DOUBTFUL: the model says 'no' whatever the text is, in 3 of 3"
    assert out.count(said) == 1
    needed = min_rows(Guarantee(look=1))
    assert f"label at least {needed} (" in out
    assert "run moa learn to decide 'spam' by your labels" in out
    assert "DOUBTFUL" not in told("run", "graph.py:sure", source).out
