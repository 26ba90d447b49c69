"""Personal data: e-mail addresses, IP addresses, payment cards and phone numbers become names in angle brackets.

Rules find what is written in usual forms; they know no names and no addresses of houses, and miss what is disguised.
"""

import ipaddress
import re

_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+\b")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"  # +44 20 7946 0958
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?![\w/-])"  # (212) 555-0123, 212-555-0123
)


def scrubbed(text: str) -> str:
    """Return the text with <EMAIL>, <IP>, <CARD> and <PHONE> in the place of what looks like one.

    Cards pass Luhn's test; addresses parse as public or private hosts, and 127.0.0.1, 0.0.0.0 and :: stay.
    """
    text = _EMAIL.sub("<EMAIL>", text) if "@" in text else text
    text = _IPV6.sub(_ip, _IPV4.sub(_ip, text))
    return _PHONE.sub(_phone, _CARD.sub(_card, text))


def _ip(match: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]
    return match[0] if address.is_loopback or address.is_unspecified else "<IP>"


def _card(match: re.Match[str]) -> str:
    digits = [int(digit) for digit in match[0] if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    is_card = len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0  # Luhn, ISO/IEC 7812-1
    return "<CARD>" if is_card else match[0]


def _phone(match: re.Match[str]) -> str:
    return "<PHONE>" if 7 <= sum(map(str.isdigit, match[0])) <= 15 else match[0]  # E.164
