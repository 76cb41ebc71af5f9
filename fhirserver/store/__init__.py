"""Versions, index and transactions in MongoDB. The only user of pymongo on this side.

Every type has one *current* collection, and one insert-only ``history`` collection holds every version of all types, the
current one too; both are written in one transaction with the Provenance and AuditEvent of the change. ``history`` is also
the outbox that change streams read.
"""

from fhirserver.store.database import MAX_INDEXES, Index, translated
from fhirserver.store.reading import Asked, Versions
from fhirserver.store.writing import Store

__all__ = ["MAX_INDEXES", "Asked", "Index", "Store", "Versions", "translated"]
