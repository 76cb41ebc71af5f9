"""Answers of a QuestionnaireResponse: found, compared, and what they enable. Pure.

A response's structure was checked where it came in; what it says was not, so nothing here raises for it.
https://hl7.org/fhir/R4/questionnaireresponse.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from decimal import Decimal
from functools import cached_property
from operator import ge, gt, le, lt
from typing import Any

Document = dict[str, Any]
# (what it is, its value): equal ones are the same answer, only those of one kind are in an order
Comparable = tuple[str, Decimal | str]

DEPTH = 64
_KINDS = {
    "Boolean": "boolean",
    "Decimal": "number",
    "Integer": "number",
    "Date": "date",
    "DateTime": "date",
    "Time": "time",
    "String": "text",
    "Uri": "text",
    "Coding": "coding",
    "Quantity": "quantity",
    "Reference": "reference",
}
_CONTENT = {"Quantity": ("value",), "Coding": ("code", "display"), "Reference": ("reference", "identifier", "display")}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {">": gt, "<": lt, ">=": ge, "<=": le}
_UNORDERED = frozenset({"boolean", "coding", "display", "reference"})


def rows(node: Document, name: str = "item") -> list[Document]:
    found = node.get(name)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def link(item: Document) -> str:
    name = item.get("linkId")
    return name if isinstance(name, str) else ""


def named(item: Document) -> str:
    """What a person calls it."""
    text = item.get("text")
    return text if isinstance(text, str) and text.strip() else link(item)


def value(answer: Document, prefix: str = "value") -> tuple[str, Any] | None:
    """(type, value), if there is one that says something."""
    for key, found in answer.items():
        if key.startswith(prefix) and _says_something(key.removeprefix(prefix), found):
            return key.removeprefix(prefix), found
    return None


def _says_something(type_: str, found: Any) -> bool:
    if isinstance(found, dict):  # a unit without a number, a code system without a code
        return any(found.get(name) not in (None, "") for name in _CONTENT.get(type_, found))
    return bool(found.strip()) if isinstance(found, str) else found is not None


def walk(items: Iterable[Document]) -> Iterator[Document]:
    """Each item in order, with those beneath items and answers."""
    # By a stack: a generator in a generator would cost each item its depth
    stack = [iter(items)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            continue
        yield item
        below = [*rows(item), *(row for answer in rows(item, "answer") for row in rows(answer))]
        if below and len(stack) <= DEPTH:
            stack.append(iter(below))


def given(items: Iterable[Document]) -> dict[str, list[Document]]:
    """linkId -> the answers that say something, at any depth."""
    found: dict[str, list[Document]] = {}
    for item in walk(items):
        if said := [answer for answer in rows(item, "answer") if value(answer)]:
            found.setdefault(link(item), []).extend(said)
    return found


def says(item: Document) -> bool:
    return any(value(answer) for row in walk([item]) for answer in rows(row, "answer"))


def comparable(holder: Document, prefix: str = "value") -> Comparable | None:
    """A value in the form in which two are the same; nothing, where it has none (an attachment)."""
    type_, found = value(holder, prefix) or ("", None)
    kind = _KINDS.get(type_, "")
    if kind == "number":
        return _number(kind, found)
    if kind == "quantity" and isinstance(found, dict):
        unit = found.get("code") or found.get("unit") or ""
        return _number(f"quantity {found.get('comparator', '')}{unit}", found.get("value"))
    if kind == "coding" and isinstance(found, dict):
        if found.get("code"):
            return kind, f"{found.get('system', '')}|{found['code']}"
        return "display", str(found.get("display", ""))
    if kind == "reference" and isinstance(found, dict):
        return kind, str(found.get("reference", ""))
    if kind == "boolean":
        return kind, "true" if found is True else "false"
    return (kind, _instant(found) if kind == "date" else found) if kind and isinstance(found, str) else None


def _number(kind: str, found: Any) -> Comparable | None:
    if isinstance(found, bool) or not isinstance(found, int | float | Decimal):
        return None
    number = Decimal(found)
    return (kind, number) if number.is_finite() else None


def _instant(text: str) -> str:
    """One moment is one text, wherever its clock stands."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(timezone.utc).isoformat() if moment.tzinfo else text
    except (ValueError, OverflowError):
        return text


class Scope:
    """Items whose answers are near to one another; looked through only when a condition asks."""

    def __init__(self, items: list[Document], asked: Iterable[str] = ()) -> None:
        self._items, self._asked = items, asked

    @cached_property
    def answers(self) -> dict[str, list[Document]]:
        # A question asked here and not answered is not answered, whatever another group of the same kind says
        return {name: [] for name in self._asked} | given(self._items)


def enabled(question: Document, scopes: tuple[Scope, ...]) -> bool:
    """https://hl7.org/fhir/R4/questionnaire-definitions.html#Questionnaire.item.enableWhen"""
    held = [_holds(condition, scopes) for condition in rows(question, "enableWhen")]
    return (any(held) if question.get("enableBehavior") == "any" else all(held)) if held else True


def _holds(condition: Document, scopes: tuple[Scope, ...]) -> bool:
    asked, operator = str(condition.get("question")), str(condition.get("operator"))
    # "this refers to the nearest question occurrence"
    answers: list[Document] = next((scope.answers[asked] for scope in scopes if asked in scope.answers), [])
    if operator == "exists":
        return bool(answers) == (condition.get("answerBoolean") is not False)
    expected = comparable(condition, "answer")
    found = [one for answer in answers if (one := comparable(answer))]
    if operator in ("=", "!="):  # != is that no answer is equal, so it holds where there is none
        return (expected in found) == (operator == "=")
    order = _ORDERS.get(operator)
    return expected is not None and order is not None and any(_ordered(one, expected, order) for one in found)


def _ordered(one: Comparable, other: Comparable, order: Callable[[Any, Any], bool]) -> bool:
    if one[0] != other[0] or one[0] in _UNORDERED:
        return False
    first: Any = one[1]
    second: Any = other[1]
    if one[0] == "date":  # no more precise than the less precise of the two
        shorter = min(len(first), len(second))
        first, second = first[:shorter], second[:shorter]
    return order(first, second)
