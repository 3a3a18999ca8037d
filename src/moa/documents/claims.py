"""Claims: the sentences of an answer, and whether the passages that they cite say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Unpack

from moa._async import gather
from moa.agents.boundary import Limits
from moa.agents.deciding import DecidingAgent
from moa.agents.language import can_detect, language_of
from moa.context import RunContext
from moa.documents import Passage
from moa.documents.citations import Statement, statements, word_shares
from moa.documents.retrieval import searched, words
from moa.endpoints import Endpoint
from moa.errors import CalibrationError, ConfigError, MoaError, check_recoverable
from moa.node import Frozen, Node, Text
from moa.questions import Answer, Option, Question

if TYPE_CHECKING:
    from moa.calibration.file import Calibration

RELEVANT = "Does the passage help to answer the question?"
SUPPORTED = "Does the passage say what is claimed?"
Verdict = Literal["supported", "unsupported", "uncited", "unchecked"]
_FEW_WORDS = 0.55
"""Share of the words of a sentence, rare ones counting more, of which some passage must hold more,
or nothing in the passages says it. Of 40 answers about XQuAD that a 1.5B model wrote it told 7 of
the 9 to questions that the passages don't answer, and none of the 22 that were right."""
_FEWEST_WORDS = 3
"""A shorter sentence, such as a yes, tells too little by its words."""


class Claim(Frozen):
    """A sentence of an answer, and whether the passages that it cites say so."""

    text: str
    """Without its citations."""
    numbers: tuple[int, ...]
    """The passages that it cites."""
    verdict: Verdict
    """`uncited` where it cites none, `unsupported` where a model says that the passages don't say
    it, or none has its words, `unchecked` where nobody could say."""
    probability: float | None = None
    """That the passages say it; `None` where no model gave one."""


class Grade(Frozen):
    """Whether a pair of texts meets a criterion."""

    met: bool | None
    """`None` where the model didn't say."""
    probability: float | None = None
    """That it is met; `None` where the model wrote its answer, or gave none."""
    accepted: bool | None = None
    """Whether a calibration's promise covers it; `None` without a calibration."""


class Grader(DecidingAgent[Grade]):
    """Asks a yes-or-no question about a passage and what it is held against.

    Args:
        endpoint: Who decides.
        question: A yes-or-no question.
        threshold: Probability from which on the answer is yes, where there is no calibration.
        calibration: Made by `moa calibrate` from pairs as `asked` and `claimed` write them, with
            the labels yes and no; its question comes before the one given.
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
        wanted = Question(name, "predicate", question, yes_or_no)
        if calibration is not None:
            wanted = calibration.question.question(name)
            if {option.name for option in wanted.options} != {"yes", "no"}:
                labels = ", ".join(option.name for option in wanted.options)
                raise CalibrationError(
                    f"{name}: the calibration has the labels {labels}, and here a question is "
                    "answered by yes or no: label the pairs yes and no"
                )
        super().__init__(endpoint, [wanted], calibration=calibration, **limits)

    def read(self, answers: Sequence[Answer]) -> Grade:
        """Compare the probability with the threshold, or take what the calibration says."""
        answer = answers[0]
        if answer.status != "answered":
            return Grade(met=None, accepted=answer.accepted)
        p = answer.named().get("yes")
        met = answer.question.options[answer.best].name == "yes"
        if p is not None and answer.accepted is None:
            met = p >= self.threshold
        return Grade(met=met, probability=p, accepted=answer.accepted)


def asked(question: str, passage: Passage) -> str:
    """Write a question and a passage as the text that a filter decides on."""
    return f"Question: {question}\n\nPassage: {searched(passage)}"


def claimed(claim: str, passages: Sequence[Passage]) -> str:
    """Write a claim and the passages it cites as the text that a check decides on."""
    given = "\n\n".join(map(searched, passages))
    return f"Passage: {given}\n\nClaim: {claim}"


async def checked_claims(
    answer: str,
    passages: Sequence[Passage],
    support: Node[Text | str, Grade] | None,
    context: RunContext,
) -> tuple[Claim, ...]:
    """Ask of each sentence whether the passages that it cites say so.

    Args:
        answer: Cites passages by their numbers; `cited` has checked that they exist.
        passages: Those that the numbers stand for.
        support: Who is asked; `None`: a sentence of whose words no passage holds enough is
            unsupported, unless it is in another language or hardly has words.
        context: Budget, deadline and ledger.
    """
    said = statements(answer)
    if support is None:
        return _by_words(said, passages)
    citing = [each for each in said if each.numbers]
    texts = [claimed(each.text, [passages[n - 1] for n in each.numbers]) for each in citing]
    left = iter(await graded(support, texts, context))
    return tuple(_claim(each, next(left)) if each.numbers else _uncited(each) for each in said)


def _by_words(said: Sequence[Statement], passages: Sequence[Passage]) -> tuple[Claim, ...]:
    """Tell sentences that no passage has the words of; whether the others hold nobody says."""
    held = [set(words(f"{passage.source} {passage.text}")) for passage in passages]
    spoken = language_of(" ".join(passage.text for passage in passages)) if can_detect() else None
    found: list[Claim] = []
    for each in said:
        claim = _uncited(each) if not each.numbers else _claim(each, Grade(met=None))
        written = language_of(each.text) if spoken else None
        same = written is None or written == spoken
        bare = set(words(each.text))
        told = bool(held) and same and len(bare) >= _FEWEST_WORDS
        if told and max(word_shares(each.text, held)) < _FEW_WORDS:
            claim = claim.model_copy(update={"verdict": "unsupported"})
        found.append(claim)
    return tuple(found)


def copied(extract: str) -> tuple[Claim, ...]:
    """Give the sentences of an extract, which its passage says word for word."""
    return tuple(
        Claim(text=each.text, numbers=each.numbers, verdict="supported")
        for each in statements(extract)
    )


async def graded(
    grader: Node[Text | str, Grade], texts: Sequence[str], context: RunContext
) -> list[Grade]:
    """Grade texts side by side; one that fails has no grade, and is named in the trace.

    What another text could not mend either is raised, such as a wrong key.
    """

    async def grade(text: str) -> Grade:
        try:
            return (await grader.run(text, context)).output
        except MoaError as error:
            check_recoverable(error)
            context.note("failed", f"{grader.name!r} gave no grade: {error}")
            return Grade(met=None)

    return await gather(grade(text) for text in texts)


def _claim(said: Statement, grade: Grade) -> Claim:
    verdict: Verdict = "supported" if grade.met else "unsupported"
    if grade.met is None or grade.accepted is False:
        verdict = "unchecked"
    return Claim(
        text=said.text, numbers=said.numbers, verdict=verdict, probability=grade.probability
    )


def _uncited(said: Statement) -> Claim:
    return Claim(text=said.text, numbers=(), verdict="uncited")
