"""Patient: two facilities' patients with the same local id stay two patients.

https://hl7.org/fhir/R4/patient.html
"""

from fhirserver.definitions import ResourceType

PATIENT = ResourceType(
    "Patient",
    sorts=("family", "birthdate"),
    writers=("clerk", "referrer", "dispatcher"),
    referrers=(
        ("ServiceRequest", "subject"),
        ("ImagingStudy", "subject"),
        ("DiagnosticReport", "subject"),
        ("Task", "patient"),
    ),
)
