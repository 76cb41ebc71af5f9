"""JSON Patch. https://www.rfc-editor.org/rfc/rfc6902"""

from __future__ import annotations

from typing import Any

import jsonpatch

from fhirserver.errors import Invalid, Issue, TooLarge
from fhirserver.validation import MAX_RESOURCE, dumps

_MOST = 1000


def patched(document: Any, operations: Any) -> Any:
    """The document, changed in place. Errors: 422 naming the operation that does not apply; 413."""
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise _wrong("A JSON Patch is a list of operations.", None)
    if len(operations) > _MOST:
        raise TooLarge(f"A patch has at most {_MOST} operations.")
    for number, operation in enumerate(operations):
        try:
            document = jsonpatch.JsonPatch([operation]).apply(document, in_place=True)
        except jsonpatch.JsonPatchTestFailed:
            raise _wrong("The test does not hold.", number) from None
        except (
            jsonpatch.JsonPatchException,
            jsonpatch.JsonPointerException,
            TypeError,
            KeyError,
            ValueError,
            IndexError,
            AttributeError,
        ):
            raise _wrong("The operation is not one of RFC 6902, or there is nothing at its path.", number) from None
        if operation.get("op") == "copy" and len(dumps(document)) > MAX_RESOURCE:
            raise TooLarge("The patch makes the resource too large.")
    return document


def _wrong(text: str, number: int | None) -> Invalid:
    where = text if number is None else f"Operation {number} of the patch: {text}"
    return Invalid(where, issues=[Issue("processing", where)])
