"""Claims: the sentences of an answer, and whether the passages that each cites support it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING, Literal, Unpack

from moa.agents.base import Limits, run_off_loop
from moa.agents.deciding import DecidingAgent
from moa.agents.prompts import block
from moa.core._async import gather
from moa.core.context import RunContext
from moa.core.errors import CalibrationError, ConfigError, MoaError, check_recoverable
from moa.core.node import Frozen, Node, Text
from moa.core.questions import Answer, Option, Question
from moa.documents import Passage
from moa.documents.language import can_detect, language_of
from moa.documents.retrieval import searched_text, words
from moa.documents.sentences import sentences
from moa.endpoints import Endpoint

if TYPE_CHECKING:
    from moa.decisions.file import Calibration

RELEVANT = "Does the passage help to answer the question?"
SUPPORTED = "Does the passage say what is claimed?"
Verdict = Literal["supported", "unsupported", "uncited", "unchecked"]
_CITATION = re.compile(r"\s?\[(\d{1,4}(?:\s*[,;\u2013-]\s*\d{1,4})*)\]")
_PART = re.compile(r"(\d+)(?:\s*[\u2013-]\s*(\d+))?")
MOST_WORDS = 0.6
"""Minimum share of a sentence's words, rare ones counting more, for a text to count as its
source."""
_BETTER = 0.3
"""Minimum lead in this share of a passage over those that a sentence cites, to be cited instead."""
_BRACKETS = re.compile(r"\[(\d[\d\s,;\u2013-]*)\]")
_FEW_WORDS = 0.55
"""A sentence is unsupported if no passage has this share of its words, rare ones counting more. Of
40 answers of a 1.5B model about XQuAD this flagged 7 of the 9 to questions that the passages don't
answer, and none of the 22 that were right."""
_MOST_CHECKED = 500
"""Maximum sentences of an answer to check, to limit the calls that an answer causes."""
_READ = 2000
"""Maximum characters of a sentence whose words are compared."""
_FEWEST_WORDS = 3
"""Minimum words for a sentence to be judged by them; a yes, for example, is too short."""


class Citation(Frozen):
    """A number in an answer, and the passage that it stands for."""

    number: int
    passage: Passage


class Claim(Frozen):
    """A sentence of an answer, and whether the passages that it cites support it."""

    text: str
    """The sentence without its citations."""
    numbers: tuple[int, ...]
    """Numbers of the passages that it cites."""
    verdict: Verdict
    """`uncited`: it cites no passage. `unsupported`: a model says that the passages don't support
    it, or none has its words. `unchecked`: it wasn't checked, or the check gave no answer."""
    probability: float | None = None
    """Probability that the passages support it; `None` if no model gave one."""


class Grade(Frozen):
    """Grade of a pair of texts under a criterion."""

    met: bool | None
    """`None` if the model didn't say."""
    probability: float | None = None
    """Probability that it is met; `None` if the model wrote its answer, or gave none."""
    accepted: bool | None = None
    """True if a calibration's guarantee covers it; `None` if there is no guarantee."""


class Grader(DecidingAgent[Grade]):
    """Asks a yes-or-no question about a passage and a question or a claim.

    Args:
        endpoint: The endpoint that decides.
        question: A yes-or-no question.
        threshold: Minimum probability to answer yes, if no calibration's guarantee decides.
        calibration: Made by `moa learn` from pairs as `filter_text` and `claim_text` write them,
            with the labels yes and no. Its question replaces `question`.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: the threshold is not between 0 and 1.
        CalibrationError: the labels of the calibration are not yes and no.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        question: str,
        *,
        threshold: float = 0.5,
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        name = limits.get("name") or "grader"
        if not 0 < threshold < 1:
            raise ConfigError(f"{name}: threshold={threshold}, but it is between 0 and 1")
        self.threshold = threshold
        yes_or_no = (Option("yes", value=True), Option("no", value=False))
        predicate = Question(name, "predicate", question, yes_or_no)
        if calibration is not None:
            predicate = calibration.question.question(name)
            if {option.name for option in predicate.options} != {"yes", "no"}:
                labels = ", ".join(option.name for option in predicate.options)
                raise CalibrationError(
                    f"{name}: the calibration has the labels {labels}, and here a question is "
                    "answered by yes or no: label the pairs yes and no"
                )
        super().__init__(endpoint, [predicate], calibration=calibration, **limits)

    def read(self, answers: Sequence[Answer]) -> Grade:
        """Compare the probability with the threshold, or use the calibration's decision."""
        answer = answers[0]
        if answer.status != "answered":
            return Grade(met=None, accepted=answer.accepted)
        p = answer.by_name().get("yes")
        met = answer.question.options[answer.best].name == "yes"
        if p is not None and answer.accepted is None:
            met = p >= self.threshold
        return Grade(met=met, probability=p, accepted=answer.accepted)


