"""Pairs: scores how well a text and a label match, by the label's meaning and a few examples.

One scorer serves every set of labels. For a pair of text and label it computes similarities of the
whole text, and of the mean of its sentences, to the label's examples (centroid, nearest, mean) and
to its meaning, by each of two encoders. They are used unchanged, in standard deviations of ordinary
texts, and with the common directions of languages removed. One more feature is learned: the
compatibility `x' B t` of a text and a label, with `B` in closed form (Romera-Paredes and Torr 2015,
"An embarrassingly simple approach to zero-shot learning", ICML). A conditional logit (McFadden
1974) weighs them:

    score(text, label) = (w + w' / (1 + n)) . likenesses,   n examples of the label
    score(text, none)  = v . (largest and mean likenesses) + constants
    P(label | text)    = softmax of the scores

All weights were fitted to many other sets of labels by `benchmarks/pairs.py`, and tested on writers
left out. The examples of a new set are its prototypes, and nothing is fitted to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from moa.core._async import Lock
from moa.core._blas import one_blas_thread
from moa.core.context import RunContext
from moa.core.questions import Question
from moa.decisions import PromptVariant
from moa.decisions.arrays import Floats, Ints, log_softmax, logit, np, unit
from moa.decisions.heads import encode
from moa.decisions.words import label_meanings, label_names
from moa.endpoints import Endpoint
from moa.local.encoders import E5_PARTS, USE_PARTS
from moa.local.heads import FOLDER

FILE = FOLDER / "pairs.npz"
"""The shipped scorer."""
USUAL_LABELS = 8
"""Number of labels at which its feature is 0."""
USUAL_EXAMPLES = 0.2
"""`1 / (1 + n)` for four examples a label, at which the feature for their number is 0."""
_WHOLE = E5_PARTS + USE_PARTS
_SLICES = (slice(0, E5_PARTS), slice(E5_PARTS, _WHOLE))
_SCALES = ((0.8, 0.03), (0.0, 0.08))
"""Centre and spread of a similarity by e5, and by USE."""
_CONTRAST = 0.15
"""Spread of a similarity to what distinguishes a label from the others."""
_NEAR_MEANING = 0.5
"""Weight of a label's meaning relative to the centroid of its examples."""


def split_by_encoder(vectors: Floats) -> list[tuple[Floats, Floats]]:
    """Split vectors of `encode` by encoder: unit vectors of the text, and of its sentences."""
    wholes, means = vectors[:, :_WHOLE], vectors[:, _WHOLE:]
    return [(unit(wholes[:, part]), unit(means[:, part])) for part in _SLICES]


@dataclass(frozen=True, eq=False)
class Background:
    """Statistics of ordinary texts."""

    texts: Floats
    """Vectors of ordinary texts."""
    languages: tuple[Floats, Floats]
    """For each encoder, orthonormal directions of the differences between languages."""

    @cached_property
    def views(self) -> list[tuple[Floats, Floats]]:
        """The ordinary texts, split by encoder."""
        return split_by_encoder(self.texts)

    @cached_property
    def middles(self) -> list[Floats]:
        """Mean of the ordinary texts, for each encoder."""
        return [vectors.mean(0) for vectors, _ in self.views]

    def remove_language(self, encoder: int, vectors: Floats) -> Floats:
        """Subtract the mean and the directions of languages from an encoder's vectors."""
        centred, axes = vectors - self.middles[encoder], self.languages[encoder]
        return centred - (centred @ axes.T) @ axes


