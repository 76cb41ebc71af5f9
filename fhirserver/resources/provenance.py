"""Provenance: made with each write by the server, never changed.

https://hl7.org/fhir/R4/provenance.html
"""

from fhirserver.definitions import ResourceType

PROVENANCE = ResourceType("Provenance", sorts=("recorded",), insert_only=True)
