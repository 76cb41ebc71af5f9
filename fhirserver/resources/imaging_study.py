"""ImagingStudy: what the archive holds of a study. A StudyInstanceUID is used once by a facility.

https://hl7.org/fhir/R4/imagingstudy.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType, never


def _study_uids(study: dict[str, Any]) -> list[str]:
    return [
        f"UID|{identifier['value']}"
        for identifier in study.get("identifier", ())
        if identifier.get("system") == "urn:dicom:uid" and "value" in identifier
    ]


IMAGING_STUDY = ResourceType(
    "ImagingStudy",
    # IHE IMR and the EU profiles write these; R4's codes are the ones published.
    aliases={"based-on": "basedon", "basedOn": "basedon", "body-site": "bodysite"},
    left_out={"instance": "a study has thousands; the archive answers, /dicomweb/instances?SOPInstanceUID=…"},
    sorts=("started",),
    deletable=never,
    writers=("clerk", "referrer", "dispatcher"),
    unique=_study_uids,
)
