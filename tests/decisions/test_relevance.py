"""Relevance: whether a text meets a criterion in words, and what is told of that."""

from __future__ import annotations

import numpy as np
import pytest

from moa import EmbeddedEndpoint, Filter, RunContext
from moa.core.errors import CapabilityError
from moa.core.questions import Option, Question
from moa.decisions.heads import encode
from moa.local.encoders import JointEncoder
from moa.local.relevance import strip_negation, words_head

installed = pytest.mark.skipif(
    JointEncoder.missing() is not None, reason="the encoder is not installed"
)


def yes_or_no(text: str) -> Question:
    return Question("met", "predicate", text, (Option("yes", True), Option("no", False)))


async def read(question: Question, *texts: str) -> list[tuple[float, ...]]:
    found = (await words_head(question, RunContext())).head
    vectors = await encode(JointEncoder(), texts, RunContext())
    return [tuple(np.exp(found.logs_of(vector)).tolist()) for vector in vectors]


COOKING = (
    "Simmer the onions in butter until golden, then add the stock and the rice.",
    "Die Zwiebeln in Butter glasig dünsten, dann Reis und Brühe zugeben.",
)
TRAINS = (
    "The train to Leeds leaves at ten from platform two.",
    "Der Zug nach Köln fährt um zehn von Gleis zwei.",
)


@installed
@pytest.mark.parametrize(
    ("criterion", "meet", "do_not"),
    [
        (
            "a weather report",
            (
                "Rain from the west, highs of 12 degrees, strong winds on the coast.",
                "Von Westen Regen, höchstens 12 Grad, an der Küste starker Wind.",
            ),
            TRAINS,
        ),
        (
            "a complaint",
            (
                "This is the third time the heating broke and nobody came. Unacceptable!",
                "Zum dritten Mal fällt die Heizung aus, und niemand kommt. Unverschämt!",
            ),
            TRAINS,
        ),
        (
            "a job application",
            (
                "Dear hiring team, I am applying for the post of accountant; my CV is attached.",
                "Hiermit bewerbe ich mich als Buchhalterin; mein Lebenslauf liegt bei.",
            ),
            COOKING,
        ),
        (
            "about a football match",
            (
                "The striker scored twice in the second half and the home side won 3-1.",
                "Der Stürmer traf zweimal in der zweiten Halbzeit, die Heimelf gewann 3:1.",
            ),
            COOKING,
        ),
    ],
)
async def test_a_criterion_is_met_by_what_plainly_meets_it_alone(
    criterion: str, meet: tuple[str, ...], do_not: tuple[str, ...]
) -> None:
    found = await read(yes_or_no(f"Is this text {criterion}?"), *meet, *do_not)
    (english, other, *others) = (yes for yes, _ in found)
    # The quantized encoder's numbers differ by .05 from processor to processor: a German text that
    # one answers with .51 gets .49 on another.
    assert english > 0.5 > max(others)
    assert other > max(others) + 0.3


@installed
async def test_something_else_than_a_criterion_turns_the_answer_round() -> None:
    texts = (*COOKING, *TRAINS)
    plain = await read(yes_or_no("Is this text about cooking?"), *texts)
    other = await read(yes_or_no("Is this text about something else than cooking?"), *texts)
    assert [yes for yes, _ in other] == pytest.approx([no for _, no in plain])
    assert min(yes for yes, _ in other[2:]) > max(yes for yes, _ in other[:2])


@pytest.mark.parametrize(
    ("criterion", "plain"),
    [
        ("not about the weather", "about the weather"),
        ("about anything but the weather", "about the weather"),
        ("about topics other than football", "about football"),
        ("nothing to do with work", "about work"),
        ("that does not mention a price", "mention a price"),
        ("containing no numbers", "containing numbers"),
        ("without any complaint", "with complaint"),
        ("neither a question nor a request", "a question or a request"),
    ],
)
def test_a_negation_at_the_start_is_taken_off(criterion: str, plain: str) -> None:
    assert strip_negation(criterion) == (plain, True)


def test_a_criterion_may_begin_with_is_as_a_sentence_would_go_on() -> None:
    assert strip_negation("is about gardening") == ("about gardening", False)
    assert strip_negation("that is not about gardening") == ("about gardening", True)


@pytest.mark.parametrize("criterion", ["notes from a meeting", "about nothing", "nostalgic"])
def test_what_only_looks_like_a_negation_stays(criterion: str) -> None:
    assert strip_negation(criterion) == (criterion, False)


@installed
async def test_a_text_that_meets_another_criterion_does_not_meet_this_one() -> None:
    job = "Dear hiring team, I am applying for the post of accountant; my CV is attached."
    storm = "Rain from the west, highs of 12 degrees, strong winds on the coast."
    for criterion, other in (("a weather report", job), ("a job application", storm)):
        ((yes, _),) = await read(yes_or_no(f"Is this text {criterion}?"), other)
        assert yes < 0.3


@installed
async def test_a_filter_notes_a_criterion_of_a_kind_that_is_badly_told() -> None:
    for criterion, is_noted in (("WRITTEN", True), ("about gardening", False)):
        result = await Filter(EmbeddedEndpoint(), criterion, action="drop").run("Hello there.")
        assert any(note.kind == "degraded" for note in result.trace) == is_noted


async def test_a_question_of_another_form_has_no_head_and_encodes_nothing() -> None:
    context = RunContext()
    levels = Question("q", "score", "How good?", (Option("bad", 0), Option("good", 1)))
    for silent in (levels, yes_or_no("Would a lawyer sign that?")):
        with pytest.raises(CapabilityError):
            await words_head(silent, context)
    assert context.usage.calls == 0