def number_passages(passages: Sequence[Passage]) -> str:
    """Format passages for a prompt, each as data, under its citation number.

    Numbers in brackets inside a passage are put in parentheses, so that none is taken for a
    citation.
    """
    texts = [without_brackets(f"{_heading(passage)}{passage.text}") for passage in passages]
    return "\n\n".join(f"[{number}]\n{block(text)}" for number, text in enumerate(texts, 1))


def _heading(passage: Passage) -> str:
    """Return the heading with a passage's source; empty if the passage begins with it."""
    first, _, _ = passage.text.lstrip().partition("\n")
    return "" if first.strip("#*= ") == passage.source else f"{passage.source}\n"


def without_brackets(text: str) -> str:
    """Replace the brackets around numbers, as of footnotes, by parentheses."""
    return _BRACKETS.sub(r"(\1)", text)


async def cite(
    answer: str, passages: Sequence[Passage], context: RunContext
) -> tuple[str, tuple[Citation, ...]]:
    """Check the citations of an answer, and correct them by comparing words.

    Citations are written `[1]`, `[1, 2]` or `[1-3]`. Those of passages that don't exist are
    removed. Small models forget citations, or always write `[1]`. So a sentence that cites nothing
    is given the passage with most of its words, if that has enough of them. If another passage has
    far more of them than those cited, it is cited instead. The trace notes all changes.

    Returns:
        The answer, and each passage that it cites, once, in the order of their numbers.
    """
    text, cited_numbers, unknown, added = await run_off_loop(
        lambda: _cite(answer, passages), context, characters=len(answer)
    )
    if unknown:
        numbers = ", ".join(map(str, sorted(unknown)))
        context.note("changed", f"citations of passages that were not given: {numbers:.200}")
    if added:
        note = f"{added} sentences are given the citation that their words have"
        context.note("changed", note)
    return text, tuple(Citation(number=n, passage=passages[n - 1]) for n in cited_numbers)


def _cite(answer: str, passages: Sequence[Passage]) -> tuple[str, list[int], set[int], int]:
    """Return the answer, its citations, the unknown ones, and the number of added ones."""
    unknown: set[int] = set()

    def keep_known(match: re.Match[str]) -> str:
        numbers = _numbers(match[1])
        known_numbers = [number for number in numbers if 0 < number <= len(passages)]
        unknown.update({*numbers} - {*known_numbers})
        blank = " " if match[0][0].isspace() else ""
        return (
            match[0]
            if known_numbers == numbers
            else "".join(f"{blank}[{n}]" for n in known_numbers)
        )

    text, added = _cite_by_words(_CITATION.sub(keep_known, answer), passages)
    return text, sorted(_numbers_in(text)), unknown, added


def _cite_by_words(answer: str, passages: Sequence[Passage]) -> tuple[str, int]:
    passage_words = [set(words(f"{passage.source} {passage.text}")) for passage in passages]
    parts, changes, end = list[str](), 0, 0
    for begin, sentence in sentences(answer):
        parts.append(answer[end:begin])
        end = begin + len(sentence)
        cited_by = _numbers_in(sentence)
        claim = _CITATION.sub("", sentence).rstrip()
        shares = word_shares(claim[:_READ], passage_words)
        best = max(range(len(shares)), key=shares.__getitem__, default=0)
        cited_share = max((shares[n - 1] for n in cited_by), default=MOST_WORDS - _BETTER)
        if shares and shares[best] >= max(MOST_WORDS, cited_share + _BETTER):
            sentence, changes = f"{claim} [{best + 1}]", changes + 1
        parts.append(sentence)
    return "".join((*parts, answer[end:])), changes


