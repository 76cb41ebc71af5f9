"""The report contract: does the response give what the facility's template demands? Pure.

https://hl7.org/fhir/R4/questionnaireresponse.html
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from fhirserver.errors import Issue

Document = dict[str, Any]

# Where the conclusion is, in the order of preference, when a template does not use these names
IMPRESSION = ("impression", "conclusion", "19005-8")
FREE_TEXT: Document = {
    "item": [
        {"linkId": "findings", "text": "Findings", "type": "text", "required": False},
        {"linkId": "impression", "text": "Impression", "type": "text", "required": True},
    ]
}
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


def failures(template: Document, response: Document, language: str | None) -> list[Issue]:
    """Every item of the contract that is not met, by its place in the response."""
    found = list(_items(template.get("item", ()), response.get("item", ()), "QuestionnaireResponse"))
    if language and response.get("language") and response["language"].split("-")[0] != language.split("-")[0]:
        found.append(Issue("business-rule", f"The report is to be in {language}.", "QuestionnaireResponse.language"))
    if not conclusion(response):
        found.append(
            Issue(
                "required", "A report has an impression: an item named impression or conclusion.", "QuestionnaireResponse.item"
            )
        )
    return found


def _items(wanted: Any, given: Any, path: str) -> Iterator[Issue]:
    known = {item["linkId"]: item for item in wanted}
    for position, item in enumerate(given):
        if item["linkId"] not in known:
            yield Issue("business-rule", "The template has no item of this name.", f"{path}.item[{position}]")
    for item in wanted:
        found = [(position, answer) for position, answer in enumerate(given) if answer["linkId"] == item["linkId"]]
        where = f"{path}.item.where(linkId='{item['linkId']}')"
        if item.get("type") == "group":
            if not found and item.get("required"):
                yield Issue("required", f"{item.get('text', item['linkId'])} is required.", where)
            for position, group in found or [(0, {})] if found else []:
                yield from _items(item.get("item", ()), group.get("item", ()), f"{path}.item[{position}]")
            continue
        yield from _answers(item, found, path, where)


def _answers(item: Document, found: list[tuple[int, Document]], path: str, where: str) -> Iterator[Issue]:
    answers = [(position, answer) for position, one in found for answer in one.get("answer", ())]
    if item.get("type") == "display":
        return
    if item.get("required") and not any(_said(answer) for _, answer in answers):
        yield Issue("required", f"{item.get('text', item['linkId'])} is required.", where)
    if len(answers) > 1 and not item.get("repeats"):
        yield Issue("business-rule", f"{item.get('text', item['linkId'])} has one answer.", where)
    allowed = _ANSWERS.get(item.get("type", "text"), ())
    for position, answer in answers:
        if allowed and not any(key in answer for key in allowed):
            yield Issue("value", f"The answer is a {item['type']}.", f"{path}.item[{position}].answer")


def _said(answer: Document) -> bool:
    return any(
        value not in (None, "") and not (isinstance(value, str) and value.isspace())
        for key, value in answer.items()
        if key.startswith("value")
    )


def lines(response: Document) -> Iterator[tuple[str, str, str]]:
    """(linkId, heading, text) of every answered item, in order."""
    for item in response.get("item", ()):
        text = "; ".join(_told(answer) for answer in item.get("answer", ()) if _said(answer))
        if text:
            yield item["linkId"], item.get("text", item["linkId"]), text
        yield from lines(item)


def _told(answer: Document) -> str:
    value = next(value for key, value in answer.items() if key.startswith("value"))
    if isinstance(value, dict):
        number = f"{value['value']} {value.get('unit', '')}".strip() if "value" in value else None
        return str(value.get("display") or value.get("text") or number or value.get("code") or value.get("reference") or "")
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def conclusion(response: Document) -> str | None:
    said = {link: text for link, _, text in lines(response)}
    return next((said[name] for name in IMPRESSION if name in said), None)


def narrative(response: Document) -> str:
    """XHTML of the whole report."""
    blocks = (f"<h3>{html.escape(heading)}</h3><p>{html.escape(text)}</p>" for _, heading, text in lines(response))
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{"".join(blocks)}</div>'
