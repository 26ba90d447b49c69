"""Personal data: usual forms are found, and numbers that are none stay."""

import pytest

from windlass.data.cleaning.personal import scrubbed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.org.", "write to <EMAIL>."),
        ("from 10.2.3.4 and fe80::1ff:fe23:4567:890a", "from <IP> and <IP>"),
        ("card 4111 1111 1111 1111, or 5500-0000-0000-0004", "card <CARD>, or <CARD>"),
        ("call +44 20 7946 0958 or (212) 555-0123 or 212-555-0123", "call <PHONE> or <PHONE> or <PHONE>"),
    ],
)
def test_what_identifies_people_is_replaced(text: str, expected: str) -> None:
    assert scrubbed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "listen on 127.0.0.1 and 0.0.0.0, version 1.2.3, or 1.2.3.4.5",
        "4111 1111 1111 1112 fails Luhn's test; 0000000000000000 is none",
        "2026-11-21 11:30:00 and 3.14159265 and 1,000,000 and std::vector a::b::c",
        "x = 10 + 20 + 30; range(100, 200)",
        "an @ alone, user@host",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert scrubbed(text) == text
