"""How much do two descriptions of a person agree? Pure. A number between 0 and 1, and the standard's word for it.

What agrees weighs for the two being one, what contradicts weighs against it, what one side lacks says nothing.
https://hl7.org/fhir/R4/valueset-match-grade.html
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from fhirserver import countries

Document = dict[str, Any]

CERTAIN, PROBABLE, POSSIBLE = 0.95, 0.8, 0.5
_WITHOUT_NUMBER = 0.94  # nothing is certain without a number that agrees
# What is: (agreeing, contradicting). Twins share all but the given name; fathers and sons all but the birth date.
_WEIGHTS = {
    "identifier": (10.0, 0.0),
    "family": (3.0, 3.0),
    "given": (3.0, 5.0),
    "birthDate": (4.0, 6.0),
    "gender": (0.5, 4.0),
    "telecom": (2.5, 0.0),
    "postalCode": (1.5, 0.5),
}
_ENOUGH = 12.0  # of agreement: a number and something beside it
_TWO_PEOPLE = 20.0  # two different numbers of a kind of which a person has one


def resemblance(asked: Document, known: Document) -> float:
    """0: nothing speaks for it; 1: all that both sides say agrees, and it is enough."""
    agreeing = contradicting = 0.0
    for name, (weight, against) in _WEIGHTS.items():
        verdict = _agree(name, asked, known)
        agreeing += weight if verdict else 0.0
        contradicting += against if verdict is False else 0.0
    if _two_people(asked, known):
        contradicting += _TWO_PEOPLE
    if not agreeing:
        return 0.0
    score = min(1.0, agreeing / _ENOUGH) * agreeing / (agreeing + contradicting)
    return score if _agree("identifier", asked, known) else min(score, _WITHOUT_NUMBER)


def grade(score: float) -> str:
    for least, word in ((CERTAIN, "certain"), (PROBABLE, "probable"), (POSSIBLE, "possible")):
        if score >= least:
            return word
    return "certainly-not"


def _two_people(asked: Document, known: Document) -> bool:
    """A personal number of the same kind, and not the same."""
    mine, theirs = _personal(asked), _personal(known)
    return any(mine[system].isdisjoint(theirs[system]) for system in mine.keys() & theirs.keys())


def _personal(patient: Document) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in _numbers(patient):
        number = countries.NUMBERS.get(row.get("system", ""))
        if number and number.personal:
            found.setdefault(number.system, set()).add(row["value"])
    return found


def _numbers(patient: Document) -> list[Document]:
    return [row for row in patient.get("identifier", ()) if row.get("use") not in ("old", "temp") and "value" in row]


def _agree(name: str, asked: Document, known: Document) -> bool | None:
    """None where one side does not say."""
    mine, theirs = _said(name, asked), _said(name, known)
    if not mine or not theirs:
        return None
    if name == "birthDate":  # as far as both go: 1970 agrees with 1970-03-01
        return any(a.startswith(b) or b.startswith(a) for a in mine for b in theirs)
    if name == "gender" and "unknown" in mine | theirs:
        return None
    return bool(mine & theirs)


def _said(name: str, patient: Document) -> set[str]:
    names = patient.get("name", ())
    match name:
        case "identifier":
            return {f"{row.get('system', '')}|{row['value']}" for row in _numbers(patient)}
        case "family":
            return _folded(human.get("family") for human in names)
        case "given":
            return _folded(given for human in names for given in human.get("given", ())[:1])
        case "telecom":
            contacts = (c for c in patient.get("telecom", ()) if c.get("system") in ("phone", "email"))
            return {"".join(c.get("value", "").casefold().split()).replace("-", "") for c in contacts if c.get("value")}
        case "postalCode":
            return _folded(address.get("postalCode") for address in patient.get("address", ()))
        case _:
            return {patient[name]} if patient.get(name) else set()


def _folded(texts: Iterable[Any]) -> set[str]:
    found = set()
    for text in texts:
        if isinstance(text, str):
            decomposed = unicodedata.normalize("NFKD", text.casefold()).translate(str.maketrans("łđø", "ldo"))
            found.add("".join(c for c in decomposed if c.isalnum() and not unicodedata.combining(c)))
    return found - {""}
