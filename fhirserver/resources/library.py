"""Library: what a facility and its reading centre agreed, and a centre's assignment policy, as JSON; checked when written.

https://hl7.org/fhir/R4/library.html
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.errors import Issue
from fhirserver.workflow import agreement, policy

_CONTENTS: dict[str, Callable[[bytes], Any]] = {agreement.AGREEMENTS: agreement.parsed, policy.POLICIES: policy.parsed}


def _kinds(library: dict[str, Any]) -> list[tuple[str, str]]:
    """(system, value) of the identifiers by which the server finds it."""
    rows = ((i.get("system", ""), i.get("value", "")) for i in library.get("identifier", ()))
    return [row for row in rows if row[0] in _CONTENTS]


def _understood(_: dict[str, Any] | None, library: dict[str, Any]) -> list[Issue]:
    """What could not be followed is refused where it is written, not found out when a reading is late."""
    if library.get("status") != "active":
        return []
    found = []
    for system, _value in _kinds(library):
        attachments = library.get("content", [])
        if len(attachments) != 1 or "data" not in attachments[0]:
            found.append(Issue("required", "The content is one attachment with data: JSON.", "Library.content"))
            continue
        try:
            _CONTENTS[system](base64.b64decode(attachments[0]["data"], validate=True))
        except (ValueError, binascii.Error) as error:
            found.append(Issue("invalid", f"The content is not understood: {error}", "Library.content[0].data"))
    return found


def _both(owner: str, library: dict[str, Any]) -> list[str]:
    """An agreement is read by the two that made it."""
    others = [f"org/{value}" for system, value in _kinds(library) if system == agreement.AGREEMENTS]
    return list(dict.fromkeys([f"org/{owner}", *others]))


def _in_force_once(library: dict[str, Any]) -> list[str]:
    return [f"{system}|{value}" for system, value in _kinds(library)] if library.get("status") == "active" else []


LIBRARY = ResourceType(
    "Library", base_keys=_both, rules=(_understood,), writers=("administrator",), unique=_in_force_once
)  # fmt: skip
