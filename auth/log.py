"""The log of accesses to a patient's record, as a page for those who may see it.

EHDS Regulation (EU) 2025/327, Article 9: https://eur-lex.europa.eu/eli/reg/2025/327
"""

from __future__ import annotations

from auth.records import Records, principal_of
from auth.visit import Shown, Visit, failure, page, see


class AccessLog:
    """Who saw it, when, and what of it."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def shown(self, visit: Visit) -> Shown:
        patient = (visit.query.get("patient") or "")[:64]
        if visit.session is None:
            return see("/auth/login", next=f"/auth/log?patient={patient}")
        found = self._records.accesses(principal_of(visit.person), patient)
        if found is None:
            return failure(visit, "focus", 404)
        title, rows = found
        return page(visit, "log", title=title, rows=rows, patient=patient)
