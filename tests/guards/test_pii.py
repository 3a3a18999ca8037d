"""Personal data: found with its checksums, masked, and put back, whole and in pieces."""

from __future__ import annotations

import copy
import logging
import pickle
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards.messages import Message, messages
from moa.core.context import RunContext
from moa.core.errors import ConfigError, GuardFailed
from moa.core.node import Text
from moa.guards.pii import Pii
from moa.guards.recognizers import Finding, merge
from moa.guards.texts import views

MESSAGES = messages(240, seed=20)
PART = 6
"""Characters of a secret that are too many to be seen."""


def pieces(text: str, length: int) -> list[str]:
    return [text[i : i + length] for i in range(0, len(text), length)]


def folded(text: str) -> str:
    return views(text)[1].text if len(views(text)) > 1 else text


def leaks(message: Message, shown: str) -> list[str]:
    """Parts of secrets that can be read in what was shown."""
    shown = folded(shown)
    bare = message.text
    for secret in message.secrets:
        bare = bare.replace(secret, "")
    parts = {
        plain[i : i + PART]
        for plain in map(folded, message.secrets)
        for i in range(len(plain) - PART + 1)
    }
    return [part for part in parts if part in shown and part not in folded(bare)]


@pytest.mark.timeout(300)
def test_no_secret_of_240_messages_passes_and_every_one_comes_back(pii: Pii) -> None:
    for message in MESSAGES:
        with pii.session() as session:
            masked = session.mask(message.text)
            assert not leaks(message, masked), masked
            assert session.restore(masked) == message.text


def test_placeholders_in_pieces_of_every_length_are_put_back(pii: Pii) -> None:
    for message in MESSAGES:
        with pii.session() as session:
            masked = session.mask(message.text)
            for length in range(1, len(masked) + 1):
                restorer = session.restorer()
                shown = [restorer.feed(piece) for piece in pieces(masked, length)]
                assert "".join((*shown, restorer.close())) == message.text


MAILS = Pii(recognizers=[], patterns={"EMAIL": r"\S+@\S+"})


ALTERED = (
    "[email_1]",
    r"[EMAIL\_1]",
    r"\[EMAIL\_1\]",
    "**[EMAIL_1]**",
    "[ Email_1 ]",
    "[[EMAIL_1]]",
    r"\[x [EMAIL_1",
)


@given(
    st.lists(st.sampled_from([*ALTERED, "[email_9]", "\\", "[", "]", " ", "text"])),
    st.integers(1, 12),
)
def test_however_a_model_writes_a_placeholder_pieces_are_restored_like_the_whole(
    words: list[str], length: int
) -> None:
    text = "".join(words)
    with MAILS.session() as session:
        assert session.mask("jane@example.org") == "[EMAIL_1]"
        restorer = session.restorer()
        shown = [restorer.feed(piece) for piece in pieces(text, length)]
        assert "".join((*shown, restorer.close())) == session.restore(text)


@pytest.mark.parametrize("written", ALTERED[:-1])
def test_a_placeholder_that_a_model_altered_is_put_back(written: str) -> None:
    with MAILS.session() as session:
        session.mask("jane@example.org")
        restored = session.restore(f"To {written}.")
        assert restored.strip("To *[].") == "jane@example.org"
        assert not session.altered


@pytest.mark.parametrize("written", ["EMAIL_1", "(Email 1)", "[EMAIL-1]", "[EMAIL_\u200b1]"])
def test_a_placeholder_that_cant_be_put_back_is_known(written: str) -> None:
    with MAILS.session() as session:
        session.mask("jane@example.org")
        assert session.restore(f"To {written}, EMAIL_2.") == f"To {written}, EMAIL_2."
        assert session.altered == {"[EMAIL_1]"}


def test_what_looks_like_an_altered_placeholder_from_the_start_comes_back_as_it_was() -> None:
    text = r"[email_1] and [EMAIL\_1] of jane@example.org"
    with MAILS.session() as session:
        assert session.restore(session.mask(text)) == text


def test_the_same_secret_has_the_same_placeholder(pii: Pii) -> None:
    with pii.session() as session:
        first = session.mask("Write to jane@example.org or ole@example.org.")
        second = session.mask("I said jane@example.org!")
    assert first == "Write to [EMAIL_1] or [EMAIL_2]."
    assert second == "I said [EMAIL_1]!"


