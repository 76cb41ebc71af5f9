"""The report contract: does the response give what the facility's template demands? Pure.

https://hl7.org/fhir/R4/questionnaireresponse.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

from fhirserver.errors import Issue
from fhirserver.workflow import answers
from fhirserver.workflow.answers import DEPTH, Document, Scope, link, named, rows, says, value
from fhirserver.workflow.narrative import conclusion, differences, lines, narrative

__all__ = ["FREE_TEXT", "coded", "conclusion", "differences", "disagreements", "failures", "lines", "narrative"]

FREE_TEXT: Document = {
    "item": [
        {"linkId": "findings", "text": "Findings", "type": "text", "required": False},
        {"linkId": "impression", "text": "Impression", "type": "text", "required": True},
    ]
}
COMPARISON = "18834-2"
_PROBLEMS = 100
_LOINC = "http://loinc.org"
_ANSWERS = {
    "boolean": ("valueBoolean",),
    "decimal": ("valueDecimal", "valueInteger"),
    "integer": ("valueInteger",),
    "date": ("valueDate",),
    "dateTime": ("valueDateTime", "valueDate"),
    "time": ("valueTime",),
    "string": ("valueString",),
    "text": ("valueString",),
    "url": ("valueUri",),
    "choice": ("valueCoding",),
    "open-choice": ("valueCoding", "valueString"),
    "attachment": ("valueAttachment",),
    "reference": ("valueReference",),
    "quantity": ("valueQuantity",),
}
# What two readers can be seen to agree upon
_CODED = frozenset({"boolean", "decimal", "integer", "date", "dateTime", "time", "choice", "open-choice", "quantity"})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the response, and the answers that are near."""

    path: str
    scopes: tuple[Scope, ...] = ()
    depth: int = 0

    def item(self, position: int) -> str:
        return f"{self.path}.item[{position}]"

    def where(self, name: str) -> str:
        quoted = name.replace("\\", "\\\\").replace("'", "\\'")
        return f"{self.path}.item.where(linkId='{quoted}')"

    def below(self, path: str, *scopes: Scope) -> _Place:
        return _Place(path, (*scopes, *self.scopes), self.depth + 1)


_ROOT = _Place("QuestionnaireResponse")


def failures(template: Document, response: Document, language: str | None, *, priors: bool = False) -> list[Issue]:
    """Every item of the contract that is not met, by its place in the response; of a hopeless one the first hundred.

    ``priors``: there is something to compare with, so the comparison is to be told.
    """
    found = list(islice(_level(rows(template), rows(response), _ROOT), _PROBLEMS))
    if priors:
        found += _not_compared(template, response, found)
    given = response.get("language")
    if language and isinstance(given, str) and given.split("-")[0] != language.split("-")[0]:
        found.append(Issue("business-rule", f"The report is to be in {language}.", "QuestionnaireResponse.language"))
    if not conclusion(response):
        text = "A report has an impression: an item named impression or conclusion."
        found.append(Issue("required", text, "QuestionnaireResponse.item"))
    return found


def _level(wanted: list[Document], given: list[Document], above: _Place) -> Iterator[Issue]:
    if above.depth > DEPTH:
        yield Issue("too-long", f"Nested more than {DEPTH} deep.", above.path)
        return
    known = {link(question): question for question in wanted}
    at = _Place(above.path, (Scope(given, known), *above.scopes), above.depth)
    found: dict[str, list[tuple[int, Document]]] = {}
    for position, item in enumerate(given):
        if link(item) in known:
            found.setdefault(link(item), []).append((position, item))
        else:
            yield Issue("business-rule", "The template has no item of this name.", at.item(position))
    for name, question in known.items():
        yield from _question(question, found.get(name, []), at)


def _question(question: Document, found: list[tuple[int, Document]], at: _Place) -> Iterator[Issue]:
    if not answers.enabled(question, at.scopes):
        for position, item in found:
            if says(item):
                text = f"{named(question)} is not asked, after the other answers."
                yield Issue("business-rule", text, at.item(position))
    elif question.get("type") in ("group", "display"):
        for position, item in found:
            if rows(item, "answer"):
                yield Issue("business-rule", f"{named(question)} has no answer of its own.", f"{at.item(position)}.answer")
        if question["type"] == "group":
            yield from _group(question, found, at)
    else:
        yield from _answered(question, found, at)


def _group(question: Document, found: list[tuple[int, Document]], at: _Place) -> Iterator[Issue]:
    if len(found) > 1 and not question.get("repeats"):
        yield Issue("business-rule", f"{named(question)} is there once.", at.where(link(question)))
    # A draft has every question of its template: a group in which nothing was said is one that is not there
    told = [(position, group) for position, group in found if says(group)] or (found if question.get("required") else [])
    within = [issue for position, group in told for issue in _level(rows(question), rows(group), at.below(at.item(position)))]
    # "required groups must contain at least one child element"; what a group holds is asked where the group is
    if question.get("required") and not within and not any(says(group) for _, group in told):
        yield _missing(question, at)
    yield from within


