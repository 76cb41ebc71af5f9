"""WADO-RS: what is stored, in a form that the client accepts.

PS3.18 sections 8.7 and 10.4: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.4.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imaging.attributes import EXPLICIT_LE, FRAME_MEDIA, IMPLICIT_LE
from imaging.blobs import Blobs
from imaging.dataset import Refused
from imaging.dataset.files import explicit
from imaging.dataset.metadata import turned
from imaging.decoding import Decoders, DecodingFailed
from imaging.index import Stored
from imaging.multipart import parameters, unquoted_split
from imaging.view import TRANSCODED

DICOM, OCTETS = "application/dicom", "application/octet-stream"
_MULTIPART = "multipart/related"
_MAX_ACCEPT = 4 * 1024
Part = tuple[str, Iterable[bytes]]  # media type and bytes
Parts = Iterator[Part]


class NotAcceptableError(ValueError):
    """Nothing that the client accepts can be given, in words."""


@dataclass(frozen=True, slots=True)
class Range:
    """One acceptable form: a media type, alone or as parts of multipart/related, in a transfer syntax (None: the default)."""

    media: str
    multipart: bool
    syntax: str | None


@dataclass(frozen=True, slots=True)
class Form:
    """How something is given: each part's media type and transfer syntax (``*``: as it is stored), and whether there are parts."""

    media: str
    syntax: str
    multipart: bool


def accepted(header: str) -> list[Range]:
    """The Accept header's media ranges, those that are preferred first. RFC 9110 section 12.5.1"""
    ranges: list[tuple[float, Range]] = []
    for part in unquoted_split(header[:_MAX_ACCEPT] or "*/*", ","):
        media, given = parameters(part.strip())
        syntax, preferred = given.get("transfer-syntax"), weight(given.get("q", "1"))
        if media in ("*/*", "multipart/*", ""):
            wanted = Range("*/*", True, syntax or "*")
        elif media == _MULTIPART:
            wanted = Range(given.get("type", "*/*").lower(), True, syntax)
        else:
            wanted = Range(media, False, syntax)
        if preferred > 0:
            ranges.append((-preferred, wanted))
    return [wanted for _, wanted in sorted(ranges, key=lambda pair: pair[0])]


def weight(text: str) -> float:
    """RFC 9110 section 12.4.2"""
    try:
        return float(text)
    except ValueError:
        return 1.0


# ---------------------------------------------------------------- instances


def instance_form(ranges: list[Range], instances: list[Stored]) -> Form:
    """The first range in which all these instances can be given.

    PS3.18 8.7.3.1: without a transfer syntax the default, Explicit VR Little Endian, is meant.
    """
    for wanted in ranges:
        if wanted.media not in (DICOM, "*/*", "application/*") or (not wanted.multipart and len(instances) > 1):
            continue
        syntax = wanted.syntax or EXPLICIT_LE
        if syntax == "*" or syntax in TRANSCODED or all(stored.transfer_syntax == syntax for stored in instances):
            return Form(DICOM, syntax, wanted.multipart)
    held = ", ".join(sorted({stored.transfer_syntax for stored in instances}))
    given = ", ".join(TRANSCODED)
    raise NotAcceptableError(
        f'Stored in transfer syntax {held}, given in {given} too; accept any with: {_MULTIPART}; type="{DICOM}"; transfer-syntax=*'
    )


def instance(blobs: Blobs, decoders: Decoders, stored: Stored, form: Form) -> tuple[str, Iterable[bytes]]:
    """(media type, bytes) as they are accepted. Errors: DecodingFailed."""
    held, syntax = stored.transfer_syntax, form.syntax
    if syntax != EXPLICIT_LE and syntax in TRANSCODED and not stored.count:
        syntax = EXPLICIT_LE  # there is nothing to compress
    if syntax in ("*", held):
        return f"{DICOM}; transfer-syntax={held}", blobs.chunks(stored.digest)
    if (held, syntax) == (IMPLICIT_LE, EXPLICIT_LE):
        try:
            return f"{DICOM}; transfer-syntax={syntax}", (explicit(blobs.read(stored.digest)),)
        except Refused as refused:
            raise DecodingFailed(refused.text) from None
    with blobs.local(stored.digest) as path:
        data = decoders.call("transcoded", str(path), syntax, name=stored.digest)
    return f"{DICOM}; transfer-syntax={syntax}", (data,)


