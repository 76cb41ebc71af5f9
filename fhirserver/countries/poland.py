"""Poland: PESEL of people, the numbers of doctors and of providers.

Namespaces: https://ezdrowie.gov.pl (the P1 platform's OIDs below 2.16.840.1.113883.3.4424)
"""

from __future__ import annotations

import re

from stdnum.pl import pesel

from fhirserver.countries.number import Number

_P1 = "urn:oid:2.16.840.1.113883.3.4424"


def _is_pesel(text: str) -> bool:
    return re.fullmatch("[0-9]{11}", text) is not None and pesel.is_valid(text)


def _is_doctors(text: str) -> bool:
    """The first digit is the sum of the others, each by its place, modulo 11; none begins with 0.

    https://nil.org.pl/rejestry/centralny-rejestr-lekarzy/zasady-weryfikowania-nr-prawa-wykonywania-zawodu
    """
    if not re.fullmatch("[1-9][0-9]{6}", text):
        return False
    return sum(place * int(digit) for place, digit in enumerate(text[1:], 1)) % 11 == int(text[0])


def _is_providers(text: str) -> bool:
    return re.fullmatch("[0-9]{12}", text) is not None


NUMBERS = (
    Number(f"{_P1}.1.1.616", "PESEL", "eleven digits, a date of birth in them, the last one a check digit", _is_pesel, True),
    Number(
        f"{_P1}.1.6.2", "number of the right to practise (NPWZ)", "seven digits, the first one a check digit", _is_doctors, True
    ),
    Number(f"{_P1}.2.3.1", "number in the register of providers (RPWDL)", "twelve digits", _is_providers),
)
