"""The attributes that are indexed, searched and returned: one table.

PS3.18 Tables 10.6.1-5 and 10.6.3-3 to -5: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.6.html
"""

from __future__ import annotations

from dataclasses import dataclass

STUDY, SERIES, INSTANCE = "study", "series", "instance"
LEVELS = (STUDY, SERIES, INSTANCE)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A row: keyword, tag, VR, the level that it belongs to."""

    keyword: str
    tag: str
    vr: str
    level: str


ATTRIBUTES = tuple(
    Attribute(keyword, tag, vr, level)
    for keyword, tag, vr, level in (
        ("SpecificCharacterSet", "00080005", "CS", STUDY),
        ("StudyDate", "00080020", "DA", STUDY),
        ("StudyTime", "00080030", "TM", STUDY),
        ("AccessionNumber", "00080050", "SH", STUDY),
        ("InstanceAvailability", "00080056", "CS", STUDY),
        ("ModalitiesInStudy", "00080061", "CS", STUDY),
        ("SOPClassesInStudy", "00080062", "UI", STUDY),
        ("ReferringPhysicianName", "00080090", "PN", STUDY),
        ("TimezoneOffsetFromUTC", "00080201", "SH", STUDY),
        ("StudyDescription", "00081030", "LO", STUDY),
        ("NameOfPhysiciansReadingStudy", "00081060", "PN", STUDY),
        ("RetrieveURL", "00081190", "UR", STUDY),
        ("PatientName", "00100010", "PN", STUDY),
        ("PatientID", "00100020", "LO", STUDY),
        ("IssuerOfPatientID", "00100021", "LO", STUDY),
        ("PatientBirthDate", "00100030", "DA", STUDY),
        ("PatientSex", "00100040", "CS", STUDY),
        ("PatientAge", "00101010", "AS", STUDY),
        ("StudyInstanceUID", "0020000D", "UI", STUDY),
        ("StudyID", "00200010", "SH", STUDY),
        ("NumberOfStudyRelatedSeries", "00201206", "IS", STUDY),
        ("NumberOfStudyRelatedInstances", "00201208", "IS", STUDY),
        ("SeriesDate", "00080021", "DA", SERIES),
        ("SeriesTime", "00080031", "TM", SERIES),
        ("Modality", "00080060", "CS", SERIES),
        ("Manufacturer", "00080070", "LO", SERIES),
        ("InstitutionName", "00080080", "LO", SERIES),
        ("StationName", "00081010", "SH", SERIES),
        ("SeriesDescription", "0008103E", "LO", SERIES),
        ("PerformingPhysicianName", "00081050", "PN", SERIES),
        ("OperatorsName", "00081070", "PN", SERIES),
        ("ManufacturerModelName", "00081090", "LO", SERIES),
        ("BodyPartExamined", "00180015", "CS", SERIES),
        ("ProtocolName", "00181030", "LO", SERIES),
        ("SeriesInstanceUID", "0020000E", "UI", SERIES),
        ("SeriesNumber", "00200011", "IS", SERIES),
        ("Laterality", "00200060", "CS", SERIES),
        ("PerformedProcedureStepStartDate", "00400244", "DA", SERIES),
        ("PerformedProcedureStepStartTime", "00400245", "TM", SERIES),
        ("NumberOfSeriesRelatedInstances", "00201209", "IS", SERIES),
        ("SOPClassUID", "00080016", "UI", INSTANCE),
        ("SOPInstanceUID", "00080018", "UI", INSTANCE),
        ("ImageType", "00080008", "CS", INSTANCE),
        ("AcquisitionDate", "00080022", "DA", INSTANCE),
        ("ContentDate", "00080023", "DA", INSTANCE),
        ("AcquisitionTime", "00080032", "TM", INSTANCE),
        ("ContentTime", "00080033", "TM", INSTANCE),
        ("AcquisitionNumber", "00200012", "IS", INSTANCE),
        ("InstanceNumber", "00200013", "IS", INSTANCE),
        ("NumberOfFrames", "00280008", "IS", INSTANCE),
        ("Rows", "00280010", "US", INSTANCE),
        ("Columns", "00280011", "US", INSTANCE),
        ("BitsAllocated", "00280100", "US", INSTANCE),
    )
)
# Those of an item of the Request Attributes Sequence, which belongs to the series
REQUEST_ATTRIBUTES = Attribute("RequestAttributesSequence", "00400275", "SQ", SERIES)
REQUESTS = tuple(
    Attribute(keyword, tag, vr, SERIES)
    for keyword, tag, vr in (
        ("StudyInstanceUID", "0020000D", "UI"),
        ("AccessionNumber", "00080050", "SH"),
        ("RequestedProcedureDescription", "00321060", "LO"),
        ("ScheduledProcedureStepDescription", "00400007", "LO"),
        ("ScheduledProcedureStepID", "00400009", "SH"),
        ("RequestedProcedureID", "00401001", "SH"),
    )
)
BY_NAME = {name: attribute for attribute in ATTRIBUTES for name in (attribute.keyword, attribute.tag)}

EXPLICIT_LE = "1.2.840.10008.1.2.1"
IMPLICIT_LE = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

# PS3.18 Table 8.7.3-5, the other way round: what a compressed frame is, where only its media type is told
SYNTAX_OF = {
    "image/jpeg": "1.2.840.10008.1.2.4.50",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jphc": "1.2.840.10008.1.2.4.201",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
}

# PS3.18 Table 8.7.3-5: how a frame of each transfer syntax is called on the web
FRAME_MEDIA = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
