"""QuestionnaireResponse: a report's draft while in progress, then read by its author alone.

https://hl7.org/fhir/R4/questionnaireresponse.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType


def _author_while_draft(owner: str, response: dict[str, Any]) -> list[str]:
    author = response.get("author", {}).get("reference", "")
    if response.get("status") == "in-progress" and author.startswith("Practitioner/"):
        return [author.replace("Practitioner/", "practitioner/", 1)]
    return [f"org/{owner}"]


QUESTIONNAIRE_RESPONSE = ResourceType("QuestionnaireResponse", sorts=("authored",), base_keys=_author_while_draft)
