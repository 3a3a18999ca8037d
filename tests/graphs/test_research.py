"""Research: parts looked up, one numbering of sources, and a report that cites them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from moa.agents.base import TypedNode
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointUnavailable, InputError
from moa.core.node import Result, Text
from moa.core.trace import TextDelta
from moa.documents import Passage
from moa.documents.claims import Citation, Claim, Grader
from moa.documents.rag import NotInDocuments, Rag, SourcedAnswer
from moa.documents.research import Report, Research
from moa.documents.retrieval import BM25
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .nodes import large, notes, tiny

ASKED = "How old is the bridge, and how long?"
OLD, LONG, WIDE = "How old is the bridge?", "How long is the bridge?", "How wide is the bridge?"
PAPER = Passage(document="paper", title="paper", text="The bridge is old, about 80 years.")
GUIDE = Passage(document="guide", title="guide", text="It is 90 m long, some say 90 years old.")
Outcome = SourcedAnswer | NotInDocuments


def sourced(text: str, *passages: Passage) -> SourcedAnswer:
    citations = tuple(Citation(number=n, passage=p) for n, p in enumerate(passages, 1))
    return SourcedAnswer(
        text=text, kind="answer", citations=citations, claims=(), passages=passages
    )


ANSWERS: Mapping[str, Outcome | Exception] = {
    OLD: sourced("It is 80 years old [1]. Some say 90 [2].", PAPER, GUIDE),
    LONG: sourced("It is 90 m long [1].", GUIDE),
    WIDE: NotInDocuments(reason="no passage was found"),
    ASKED: sourced("It is old [1].", PAPER),
}


class Library(TypedNode[Text | str, Outcome]):
    """Answers what it has an answer to."""

    def __init__(self, answers: Mapping[str, Outcome | Exception]) -> None:
        super().__init__()
        self.answers = answers

    async def answer(self, request: Text | str, context: RunContext) -> Outcome:
        context.emit(TextDelta(context.node, "secret"))
        found = self.answers[str(request)]
        if isinstance(found, Exception):
            raise found
        return found


def divided(*questions: str) -> str:
    return json.dumps({"questions": questions})


def conflicts(*found: tuple[str, list[int]]) -> str:
    return json.dumps({"disagreements": [{"about": a, "findings": f} for a, f in found]})


async def ran(
    llm: ScriptedEndpoint | SimulatedEndpoint,
    answers: Mapping[str, Outcome | Exception] = ANSWERS,
    asked: str = ASKED,
) -> Result[Report | NotInDocuments]:
    return await Research(llm=llm, answerer=Library(answers)).run(asked)


def report_of(result: Result[Report | NotInDocuments]) -> Report:
    assert isinstance(result.output, Report)
    return result.output


async def test_parts_are_answered_from_sources_and_cited_by_one_numbering() -> None:
    llm = large(divided(OLD, LONG), conflicts(), "80 years [1], and 90 m [2].")
    report = report_of(await ran(llm))
    assert [each.answer for each in report.findings] == [
        "It is 80 years old. [1] Some say 90. [2]",
        "It is 90 m long. [2]",
    ]
    assert [(c.number, c.passage) for c in report.citations] == [(1, PAPER), (2, GUIDE)]
    assert report.text == "80 years [1], and 90 m [2]."


async def test_citations_behind_the_full_stop_are_kept_too() -> None:
    extract = sourced("It is 80 years old. [1]", PAPER)
    report = report_of(await ran(large(divided(OLD)), {OLD: extract}))
    assert report.findings[0].answer == "It is 80 years old. [1]"


async def test_what_a_check_found_in_no_passage_gets_into_no_report() -> None:
    text = "It is 80 years old [1]. It is made of gold [2]."
    claims = (
        Claim(text="It is 80 years old.", numbers=(1,), verdict="supported"),
        Claim(text="It is made of gold.", numbers=(2,), verdict="unsupported"),
    )
    old = sourced(text, PAPER, GUIDE).model_copy(update={"claims": claims})
    result = await ran(large(divided(OLD)), {OLD: old})
    finding = report_of(result).findings[0]
    assert (finding.answer, finding.citations) == ("It is 80 years old. [1]", (1,))
    assert finding.unsupported == ("It is made of gold.",)
    assert report_of(result).text == "It is 80 years old. [1]"
    assert "gold" in notes(result, "dropped")[0]


async def test_a_part_of_which_no_passage_says_anything_is_unanswered() -> None:
    claims = (Claim(text="It is made of gold.", numbers=(1,), verdict="unsupported"),)
    gold = sourced("It is made of gold [1].", PAPER).model_copy(update={"claims": claims})
    result = await ran(large(divided(OLD)), {OLD: gold})
    assert isinstance(result.output, NotInDocuments)
    assert "no passage says what was answered" in result.output.reason


async def test_the_sentences_of_the_report_are_checked() -> None:
    small = SimulatedEndpoint(rule=lambda text: {"check": {"yes": 0.1 if "gold" in text else 0.9}})
    check = Grader(small, "Does it say so?", name="check")
    llm = large(divided(OLD, LONG), conflicts(), "80 years [1]. It is made of gold [1].")
    graph = Research(llm=llm, answerer=Library(ANSWERS), support=check)
    result = await graph.run(ASKED)
    assert [c.verdict for c in report_of(result).claims] == ["supported", "unsupported"]
    assert report_of(result).text == "80 years. [1]"
    assert "gold" in notes(result, "dropped")[-1]
    assert "check each sentence" in graph.draw().mermaid


async def test_disagreements_are_kept_and_the_writer_is_told_of_them() -> None:
    llm = large(divided(OLD, LONG), conflicts(("its age", [1])), "80 [1] or 90 [2].")
    report = report_of(await ran(llm))
    assert [(d.about, d.findings) for d in report.disagreements] == [("its age", [1])]
    assert "They disagree about:\n<data>\nits age" in llm.prompts[-1].messages[-1].content


async def test_a_part_without_sources_is_said_and_the_writer_is_told() -> None:
    llm = large(divided(OLD, LONG, WIDE), conflicts(), "80 years [1], 90 m [2].")
    result = await ran(llm)
    assert report_of(result).unanswered == (WIDE,)
    assert f"The sources leave open:\n<data>\n{WIDE}" in llm.prompts[-1].messages[-1].content
    assert str(result.output).endswith(f"Not in the sources: {WIDE}")
    assert len(notes(result, "skipped")) == 1


async def test_the_only_answer_is_the_report_and_no_model_writes_about_the_open_parts() -> None:
    report = report_of(await ran(large(divided(LONG, WIDE))))
    assert (report.text, report.written_by) == ("It is 90 m long. [1]", "findings")
    assert [c.passage for c in report.citations] == [GUIDE]


async def test_an_only_answer_that_a_check_refuses_is_no_report() -> None:
    check = Grader(SimulatedEndpoint(rule=lambda _: {"check": {"yes": 0.1}}), "So?", name="check")
    graph = Research(llm=large(divided(LONG)), answerer=Library(ANSWERS), support=check)
    assert isinstance((await graph.run(ASKED)).output, NotInDocuments)


async def test_a_part_that_fails_is_left_out_and_said() -> None:
    down = EndpointUnavailable("down", endpoint="search")
    report = report_of(await ran(large(divided(OLD, LONG)), {**ANSWERS, LONG: down}))
    assert report.unanswered == (LONG,)
    assert "it could not be looked up" in (report.findings[1].missing or "")


@pytest.mark.parametrize("only", [OLD, LONG])
async def test_all_parts_failing_or_nothing_to_search_in_is_an_error(only: str) -> None:
    down = EndpointUnavailable("down", endpoint="search")
    with pytest.raises(EndpointUnavailable):
        await ran(large(divided(OLD, LONG)), {OLD: down, LONG: down})
    with pytest.raises(ConfigError):
        await ran(large(divided(OLD, LONG)), {**ANSWERS, only: ConfigError("no documents")})


async def test_sources_that_answer_nothing_give_no_report() -> None:
    result = await ran(large(divided(WIDE)))
    assert isinstance(result.output, NotInDocuments)
    assert "no passage was found" in result.output.reason


async def test_citations_of_what_was_not_given_are_taken_out_and_noted() -> None:
    result = await ran(large(divided(OLD, LONG), conflicts(), "80 years [1][7]."))
    assert report_of(result).text == "80 years [1]."
    assert "7" in notes(result, "changed")[0]


async def test_without_a_division_the_question_is_looked_up_as_it_is() -> None:
    llm = large(EndpointUnavailable("down", endpoint="large"))
    report = report_of(await ran(llm))
    assert [each.question for each in report.findings] == [ASKED]


async def test_of_too_many_parts_the_first_are_asked() -> None:
    llm = large(divided(OLD, LONG))
    result = await Research(llm=llm, answerer=Library(ANSWERS), max_parts=1).run(ASKED)
    assert len(report_of(result).findings) == 1
    assert len(notes(result, "truncated")) == 1


async def test_where_no_report_can_be_written_the_answers_stand_one_after_another() -> None:
    down = EndpointUnavailable("down", endpoint="large")
    result = await ran(large(divided(OLD, LONG), conflicts(), down))
    report = report_of(result)
    assert report.written_by == "findings"
    assert report.text.startswith(f"{OLD}\nIt is 80 years old. [1]")
    assert [c.number for c in report.citations] == [1, 2]


async def test_a_model_too_small_to_write_is_not_asked() -> None:
    llm = tiny()
    report = report_of(await ran(llm))
    assert (report.written_by, llm.prompts) == ("findings", [])


async def test_an_empty_question_is_refused() -> None:
    with pytest.raises(InputError):
        await ran(large(), asked="  ")


SEVERAL = (
    Passage(document="a", title="Bridge", text="The bridge is 80 years old."),
    Passage(document="b", title="Length", text="The bridge is 90 m long, and nobody paints it."),
)


@dataclass
class Windowed(ScriptedEndpoint):
    context_window: int | None = None


def reading(*steps: str, most: int = 5, window: int | None = None) -> Research:
    writer = Windowed(steps, name="large", tier="llm", context_window=window)
    answerer = Rag(retriever=BM25(SEVERAL), writer=writer, top_k=most)
    return Research(llm=writer, answerer=answerer, max_parts=most)


async def test_where_all_passages_fit_one_call_answers_all_parts() -> None:
    text = "It is 80 years old [1]. It is 90 m long [2]. Sailors painted it green [1]."
    result = await reading(text).run(ASKED)
    report = report_of(result)
    assert report.text == "It is 80 years old. [1] It is 90 m long. [2]"
    assert [c.passage for c in report.citations] == [*SEVERAL]
    assert [c.verdict for c in report.claims] == ["unchecked", "unchecked", "unsupported"]
    assert (result.usage.calls, report.written_by) == (1, "llm")


@pytest.mark.parametrize(("window", "most"), [(400, 5), (None, 1)])
async def test_what_does_not_fit_or_is_more_than_parts_would_read_is_divided(
    window: int | None, most: int
) -> None:
    graph = reading(divided(OLD), "80 years [1].", "80 years [1].", most=most, window=window)
    result = await graph.run(ASKED)
    assert [each.question for each in report_of(result).findings] == [OLD]