def word_shares(sentence: str, word_sets: Sequence[Set[str]], *more: Set[str]) -> list[float]:
    """Return the share of a sentence's words in each of several texts; rare words count more.

    Texts in `more` are measured, too, but don't make words less rare.

    A word weighs log((texts + 1) / (texts with it + 0.5)). A word in no text counts as in one;
    otherwise, with few texts, a word such as `it` would count more than all others.
    """
    sentence_words = set(words(sentence))
    counts = {
        word: max(1, sum(word in text_words for text_words in word_sets)) for word in sentence_words
    }
    weights = {word: math.log((len(word_sets) + 1) / (n + 0.5)) for word, n in counts.items()}
    total = sum(weights.values()) or 1.0
    return [
        sum(weights[word] for word in sentence_words & text_words) / total
        for text_words in (*word_sets, *more)
    ]


def _numbers_in(text: str) -> set[int]:
    return {n for match in _CITATION.finditer(text) for n in _numbers(match[1])}


def _numbers(inside: str) -> list[int]:
    """Parse `1, 3-5`. A range that is reversed or longer than 50 counts as its two ends."""
    numbers: list[int] = []
    for match in _PART.finditer(inside):
        first = int(match[1])
        last = int(match[2] or first)
        is_range = 0 <= last - first <= 50
        numbers += range(first, last + 1) if is_range else (first, last)
    return numbers


def claims_in(answer: str, *, limit: int | None = None) -> list[Claim]:
    """Split an answer into its sentences, each with the numbers that it cites.

    A line without letters and digits apart from its citations, such as a rule, is left out.
    Sentences that cite nothing are `uncited`; all others, and those after the first `limit`, are
    `unchecked`.
    """
    claims: list[Claim] = []
    for _, sentence in sentences(answer):
        numbers = tuple(sorted(_numbers_in(sentence)))
        text = _CITATION.sub("", sentence).strip()
        if has_words(text):
            is_checked = limit is None or len(claims) < limit
            verdict: Verdict = "uncited" if is_checked and not numbers else "unchecked"
            claims.append(Claim(text=text, numbers=numbers, verdict=verdict))
    return claims


def has_words(answer: str) -> bool:
    """Return True if there is a letter or a digit apart from the citations."""
    return any(map(str.isalnum, _CITATION.sub("", answer)))


def filter_text(question: str, passage: Passage) -> str:
    """Write a question and a passage as the text that a filter decides on."""
    return f"Question: {question}\n\nPassage: {searched_text(passage)}"


def claim_text(claim: str, passages: Sequence[Passage]) -> str:
    """Write a claim and the passages it cites as the text that a check decides on."""
    passage_text = "\n\n".join(map(searched_text, passages))
    return f"Passage: {passage_text}\n\nClaim: {claim}"


async def check_claims(
    answer: str,
    passages: Sequence[Passage],
    support: Node[Text | str, Grade] | None,
    context: RunContext,
    *,
    question: str = "",
) -> tuple[Claim, ...]:
    """Check for each sentence whether the passages that it cites, which must exist, support it.

    Without `support`, a sentence is unsupported if the passages have too few of its words, unless
    it is in another language or has hardly any words. Words of the `question` don't count if there
    are enough others. Sentences after the first 500 aren't checked; the trace notes that.
    """
    all_claims = await run_off_loop(
        lambda: claims_in(answer, limit=_MOST_CHECKED), context, characters=len(answer)
    )
    claims, rest = all_claims[:_MOST_CHECKED], all_claims[_MOST_CHECKED:]
    if rest:
        context.note("skipped", f"{len(rest)} sentences after the first {len(claims)}: not checked")
    if support is None:
        marked_claims = await run_off_loop(
            lambda: list(_judge_by_words(claims, passages, question)),
            context,
            characters=len(answer),
        )
        return (*marked_claims, *rest)
    texts = [
        claim_text(claim.text, [passages[n - 1] for n in claim.numbers])
        for claim in claims
        if claim.numbers
    ]
    grades = iter(await grade_each(support, texts, context))
    graded_claims = [_judge(claim, next(grades)) if claim.numbers else claim for claim in claims]
    return (*graded_claims, *rest)


