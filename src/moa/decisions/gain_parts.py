"""Gain parts: fitted models that predict what the strong model gains on a case, with numpy alone.

Each is a few lists of numbers that stand in a router's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from moa.decisions.cases import Table
from moa.decisions.fitting import Floats, np
from moa.decisions.grams import grams


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Scaled(_Part):
    """Features brought to mean 0 and spread 1."""

    features: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]

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

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        here, centres = self.scaled(table), np.array(self.centres)
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

    def predict(self, values: Floats) -> Floats:
        """Predict from the features of cases."""
        features, thresholds = np.array(self.features), np.array(self.thresholds)
        left, right = np.array(self.left), np.array(self.right)
        here, rows = np.zeros(len(values), dtype=int), np.arange(len(values))
        while (inside := features[here] >= 0).any():
            goes_left = values[rows, features[here]] <= thresholds[here]
            here = np.where(inside, np.where(goes_left, left[here], right[here]), here)
        return np.array(self.values)[here]


class Trees(_Part):
    """The sum of many trees, boosted (Friedman 2001) or grown at random (Geurts et al. 2006)."""

    kind: Literal["trees"] = "trees"
    names: tuple[str, ...]
    trees: tuple[Tree, ...]
    rate: float
    constant: float

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


Part = Annotated[Linear | Kernel | Trees | Grams | Groups, Field(discriminator="kind")]
