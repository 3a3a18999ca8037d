"""Routers: fitted functions that predict the gain of the strong model on a request.

A router looks at the prompt alone, before any answer; a cascade looks at the weak model's answer
too. Both are stored as one JSON file, and need only numpy to run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from moa.core._files import load_model, save_text
from moa.core._json import JSON, list_of
from moa.core.context import RunContext
from moa.core.errors import InputError
from moa.core.node import Frozen, Result, finish
from moa.decisions.arrays import Floats, Ints, np
from moa.routing.recorded import KNOWN, Case, Table, describe, grams

RouterKind = Literal["router", "cascade"]
Strength = Literal["weak", "strong"]


class _FileModel(Frozen):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _require(holds: bool, requirement: str) -> None:
    if not holds:
        raise ValueError(f"there must be {requirement}")


class Tree(_FileModel):
    """A binary tree. Node 0 is the root, and a leaf has feature -1."""

    features: tuple[int, ...]
    thresholds: tuple[float, ...]
    """A case goes left if its feature is at most the threshold."""
    left: tuple[int, ...]
    right: tuple[int, ...]
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n = len(self.features)
        _require(n == len(self.thresholds) == len(self.values) > 0, "one of each a node")
        # Children come after their parents, so that following them ends.
        ends = all(
            feature < 0 or (index < left < n and index < right < n)
            for index, (feature, left, right) in enumerate(
                zip(self.features, self.left, self.right, strict=True)
            )
        )
        _require(ends, "children after their parents")
        return self

    @cached_property
    def _arrays(self) -> tuple[Ints, Floats, Ints, Ints, Floats]:
        nodes = np.array(self.features), np.array(self.thresholds)
        return *nodes, np.array(self.left), np.array(self.right), np.array(self.values)

    def predict(self, values: Floats) -> Floats:
        """Predict from the features of cases."""
        features, thresholds, left, right, leaves = self._arrays
        nodes, rows = np.zeros(len(values), dtype=int), np.arange(len(values))
        while (is_inner := features[nodes] >= 0).any():
            goes_left = values[rows, features[nodes]] <= thresholds[nodes]
            nodes = np.where(is_inner, np.where(goes_left, left[nodes], right[nodes]), nodes)
        return leaves[nodes]


class Trees(_FileModel):
    """The sum of many trees, boosted (Friedman 2001) or grown at random (Geurts et al. 2006)."""

    kind: Literal["trees"] = "trees"
    names: tuple[str, ...]
    trees: tuple[Tree, ...]
    rate: float
    constant: float

    @model_validator(mode="after")
    def _fits(self) -> Self:
        highest = max((feature for tree in self.trees for feature in tree.features), default=-1)
        _require(highest < len(self.names), "a name for each feature")
        return self

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        values = table.columns(self.names)
        total = sum((tree.predict(values) for tree in self.trees), np.zeros(len(values)))
        return total * self.rate + self.constant


class Grams(_FileModel):
    """A weighted sum of the prompt's character n-grams."""

    kind: Literal["grams"] = "grams"
    rarity: Mapping[int, float]
    """Smoothed inverse document frequency of each bucket."""
    weights: Mapping[int, float]
    constant: float

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _require(set(self.rarity) == set(self.weights), "the same buckets in both")
        return self

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        return np.array([self._score_text(case.prompt) for case in table.cases])

    def _score_text(self, text: str) -> float:
        tf_idf = {b: count * self.rarity[b] for b, count in grams(text).items() if b in self.rarity}
        length = sqrt(sum(weight**2 for weight in tf_idf.values())) or 1.0
        return self.constant + sum(tf_idf[b] * self.weights[b] for b in tf_idf) / length


class Groups(_FileModel):
    """The mean gain of cases with the same value in a field, shrunk towards the mean of all."""

    kind: Literal["groups"] = "groups"
    field: str
    gains: Mapping[str, float]
    constant: float
    """Gain of an unknown value, and of a missing field."""

    def predict(self, table: Table) -> Floats:
        """Predict the gain of each case."""
        values = (case.fields.get(self.field, "") for case in table.cases)
        return np.array([self.gains.get(value, self.constant) for value in values])


RouterPart = Annotated[Trees | Grams | Groups, Field(discriminator="kind")]


class WeightedPart(_FileModel):
    """A part, and its share of the predicted gain."""

    name: str
    weight: float = Field(gt=0, le=1)
    part: RouterPart


class PartReport(_FileModel):
    """Cross-validation result of a candidate."""

    name: str
    apgr: float
    weight: float
    """Its share of the router; 0 if it was left out."""


class Origin(_FileModel):
    """Origin of a router."""

    moa: str
    """Version of `moa` that fitted it."""
    date: str
    rows: int
    """Number of rows that it was fitted on."""
    left_out: int
    """Number of duplicate rows, which were left out."""
    fingerprint: str
    """SHA-256 of the rows."""
    weak_quality: float
    strong_quality: float
    apgr: float
    """APGR of the chosen parts by cross-validation. A little too high, since they were chosen by
    it."""
    why: str