@dataclass(frozen=True, eq=False)
class Labels:
    """A set of labels as vectors: their meanings, and examples of some of them."""

    meanings: Floats
    """Labels, parts of the vector."""
    examples: Floats
    """Examples, parts of the vector."""
    label_indices: Ints
    """The label of each example."""
    background: Background

    @cached_property
    def counts(self) -> Ints:
        """Number of examples of each label."""
        return np.bincount(self.label_indices, minlength=len(self.meanings))

    @cached_property
    def prototypes(self) -> list[tuple[Floats, Floats, Floats]]:
        """For each encoder: examples, the centroid of each label's, and its meaning.

        A label without examples has its meaning as the only example.
        """
        bare_labels = np.flatnonzero(self.counts == 0)
        prototypes: list[tuple[Floats, Floats, Floats]] = []
        for part in _SLICES:
            meanings = unit(self.meanings[:, part])
            examples = np.vstack([unit(self.examples[:, part]), meanings[bare_labels]])
            sums = np.zeros_like(meanings)
            np.add.at(sums, self._label_indices, examples)
            prototypes.append((examples, unit(sums), meanings))
        return prototypes

    @cached_property
    def _label_indices(self) -> Ints:
        """The label of each example, and of each meaning used as one."""
        return np.r_[self.label_indices, np.flatnonzero(self.counts == 0)]

    @cached_property
    def _order(self) -> tuple[Ints, Ints]:
        """The examples sorted by label, and the start of each label."""
        order = np.argsort(self._label_indices, kind="stable")
        return order, np.searchsorted(self._label_indices[order], np.arange(len(self.meanings)))

    @cached_property
    def contrasts(self) -> list[tuple[Floats, Floats, Floats]]:
        """For each encoder, how centroids, meanings, and both differ from the set's mean."""
        contrasts: list[tuple[Floats, Floats, Floats]] = []
        for encoder, (_, centroids, meanings) in enumerate(self.prototypes):
            neutral_centroids = self.background.remove_language(encoder, centroids)
            neutral_meanings = self.background.remove_language(encoder, meanings)
            joint = unit(neutral_centroids) + unit(neutral_meanings)
            differences = [
                unit(vectors - vectors.mean(0))
                for vectors in (neutral_centroids, neutral_meanings, joint)
            ]
            contrasts.append((differences[0], differences[1], differences[2]))
        return contrasts

    @cached_property
    def targets(self) -> Floats:
        """The labels' inputs of the learned compatibility: labels, parts of both encoders."""
        return np.hstack([joint for _, _, joint in self.contrasts])

    def _likenesses(self, views: Sequence[tuple[Floats, Floats]]) -> Floats:
        """Return plain similarities: texts, labels, similarities."""
        order, starts = self._order
        likenesses: list[Floats] = []
        for (middle, spread), view, (examples, centroids, meanings) in zip(
            _SCALES, views, self.prototypes, strict=True
        ):
            joint = unit(centroids + _NEAR_MEANING * meanings)
            counts = np.bincount(self._label_indices, minlength=len(meanings))
            for text in view:
                by_example = (text @ examples.T)[:, order]
                nearest = np.maximum.reduceat(by_example, starts, axis=1)
                mean = np.add.reduceat(by_example, starts, axis=1) / counts
                raw_likenesses = [
                    text @ centroids.T,
                    text @ meanings.T,
                    text @ joint.T,
                    nearest,
                    mean,
                ]
                likenesses += [(raw - middle) / spread for raw in raw_likenesses]
        return np.stack(likenesses, -1)

    @cached_property
    def _ordinary(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each similarity of ordinary texts."""
        likenesses = self._likenesses(self.background.views)
        return likenesses.mean(0), np.maximum(likenesses.std(0), 1e-3)

    def likenesses(self, vectors: Floats) -> Floats:
        """Return all similarities but the learned one: texts, labels, similarities."""
        views = split_by_encoder(vectors)
        plain_likenesses = self._likenesses(views)
        usual, spread = self._ordinary
        contrasts: list[Floats] = []
        for encoder, view in enumerate(views):
            for text in view:
                neutral_text = unit(self.background.remove_language(encoder, text))
                contrasts += [
                    neutral_text @ contrast.T / _CONTRAST for contrast in self.contrasts[encoder]
                ]
        return np.concatenate(
            [plain_likenesses, (plain_likenesses - usual) / spread, np.stack(contrasts, -1)], -1
        )


def compatibility_inputs(vectors: Floats, background: Background) -> Floats:
    """Return the texts' inputs of the learned compatibility: texts, parts."""
    inputs: list[Floats] = []
    for (text, mean), middle in zip(split_by_encoder(vectors), background.middles, strict=True):
        inputs += [text - middle, 0.7 * (mean - middle)]
    return np.hstack(inputs)


@dataclass(frozen=True, eq=False)
class Compatibility:
    """`x' B t`, for B of low rank."""

    left: Floats
    """Parts of a text, ranks."""
    right: Floats
    """Parts of a label, ranks."""

    def __call__(self, x: Floats, targets: Floats) -> Floats:
        """Return the compatibility of texts and labels."""
        return (x @ self.left) @ (targets @ self.right).T


@dataclass(frozen=True, eq=False)
class PairScorer:
    """The fitted scorer."""

    background: Background
    compatibility: Compatibility
    middle: Floats
    spread: Floats
    """Spread of each similarity, the learnt one last."""
    weights: Floats
    """Weights of each similarity, and of each times `1 / (1 + n) - USUAL_EXAMPLES`."""
    none: Floats
    """Weights for "none of these": of each similarity's largest and mean, and of `constants`."""
    sure: Floats
    """Coefficients from a label's log-odds to the log-odds of being right."""
    expected: Floats
    """Certainties, each with the expected share right at or above it: points, 2."""

    def features(self, vectors: Floats, labels: Labels) -> Floats:
        """Return all similarities, standardised: texts, labels, similarities."""
        with one_blas_thread():
            compatibility = self.compatibility(
                compatibility_inputs(vectors, self.background), labels.targets
            )
            likenesses = np.concatenate([labels.likenesses(vectors), compatibility[..., None]], -1)
        return (likenesses - self.middle) / self.spread

    def logs(self, vectors: Floats, labels: Labels, *, none: bool = True) -> Floats:
        """Return log-probabilities: texts; labels, and last "none of these" if it is an option."""
        features = self.features(vectors, labels)
        scored = scores(features, fewness_of(labels.counts), self.weights, self.none)
        return log_softmax(scored if none else scored[:, :-1])

    def curve(self, counts: Ints) -> tuple[tuple[float, float], ...]:
        """Return confidences, each with the expected share right of decisions at least as sure.

        It depends on the number of labels and on the number of examples of each.
        """
        certain, share = self.expected.T
        constant = self.sure[1:] @ constants(counts)
        confidence = 1 / (1 + np.exp(-(logit(certain) - constant) / self.sure[0]))
        return tuple(zip(confidence.tolist(), share.tolist(), strict=True))


def fewness_of(counts: Ints) -> Floats:
    """Return how few examples labels have, relative to four."""
    return 1 / (1 + counts) - USUAL_EXAMPLES


def scores(features: Floats, fewness: Floats, weights: Floats, none: Floats) -> Floats:
    """Score texts for the labels, and last for "none of these"."""
    size = features.shape[2]
    label_scores = features @ weights[:size] + fewness * (features @ weights[size:])
    none_scores = none_inputs(features, fewness) @ none
    return np.concatenate([label_scores, none_scores[:, None]], 1)


def none_inputs(features: Floats, fewness: Floats) -> Floats:
    """Return the inputs of the score of "none of these": texts, inputs."""
    constant_inputs = [1.0, np.log(features.shape[1] / USUAL_LABELS), float(fewness.mean())]
    return np.hstack(
        [features.max(1), features.mean(1), np.tile(constant_inputs, (len(features), 1))]
    )


def constants(counts: Ints) -> Floats:
    """Return the inputs equal for all texts: 1, the number of labels, and their fewness."""
    return np.array([1.0, np.log(len(counts) / USUAL_LABELS), float(fewness_of(counts).mean())])


@cache
def shipped_pairs() -> PairScorer:
    """Load the shipped scorer."""
    with np.load(FILE) as file:
        part = {name: file[name].astype(float) for name in file.files}
    background = Background(
        part["ordinary"] * part["step"], (part["languages e5"], part["languages use"])
    )
    return PairScorer(
        background=background,
        compatibility=Compatibility(part["left"], part["right"]),
        **{
            name: part[name] for name in ("middle", "spread", "weights", "none", "sure", "expected")
        },
    )


@dataclass(frozen=True, eq=False)
class PairHead:
    """The scorer with the labels of one question."""

    labels: Labels
    examples: PromptVariant
    """Examples with one of the labels, in the order of `labels.label_indices`."""
    order: Ints
    """Index of each option among the labels; "none of these" comes after them."""

    def logs_of(self, vector: Sequence[float], left_out: str | None = None) -> tuple[float, ...]:
        """Return log-probabilities of the options for one vector.

        Args:
            vector: The text's vector.
            left_out: A text to exclude from the examples, so that a fit doesn't see a text's own
                label.
        """
        mask = np.array([example.text != left_out for example in self.examples], bool)
        labels = self.labels
        if not mask.all():
            indices = labels.label_indices[mask]
            labels = Labels(labels.meanings, labels.examples[mask], indices, labels.background)
        none = len(self.order) > len(labels.meanings)
        logs = shipped_pairs().logs(np.asarray(vector)[None], labels, none=none)
        return tuple(logs[0][self.order].tolist())


def counts_of(question: Question, examples: PromptVariant) -> Ints:
    """Count the examples of each label of a question."""
    labels = [label for example in examples for label in example.labels.values()]
    return np.array([labels.count(name) for name in label_names(question)], np.intp)


def expected_of(question: Question, examples: PromptVariant) -> tuple[tuple[float, float], ...]:
    """Return the expected precision by confidence for a question with these examples."""
    return shipped_pairs().curve(counts_of(question, examples))


_MOST_HEADS = 64
_heads: dict[object, PairHead] = {}
_encoding = Lock()


async def pair_head(
    question: Question, examples: PromptVariant, encoder: Endpoint, context: RunContext
) -> PairHead:
    """Encode the labels of a question and its examples, once for all its texts.

    Each example has one label, whatever its question is called. Examples of "none of these" are
    ignored, since they have nothing in common.
    """
    options = tuple((option.name, option.description) for option in question.options)
    example_key = tuple((example.text, *example.labels.values()) for example in examples)
    key = encoder.model, options, example_key
    if (head := _heads.get(key)) is not None:
        return head
    async with _encoding.hold(context.remaining_s()):  # concurrent callers wait for it
        if (head := _heads.get(key)) is None:
            head = await _encode_labels(question, examples, encoder, context)
            while len(_heads) >= _MOST_HEADS:
                _heads.pop(next(iter(_heads)))
            _heads[key] = head
    return head


async def _encode_labels(
    question: Question, examples: PromptVariant, encoder: Endpoint, context: RunContext
) -> PairHead:
    names = label_names(question)
    meanings = label_meanings(question)
    pairs = [
        (example, names.index(label))
        for example in examples
        for label in example.labels.values()
        if label in names and example.text.strip()
    ]
    texts = [*meanings, *(example.text for example, _ in pairs)]
    vectors = np.array(await encode(encoder, texts, context))
    labels = Labels(
        meanings=vectors[: len(names)],
        examples=vectors[len(names) :],
        label_indices=np.array([index for _, index in pairs], np.intp),
        background=shipped_pairs().background,
    )
    indices = {name: index for index, name in enumerate(names)}
    order = [indices.get(option.name, len(names)) for option in question.options]
    return PairHead(labels, tuple(e for e, _ in pairs), np.array(order, np.intp))