def _missing(question: Document, at: _Place) -> Issue:
    return Issue("required", f"{named(question)} is required.", at.where(link(question)))


def _answered(question: Document, found: list[tuple[int, Document]], at: _Place) -> Iterator[Issue]:
    name = link(question)
    told = [
        (f"{at.item(position)}.answer" + (f"[{number}]" if len(rows(item, "answer")) > 1 else ""), answer)
        for position, item in found
        for number, answer in enumerate(rows(item, "answer"))
    ]
    if question.get("required") and not any(value(answer) for _, answer in told):
        yield _missing(question, at)
    if len(told) > 1 and not question.get("repeats"):
        yield Issue("business-rule", f"{named(question)} has one answer.", at.where(name))
    elif len(found) > 1:
        yield Issue("business-rule", f"{named(question)} is there once, with all its answers.", at.where(name))
    options = {option for row in rows(question, "answerOption") if (option := answers.comparable(row))}
    for path, answer in told:
        yield from _value(question, options, answer, path)
        if rows(question) or rows(answer):
            yield from _level(rows(question), rows(answer), at.below(path, Scope([{"linkId": name, "answer": [answer]}])))
    for position, item in found:
        if any(says(child) for child in rows(item)):
            text = "What belongs to an answer stands beneath it."
            yield Issue("business-rule", text, f"{at.item(position)}.item")


def _value(question: Document, options: set[answers.Comparable], answer: Document, path: str) -> Iterator[Issue]:
    type_ = str(question.get("type", "text"))
    chosen = {key for row in rows(question, "answerOption") for key in row if key.startswith("value")}
    allowed = {*_ANSWERS.get(type_, ())}
    if chosen and type_ == "choice":
        allowed = chosen
    elif type_ == "open-choice":
        allowed |= chosen
    if allowed and not any(key in answer for key in allowed):
        yield Issue("value", f"The answer is of type {type_}.", path)
        return
    other = type_ == "open-choice" and "valueString" in answer
    if options and value(answer) and not other and answers.comparable(answer) not in options:
        code = "code-invalid" if "valueCoding" in answer else "value"
        yield Issue(code, f"{named(question)} is one of the options of the template.", path)
    length, text = question.get("maxLength"), answer.get("valueString", answer.get("valueUri"))
    if isinstance(length, int) and isinstance(text, str) and len(text) > length:
        yield Issue("too-long", f"{named(question)} has at most {length} characters.", path)


def _not_compared(template: Document, response: Document, found: list[Issue]) -> Iterator[Issue]:
    """Whichever item of the template tells of the comparison: one that is answered is enough."""
    said = Scope(rows(response))
    asked = list(_comparisons(rows(template), _Place("QuestionnaireResponse", (said,))))
    if asked and not any(link(row) in said.answers for question, _ in asked for row in answers.walk([question])):
        question, at = asked[0]
        tail = _Place("").where(link(question))
        if not any(issue.code == "required" and (issue.expression or "").endswith(tail) for issue in found):
            text = f"{named(question)} is required: there is an earlier study to compare with."
            yield Issue("required", text, at.where(link(question)))


def _comparisons(questions: list[Document], at: _Place) -> Iterator[tuple[Document, _Place]]:
    if at.depth > DEPTH:
        return
    for question in questions:
        if question.get("type") == "display" or not answers.enabled(question, at.scopes):
            continue
        codes = {(code.get("system"), code.get("code")) for code in rows(question, "code")}
        if link(question) == "comparison" or (_LOINC, COMPARISON) in codes:
            yield question, at
        else:
            yield from _comparisons(rows(question), at.below(at.where(link(question))))


def coded(template: Document, response: Document) -> dict[str, frozenset[str]]:
    """linkId -> the answers to what is not free text, in a form to compare."""
    types = {link(question): question.get("type") for question in answers.walk(rows(template))}
    found: dict[str, frozenset[str]] = {}
    for name, said in answers.given(rows(response)).items():
        if types.get(name) in _CODED:
            compared = filter(None, map(answers.comparable, said))
            if texts := frozenset(_text(*one) for one in compared if one[0] != "text" or types[name] != "open-choice"):
                found[name] = texts
    return found


def _text(kind: str, compared: Decimal | str) -> str:
    if isinstance(compared, str):
        return compared
    unit = kind.removeprefix("number").removeprefix("quantity").strip()
    sign, digits, exponent = compared.as_tuple()
    # 5, 5.0 and 5.00 are one answer; not by normalize(), which rounds and overflows
    kept = "".join(map(str, digits)).rstrip("0")
    power = int(exponent) + len(digits) - len(kept)
    plain = f"{'-' if sign else ''}{kept}" + (f"e{power}" if power else "") if kept else "0"
    return f"{plain} {unit}".strip()


def disagreements(template: Document, first: Document, second: Document) -> list[str]:
    """The linkIds whose coded answers differ, in the template's order; answered by one only is differing."""
    one, other = coded(template, first), coded(template, second)
    names = dict.fromkeys(link(question) for question in answers.walk(rows(template)))
    return [name for name in names if one.get(name) != other.get(name)]
