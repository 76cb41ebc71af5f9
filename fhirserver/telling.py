"""Telling people: Communications, to whom something is told, and who may read it.

https://hl7.org/fhir/R4/communication.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fhirserver import work
from fhirserver.messages import Context
from fhirserver.validation import Document
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding

CATEGORY = "urn:fhirserver:CodeSystem:communication-category"


def tell(
    ctx: Context, category: str, text: str, recipients: Iterable[Document], about: Iterable[str], owner: str, readers: Iterable[str] = (), **members: Any
) -> Write:  # fmt: skip
    """A Communication: owned by ``owner``, read by these organisations too, because of the order that it is about."""
    references = list(dict.fromkeys(about))
    document: Document = {
        "resourceType": "Communication",
        "status": "completed",
        "category": [coding.concept(CATEGORY, category)],
        "about": [{"reference": reference} for reference in references],
        "sent": work.timestamp(ctx.now),
        "payload": [{"contentString": text}],
        **({"recipient": rows} if (rows := [r for r in recipients if "reference" in r or "display" in r]) else {}),
        **members,
    }
    made = work.make(ctx, document, owner)
    reason = next((reference for reference in references if reference.startswith("ServiceRequest/")), references[0])
    made.grants += [Grant(reason, f"org/{reader}").document() for reader in dict.fromkeys(readers) if reader != owner]
    return made


def tell_owner(ctx: Context, t0: Item, order: str, changed: list[str]) -> list[Write]:
    """The placer changed an order that is being worked on: its reader is told, by element and not by content."""
    found = []
    for one in work.chain(ctx, t0):
        fulfiller = work.organization(one.data.get("owner")) or ""
        owners = [a.data["owner"] for a in work.open_attempts(ctx, one)] or [one.data["owner"]]
        text = f"The facility changed the order: {', '.join(changed)}. Look at it before you sign."
        found.append(tell(ctx, "order-changed", text, owners, [order, one.reference], fulfiller))
    return found
