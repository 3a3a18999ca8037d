"""What is found wrong with a text by its words: refusals, repetitions, and what nothing holds."""

from __future__ import annotations

import time
import tracemalloc
from fractions import Fraction

import pytest

from moa.core._text import word_count
from moa.documents.checks import Checks, Ground, faults_of
from moa.documents.sentences import Length

RULES = (
    "Returns within 30 days after delivery. Wrong item: we send the right one, on no fixed date. "
    "An order can be cancelled until it is packed. Pausing costs 5 euros a month."
)


def kinds(text: str, asked: str, language: str | None, given: str = RULES) -> set[str]:
    ground = Ground([given] if given else [], asked)
    return {
        fault.kind for fault in faults_of(text, ground=ground, question=asked, language=language)
    }


@pytest.mark.parametrize(
    ("asked", "text", "language", "kind"),
    [
        ("Should I switch them on?", "Yes, you should switch them on.", "en", "yes"),
        ("È possibile annullarlo?", "Salve! Sì, è ancora possibile farlo.", "it", "yes"),
        ("Bis Samstag?", "Wir werden den Kopfhörer bis Samstag anbieten.", "de", "day"),
        ("¿Y mi dinero?", "Lo siento, pero no puedo ayudarte con eso.", "es", "refusal"),
        ("When?", "We are sorry. " * 3, "en", "repetition"),
        ("Nu?", "Gooi de doos uit het huis. Gooi de natte doos uit het huis.", "nl", "repetition"),
        ("Wann kommt die Lampe bei mir an?", "Wann kommt die Lampe bei mir an?", "de", "echo"),
        ("Où est ma commande ?", "Bonjour ! Comment puis-je vous aider ?", "fr", "empty"),
        ("When do I get it?", "It takes nine working days.", "en", "figure"),
        ("Kiedy?", "Zwrócimy pieniądze na konto, proszę czekać.", "pl", "promise"),
        ("İptal edin lütfen.", "Merhaba, siparişinizi bugün iptal ettik.", "tr", "promise"),
        (
            "Sie war für den Geburtstag meiner Tochter. Wo ist sie?",
            "Hallo, sie war leider für den Geburtstag meiner Tochter, schreib mir.",
            "de",
            "echo",
        ),
        ("Where is it?", "A colleague looks at it and writes to you.", "de", "language"),
        ("Hello?", "A colleague looks at it. Regards, [Your Name]", "en", "placeholder"),
        ("あの", "担当者が確認して、後ほどご連絡いたします。", "ja", "language"),
    ],
)  # fmt: skip
def test_what_a_small_model_writes_badly_is_told(
    asked: str, text: str, language: str, kind: str
) -> None:
    assert kind in kinds(text, asked, language)


@pytest.mark.parametrize(
    ("asked", "text", "language"),
    [
        ("Kann ich pausieren?", "Ja, das kostet 5 Euro im Monat. Wir melden uns.", "de"),
        ("Can I cancel 77310?", "Order 77310 can be cancelled until it is packed.", "en"),
        ("Pour samedi ?", "Un collègue vérifie si samedi est possible et vous écrit.", "fr"),
        ("Wrong one!", "We are sorry. We will send the right one. Please send us a photo.", "en"),
    ],
)
def test_what_the_rules_hold_or_the_message_says_is_no_fault(
    asked: str, text: str, language: str
) -> None:
    assert kinds(text, asked, language) == set()


def test_a_day_may_be_repeated_from_the_question_and_not_promised() -> None:
    asked = "Will the right one be here on Friday?"
    assert kinds("A colleague looks into Friday.", asked, "en") == set()
    assert kinds("We will send it on Friday.", asked, "en") == {"day"}


def test_figures_are_compared_across_languages_and_words() -> None:
    ground = Ground(["Within three weeks."])
    checks = Checks.of("de")
    assert checks is not None
    assert ground.lacks(checks.figures("In drei Wochen, nicht in vier.")) == [4]


def test_a_text_made_to_take_long_does_not() -> None:
    begun = time.perf_counter()
    kinds("we will " * 5000 + "we can " * 5000, "wir " * 5000, "en")
    assert time.perf_counter() - begun < 1


def test_of_a_very_long_question_the_first_figures_count() -> None:
    numbers = " ".join(map(str, range(1000, 200_000)))
    tracemalloc.start()
    strange = Ground([], numbers).lacks([Fraction(1000), Fraction(150_000)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert strange == [150_000]
    assert peak < 10_000_000


def test_a_question_is_not_read_for_an_answer_without_figures() -> None:
    question = "12 " * 30_000
    tracemalloc.start()
    assert Ground([], question).lacks([]) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000


@pytest.mark.parametrize("length", [Length(sentences=3), Length(words=20)], ids=str)
def test_a_text_is_read_until_it_is_known_to_be_too_long(length: Length) -> None:
    text = "Hello there. How are you? " * 20_000
    tracemalloc.start()
    assert length.too_long(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(text)  # its rest, and no list of its words or sentences


@pytest.mark.parametrize(
    "text", ["a b c", "a b c d", "\u4e00\u4e8c \u4e09", "\u4e00\u4e8c\u4e09\u56db"]
)
def test_words_are_counted_as_everywhere(text: str) -> None:
    assert Length(words=3).too_long(text) == (word_count(text) > 3.45)