class Router(_FileModel):
    """Node that chooses one of two models for a request, by the predicted gain.

    `run` takes a `Case`, or the prompt alone, and returns `"weak"` or `"strong"`.
    """

    format: Literal["moa-router-1"] = "moa-router-1"
    name: str = "router"
    kind: RouterKind
    """`router`: from the prompt alone; `cascade`: from the weak model's answer too."""
    fields: tuple[str, ...]
    """Other fields of a row that are used if present."""
    features: tuple[str, ...] = ()
    """Names of the numbers that each request has to bring; see `moa.routing.recorded.Request`."""
    target: str
    """Goal that the threshold was chosen for, in words."""
    threshold: float
    """A request goes to the strong model if the predicted gain is at least this."""
    candidates: tuple[PartReport, ...]
    origin: Origin
    parts: tuple[WeightedPart, ...]

    @model_validator(mode="after")
    def _reads(self) -> Self:
        names = {name for part in self.parts for name in getattr(part.part, "names", ())}
        unknown = sorted(names - KNOWN.union(self.features))
        _require(not unknown, f"no feature that this version doesn't know, such as {unknown[:1]}")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a router's file.

        Raises:
            ConfigError: it can't be read, or is not a router file of this version.
        """
        maker = f"moa route fit DATA.jsonl --out {path}"
        return load_model(path, cls, what="router", maker=maker)

    def save(self, path: str | Path) -> None:
        """Write it as one JSON file.

        Raises:
            ConfigError: it can't be written there.
        """
        save_text(path, _dump(self.model_dump(mode="json")))

    def gains(self, cases: Sequence[Case]) -> Floats:
        """Predict how much likelier the strong model is to be right: from about -1 to 1.

        Raises:
            InputError: it is a cascade and a case has no reply, or a case lacks a feature.
        """
        if self.kind == "router":
            cases = [replace(case, reply=None) for case in cases]
        for number, case in enumerate(cases, start=1):
            if case.reply is None and self.kind == "cascade":
                raise InputError(
                    f"request {number} has no reply of the weak model (`weak_response`): "
                    "this is a cascade, which looks at it"
                )
        table = describe(cases, self.features)
        total = np.zeros(len(cases))
        for weighted in self.parts:
            total = total + weighted.weight * weighted.part.predict(table)
        # Rounded, since sums in another order differ in the last digits.
        return np.round(total, 9)

    def route(self, prompt: str, *, reply: str | None = None) -> Strength:
        """Choose a model for a request; `run` also takes a `Case` with fields and features.

        Args:
            prompt: The request.
            reply: The weak model's answer, which a cascade needs; a router doesn't look at it.

        Raises:
            InputError: it is a cascade and there is no reply, or a feature is missing.
        """
        (gain,) = self.gains([Case(prompt, reply)]).tolist()
        return self.choose(gain)

    def choose(self, gain: float) -> Strength:
        """Choose a model by the predicted gain of a request."""
        return "strong" if gain >= self.threshold else "weak"

    async def run(
        self, request: Case | str, /, context: RunContext | None = None
    ) -> Result[Strength]:
        """Choose a model for a request, without asking a model.

        Raises:
            InputError: it is a cascade, and there is no reply.
        """
        start = time.perf_counter()
        inner = (context or RunContext()).nested(self.name)
        case = Case(request) if isinstance(request, str) else request
        with inner.span("agent", self.name):
            (gain,) = self.gains([case]).tolist()
            strength = self.choose(gain)
            if strength == "strong":
                inner.note("escalated", f"predicted gain {gain:.2f}, from {self.threshold:.2f} on")
        return finish(strength, inner, seconds=time.perf_counter() - start)

    def missing_fields(self, cases: Sequence[Case]) -> str | None:
        """Describe which used fields are missing in how many cases; `None` if all are there."""
        counts = {name: sum(name not in case.fields for case in cases) for name in self.fields}
        missing = ", ".join(f"{name!r} in {n} of {len(cases)}" for name, n in counts.items() if n)
        return f"missing, so done without: {missing}" if missing else None

    def at_threshold(self, gain: float) -> Self:
        """Return the same router with another threshold, the least gain worth a strong call.

        That gain is the price of a strong call divided by the value of a right answer.
        """
        target = f"a predicted gain of at least {gain:g}"
        return self.model_copy(update={"threshold": gain, "target": target})


def _dump(fields: JSON) -> str:
    """Write JSON that people can read: a line for each member, and for each part and candidate."""
    members: list[str] = []
    for name, value in fields.items():
        if name in ("candidates", "parts"):
            inner = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in list_of(value))
            members.append(f"{json.dumps(name)}: [\n  {inner}\n ]")
        else:
            members.append(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(members) + "\n}\n"
