"""WADO-RS: what is stored, in the form the client accepts.

PS3.18 sections 8.7 and 10.4: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.4.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imaging.attributes import BIG_ENDIAN, EXPLICIT_LE, FRAME_MEDIA, IMPLICIT_LE
from imaging.blobs import Blobs
from imaging.dataset import explicit
from imaging.index import Stored
from imaging.multipart import parameters, unquoted_split

DICOM, OCTETS = "application/dicom", "application/octet-stream"
_MULTIPART = "multipart/related"
_MAX_ACCEPT = 4 * 1024


class NotAcceptableError(ValueError):
    """Nothing that the client accepts can be given, in words."""


@dataclass(frozen=True, slots=True)
class Range:
    """One acceptable form: a media type, alone or as parts of multipart/related, in a transfer syntax (None: the default)."""

    media: str
    multipart: bool
    syntax: str | None


def accepted(header: str) -> list[Range]:
    """The Accept header's media ranges, in order."""
    ranges = []
    for part in unquoted_split(header[:_MAX_ACCEPT] or "*/*", ","):
        media, given = parameters(part.strip())
        syntax = given.get("transfer-syntax")
        if media in ("*/*", "multipart/*", ""):
            ranges.append(Range("*/*", True, syntax or "*"))
        elif media == _MULTIPART:
            ranges.append(Range(given.get("type", "*/*").lower(), True, syntax))
        else:
            ranges.append(Range(media, False, syntax))
    return ranges


def instance_form(ranges: list[Range], instances: list[Stored]) -> Range:
    """The first range in which all these instances can be given as they are stored."""
    for wanted in ranges:
        if wanted.media not in (DICOM, "*/*", "application/*") or (not wanted.multipart and len(instances) > 1):
            continue
        if all(_gives(wanted.syntax, stored.transfer_syntax) for stored in instances):
            return wanted
    held = ", ".join(sorted({stored.transfer_syntax for stored in instances}))
    raise NotAcceptableError(
        f'Stored in transfer syntax {held}; accept it, or any, with: {_MULTIPART}; type="{DICOM}"; transfer-syntax=*'
    )


def _gives(wanted: str | None, held: str) -> bool:
    """PS3.18 8.7.3.1: without a transfer syntax the default, Explicit VR Little Endian, is meant."""
    return wanted == "*" or held == (wanted or EXPLICIT_LE) or (held == IMPLICIT_LE and wanted in (None, EXPLICIT_LE))


def frame_form(ranges: list[Range], stored: Stored) -> tuple[Range, str]:
    """The range in which the stored frames can be given, and the media type of each."""
    native = stored.transfer_syntax in (EXPLICIT_LE, IMPLICIT_LE)
    media = OCTETS if native or stored.transfer_syntax == BIG_ENDIAN else FRAME_MEDIA.get(stored.transfer_syntax, OCTETS)
    for wanted in ranges:
        syntax = wanted.syntax
        if native and wanted.media in (OCTETS, "*/*") and syntax in (None, "*", EXPLICIT_LE, stored.transfer_syntax):
            return wanted, f"{OCTETS}; transfer-syntax={EXPLICIT_LE}"
        if not native and wanted.media in (media, OCTETS, "*/*") and syntax in ("*", stored.transfer_syntax):
            return wanted, f"{media}; transfer-syntax={stored.transfer_syntax}"
        if not native and wanted.media == media != OCTETS and syntax is None:
            return wanted, f"{media}; transfer-syntax={stored.transfer_syntax}"
    raise NotAcceptableError(
        f"The frames are stored as {media}, transfer syntax {stored.transfer_syntax}; accept that, or transfer-syntax=*"
    )


def frame_numbers(text: str, stored: Stored) -> list[int]:
    """``1,3,2`` -> numbers in that order. Errors: ValueError for what is no list, LookupError for a frame that is not there."""
    parts = text.split(",")
    if not all(part.isdigit() and len(part) < 10 for part in parts):
        raise ValueError("Frames are numbers from 1, separated by commas.")
    numbers = [int(part) for part in parts]
    if not all(1 <= number <= len(stored.frames) for number in numbers):
        raise LookupError
    return numbers


def instances(blobs: Blobs, rows: Iterable[Stored], form: Range) -> Iterator[tuple[str, bytes]]:
    """(media type, bytes) of each: as stored, or made explicit where that is what is accepted."""
    for row in rows:
        data, syntax = blobs.read(row.digest), row.transfer_syntax
        if syntax == IMPLICIT_LE and form.syntax in (None, EXPLICIT_LE):
            data, syntax = explicit(data), EXPLICIT_LE
        yield f"{DICOM}; transfer-syntax={syntax}", data


def frames(blobs: Blobs, stored: Stored, numbers: list[int], media: str) -> Iterator[tuple[str, bytes]]:
    for number in numbers:
        yield media, blobs.read(stored.digest, stored.frames[number - 1])