def instances(blobs: Blobs, decoders: Decoders, rows: Iterable[Stored], form: Form) -> Parts:
    """Each in turn. One that cannot be given as it is accepted does not hold back the others: it is given as it is stored, and its
    part's media type says so."""
    for row in rows:
        try:
            yield instance(blobs, decoders, row, form)
        except DecodingFailed:
            yield instance(blobs, decoders, row, Form(DICOM, "*", form.multipart))


# ---------------------------------------------------------------- frames


def frame_form(ranges: list[Range], stored: Stored) -> Form:
    """The first range in which the frames can be given, and the media type of each."""
    held = stored.transfer_syntax
    held_media = FRAME_MEDIA.get(held, OCTETS)
    if held == IMPLICIT_LE:
        held = EXPLICIT_LE  # of pixels alone they are the same
    for wanted in ranges:
        found = _frame_form(wanted, held, held_media, located=bool(stored.frames))
        if found is not None:
            return Form(found[0], found[1], wanted.multipart)
    raise NotAcceptableError(
        f"The frames are stored as {held_media}, transfer syntax {held}; accept that, transfer-syntax=*, or {', '.join(TRANSCODED)}"
    )


def _frame_form(wanted: Range, held: str, held_media: str, *, located: bool) -> tuple[str, str] | None:
    """(media type, transfer syntax). ``located``: it is known where the bytes of each frame are."""
    if located and wanted.syntax in ("*", held) and wanted.media in (held_media, OCTETS, "*/*"):
        return held_media, held
    if located and wanted.syntax is None and wanted.media == held_media != OCTETS:
        return held_media, held
    if wanted.media in (OCTETS, "*/*") and wanted.syntax in (None, "*", EXPLICIT_LE):
        return (OCTETS, EXPLICIT_LE) if wanted.syntax != "*" or not located else (held_media, held)
    for syntax in TRANSCODED:
        media = FRAME_MEDIA.get(syntax)
        if media is not None and wanted.media in (media, "*/*") and wanted.syntax in (None, syntax):
            return media, syntax
    return None


def frame_numbers(text: str, stored: Stored) -> list[int]:
    """``1,3,2`` -> numbers in that order. Errors: ValueError for what is no list, LookupError for a frame that is not there."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts) or len(parts) > 10_000:
        raise ValueError("Frames are numbers from 1, separated by commas.")
    numbers = [int(part) for part in parts]
    if not all(1 <= number <= stored.count for number in numbers):
        raise LookupError
    return numbers


def frame(blobs: Blobs, decoders: Decoders, stored: Stored, number: int, form: Form) -> bytes:
    """Errors: DecodingFailed."""
    held = EXPLICIT_LE if stored.transfer_syntax == IMPLICIT_LE else stored.transfer_syntax  # of pixels alone they are the same
    if stored.frames and form.syntax == held:
        return blobs.read(stored.digest, stored.frames[number - 1])
    with blobs.local(stored.digest) as path:
        if form.syntax == EXPLICIT_LE:
            return decoders.call("decoded", str(path), number - 1, name=stored.digest)
        return decoders.call("encoded", str(path), number - 1, form.syntax, name=stored.digest)


def frames(blobs: Blobs, decoders: Decoders, stored: Stored, numbers: list[int], form: Form) -> Parts:
    for number in numbers:
        yield f"{form.media}; transfer-syntax={form.syntax}", (frame(blobs, decoders, stored, number, form),)


# ---------------------------------------------------------------- bulk data


def value(blobs: Blobs, stored: Stored, there: tuple[int, int], word: int, start: int, end: int) -> Iterator[bytes]:
    """The bytes from ``start`` to before ``end`` of a value, in little endian. ``word``: its bytes, where they have to be turned."""
    offset, length = there
    if word == 1:
        return blobs.chunks(stored.digest, offset + start, offset + end)
    low, high = start - start % word, min(length, end + -end % word)
    data = turned(b"".join(blobs.chunks(stored.digest, offset + low, offset + high)), word)
    return iter((data[start - low : end - low],))


# ---------------------------------------------------------------- pictures


def representative(rows: list[Stored]) -> tuple[Stored, int] | None:
    """The picture that stands for a study or series: of the middle one of its instances with pixels, the middle frame."""
    shown = [row for row in rows if row.count]
    if not shown:
        return None
    first = [row for row in shown if row.series == shown[0].series]
    chosen = first[len(first) // 2]
    return chosen, chosen.count // 2 + 1