async def check_answer(
    answer: str,
    passages: Sequence[Passage],
    support: Node[Text | str, Grade] | None,
    context: RunContext,
    *,
    question: str,
    neighbours: Sequence[Passage] = (),
) -> tuple[str, tuple[Citation, ...], tuple[Claim, ...]]:
    """Check an answer's citations and sentences, and leave out unsupported sentences.

    Args:
        answer: The answer.
        passages: The passages that it was written from; `[1]` is the first.
        support: Node that says if passages support a sentence; `None`: words alone decide.
        context: The context of the run.
        question: The question that it answers.
        neighbours: Passages of which an answer with citations must cite at least one, or all of it
            counts as unsupported. Empty: it may cite any passage.

    Returns:
        The rest of the answer, which may be empty; the passages that it cites; and all sentences,
        each with a verdict.
    """
    text, citations = await cite(answer, passages, context)
    claims = await check_claims(text, passages, support, context, question=question)
    if (
        neighbours
        and citations
        and not any(citation.passage in neighbours for citation in citations)
    ):
        claims = tuple(claim.model_copy(update={"verdict": "unsupported"}) for claim in claims)
    return (*_drop_unsupported(text, citations, claims, context), claims)


def is_foreign(text: str, passages: Sequence[Passage]) -> bool:
    """Return True if a text is known to be in a different language from the passages."""
    if not can_detect():
        return False
    language = language_of(" ".join(passage.text for passage in passages))
    return language is not None and language_of(text) not in (None, language)


def _judge_by_words(
    claims: Sequence[Claim], passages: Sequence[Passage], question: str
) -> Iterator[Claim]:
    """Mark sentences as unsupported if no passage has enough of their words."""
    question_words = set(words(question))
    passage_words = [set(words(f"{passage.source} {passage.text}")) for passage in passages]
    for claim in claims:
        beginning = claim.text[:_READ]
        own_words = [word for word in words(beginning) if word not in question_words]
        text = " ".join(own_words) if len(set(own_words)) >= _FEWEST_WORDS else beginning
        can_tell = (
            passage_words
            and len(set(words(beginning))) >= _FEWEST_WORDS
            and not is_foreign(beginning, passages)
        )
        # A sentence may rest on what several passages say together.
        union = set[str]().union(*(passage_words[n - 1] for n in claim.numbers))
        is_lacking = can_tell and max(word_shares(text, passage_words, union)) < _FEW_WORDS
        yield claim.model_copy(update={"verdict": "unsupported"}) if is_lacking else claim


def _judge(claim: Claim, grade: Grade) -> Claim:
    verdict: Verdict = "supported" if grade.met else "unsupported"
    if grade.met is None or grade.accepted is False:
        verdict = "unchecked"
    return claim.model_copy(update={"verdict": verdict, "probability": grade.probability})


def _drop_unsupported(
    text: str, citations: Sequence[Citation], claims: Sequence[Claim], context: RunContext
) -> tuple[str, tuple[Citation, ...]]:
    """Leave out unsupported sentences, and their own citations, with a note."""
    kept_claims = [claim for claim in claims if claim.verdict != "unsupported"]
    if len(kept_claims) == len(claims):
        return text, tuple(citations)
    dropped_text = " ".join(claim.text for claim in claims if claim.verdict == "unsupported")
    context.note("dropped", f"no passage says {dropped_text!r:.1000}")
    numbers = {number for claim in kept_claims for number in claim.numbers}
    return join_claims(kept_claims), tuple(
        citation for citation in citations if citation.number in numbers
    )


def join_claims(claims: Sequence[Claim]) -> str:
    """Join sentences, each with its citations."""
    return " ".join(f"{c.text} {''.join(f'[{n}]' for n in c.numbers)}".strip() for c in claims)


def quote_claims(extract: str) -> tuple[Claim, ...]:
    """Return the sentences of an extract as supported: its passage has them word for word."""
    claims = claims_in(extract)
    return tuple(claim.model_copy(update={"verdict": "supported"}) for claim in claims)


async def grade_each(
    grader: Node[Text | str, Grade], texts: Sequence[str], context: RunContext
) -> list[Grade]:
    """Grade texts in parallel. One that fails has no grade, and the trace notes it.

    Errors that any text would cause, such as a wrong key, are raised.
    """

    async def grade(text: str) -> Grade:
        try:
            return (await grader.run(text, context)).output
        except MoaError as error:
            check_recoverable(error)
            context.note("failed", f"{grader.name!r} gave no grade: {error}")
            return Grade(met=None)

    return await gather(grade(text) for text in texts)
