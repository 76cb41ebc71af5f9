"""The file meta information that goes before a data set which came over a network: PS3.10 section 7.1.

The same data set gets the same bytes whenever and by whomever it is sent, so nothing of the server's release or of the sender
is in it. https://dicom.nema.org/medical/dicom/current/output/chtml/part10/chapter_7.html
"""

from __future__ import annotations

from dataclasses import dataclass

IMPLEMENTATION_UID = "2.25.206432757908713249858984151172750898100"
IMPLEMENTATION_NAME = "FHIRSERVER"

IN_MEMORY = 128 * 1024  # bytes of a file's head that are kept while it is received, and of which most are parsed
_PREFIX = bytes(128) + b"DICM"
_LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Named:
    """An instance as the file meta information, or a C-STORE request, names it."""

    sop_class: str
    uid: str
    syntax: str


def header(named: Named) -> bytes:
    """Preamble, prefix and group 0002."""
    elements = (
        b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
        + _short(0x0002, b"UI", named.sop_class)
        + _short(0x0003, b"UI", named.uid)
        + _short(0x0010, b"UI", named.syntax)
        + _short(0x0012, b"UI", IMPLEMENTATION_UID)
        + _short(0x0013, b"SH", IMPLEMENTATION_NAME)
    )
    return _PREFIX + b"\x02\x00\x00\x00UL\x04\x00" + len(elements).to_bytes(4, "little") + elements


def named(head: bytes) -> Named:
    """Of a file that begins as ``header`` writes it. Error: ValueError."""
    if not head.startswith(_PREFIX):
        raise ValueError("not a DICOM file as it is spooled")
    at, found = len(_PREFIX) + 12 + 14, []
    for element in (0x0002, 0x0003, 0x0010):
        if head[at : at + 6] != b"\x02\x00" + element.to_bytes(2, "little") + b"UI":
            raise ValueError("not a DICOM file as it is spooled")
        length = int.from_bytes(head[at + 6 : at + 8], "little")
        found.append(head[at + 8 : at + 8 + length].rstrip(b"\0").decode("ascii"))
        at += 8 + length
    return Named(*found)


HEAD = len(_PREFIX) + _LONGEST


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return b"\x02\x00" + element.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value
