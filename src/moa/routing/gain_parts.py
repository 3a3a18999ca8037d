"""Gain parts: fitted models that predict what the strong model gains on a case, with numpy alone.

Each is a few lists of numbers that stand in a router's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import sqrt
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moa.decisions.arrays import Floats, Ints, np
from moa.routing.cases import KNOWN, Table
from moa.routing.grams import grams


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Scaled(_Part):
    """Features brought to mean 0 and spread 1."""

    features: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _need(len(self.means) == len(self.spreads) == len(self.features), "one number a feature")
        _need_known(self.features)
        return self

    def __call__(self, table: Table) -> Floats:
        """Cases, features; none further out than 5, so that an odd case can't run away."""
        values = (table.columns(self.features) - np.array(self.means)) / np.array(self.spreads)
        return np.clip(values, -5, 5)


class Linear(_Part):
    """A weighted sum of features."""

    kind: Literal["linear"] = "linear"
    scaled: Scaled
    weights: tuple[float, ...]
    constant: float

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _need(len(self.weights) == len(self.scaled.features), "one weight a feature")
        return self

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        return self.scaled(table) @ np.array(self.weights) + self.constant


class Kernel(_Part):
    """Gains of similar cases, similarity falling off as a bell curve over the features."""

    kind: Literal["kernel"] = "kernel"
    scaled: Scaled
    width: float
    """Similarity is `exp(-width * squared distance)`."""
    centres: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    constant: float

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _need(len(self.weights) == len(self.centres), "one weight a centre")
        sizes = {len(centre) for centre in self.centres}
        _need(sizes <= {len(self.scaled.features)}, "one number of a centre for each feature")
        return self

    @cached_property
    def _centres(self) -> Floats:
        return np.array(self.centres)

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        here, centres = self.scaled(table), self._centres
        squares = (here**2).sum(1)[:, None] + (centres**2).sum(1)[None, :]
        distance = np.maximum(squares - 2 * here @ centres.T, 0)
        return np.exp(-self.width * distance) @ np.array(self.weights) + self.constant


class Tree(_Part):
    """A binary tree: node 0 is the root, and a leaf has feature -1."""

    features: tuple[int, ...]
    thresholds: tuple[float, ...]
    """A case goes left where its feature is at most the threshold."""
    left: tuple[int, ...]
    right: tuple[int, ...]
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n = len(self.features)
        _need(n == len(self.thresholds) == len(self.values) > 0, "one of each a node")
        # Children come after their parents, so that following them ends.
        ends = all(
            feature < 0 or (place < left < n and place < right < n)
            for place, (feature, left, right) in enumerate(
                zip(self.features, self.left, self.right, strict=True)
            )
        )
        _need(ends, "children after their parents")
        return self

    @cached_property
    def _arrays(self) -> tuple[Ints, Floats, Ints, Ints, Floats]:
        return (
            np.array(self.features),
            np.array(self.thresholds),
            np.array(self.left),
            np.array(self.right),
            np.array(self.values),
        )

    def predict(self, values: Floats) -> Floats:
        """Predict from the features of cases."""
        features, thresholds, left, right, leaves = self._arrays
        here, rows = np.zeros(len(values), dtype=int), np.arange(len(values))
        while (inside := features[here] >= 0).any():
            goes_left = values[rows, features[here]] <= thresholds[here]
            here = np.where(inside, np.where(goes_left, left[here], right[here]), here)
        return leaves[here]


class Trees(_Part):
    """The sum of many trees, boosted (Friedman 2001) or grown at random (Geurts et al. 2006)."""

    kind: Literal["trees"] = "trees"
    names: tuple[str, ...]
    trees: tuple[Tree, ...]
    rate: float
    constant: float

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _need_known(self.names)
        used = max((feature for tree in self.trees for feature in tree.features), default=-1)
        _need(used < len(self.names), "a name for each feature")
        return self

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        values = table.columns(self.names)
        total = sum((tree.predict(values) for tree in self.trees), np.zeros(len(values)))
        return total * self.rate + self.constant


class Grams(_Part):
    """A weighted sum of the short runs of characters of a text."""

    kind: Literal["grams"] = "grams"
    text: Literal["prompt", "reply"]
    rarity: Mapping[int, float]
    """By bucket: how rare its runs are (smoothed inverse document frequency)."""
    weights: Mapping[int, float]
    constant: float

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _need(set(self.rarity) == set(self.weights), "the same buckets in both")
        return self

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        return np.array(
            [self._one((case.prompt if self.text == "prompt" else case.reply) or "")
             for case in table.cases]
        )  # fmt: skip

    def _one(self, text: str) -> float:
        found = {b: count * self.rarity[b] for b, count in grams(text).items() if b in self.rarity}
        length = sqrt(sum(weight**2 for weight in found.values())) or 1.0
        return self.constant + sum(found[b] * self.weights[b] for b in found) / length


class Groups(_Part):
    """The mean gain of cases with the same value in a field, drawn towards the mean of all."""

    kind: Literal["groups"] = "groups"
    field: str
    gains: Mapping[str, float]
    constant: float
    """Of a value that was not seen, and where the field is missing."""

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        values = (case.fields.get(self.field, "") for case in table.cases)
        return np.array([self.gains.get(value, self.constant) for value in values])


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"there must be {what}")


def _need_known(names: Sequence[str]) -> None:
    unknown = set(names) - KNOWN
    _need(not unknown, f"no feature that this version doesn't know, such as {sorted(unknown)[:1]}")


Part = Annotated[Linear | Kernel | Trees | Grams | Groups, Field(discriminator="kind")]
