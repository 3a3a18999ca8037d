"""Voting: samples counted by what they answer, and when further ones can't change the majority.

After Wang et al. 2023, "Self-consistency improves chain of thought reasoning in language models",
arXiv:2203.11171: the answer that most samples give, whatever their reasons.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property

from pydantic import Field

from moa.handoffs import Reply
from moa.mixing.answer_extraction import shown


class Voted(Reply):
    """A text that was chosen for what it answers, and how the others answered."""

    answer: str
    """What it answers, as it was compared: a number, a label, a few words; empty where a judge
    chose a text in which nothing was found that could be compared."""
    confidence: float = Field(ge=0, le=1)
    """Share of the samples that answer so. No probability, unless it was calibrated."""
    votes: dict[str, int]
    """How many samples gave each answer, most first."""
    unreadable: int = 0
    """Samples in which no answer was found; they count against the confidence."""
    tied: tuple[str, ...] = ()
    """Other answers that as many samples gave."""
    partial: bool = False
    """Whether samples that failed, or were too many for the budget or the time, could have changed
    it."""


@dataclass(frozen=True)
class Tally:
    """Votes so far. Ballots have places, so the order in which they come doesn't matter."""

    left: int
    """Samples that may still come."""
    ballots: tuple[tuple[int, Hashable | None], ...] = ()
    """The place of each sample that came, and what it answers; `None` where nothing was read."""
    lost: int = 0
    """Samples that will not come."""

    def with_vote(self, place: int, answer: Hashable | None) -> Tally:
        """Count a sample that came."""
        ballots = tuple(sorted((*self.ballots, (place, answer)), key=lambda ballot: ballot[0]))
        return replace(self, left=self.left - 1, ballots=ballots)

    def without(self, samples: int) -> Tally:
        """Don't wait for some samples any more."""
        return replace(self, left=self.left - samples, lost=self.lost + samples)

    @cached_property
    def counts(self) -> dict[Hashable, int]:
        """Votes by answer, most first; of equally many, the one of the first place first."""
        found: dict[Hashable, int] = {}
        for _, answer in self.ballots:
            if answer is not None:
                found[answer] = found.get(answer, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def leaders(self) -> tuple[Hashable, ...]:
        """The answers with most votes; several, where they are tied."""
        return tuple(a for a, votes in self.counts.items() if votes == self._top)

    @property
    def share(self) -> float:
        """Share of the samples that came which give the leading answer."""
        return self._top / len(self.ballots) if self.ballots else 0.0

    @property
    def settled(self) -> bool:
        """Whether no samples that may still come can change or tie the majority."""
        return not self.left or self._lead > self.left

    @property
    def partial(self) -> bool:
        """Whether samples that will not come could have changed or tied the majority."""
        return bool(self.lost) and self._lead <= self.lost + self.left

    @property
    def wanted(self) -> int:
        """Fewest further samples that could settle it: those that all agree with the leader."""
        if self.settled:
            return 0
        return min(self.left, (self.left - self._lead) // 2 + 1)

    def place_of(self, answer: Hashable) -> int:
        """Place of the first sample that answers so."""
        return next(place for place, given in self.ballots if given == answer)

    def voted(self, text: str, answer: Hashable | None) -> Voted:
        """Write down the vote, for the answer that was chosen."""
        votes = 0 if answer is None else self.counts[answer]
        return Voted(
            text=text,
            answer="" if answer is None else shown(answer),
            confidence=votes / len(self.ballots),
            votes={shown(a): votes for a, votes in self.counts.items()},
            unreadable=sum(given is None for _, given in self.ballots),
            tied=tuple(shown(a) for a in self.leaders if a != answer),
            partial=self.partial,
        )

    @property
    def _top(self) -> int:
        return next(iter(self.counts.values()), 0)

    @property
    def _lead(self) -> int:
        """By how much the leading answer is ahead of the next one, or of one nobody gave yet."""
        return self._top - next(iter(list(self.counts.values())[1:]), 0)