@pytest.mark.parametrize(
    "text",
    [
        "Card 4111 1111 1111 1112 is no card.",  # the check digit is wrong
        "IBAN DE88 3704 0044 0532 0130 00 is none.",
        "The film was great.by the way, see 3.5 of 10.",
        "Order 1182 from 2026-11-25, 3 items at 19.99.",
    ],
)
def test_what_only_looks_like_personal_data_stays(pii: Pii, text: str) -> None:
    with pii.session() as session:
        assert "[CARD" not in session.mask(text)
        assert "[IBAN" not in session.mask(text)
        assert "[URL" not in session.mask(text)


def test_a_weak_number_counts_where_a_word_before_it_speaks_for_it(pii: Pii) -> None:
    kinds = [finding.kind for finding in pii.find("My social security: 536221234")]
    assert kinds == ["US_SSN"]


@pytest.mark.parametrize(
    "written",
    [
        "4\u200b111 1111 1111 1111",
        "\uff14\uff11\uff11\uff11 1111 1111 1111",
        "4111\u20111111\u20111111\u20111111",
        "\u0664\u0661\u0661\u0661 1111 1111 1111",
        "4111\u00a01111\u202f1111\u20091111",
        "卡号4111111111111111。",
        "IBAN\u200bDE89370400440532013000",
        "de89 3704 0044 0532 0130 00",
        "jane\u00ad@example.org",
        "jane\uff20example.org",
    ],
)
def test_a_secret_written_oddly_is_found_and_comes_back_as_written(pii: Pii, written: str) -> None:
    with pii.session() as session:
        masked = session.mask(f"Here: {written}")
        assert not re.search(r"\d{4}|example", folded(masked)), masked
        assert session.restore(masked) == f"Here: {written}"


def test_a_placeholder_in_the_text_is_not_taken_for_ours(pii: Pii) -> None:
    text = "[EMAIL_1] is what your template says, and jane@example.org is me. [EMAIL_2]?"
    with pii.session() as session:
        masked = session.mask(text)
        assert masked.count("[EMAIL_1]") == 1
        assert session.restore(masked) == text
        assert session.restore("[EMAIL_1] and [EMAIL_2]") == "jane@example.org and [EMAIL_2]"


def test_a_placeholder_that_comes_later_in_a_stream_is_not_taken_for_ours(pii: Pii) -> None:
    with pii.session() as session:
        first = session.mask("I am jane@example.org. ")
        second = session.mask("Your mail says [EMAIL_1].")
        assert first + second == "I am [EMAIL_1]. Your mail says [QUOTED_1]."
        assert session.restore(second) == "Your mail says [EMAIL_1]."


def test_placeholders_that_are_nobodys_stay() -> None:
    with Pii(recognizers=[]).session() as session:
        assert session.restore("[EMAIL_7] and [1]") == "[EMAIL_7] and [1]"
        restorer = session.restorer()
        assert restorer.feed("[EMAIL") + restorer.feed("_7") + restorer.close() == "[EMAIL_7"


def test_own_patterns_and_a_deny_list_are_masked() -> None:
    pii = Pii(recognizers=[], patterns={"ORDER": r"\bA-\d{4}\b"}, deny=["Project  Falcon", "東京"])
    with pii.session() as session:
        masked = session.mask("project\nfalcon, falconry, A-1234, 東京都, Project Falconer")
    assert masked == "[PRIVATE_1], falconry, [ORDER_1], [PRIVATE_2]都, Project Falconer"


def test_kinds_can_be_left_alone(pii: Pii) -> None:
    with Pii(recognizers=pii.recognizers, ignore=["URL"]).session() as session:
        masked = session.mask("https://shop.example.org/x by jane@example.org")
    assert masked == "https://shop.example.org/x by [EMAIL_1]"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8), st.sampled_from([0.4, 0.6, 1.0]))))
def test_of_findings_that_overlap_nothing_is_left_over(spans: list[tuple[int, int, float]]) -> None:
    found = [Finding(f"K{i}", s, s + n, score) for i, (s, n, score) in enumerate(spans)]
    made = merge(found)
    assert {i for f in found for i in range(f.start, f.end)} == {
        i for f in made for i in range(f.start, f.end)
    }
    assert all(one.end <= other.start for one, other in pairwise(made))


def test_of_findings_that_overlap_the_surest_names_it_then_the_longest() -> None:
    sure, long, short = Finding("A", 4, 8, 1.0), Finding("B", 0, 9, 0.6), Finding("C", 2, 5, 0.6)
    assert merge([long, sure, short]) == [Finding("A", 0, 9, 1.0)]
    assert merge([short, long]) == [Finding("B", 0, 9, 0.6)]


