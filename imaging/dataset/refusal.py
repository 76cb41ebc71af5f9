"""Why an instance is not stored, by the codes of PS3.18 Table I.2-2.

https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_I.2.2.html
"""

from __future__ import annotations

from dataclasses import dataclass

OUT_OF_RESOURCES, DATA_SET_MISMATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
TRANSFER_SYNTAX_NOT_SUPPORTED, DUPLICATE_INSTANCE, NOT_AUTHORIZED = 0xC122, 0x0111, 0x0124


@dataclass
class Refused(Exception):
    """An instance that is not stored: its failure reason, what is wrong, and the UIDs if they could be read."""

    reason: int
    text: str
    sop_class: str = ""
    sop_instance: str = ""
