"""QuestionnaireResponse: a report's draft while in progress, then read by its author alone.

https://hl7.org/fhir/R4/questionnaireresponse.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.errors import Issue

DRAFTS = "urn:fhirserver:draft"


def _author_while_draft(owner: str, response: dict[str, Any]) -> list[str]:
    author = response.get("author", {}).get("reference", "")
    if response.get("status") in ("in-progress", "stopped") and author.startswith("Practitioner/"):
        return [author.replace("Practitioner/", "practitioner/", 1) + f"@org/{owner}"]
    return [f"org/{owner}"]


def is_draft(response: dict[str, Any]) -> bool:
    """A report's draft, made by $start-report."""
    return bool(response.get("identifier", {}).get("system") == DRAFTS)


def _draft_of_its_reading(old: dict[str, Any] | None, new: dict[str, Any]) -> list[Issue]:
    """Whose it is, of whom and by which template does not change with the answers; it is completed by signing."""
    if not (is_draft(new) or (old and is_draft(old))):
        return []
    before = old or {}
    changed = [
        name
        for name in ("identifier", "questionnaire", "author", "subject", "basedOn")
        if old and new.get(name) != before.get(name)
    ]
    return [
        Issue("business-rule", "This is set for the draft of a report.", f"QuestionnaireResponse.{name}") for name in changed
    ]


QUESTIONNAIRE_RESPONSE = ResourceType(
    "QuestionnaireResponse",
    sorts=("authored",),
    base_keys=_author_while_draft,
    rules=(_draft_of_its_reading,),
    deletable=lambda response: not is_draft(response),
)
