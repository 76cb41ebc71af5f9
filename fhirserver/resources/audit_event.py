"""AuditEvent: written by the server alone, never changed.

https://hl7.org/fhir/R4/auditevent.html
"""

from fhirserver.definitions import ResourceType

AUDIT_EVENT = ResourceType("AuditEvent", sorts=("date",), insert_only=True)
