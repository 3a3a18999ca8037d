"""Messages with personal data in them, made from a seed: in several languages, checksums right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

_FIRST = ("jane", "ole", "marta", "j.weber", "li.na", "amélie", "p_novak")
_HOSTS = ("example.org", "mail.example.de", "post.example.co.uk", "example.fr", "firma.test")
_CARDS = (("4", 16), ("51", 16), ("55", 16), ("34", 15), ("6011", 16))
_PHONES = (
    "+49 30 901820{:02d}",
    "+44 20 7946 09{:02d}",
    "+1 212-555-01{:02d}",
    "(415) 555-26{:02d}",
    "+33 1 42 68 53 {:02d}",
    "+48 22 555 55 {:02d}",
    "030 9018 20{:02d}",
)
_NIF = "TRWAGMYFPDXBNJZSQVHLCKE"
_FULL = str.maketrans({str(digit): chr(0xFF10 + digit) for digit in range(10)})


@dataclass(frozen=True)
class Message:
    """A text, and the secrets as they stand in it."""

    text: str
    secrets: tuple[str, ...]


def card(rng: random.Random) -> str:
    start, length = rng.choice(_CARDS)
    digits = start + "".join(str(rng.randrange(10)) for _ in range(length - 1 - len(start)))
    number = digits + str(-_luhn(digits + "0") % 10)
    if length == 16 and rng.random() < 0.6:
        return rng.choice(" -").join(number[i : i + 4] for i in range(0, 16, 4))
    return number


def _luhn(digits: str) -> int:
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled)


def iban(rng: random.Random) -> str:
    country, length = rng.choice((("DE", 18), ("FR", 23), ("ES", 20), ("NL", 14), ("PL", 24)))
    account = "".join(str(rng.randrange(10)) for _ in range(length))
    if country == "NL":
        account = "ABNA" + account[4:]
    spelled = "".join(str(int(c, 36)) for c in account + country + "00")
    number = f"{country}{98 - int(spelled) % 97:02d}{account}"
    if rng.random() < 0.5:
        return " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    return number.lower() if rng.random() < 0.2 else number


def email(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST)}{rng.randrange(100)}@{rng.choice(_HOSTS)}"


def phone(rng: random.Random) -> str:
    return rng.choice(_PHONES).format(rng.randrange(10, 100))


def ip(rng: random.Random) -> str:
    if rng.random() < 0.3:
        groups = [f"{rng.randrange(0x1000, 0xFFFF):x}" for _ in range(8)]
        return ":".join(groups)
    return ".".join(str(rng.randrange(11, 250)) for _ in range(4))


def ssn(rng: random.Random) -> str:
    return f"{rng.randrange(101, 600)}-{rng.randrange(11, 99)}-{rng.randrange(1001, 9998)}"


def nif(rng: random.Random) -> str:
    number = rng.randrange(10_000_000, 99_999_999)
    return f"{number}{_NIF[number % 23]}"


def pesel(rng: random.Random) -> str:
    born = f"{rng.randrange(50, 99)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    digits = born + f"{rng.randrange(10_000):04d}"
    weighed = sum(int(d) * w for d, w in zip(digits, (1, 3, 7, 9) * 3, strict=False))
    return f"{digits}{-weighed % 10}"


def tax_id(rng: random.Random) -> str:
    """A German one: of the first ten digits one stands twice, and the others once at most."""
    digits = rng.sample(range(1, 10), 9)
    digits.insert(rng.randrange(2, 9), digits[0])
    product = 10
    for digit in digits:
        total = (digit + product) % 10 or 10
        product = total * 2 % 11
    return "".join(map(str, digits)) + str((11 - product) % 10)


def personnummer(rng: random.Random) -> str:
    born = f"{rng.randrange(50, 99)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    digits = born + f"{rng.randrange(100, 999)}"
    return f"{born}-{digits[6:]}{-_luhn(digits + '0') % 10}"


def url(rng: random.Random) -> str:
    return f"https://shop.example.org/orders/{rng.randrange(10**6)}?who=k{rng.randrange(999)}"


SECRETS: tuple[Callable[[random.Random], str], ...] = (
    card,
    iban,
    email,
    phone,
    ip,
    ssn,
    nif,
    pesel,
    tax_id,
    personnummer,
    url,
)

TEMPLATES = (
    "Hello, my parcel is late. Write to {} or call {}.",
    "I paid with {} but the refund went to {}. Why?",
    "Please change my data: {}, {}, {}. Thank you!",
    "Guten Tag, bitte überweisen Sie auf {} und bestätigen Sie an {}.",
    "Meine Nummer ist {}; die alte ({}) gilt nicht mehr.",
    "Bonjour, je n'ai rien reçu à l'adresse {}. Mon numéro : {}.",
    "Hola, ¿pueden enviar la factura a {}? Mi documento es {} y pagué con {}.",
    "Dzień dobry, mój numer to {}, proszę o kontakt: {}.",
    "Hej! Jag heter Ole, {}. Ring {} före kl. 17.",
    "お世話になっております。連絡先は{}です。支払いは{}でした。",
    "您好，我的联系方式：{}，付款信息：{}。",  # noqa: RUF001  as it is written there
    "मेरा संपर्क {} है, और भुगतान {} से किया।",
    "Здравствуйте! Мои данные: {} и {}.",
    '{{"contact": "{}", "note": "first order", "other": "{}"}}',
    "contact,{},{}\nold order,1182,open",
    "<p>Call me: {}</p><br/><i>{}</i>",
)


def messages(count: int, *, seed: int) -> list[Message]:
    """Make messages; one in eight has its digits in full width, one in eight hidden characters."""
    rng = random.Random(seed)
    made: list[Message] = []
    for number in range(count):
        template = TEMPLATES[number % len(TEMPLATES)]
        slots = template.count("{}")
        found = [rng.choice(SECRETS)(rng) for _ in range(slots)]
        if number % 8 == 3:
            found = [secret.translate(_FULL) for secret in found]
        if number % 8 == 5:
            found = [_hidden(secret, rng) for secret in found]
        made.append(Message(template.format(*found), tuple(found)))
    return made


def _hidden(secret: str, rng: random.Random) -> str:
    place = rng.randrange(1, len(secret))
    return secret[:place] + "\N{ZERO WIDTH SPACE}" + secret[place:]
