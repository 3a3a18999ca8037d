"""Spam: a filter for unwanted mass mailings, with a head that ships with `moa`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from moa.agents.base import Limits, ready
from moa.agents.filter import Filter
from moa.decisions.defaults import shipped_calibration
from moa.decisions.encoders import reads_heads
from moa.endpoints import Endpoint

CRITERION = "spam"
EXAMPLES = (
    ("Hello, my parcel has not come yet. Order 1182.", False),
    ("You have won a new phone! Claim your prize here: http://prize.example", True),
    ("Der Akku meiner Kopfhörer ist nach zwei Stunden leer.", False),
    ("Earn 5000 dollars a week from home, no experience needed. Reply now!", True),
    ("Merci, tout est arrivé en bon état.", False),
    ("Your account will be closed. Confirm your password: http://login.example", True),
    ("¿Dónde está mi pedido?", False),
    ("Can I return the speaker I bought last week?", False),
    ("We offer cheap followers and backlinks for your website!!!", True),
    ("The update broke my headset and nobody answers.", False),
    ("Meet beautiful singles tonight http://date.example", True),
    ("届いた商品が壊れていました。", False),
)
"""Labelled examples: a text, and True if it is spam."""


@ready("spam", "Drops unwanted mass mailings", "slm")
class Spam(Filter):
    """Filter for unwanted mass mailings, whose criterion is already fitted.

    If the encoder runs beside the endpoint, the shipped head decides and the endpoint isn't asked.
    Otherwise the endpoint decides, with labelled examples in its prompt.

    Args:
        slm: Decides if there is no encoder.
        criterion: What to stop, as in `Filter`. With a criterion of your own, neither the head nor
            its examples are used.
        threshold: Minimum probability at which a text is stopped.
        examples: Labelled texts, used instead of the head; see `Filter`.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: the criterion is empty, or the threshold is not between 0 and 1.

    Examples:
        >>> small = SimulatedEndpoint(rule=lambda text: {"spam": {"yes": 0.9 * ("WIN" in text)}})
        >>> [Spam(small).run_sync(text).output.kept for text in ("WIN a cruise!", "See you.")]
        [False, True]
    """

    def __init__(
        self,
        slm: Endpoint | str,
        *,
        criterion: str = CRITERION,
        threshold: float = 0.5,
        examples: Sequence[tuple[str, bool]] | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        ships = examples is None and criterion == CRITERION
        by_head = ships and reads_heads(slm)
        if ships and not by_head:
            examples = EXAMPLES
        super().__init__(
            slm,
            criterion,
            action="drop",
            threshold=threshold,
            examples=examples or (),
            **limits,
        )
        if by_head:
            (question,) = self.questions
            self.use_calibrations({question.name: shipped_calibration(question, "spam")})
