"""Invariants of R4's types that the structure tables do not hold: a table of small predicates.

Those that matter for orders, studies and reports; the table grows by rows. https://hl7.org/fhir/R4/conformance-rules.html#constraints
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhirserver.moments import span

Document = dict[str, Any]


def _in_order(period: Document) -> bool:
    start, end = period.get("start"), period.get("end")
    return not (isinstance(start, str) and isinstance(end, str)) or span(start)[0] < span(end)[1]


def _measured(observation: Document) -> bool:
    return "dataAbsentReason" not in observation or not any(key.startswith("value") for key in observation)


def _bundle_total(bundle: Document) -> bool:
    return "total" not in bundle or bundle.get("type") in ("searchset", "history")


def _document(bundle: Document) -> bool:
    entries = bundle.get("entry") or [{}]
    if bundle.get("type") != "document":
        return True
    first = entries[0].get("resource", {}) if isinstance(entries[0], dict) else {}
    return "identifier" in bundle and "timestamp" in bundle and first.get("resourceType") == "Composition"


# type -> (key of the standard, in words, what holds)
INVARIANTS: dict[str, tuple[tuple[str, str, Callable[[Document], bool]], ...]] = {
    "Period": (("per-1", "A period starts before it ends.", _in_order),),
    "Quantity": (("qty-3", "A coded unit has a system.", lambda q: "code" not in q or "system" in q),),
    "ContactPoint": (("cpt-2", "A contact point with a value has a system.", lambda c: "value" not in c or "system" in c),),
    "Attachment": (("att-1", "An attachment with data has a content type.", lambda a: "data" not in a or "contentType" in a),),
    "Observation": (("obs-6", "A data absent reason stands where there is no value.", _measured),),
    "Patient.contact": (
        (
            "pat-1",
            "A contact has a name, address, telecom or organization.",
            lambda c: bool({"name", "telecom", "address", "organization"} & set(c)),
        ),
    ),
    "Organization": (
        ("org-1", "An organization has a name or an identifier.", lambda o: bool({"name", "identifier"} & set(o))),
    ),
    "Bundle": (
        ("bdl-1", "A total stands in a searchset or history.", _bundle_total),
        ("bdl-9", "A document has an identifier, a timestamp and begins with its Composition.", _document),
    ),
    "ImagingStudy.series.instance": (
        (
            "uid",
            "The UID of an instance is one of DICOM, without urn:oid.",
            lambda i: not str(i.get("uid", "")).startswith("urn:"),
        ),
    ),
}
