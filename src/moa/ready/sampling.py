"""The ready graphs that make one answer of several: of several models, or of one asked again."""

from __future__ import annotations

from typing import Any

from moa.graphs.best_of_n import BestOfN
from moa.graphs.choose_best import ChooseBest
from moa.graphs.debate import Debate
from moa.graphs.mixture import Mixture
from moa.graphs.refine import Refine
from moa.graphs.self_consistency import SelfConsistency
from moa.graphs.self_mixture import SelfMixture
from moa.ready.entry import Ready, recipe

READY: dict[str, Ready[Any]] = {
    "mixture": recipe(Mixture),
    "self_mixture": recipe(SelfMixture),
    "self_consistency": recipe(SelfConsistency),
    "choose_best": recipe(ChooseBest),
    "best_of_n": recipe(BestOfN),
    "debate": recipe(Debate),
    "refine": recipe(Refine),
}
