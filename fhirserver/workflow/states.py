"""Lifecycles as tables: which status may follow which.

The invariants of the reading network (I3, I4, I5) stand here; https://hl7.org/fhir/R4/task.html#statemachine
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhirserver.errors import Issue

PRIORITY_RANKS: Mapping[str, int] = {"stat": 0, "asap": 1, "urgent": 2, "routine": 3}

# https://hl7.org/fhir/R4/valueset-request-status.html
SERVICE_REQUEST: Mapping[str | None, frozenset[str]] = {
    None: frozenset(
        {"draft", "active", "on-hold", "unknown", "completed", "revoked"}
    ),  # the last two: imported, done elsewhere
    "draft": frozenset({"active", "on-hold", "revoked", "entered-in-error"}),
    "active": frozenset({"on-hold", "revoked", "completed", "entered-in-error"}),
    "on-hold": frozenset({"active", "revoked", "entered-in-error"}),
    "unknown": frozenset({"draft", "active", "on-hold", "revoked", "completed", "entered-in-error"}),
    "revoked": frozenset({"entered-in-error"}),
    # R4: completed has no further activity; a late ``active`` never re-opens it.
    "completed": frozenset({"entered-in-error"}),
    "entered-in-error": frozenset(),
}

# Release after start is ``failed``, before start ``cancelled``; there is no way back, the next owner gets a new attempt.
TASK: Mapping[str | None, frozenset[str]] = {
    None: frozenset(
        {
            "draft",
            "requested",
            "received",
            "accepted",
            "ready",
            "in-progress",
            "on-hold",
            "completed",
            "failed",
            "cancelled",
            "rejected",
        }
    ),
    "draft": frozenset({"requested", "cancelled", "entered-in-error"}),
    # to in-progress: accepted and started in one act; to completed: what is answered in one, such as an alert
    "requested": frozenset({"received", "accepted", "in-progress", "completed", "rejected", "cancelled", "entered-in-error"}),
    "received": frozenset({"accepted", "in-progress", "rejected", "cancelled", "entered-in-error"}),
    "accepted": frozenset({"in-progress", "cancelled", "rejected", "entered-in-error"}),
    "ready": frozenset({"in-progress", "cancelled", "entered-in-error"}),
    "in-progress": frozenset({"on-hold", "completed", "failed", "entered-in-error"}),
    "on-hold": frozenset({"in-progress", "failed", "entered-in-error"}),
    "rejected": frozenset({"entered-in-error"}),
    "cancelled": frozenset({"entered-in-error"}),
    "failed": frozenset({"entered-in-error"}),
    "completed": frozenset({"entered-in-error"}),
    "entered-in-error": frozenset(),
}

# I4: the status only moves forward. I9: a late lower status never overwrites a higher one.
_PUBLISHED = frozenset({"amended", "corrected", "appended", "entered-in-error"})
DIAGNOSTIC_REPORT: Mapping[str | None, frozenset[str]] = {
    None: frozenset(
        {"registered", "partial", "preliminary", "final", "amended", "corrected", "appended", "cancelled", "unknown"}
    ),
    "registered": frozenset({"partial", "preliminary", "final", "cancelled", "entered-in-error"}),
    "partial": frozenset({"preliminary", "final", "entered-in-error"}),
    "preliminary": frozenset({"final", "entered-in-error"}),
    "final": _PUBLISHED,
    "amended": _PUBLISHED,
    "corrected": _PUBLISHED,
    "appended": _PUBLISHED,
    "cancelled": frozenset({"entered-in-error"}),
    "unknown": frozenset({"registered", "partial", "preliminary", "final", "cancelled", "entered-in-error"}),
    "entered-in-error": frozenset(),
}

TABLES: Mapping[str, Mapping[str | None, frozenset[str]]] = {
    "ServiceRequest": SERVICE_REQUEST,
    "Task": TASK,
    "DiagnosticReport": DIAGNOSTIC_REPORT,
}

PUBLISHED = frozenset({"final", "amended", "corrected", "appended"})
OPEN_TASK = frozenset({"requested", "received", "accepted", "in-progress", "on-hold"})
OPEN_ORDER = frozenset({"draft", "active", "on-hold"})

# Where the coordination Task stands (businessStatus)
AWAITING_IMAGES = "awaiting-images"
READY_FOR_ASSIGNMENT = "ready-for-assignment"
AWAITING_ACCEPTANCE = "awaiting-acceptance"
ASSIGNED = "assigned"
READING = "reading"
AWAITING_INFORMATION = "awaiting-information"
AWAITING_SECOND_READ = "awaiting-second-read"
PRELIMINARY = "preliminary-outcome"
FORWARDED = "forwarded"
DELIVERED = "delivered"
ACKNOWLEDGED = "acknowledged"
CHANGED = "changed"
WITHDRAWN = "withdrawn"
CANCELLED = "cancelled"
# Beside those, as a second coding
AT_RISK, BREACHED = "sla-at-risk", "sla-breached"

# Whose turn it is: one owner's go at an order. An order has one open attempt of each kind (I1).
READ, SECOND_READ, ARBITRATION = "read", "second-read", "arbitration"
ATTEMPTS = frozenset({READ, SECOND_READ, ARBITRATION})


def allowed(kind: str, old: str | None, new: str) -> bool:
    return old == new or new in TABLES[kind].get(old, frozenset())


def transition(kind: str, old: str | None, new: str) -> list[Issue]:
    """What is wrong with going from ``old`` (None: it does not exist yet) to ``new``."""
    if allowed(kind, old, new):
        return []
    came = f"after {old}" if old else "at the start"
    following = ", ".join(sorted(TABLES[kind].get(old, ()))) or "nothing"
    return [Issue("business-rule", f"{kind}.status cannot be {new} {came}; possible: {following}.", f"{kind}.status")]


def status_rule(kind: str) -> Callable[[dict[str, Any] | None, dict[str, Any]], list[Issue]]:
    """The table as a rule on the resource itself."""
    return lambda old, new: transition(kind, old["status"] if old else None, new["status"])


def released(status: str) -> str:
    """How an attempt ends that its owner no longer has: before the start cancelled, after it failed."""
    return "failed" if status in ("in-progress", "on-hold") else "cancelled"
