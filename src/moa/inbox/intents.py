"""Inbox: proposes the intents of an unknown inbox, as a draft to edit.

A large model proposes them from a sample, or the messages are clustered by their vectors: Ward's
linkage, cut where the groups are best separated (silhouettes: Rousseeuw 1987).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TypeVar

from pydantic import BaseModel, Field

from moa.agents.agent import Agent
from moa.agents.splitting import excerpt
from moa.core._text import words_in
from moa.core.context import RunContext
from moa.core.errors import InputError, require_package
from moa.core.node import Frozen
from moa.decisions.arrays import Floats, Ints, np
from moa.documents.language import can_detect, language_of
from moa.endpoints import Endpoint
from moa.endpoints.tokens import approximate_tokens

T = TypeVar("T")
FEWEST, MOST = 4, 12
"""Minimum and maximum number of intents."""
EXAMPLES = 4
"""Number of example messages for each intent."""
WRITTEN = 20
"""Number of messages that a large model writes for an intent."""
MOST_GROUPED, MOST_SHOWN = 400, 120
"""Maximum number of messages to group, and to show to a large model, evenly spread."""
_TOKENS, _LONGEST = 80, 240
"""Maximum tokens of a message shown to a large model, and maximum characters of an example."""
_ANSWER = 3000
"""Maximum tokens that a large model may write."""
_NEAREST = 12
"""Number of messages nearest to the centre of a group from which its examples are taken."""
_OFTEN = 5
"""Minimum number of messages of a language for it to be treated on its own."""
_ELSEWHERE = 0.06
"""Maximum share of the messages of other groups that may contain a typical word."""
_NAME = re.compile(r"[^a-z0-9]+")


class Proposal(Frozen):
    """A proposed intent."""

    name: str
    means: str
    examples: tuple[str, ...]
    """Messages of the inbox."""
    messages: int | None = None
    """Number of messages in its group; `None` if not counted."""


class Sample(BaseModel):
    """Messages of an inbox."""

    messages: list[str]


class Intended(BaseModel):
    """An intent that a model sees in an inbox."""

    name: str = Field(description="one to three English words joined by _, such as change_booking")
    means: str = Field(description='one English sentence that begins with "The writer wants"')
    examples: list[int] = Field(description="numbers of four messages that want it")


class Intents(BaseModel):
    """The intents of an inbox."""

    intents: list[Intended] = Field(min_length=2, max_length=MOST)


class Proposer(Agent[Sample, Intents]):
    """Proposes the intents of an inbox from some of its messages."""

    instructions = (
        "You see messages to the support of a business. Propose what their writers want, as "
        f"{FEWEST} to {MOST} intents that a support team would answer in different ways, or send "
        "to different people. They don't overlap, each message that wants something usual has "
        "one, and none is a bin for the rest: advertising, scams and orders to a machine have "
        "none. Name for each four messages that want it, in different languages and words."
    )

    def user_prompt(self, request: Sample) -> str:
        """Number the messages in the prompt."""
        numbered = (f"{n}. {text}" for n, text in enumerate(request.messages, start=1))
        return super().user_prompt(Sample(messages=list(numbered)))

    def check(self, request: Sample, output: Intents) -> None:
        """Check that names are distinct, and that examples are numbers of messages."""
        names = [_slug(intent.name) for intent in output.intents]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"the names of the intents must be different words, not {names}")
        for intent in output.intents:
            wrong = [n for n in intent.examples if not 1 <= n <= len(request.messages)]
            if wrong or not intent.examples:
                raise ValueError(f"{intent.name}: examples are numbers of messages, not {wrong}")


def shown_to_model(texts: Sequence[str]) -> Sample:
    """Return the messages to show to a model."""
    return Sample(
        messages=[excerpt(text, max_tokens=_TOKENS) for text in spread(texts, MOST_SHOWN)]
    )


def tokens_of_proposing(sample: Sample) -> tuple[int, int]:
    """Estimate the tokens read and written."""
    return 600 + sum(approximate_tokens(text) + 8 for text in sample.messages), _ANSWER // 2


async def propose(
    llm: Endpoint, sample: Sample, context: RunContext, *, usable: Callable[[str], bool] = bool
) -> list[Proposal]:
    """Let a large model propose intents.

    Args:
        llm: The endpoint that proposes.
        sample: Messages to show, as data.
        context: Budget, deadline and ledger.
        usable: Returns True if a message may be an example.

    Raises:
        OutputError: the proposal is unusable.
        EndpointError: a request failed.
    """
    agent = Proposer(llm, max_tokens=_ANSWER)
    output = (await agent.run(sample, context)).output
    return [
        Proposal(
            name=_slug(intent.name),
            means=" ".join(intent.means.split()),
            examples=_examples((sample.messages[n - 1] for n in intent.examples), usable),
        )
        for intent in output.intents
    ]


class Wish(BaseModel):
    """Messages that are wanted for an intent."""

    intent: str
    means: str
    messages_like_these: list[str]
    other_intents: list[str]
    languages: list[str]


class Written(BaseModel):
    """Messages that a model wrote."""

    messages: list[str] = Field(min_length=1)


class Writer(Agent[Wish, Written]):
    """Writes messages that want one intent."""

    instructions = (
        f"Write {WRITTEN} messages that customers could have sent to this support, all of which "
        "want the intent, and none of the other intents. Make them as unlike each other as real "
        "ones: a few words or ten lines, polite or cross, with and without a greeting, with slips "
        "of the pen, by all kinds of people, about all that the intent can be about. Write them in "
        "the languages, about as many in each."
    )


def tokens_of_writing(wishes: Sequence[Wish]) -> tuple[int, int]:
    """Estimate the input and output tokens of writing the messages for all wishes."""
    read = sum(300 + approximate_tokens(wish.model_dump_json()) for wish in wishes)
    return read, len(wishes) * WRITTEN * _TOKENS


async def write_messages(llm: Endpoint, wish: Wish, context: RunContext) -> list[str]:
    """Let a large model write messages with an intent.

    Raises:
        OutputError: its output is unusable.
        EndpointError: a request failed.
    """
    output = (await Writer(llm, max_tokens=2 * WRITTEN * _TOKENS).run(wish, context)).output
    texts = (text.strip() for text in output.messages)
    return [text for text in dict.fromkeys(texts) if text][:WRITTEN]


def group(
    texts: Sequence[str], vectors: Floats, *, usable: Callable[[str], bool] = bool
) -> list[Proposal]:
    """Group messages, and name each group by its typical words.

    Args:
        texts: Messages.
        vectors: Vector of each text.
        usable: Returns True if a message may be an example.

    Returns:
        Groups, the largest first.

    Raises:
        InputError: there are too few messages.
        MissingDependency: SciPy is not installed.
    """
    if len(texts) < 2 * FEWEST:
        raise InputError(
            f"{len(texts)} messages are too few to be put into groups: it takes {2 * FEWEST} at "
            "least, and some hundred are better"
        )
    languages = languages_of(texts)
    vectors = _remove_language(vectors, languages)
    groups = _cut_into_groups(vectors)
    names = _typical_words(texts, groups, languages)
    proposals: list[Proposal] = []
    for number, words in enumerate(names):
        members = np.flatnonzero(groups == number)
        middle = vectors[members].mean(0)
        nearest = members[np.argsort(-(vectors[members] @ middle), kind="stable")]
        typical = _order_by_difference(vectors, nearest[:_NEAREST].tolist())
        proposals.append(
            Proposal(
                name=_slug("_".join(words[:2])) or f"group_{number + 1}",
                means=f"The message is about: {', '.join(words) or 'something else'}.",
                examples=_examples((texts[index] for index in typical), usable),
                messages=len(members),
            )
        )
    return _make_names_distinct(sorted(proposals, key=lambda proposal: -(proposal.messages or 0)))


def spread(items: Sequence[T], most: int) -> list[T]:
    """Take at most `most` items, evenly spread."""
    step = max(1.0, len(items) / most)
    return [items[int(n * step)] for n in range(min(len(items), most))]


def languages_of(texts: Sequence[str]) -> list[str]:
    """Detect the language of each text. Rare languages get an empty name."""
    languages = [language_of(text) or "" for text in texts] if can_detect() else [""] * len(texts)
    counts = Counter(languages)
    return [name if counts[name] >= _OFTEN else "" for name in languages]


def _remove_language(vectors: Floats, languages: Sequence[str]) -> Floats:
    """Remove the language from vectors, so that groups differ in content."""
    content = vectors.copy()
    for name in set(languages):
        mask = np.array([language == name for language in languages])
        content[mask] -= vectors[mask].mean(0)
    return content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-12)


def _cut_into_groups(vectors: Floats) -> Ints:
    """Return the group of each vector, for the number of groups with the best separation."""
    with require_package("scipy", extra="calibration", purpose="to put messages into groups"):
        hierarchy = import_module("scipy.cluster.hierarchy")
    tree = hierarchy.linkage(vectors, "ward")
    distances = np.maximum(0.0, 1 - vectors @ vectors.T)
    cuts = [hierarchy.fcluster(tree, n, "maxclust") - 1 for n in range(FEWEST, MOST + 1)]
    best: Ints = max(cuts, key=lambda groups: _silhouette(distances, groups))
    return best


def _silhouette(distances: Floats, groups: Ints) -> float:
    """Return the mean silhouette: how much nearer a vector is to its own group than to the next."""
    membership = np.eye(int(groups.max()) + 1)[groups]
    sizes = membership.sum(0)
    total = distances @ membership
    own_distance = total[np.arange(len(groups)), groups] / np.maximum(sizes[groups] - 1, 1)
    next_distance = np.where(membership > 0, np.inf, total / sizes).min(1)
    values = (next_distance - own_distance) / np.maximum(
        np.maximum(own_distance, next_distance), 1e-12
    )
    return float(np.where(sizes[groups] > 1, values, 0.0).mean())


def _typical_words(texts: Sequence[str], groups: Ints, languages: Sequence[str]) -> list[list[str]]:
    """Return the most typical words of each group: those more frequent in it than elsewhere.

    They are of the most frequent language. A word in `a` of the `n` messages of a group, and in `b`
    of all `m`, scores by its excess over chance: `(a - n b / m) / sqrt(b)`.
    """
    usual = Counter(languages).most_common(1)[0][0]
    is_usual = np.array([language == usual for language in languages])
    word_sets = [{w for w in words_in(text) if len(w) > 3 and w.isalpha()} for text in texts]
    everywhere = Counter(
        w for words, in_usual in zip(word_sets, is_usual, strict=True) if in_usual for w in words
    )
    typical: list[list[str]] = []
    for number in range(int(groups.max()) + 1):
        members = np.flatnonzero((groups == number) & is_usual)
        counts = Counter(word for index in members for word in word_sets[index])
        share = len(members) / max(1, int(is_usual.sum()))
        scores = {
            word: (count - share * everywhere[word]) / math.sqrt(everywhere[word])
            for word, count in counts.items()
            if count > 1 and everywhere[word] - count <= _ELSEWHERE * is_usual.sum()
        }
        best = sorted(scores, key=lambda word: (-scores[word], word))
        typical.append([word for word in best if scores[word] > 0][:EXAMPLES])
    return typical


def _order_by_difference(vectors: Floats, indices: Sequence[int]) -> list[int]:
    """Order messages of a group so that each differs most from those before it."""
    order, left = [indices[0]], list(indices[1:])
    while left:
        nearest = (vectors[left] @ vectors[order].T).max(1)
        order.append(left.pop(int(nearest.argmin())))
    return order


def _examples(texts: Iterable[str], usable: Callable[[str], bool]) -> tuple[str, ...]:
    short = (" ".join(text.split()) for text in texts)
    cut = (t if len(t) <= _LONGEST else t[:_LONGEST].rsplit(" ", 1)[0] + " …" for t in short)
    return tuple(text for text in dict.fromkeys(cut) if text and usable(text))[:EXAMPLES]


def _slug(name: str) -> str:
    """Write a name as a bare TOML key."""
    ascii_name = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return _NAME.sub("_", ascii_name).strip("_")


def _make_names_distinct(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Number names that occur more than once."""
    seen: Counter[str] = Counter()
    distinct: list[Proposal] = []
    for proposal in proposals:
        seen[proposal.name] += 1
        name = (
            proposal.name if seen[proposal.name] == 1 else f"{proposal.name}_{seen[proposal.name]}"
        )
        distinct.append(proposal.model_copy(update={"name": name}))
    return distinct
