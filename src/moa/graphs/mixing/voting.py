"""Voting: counts equal answers, and tells the majority, and when it is settled.

After Wang et al. 2023, "Self-consistency improves chain of thought reasoning in language models",
arXiv:2203.11171: the answer that most samples give, whatever their reasoning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pydantic import Field

from moa.core._text import words_in
from moa.core.errors import ConfigError, OutputError
from moa.core.node import Reply, text_of
from moa.graphs.mixing.answer_extraction import format_answer, stated, write_answer

_RUN = 3
"""Number of words in a row that are compared, enough that word order counts."""


class VotedReply(Reply):
    """A text chosen by its answer, with the votes for each answer."""

    answer: str
    """Its answer as it was compared: a number, a label, a few words. Empty if a judge chose a text
    without a comparable answer."""
    confidence: float = Field(ge=0, le=1)
    """Share of the samples with this answer. It is a probability only if calibrated."""
    votes: dict[str, int]
    """Number of samples by answer, most first."""
    unreadable: int = 0
    """Number of samples without a readable answer. They count against the confidence."""
    tied: tuple[str, ...] = ()
    """Other answers with as many samples."""
    partial: bool = False
    """True if samples that failed, or that budget or time left out, could have changed it."""


@dataclass(frozen=True)
class Tally:
    """Votes so far. Ballots have indices, so the order in which they come doesn't matter."""

    left: int
    """Number of outstanding samples."""
    ballots: tuple[tuple[int, Hashable | None], ...] = ()
    """Index and answer of each sample so far; the answer is `None` if unreadable."""
    lost: int = 0
    """Number of samples that will not come."""

    @classmethod
    def of(cls, answers: Mapping[int, Hashable | None], samples: int) -> Tally:
        """Count the answers, by index, out of `samples` samples. No other will come."""
        ballots = tuple((place, answers[place]) for place in sorted(answers))
        return cls(left=0, ballots=ballots, lost=samples - len(ballots))

    def with_vote(self, index: int, answer: Hashable | None) -> Tally:
        """Return the tally with one more sample."""
        ballots = tuple(sorted((*self.ballots, (index, answer)), key=lambda ballot: ballot[0]))
        return replace(self, left=self.left - 1, ballots=ballots)

    def drop(self, samples: int) -> Tally:
        """Return the tally without some outstanding samples, which count as lost."""
        return replace(self, left=self.left - samples, lost=self.lost + samples)

    @cached_property
    def counts(self) -> dict[Hashable, int]:
        """Votes by answer, most first. Equal counts are in the order of their first samples."""
        votes = Counter(answer for _, answer in self.ballots if answer is not None)
        return dict(votes.most_common())

    @property
    def leaders(self) -> tuple[Hashable, ...]:
        """Answers with the most votes; several if they are tied."""
        return tuple(a for a, votes in self.counts.items() if votes == self._top)

    @property
    def share(self) -> float:
        """Share of the samples so far that give the leading answer."""
        return self._top / len(self.ballots) if self.ballots else 0.0

    @property
    def is_settled(self) -> bool:
        """True if no outstanding sample can change or tie the majority."""
        return not self.left or self._lead > self.left

    @property
    def is_partial(self) -> bool:
        """True if the lost samples could have changed or tied the majority."""
        return bool(self.lost) and self._lead <= self.lost + self.left

    @property
    def minimum_needed(self) -> int:
        """Minimum number of further samples that could settle it, if all agree with the leader."""
        if self.is_settled:
            return 0
        return min(self.left, (self.left - self._lead) // 2 + 1)

    def index_of(self, answer: Hashable) -> int:
        """Return the index of the first sample with this answer."""
        return next(place for place, vote in self.ballots if vote == answer)

    def majority(self, outputs: Mapping[int, object], node: str) -> VotedReply:
        """Return the leading answer, in the words of the first sample that gives it.

        Raises:
            OutputError: no sample has a readable answer.
        """
        if not self.leaders:
            raise unreadable_error(
                len(outputs), node, write_answer(next(iter(outputs.values())), None)
            )
        winner = self.leaders[0]
        return self.record_vote(write_answer(outputs[self.index_of(winner)], winner), winner)

    def record_vote(self, text: str, answer: Hashable | None) -> VotedReply:
        """Return the chosen text and answer, with the votes."""
        votes = 0 if answer is None else self.counts[answer]
        return VotedReply(
            text=text,
            answer="" if answer is None else format_answer(answer),
            confidence=votes / len(self.ballots),
            votes={format_answer(a): votes for a, votes in self.counts.items()},
            unreadable=sum(vote is None for _, vote in self.ballots),
            tied=tuple(format_answer(a) for a in self.leaders if a != answer),
            partial=self.is_partial,
        )

    @property
    def _top(self) -> int:
        return next(iter(self.counts.values()), 0)

    @property
    def _lead(self) -> int:
        """Votes by which the leading answer is ahead of the next one, or of one not given yet."""
        return self._top - next(iter(list(self.counts.values())[1:]), 0)


def unreadable_error(count: int, node: str, text: str, *, else_do: str = "") -> OutputError:
    """Make the error for several answers, `text` among them, that can't be compared."""
    return OutputError(
        f"in none of {count} answers something was found that could be compared. Ask for a form "
        f"that the key reads{else_do}",
        node=node,
        text=text,
    )


def agreement_test(least: int) -> Callable[[Sequence[object]], bool]:
    """Return a test that ends a fan-out once enough answers agree, by what is `stated`.

    A reply without an answer agrees with none.

    Args:
        least: Minimum number of equal answers.

    Raises:
        ConfigError: `least` is below 2.
    """
    if least < 2:
        raise ConfigError(f"{least} answers can't agree: it takes at least 2")

    def enough(answers: Sequence[object]) -> bool:
        counts = Counter(map(stated, answers))
        counts.pop(None, None)
        return max(counts.values(), default=0) >= least

    return enough


def find_most_agreed(answers: Sequence[object]) -> int:
    """Return the index of the first answer in the largest group of equal answers.

    If all differ, it is the one that shares the most word sequences with the others.
    """
    keys = [*map(stated, answers)]
    counts = Counter(answer for answer in keys if answer is not None)
    highest = max(counts.values(), default=0)
    if highest > 1:
        return next(index for index, answer in enumerate(keys) if counts[answer] == highest)
    runs = [_runs(text_of(answer)) for answer in answers]
    shared = [sum(_overlap(mine, others) for others in runs) for mine in runs]
    return shared.index(max(shared))


def likeness(first: str, second: str) -> float:
    """Return the likeness of two texts, from 0 to 1: the share of three-word runs in common.

    Source: Broder 1997, "On the resemblance and containment of documents", resemblance.
    """
    return _overlap(_runs(first), _runs(second))


def _overlap(mine: set[tuple[str, ...]], others: set[tuple[str, ...]]) -> float:
    union = mine | others
    return len(mine & others) / len(union) if union else 1.0


def _runs(text: str) -> set[tuple[str, ...]]:
    words = words_in(text)
    if len(words) < _RUN:
        return {tuple(words)} if words else set()
    return {tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}