@dataclass
class Broken:
    """A recogniser that fails, and tells everybody what it read."""

    name: str = "broken"

    def find(self, text: str, /) -> Iterator[Finding]:
        raise ValueError(f"can't read {text}")


def test_a_recogniser_that_raises_stops_everything_and_tells_nothing() -> None:
    pii = Pii(recognizers=[Broken()])
    secret = "4111".join(("my card is ", " 1111 1111 1111"))
    failing = pytest.raises(GuardFailed, match="'broken'")
    with failing as caught, pii.session() as session:
        session.mask(secret)
    told = "".join(traceback.format_exception(caught.value))
    assert "4111" not in told + repr(caught.value) + str(caught.value.__context__)


def test_a_pattern_that_runs_out_of_time_stops_everything(
    pii: Pii, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presidio_analyzer.pattern_recognizer.REGEX_TIMEOUT_SECONDS", 1e-9)
    with pytest.raises(GuardFailed, match="TimeoutError"):
        pii.find("4 " * 3000 + "never seen before")


def test_presidio_logs_nothing_of_a_text(pii: Pii, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pii.find("IBAN DE89 3704 0044 0532 0130 00 and AA00 ÄÄÄÄ 1111 2222 3333")
    assert "3704" not in caplog.text
    assert "1111" not in caplog.text


def test_a_session_shows_nothing_and_ends_with_its_request(pii: Pii) -> None:
    with pii.session() as session:
        session.mask("jane@example.org")
        told = repr(session) + repr(vars(session)) + str(vars(session))
        assert "jane" not in told
    with pytest.raises(ConfigError):
        session.restore("[EMAIL_1]")
    with pytest.raises(ConfigError):
        session.mask("jane@example.org")


def test_a_session_can_be_neither_copied_nor_pickled(pii: Pii) -> None:
    with pii.session() as session:
        session.mask("jane@example.org")
        assert repr(session) == "PiiSession(1 kept)"
        for take in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                take(session)


async def test_as_a_node_it_masks_for_good_and_counts(pii: Pii) -> None:
    context = RunContext()
    result = await pii.run(Text(text="jane@example.org, 10.1.22.33", language="en"), context)
    assert result.output.text == "[EMAIL_1], [IP_1]"
    assert result.output.found == {"EMAIL": 1, "IP": 1}
    assert result.output.language == "en"
    assert [note.text for note in result.trace] == ["masked 1 EMAIL, 1 IP"]
    long = await Pii(recognizers=[], deny=["Falcon"]).run("Falcon " * 2000)
    assert "Falcon" not in long.output.text
    assert long.output.found == {"PRIVATE": 2000}


@pytest.mark.parametrize(
    "wrong",
    [
        {"patterns": {"order": "x"}},
        {"patterns": {"ORDER": "("}},
        {"deny": [" "]},
        {"deny": "Falcon"},
        {"threshold": 0.0},
    ],
)
def test_what_is_not_valid_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Pii(recognizers=[], **wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("place", [1990, 2000, 2010, 5995])
async def test_a_secret_is_found_wherever_it_stands_in_a_long_text(place: int) -> None:
    text = "x " * (place // 2) + "write to ann@example.com, call +1 212 555 0187" + " y" * 2000
    masked = (await Pii().run(text)).output.text
    assert "ann" not in masked
    assert "0187" not in masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("see www.example.com.", "see [URL_1]."),
        ("at1http://example.com:80/a?b", "at1[URL_1]"),
        ("example.com/a and/or great.by it", "[URL_1] and/or great.by it"),
    ],
)
async def test_an_address_is_found_up_to_its_end(text: str, masked: str) -> None:
    assert (await Pii().run(text)).output.text == masked


async def test_numbers_that_are_too_many_to_check_are_masked_by_their_shape() -> None:
    numbers = [f"+1 212 {300 + i // 1000} {1000 + i % 1000}" for i in range(9000)]
    cards = [f"{4000_0000_0000_0000 + i * 7919}" for i in range(3000)]
    result = await Pii().run("\n".join((*numbers, "hello", *cards)))
    assert not re.search(r"\d{6}", re.sub(r"\[[A-Z_]+_\d+\]", "", result.output.text))
    assert "hello" in result.output.text
    assert any("unchecked" in note.text for note in result.trace if note.kind == "degraded")
