"""DiagnosticReport: the result. Its status only moves forward; adds ``imaging-study``, which R4 lacks.

https://hl7.org/fhir/R4/diagnosticreport.html
"""

from __future__ import annotations

from fhirserver.definitions import ResourceType, SearchParam, never
from fhirserver.workflow import states

DIAGNOSTIC_REPORT = ResourceType(
    "DiagnosticReport",
    search=(
        SearchParam(
            "imaging-study",
            "reference",
            "DiagnosticReport.imagingStudy",
            ("ImagingStudy",),
            "urn:fhirserver:SearchParameter:DiagnosticReport-imaging-study",
            ("imagingStudy",),
        ),
    ),
    aliases={"basedOn": "based-on"},
    sorts=("date", "issued"),
    rules=(states.status_rule("DiagnosticReport"),),
    deletable=never,
)
