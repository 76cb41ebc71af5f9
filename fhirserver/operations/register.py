"""ImagingStudy/$register: tell of a study that is kept elsewhere, or is complete; it is matched to its order like an upload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fhirserver import access, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BadRequest, BusinessRule, Conflict
from fhirserver.following import follow_order
from fhirserver.interactions import put, unchanged
from fhirserver.messages import Context, Request
from fhirserver.search.reference import relative
from fhirserver.validation import Document, built
from fhirserver.versions import Stored, Write
from fhirserver.work import Item
from fhirserver.workflow import coding

_UID = re.compile(r"(?:urn:oid:)?([0-2](?:\.(?:0|[1-9]\d*))+)")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    roster.require_role(ctx, "clerk", "referrer", "dispatcher")
    if ("study" in inputs) == ("studyInstanceUid" in inputs):
        raise BadRequest("Give exactly one of study and studyInstanceUid.", "Parameters.parameter")
    given: Document = relative(dict(inputs.get("study", {})), ctx.base)
    access.resolvable(ctx, [("ImagingStudy", given)])
    uid = _uid(inputs, given)
    facility = ctx.principal.organization
    current = _current(ctx, facility, uid)
    order = _order(ctx, inputs.get("order"), given, facility)
    document = _document(ctx, current, given, uid, order, inputs)
    if current is not None and current.data["subject"] != document["subject"]:
        raise Conflict("The study is known, for another patient.")
    study = ctx.store.types["ImagingStudy"]
    id_ = current.stored.id if current else ctx.new_id()
    resource, before = built(document), current.stored if current else None
    if before is not None and unchanged(resource, before):
        write: Write | Stored = before
    else:
        write = put(ctx, study, resource, id_, before, "PUT" if before else "POST")
    orders = [one for one in work.based_on(document) if one.startswith("ServiceRequest/")]
    for reference in orders:
        if not follow_order(ctx, facility, reference, id_, document):
            raise BusinessRule("The study and the order are of two patients.", "Parameters.parameter")
    found = work.item(ctx, orders[0]) if orders else None
    return {"study": write, **({"order": found.stored} if found else {})}


def _uid(inputs: Mapping[str, Any], given: Document) -> str:
    """Errors: 400 for what is no StudyInstanceUID."""
    named = [i.get("value", "") for i in given.get("identifier", ()) if i.get("system") == "urn:dicom:uid"]
    text = inputs.get("studyInstanceUid") or next(iter(named), "")
    match = _UID.fullmatch(text)
    if match is None or len(match[1]) > 64:
        raise BadRequest("A study is named by its StudyInstanceUID.", "Parameters.parameter")
    return match[1]


def _current(ctx: Context, facility: str, uid: str) -> Item | None:
    rows = work.items(ctx, (facility,), "ImagingStudy", ("identifier", f"urn:dicom:uid|urn:oid:{uid}"))
    return rows[0] if rows else None


def _order(ctx: Context, named: Document | None, given: Document, facility: str) -> Item | None:
    """The one that is named; else the one whose accession number the study has, for the same patient."""
    if named is not None:
        order = work.item(ctx, named.get("reference", ""))
        if order is None or order.stored.type != "ServiceRequest" or order.stored.owner != facility:
            raise BusinessRule("order is a ServiceRequest of yours.", "Parameters.parameter")
        return order
    numbers = [i["value"] for i in given.get("identifier", ()) if "ACSN" in coding.codes(i.get("type")) and "value" in i]
    rows = work.identified(ctx, facility, "ServiceRequest", *numbers) if numbers else []
    open_ = [row for row in rows if row.status in ("draft", "active", "on-hold", "completed")]
    same = [row for row in open_ if "subject" not in given or row.data["subject"] == given["subject"]]
    if open_ and not same:
        raise BusinessRule("The accession number is that of an order for another patient.", "Parameters.parameter")
    return same[0] if len(same) == 1 else None


def _document(
    ctx: Context, current: Item | None, given: Document, uid: str, order: Item | None, inputs: Mapping[str, Any]
) -> Document:  # fmt: skip
    known: Document = current.data if current else {}
    subject = given.get("subject") or known.get("subject") or (order.data["subject"] if order else None)
    if subject is None:
        raise BusinessRule("Whose study is it? Give a study with its subject, or the order.", "Parameters.parameter")
    linked = list(dict.fromkeys([*work.based_on(known), *work.based_on(given), *([order.reference] if order else [])]))
    others = [i for i in (given or known).get("identifier", ()) if i.get("system") != "urn:dicom:uid"]
    complete = inputs.get("complete", False) or known.get("status") == "available" or given.get("status") == "available"
    document = known | {name: value for name, value in given.items() if name not in ("id", "meta")}
    document |= {
        "resourceType": "ImagingStudy",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}, *others],
        "status": "available" if complete else "registered",
        "subject": subject,
        **({"basedOn": [{"reference": one} for one in linked]} if linked else {}),
    }
    if "endpoint" in inputs:
        endpoints = [one for one in document.get("endpoint", ()) if one != inputs["endpoint"]]
        document["endpoint"] = [*endpoints, inputs["endpoint"]]
    return document


REGISTER = Operation(
    code="register",
    type="ImagingStudy",
    levels=("type",),
    title="Register a study and match it to an order",
    affects_state=True,
    inputs=(
        Parameter("study", "ImagingStudy", documentation="a ready-made resource; or studyInstanceUid"),
        Parameter("studyInstanceUid", "string", documentation="a UID, with or without urn:oid:"),
        Parameter("endpoint", "Reference", documentation="Endpoint where it can be had", targets=("Endpoint",)),
        Parameter("order", "Reference", documentation="force the link", targets=("ServiceRequest",)),
        Parameter("complete", "boolean", documentation="all instances are there: it is available, and the clock starts"),
    ),
    outputs=(Parameter("study", "ImagingStudy", 1), Parameter("order", "ServiceRequest")),
    handler=operate,
    description="By the facility. 400 no UID; 409 the study is another patient's; 422 the order is.",
)
