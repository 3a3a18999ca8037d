"""Figures: detect questions that compare something with a number, a date or a time span.

Such a question takes a calculation, or at least the right figure among many, and a model whose
label is scored writes neither down. A plain rule finds them: a comparing word closely followed by a
figure. Of the yes-or-no questions in `benchmarks/data/questions_trade.jsonl` it finds 18 of 24 that
depend on a figure, and 4 of 44 others. It covers English, German, French, Spanish, Italian,
Portuguese, Dutch, Polish, Japanese and Chinese.
"""

from __future__ import annotations

import re

_WORDS = (
    r"than|at (?:least|most)|over|under|above|below|before|after|within|until|exceeds?|up to",
    "als|mindestens|höchstens|über|unter|vor|nach|bis|innerhalb|binnen|spätestens|übersteig\\w+",
    r"(?:plus|moins) (?:de|d\W)|au (?:moins|plus)|avant|après|dans les|d\Wici|dépass\w+",
    r"supérieure?s? à|inférieure?s? à|más de|menos de|al menos|antes de|antes del|después del?",
    r"dentro de|hasta|supera\w*|più di|meno di|almeno|prima del|dopo|entro|fino a",
    r"mais de|pelo menos|depois de|até|exced\w+|ultrapass\w+|dan|minstens|hoogstens|voor|na|tot",
    r"boven|onder|niż|ponad|od ponad|powyżej|poniżej|co najmniej|przed|po|w ciągu",
)
_NUMBERS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|fifty|hundred",
    "thousand|half|third|quarter|dozen|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|zwölf",
    "zwanzig|hundert|tausend|halbe?|deux|trois|quatre|cinq|sept|huit|neuf|dix|douze|vingt|cent",
    "mille|moitié|tiers|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|doce|veinte|cien|mitad",
    "due|tre|quattro|cinque|sei|sette|otto|nove|dieci|dodici|venti|cento|metà|dois|duas|três",
    "quatro|sete|oito|dez|doze|vinte|cem|metade|twee|drie|vijf|zes|zeven|acht|negen|tien|twaalf",
    "twintig|honderd|duizend|helft|dwóch|dwa|dwie|trzech|trzy|czterech|cztery|pięciu|pięć|sześciu",
    "sześć|siedmiu|siedem|ośmiu|osiem|dziewięciu|dziewięć|dziesięciu|dziesięć",
)
_FIGURE = rf"(?:\W?\d|(?:{'|'.join(_NUMBERS)})\b)"
_COMPARES = re.compile(
    rf"\b(?:{'|'.join(_WORDS)})\s+(?:\w+\s+){{0,2}}{_FIGURE}"
    r"|\bby\s+(?:the\s+)?\d"
    r"|\d\w{0,3}(?:以上|以下|未満|以内|以降|以前|まで|より|を超|之前|之后)|(?:超过|不到|至少|多于|少于)\D{0,3}\d",
    re.IGNORECASE,
)


def compares_figures(question: str) -> bool:
    """Return True if a question compares with a figure, such as "more than 10" or "by 3 May"."""
    return _COMPARES.search(question) is not None
