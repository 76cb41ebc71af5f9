"""Patient: two facilities' patients with the same local id stay two patients.

https://hl7.org/fhir/R4/patient.html
"""

from fhirserver.definitions import ResourceType, SearchParam

PATIENT = ResourceType(
    "Patient",
    search=tuple(
        SearchParam(
            kind,
            "reference",
            f"Patient.link.where(type='{kind}').other",
            ("Patient", "RelatedPerson"),
            f"urn:fhirserver:SearchParameter:Patient-{kind}",
        )
        for kind in ("replaced-by", "replaces")
    ),
    sorts=("family", "birthdate"),
    writers=("clerk", "referrer", "dispatcher"),
    referrers=(
        ("ServiceRequest", "subject"),
        ("ImagingStudy", "subject"),
        ("DiagnosticReport", "subject"),
        ("Task", "patient"),
        ("Consent", "patient"),
    ),
)
