"""ChargeItem/$statement: what was read in a month, for the bill; CSV, a line a reading."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from fhirserver import access, roster, work
from fhirserver.closing import CHARGE, CHARGE_DETAIL
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Invalid, TooCostly
from fhirserver.messages import Context, Reply, Request
from fhirserver.search.query import plain
from fhirserver.validation import Document, dumps
from fhirserver.workflow import coding

COLUMNS = (
    "performing",
    "requesting",
    "reader",
    "date",
    "kind",
    "modality",
    "regions",
    "priority",
    "time band",
    "report",
    "status",
)
_MOST = 50_000
_FORMULA = frozenset("=+-@\t\r\n")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    roster.require_role(ctx, "administrator", "dispatcher", "clerk")
    month = inputs["month"]
    if not re.fullmatch(r"[12]\d{3}-(0[1-9]|1[0-2])", month):
        raise Invalid("month is YYYY-MM.", "Parameters.parameter")
    asked: list[tuple[str, str]] = [("code", f"{CHARGE}|"), *_around(month)]
    for name, parameter in (("organization", "requesting-organization"), ("reader", "performer-actor")):
        if name in inputs:
            asked.append((parameter, inputs[name].get("reference", "")))
    item = ctx.store.types["ChargeItem"]
    found = ctx.store.search(plain(item, *asked), access.visible(ctx.principal, item, "s"), _MOST + 1)
    if len(found) > _MOST:
        raise TooCostly(f"More than {_MOST} readings; ask for each organization by itself.", "Parameters.parameter")
    charges = [(stored, work.opened(ctx, stored).data) for stored in found]
    charges = [(stored, data) for stored, data in charges if str(data.get("occurrenceDateTime", "")).startswith(month)]
    rows = sorted(_row(data) for _, data in charges)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    body: Document = {
        "resourceType": "Binary",
        "contentType": "text/csv",
        "data": base64.b64encode(text.getvalue().encode()).decode(),
    }
    return Reply(200, dumps(body), touched=tuple(stored.touched for stored, _ in charges))


def _around(month: str) -> list[tuple[str, str]]:
    """A day more at both ends: a month begins and ends by the wall clock that each charge is told by."""
    first = date.fromisoformat(f"{month}-01")
    last = first + timedelta(days=32)
    return [("occurrence", f"ge{first - timedelta(days=1)}"), ("occurrence", f"le{last.replace(day=1)}")]


def _row(charge: Document) -> tuple[str, ...]:
    details: dict[str, list[str]] = {}
    for extension in charge.get("extension", ()):
        if extension["url"] == CHARGE_DETAIL:
            for one in extension.get("extension", ()):
                details.setdefault(one["url"], []).append(one.get("valueCode", ""))
    kind = next(iter(coding.codes(charge["code"], CHARGE)), "")
    cells = (
        work.organization(charge.get("performingOrganization")) or "",
        work.organization(charge.get("requestingOrganization")) or "",
        next((one["actor"].get("reference", "") for one in charge.get("performer", ())), ""),
        charge["occurrenceDateTime"],
        kind,
        " ".join(details.get("modality", ())),
        str(charge.get("quantity", {}).get("value", "")),
        " ".join(details.get("priority", ())),
        " ".join(details.get("timeBand", ())),
        next((one.get("reference", "") for one in charge.get("service", ())), ""),
        charge["status"],
    )
    return tuple(_safe(cell) for cell in cells)


def _safe(cell: str) -> str:
    """A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{cell}" if cell[:1] in _FORMULA else cell


STATEMENT = Operation(
    code="statement",
    type="ChargeItem",
    levels=("type",),
    title="What was read in a month",
    affects_state=False,
    inputs=(
        Parameter("month", "string", 1, documentation="YYYY-MM, by the agreement's time zone"),
        Parameter("organization", "Reference", documentation="the facility that asked", targets=("Organization",)),
        Parameter("reader", "Reference", documentation="PractitionerRole", targets=("PractitionerRole",)),
    ),
    outputs=(Parameter("return", "Binary", 1, documentation="text/csv"),),
    handler=operate,
    description="By who may read the charges: the organisation that read, or the one that asked. 422 no month.",
)
