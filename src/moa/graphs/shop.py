"""Shop: what the support graph is told, and the shop that it works for unless told otherwise."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moa.guards.injection import CRITERION

INSTRUCTIONS = (
    "You work for the support of {company}. Write the reply to the customer's message: {tone}. "
    "Write it in the language of the message. Promise nothing that the message doesn't settle. "
    "Answer with the reply alone."
)


class Intent(BaseModel):
    """What a message can want, and what is done then: reply, else route, else have it written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    means: str
    """What it means, in words."""
    examples: tuple[str, ...] = ()
    """Messages that want it, shown to a model whose label probabilities are read."""
    reply: dict[str, str] = Field(default_factory=dict[str, str])
    """The routine reply, by language; a message in another language is routed or written."""
    queue: str | None = None
    """Who takes care of it without a reply."""


INTENTS = {
    "delivery": Intent(
        means="where a parcel is and when it comes",
        examples=("My parcel has not arrived yet, when will it come?", "¿Dónde está mi pedido?"),
        reply={
            "en": "Thank you for your message. You can follow your parcel at any time under "
            "“My orders”; if nothing has moved for five days, we send it again at no charge.",
            "de": "Vielen Dank für Ihre Nachricht. Unter „Meine Bestellungen“ sehen Sie "
            "jederzeit, wo Ihr Paket ist; bewegt sich fünf Tage lang nichts, schicken wir es "
            "kostenlos noch einmal.",
        },
    ),
    "refund": Intent(
        means="wants money back, to return or to exchange something",
        examples=("I want my money back.", "Ich möchte die Ware zurückgeben."),
    ),
    "broken": Intent(
        means="something is broken, dangerous or doesn't work",
        examples=("It doesn't switch on any more.", "Le son coupe tout le temps."),
    ),
    "payment": Intent(
        means="an invoice, a price or a charge",
        examples=("Please send me the invoice again.", "I was charged two times for one order."),
        queue="billing",
    ),
    "account": Intent(
        means="login, password or personal data",
        examples=("I forgot my password.", "Wie ändere ich meine E-Mail-Adresse?"),
        queue="accounts",
    ),
    "question": Intent(
        means="asks about a product before buying it",
        examples=("Does it work with my phone?", "Which colours are there?"),
        queue="sales",
    ),
    "thanks": Intent(
        means="praise or thanks, and nothing to do",
        examples=("Thank you, great service!", "Super, vielen Dank!"),
        reply={
            "en": "Thank you for your kind words! We have passed them on to the team.",
            "de": "Vielen Dank für die netten Worte! Wir haben sie an das Team weitergegeben.",
            "fr": "Merci pour vos mots aimables ! Nous les avons transmis à toute la boutique.",
        },
    ),
}
OTHERS = (
    "Our football club is looking for a sponsor.",
    "Please tell your driver to use the back gate.",
)
"""Messages that want none of it."""

SPAM_EXAMPLES = (
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
"""Texts, and whether they are spam."""
URGENCY_EXAMPLES = (
    ("Which colours are there?", "can wait"),
    ("My parcel should have come yesterday, where is it?", "today"),
    ("It is burning! Call me at once!", "now"),
    ("Thank you for the nice letter.", "can wait"),
    ("You charged me twice, please correct that.", "today"),
    ("Der Akku raucht, was soll ich tun?", "now"),
    ("Könnten Sie mir die Rechnung schicken?", "can wait"),
    ("I need it for my wedding this afternoon!", "now"),
)
"""Texts, and how urgent they are."""

Unwanted = Literal["spam", "injection"]


class SupportSettings(BaseModel):
    """`[graphs.support]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    company: str = "an online shop for headphones"
    """Who answers, as the writer of replies is told."""
    tone: str = "friendly, concrete, at most five sentences"
    """How, as the writer of replies is told."""
    spam: str = "spam"
    """What is quarantined as spam."""
    injection: str = CRITERION
    """What is quarantined as an injection."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which on a message is quarantined."""
    drop: tuple[Unwanted, ...] = ()
    """What is dropped instead of quarantined. Nothing, unless you say so: a customer whose message
    is dropped is never heard of again."""
    intents: dict[str, Intent] = Field(default=INTENTS, min_length=2)
    """What messages can want, by name."""
    sure: float = Field(default=0.5, ge=0, le=1)
    """Confidence in the intent below which the LLM reads the message."""
    read_tokens: int = Field(default=200, gt=0)
    """Of a longer message the small model reads the opening and the end, so many tokens in all;
    where the shipped heads decide, 1,000 at the least."""
    reply_tokens: int = Field(default=300, gt=0)
    """Most tokens of a reply."""
    draft_tokens: int = Field(default=40, gt=0)
    """Most tokens of a draft by the small model, where there is no large one."""
