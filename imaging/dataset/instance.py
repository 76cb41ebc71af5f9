"""A DICOM file -> Instance, plain Python values.

Whatever a peer sends, the answer is an Instance or ``Refused``; UIDs are checked before anything else and never become paths.
"""

from __future__ import annotations

import json
import re
import warnings
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.charset import convert_encodings, python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.filereader import read_dataset

from imaging.attributes import ATTRIBUTES, BIG_ENDIAN, DEFLATED, IMPLICIT_LE, LEVELS, REQUESTS
from imaging.dataset import frames as frames_
from imaging.dataset.metadata import DEFER, Bulk, Json, Told, texts
from imaging.dataset.reading import Counted, Cut, File
from imaging.dataset.refusal import CANNOT_UNDERSTAND, DATA_SET_MISMATCH, OUT_OF_RESOURCES, Refused
from imaging.study import Accession

_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")
_LONGEST = 1024
META = 144  # bytes up to the end of the length of the file meta information
_MAX_PACKED = 8 * 1024 * 1024
_MAX_INFLATED = 128 * 1024 * 1024
_PREFIX, _META_GROUP = bytes(128) + b"DICM", 0x0002
_UIDS = {
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00080018: "SOPInstanceUID",
    0x00080016: "SOPClassUID",
}
_OF_LEVEL = {level: [(a.keyword, a.tag) for a in ATTRIBUTES if a.level == level] for level in LEVELS}


@dataclass(frozen=True, slots=True)
class Instance:
    """What the index keeps of a file.

    ``attributes``: by level and keyword, as text. ``requests``: those of each Request Attributes item. ``metadata``: the DICOM JSON
    model as deflated text, in which ``@`` stands for the URL of /dicomweb. ``bulk``: where the values are that it refers to. ``count``: of frames, 0
    without pixels. ``frames``: for each frame the (offset, length) segments of its bytes in the file, where that is known. ``charset``: in
    which it was read, where it names none itself.
    """

    study: str
    series: str
    uid: str
    sop_class: str
    transfer_syntax: str
    attributes: dict[str, dict[str, str]]
    requests: tuple[dict[str, str], ...]
    accessions: tuple[Accession, ...]
    title: str | None
    metadata: bytes
    bulk: tuple[Bulk, ...]
    count: int
    frames: frames_.Frames
    charset: str | None = None


def is_uid(value: str) -> bool:
    """PS3.5 section 9.1"""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def is_charset(text: str) -> bool:
    """PS3.3 C.12.1.1.2: terms, with backslashes between."""
    return bool(text) and all(term in python_encoding for term in text.split("\\"))


def encodings(charset: str) -> list[str]:
    """How Python calls a Specific Character Set. Error: ValueError for one that is not in the standard."""
    if not is_charset(charset):
        raise ValueError(f"not a Specific Character Set of DICOM: {charset} (example: ISO_IR 100)")
    return list(convert_encodings(charset.split("\\")))


def parse(path: Path, charset: str | None = None, head: bytes = b"", size: int | None = None) -> Instance:
    """``charset``: the Specific Character Set of a data set that names none. ``head``: what the file of this size begins with, where
    that is known: most are parsed of it alone. Errors: Refused."""
    try:
        with warnings.catch_warnings(), File(path, head) as file:
            warnings.simplefilter("ignore")
            return _parse(file, path.stat().st_size if size is None else size, charset)
    except Refused:
        raise
    except (RecursionError, MemoryError):
        raise Refused(CANNOT_UNDERSTAND, "The data set is nested too deep or too large.") from None
    except Exception as error:  # a parser of hostile input: whatever it raises, the file is refused
        raise Refused(CANNOT_UNDERSTAND, f"Not a DICOM file that can be read ({type(error).__name__}).") from None


def _parse(file: File, size: int, charset: str | None) -> Instance:
    if file.head[128:132] != b"DICM":
        raise Refused(CANNOT_UNDERSTAND, "Not a DICOM file: no DICM prefix.")
    try:  # most data sets are in the head of their files but for the pixels, and are read from memory in half of the time
        dataset, syntax, at = _read(Counted(BytesIO(file.head), cut=size > len(file.head)), file)
    except Cut:
        dataset, syntax, at = _read(Counted(file), file)
    given = charset if charset and "SpecificCharacterSet" not in dataset else None
    if given:
        dataset.SpecificCharacterSet = given.split("\\")
        dataset.set_original_encoding(*dataset.original_encoding, encodings(given))
    uids = _uids(dataset)
    try:
        return replace(_instance(file, at, size, dataset, syntax, uids), charset=given)
    except Refused as refused:
        raise Refused(refused.reason, refused.text, uids[3], uids[2]) from None


def _read(source: Counted, file: File) -> tuple[Any, str, int]:
    """The data set, its transfer syntax, and where it ends or its pixels begin. Errors: Refused."""
    source.seek(len(_PREFIX))
    meta = read_dataset(source, False, True, stop_when=lambda tag, *_: tag.group != _META_GROUP)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if not is_uid(syntax):
        raise Refused(CANNOT_UNDERSTAND, "The transfer syntax is missing.")
    implicit, little, deflated = syntax == IMPLICIT_LE, syntax != BIG_ENDIAN, syntax == DEFLATED
    source = Counted(BytesIO(_inflated(file))) if deflated else source
    told = read_dataset(source, implicit, little, stop_when=_at_pixels, defer_size=None if deflated else DEFER)
    at = source.tell()
    if any(isinstance(raw, RawDataElement) and raw.value is None and raw.length for _, raw in told.items()):
        told = FileDataset(
            str(file.path), told, is_implicit_VR=implicit, is_little_endian=little
        )  # by which what was left is read
    return told, syntax, at


def _at_pixels(tag: Any, *_: Any) -> bool:
    return tag in frames_.PIXELS


def _inflated(file: File) -> bytes:
    """pydicom inflates whatever there is. Errors: Refused where it is too much."""
    file.seek(0)
    file.seek(data_set_at(file.read(META)))
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    while chunk := file.read(64 * 1024):
        while chunk:
            inflated += inflater.decompress(chunk, 1024 * 1024)
            chunk = inflater.unconsumed_tail
            if len(inflated) > _MAX_INFLATED:
                raise Refused(OUT_OF_RESOURCES, "The deflated data set is too large.")
    return bytes(inflated + inflater.flush())


def data_set_at(head: bytes) -> int:
    """Where the data set begins: group 2 begins with its own length. PS3.10 section 7.1. ``head``: the first ``META`` bytes.

    Errors: Refused."""
    if head[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise Refused(CANNOT_UNDERSTAND, "The file meta information has no group length.")
    return META + int.from_bytes(head[140:META], "little")


def _instance(file: File, at: int, size: int, dataset: Any, syntax: str, uids: tuple[str, str, str, str]) -> Instance:
    study, series, uid, sop_class = uids
    deflated = syntax == DEFLATED
    place = f"/studies/{study}/series/{series}/instances/{uid}/bulkdata/"
    told = Told(dataset, place, in_file=not deflated)
    metadata, count = told.json, 0
    frames: frames_.Frames = ()
    pixels = None if deflated else frames_.pixel_data(file, at, syntax)
    if pixels is not None:
        tag, vr, start, length = pixels
        count = frames_.frame_count(metadata)
        frames = frames_.located(file, size, start, length, metadata, count)
        metadata[f"{tag:08X}"] = {"vr": vr, "BulkDataURI": f"@{place}{tag:08X}"}
        if length != 0xFFFFFFFF:
            told.bulk.append((f"{tag:08X}", start, length))
    elif deflated and "00280010" in metadata:
        count = frames_.frame_count(metadata)
    return Instance(
        study,
        series,
        uid,
        sop_class,
        transfer_syntax=syntax,
        attributes={level: _attributes(metadata, level) for level in LEVELS},
        requests=tuple(_requested(item) for item in metadata.get("00400275", {}).get("Value", ())),
        accessions=_accessions(metadata),
        title=_title(metadata),
        metadata=_packed(metadata),
        bulk=tuple(told.bulk),
        count=count,
        frames=frames,
    )


def _packed(metadata: Json) -> bytes:
    packed = zlib.compress(json.dumps(metadata, separators=(",", ":")).encode(), 1)
    if len(packed) > _MAX_PACKED:
        raise Refused(OUT_OF_RESOURCES, "The data set without its pixels is too large.")
    return packed


def _uids(dataset: Any) -> tuple[str, str, str, str]:
    """Study, series, instance, class: present and well-formed, or the instance is refused."""
    study, series, uid, sop_class = found = [_uid(dataset, tag) for tag in _UIDS]
    told = sop_class if is_uid(sop_class) else "", uid if is_uid(uid) else ""
    for name, value in zip(_UIDS.values(), found, strict=True):
        if not is_uid(value):
            raise Refused(DATA_SET_MISMATCH, f"{name} is {'not a UID' if value else 'missing'}.", *told)
    return study, series, uid, sop_class


def _uid(dataset: Any, tag: int) -> str:
    raw = dataset.get_item(tag)
    return (raw.value or b"").decode("latin-1").rstrip(" \0") if isinstance(raw, RawDataElement) else ""


def _attributes(metadata: Json, level: str) -> dict[str, str]:
    return {keyword: text for keyword, tag in _OF_LEVEL[level] if tag in metadata and (text := _text(metadata, tag))}


def _text(metadata: Json, tag: str) -> str:
    return _CONTROL.sub(" ", texts(metadata.get(tag))).strip()[:_LONGEST]


def _requested(item: Json) -> dict[str, str]:
    return {a.keyword: text for a in REQUESTS if (text := _text(item, a.tag))}


def _accessions(metadata: Json) -> tuple[Accession, ...]:
    """The study's own, and that of each Request Attributes item."""
    items = [metadata, *metadata.get("00400275", {}).get("Value", ())]
    found = [Accession(_text(item, "00080050"), _issuer(item)) for item in items]
    return tuple(dict.fromkeys(accession for accession in found if accession.number))


def _issuer(item: Json) -> str:
    """Issuer of Accession Number Sequence: the universal id, else the local name."""
    issuers = item.get("00080051", {}).get("Value", ())
    return next((t for issuer in issuers for t in (_text(issuer, "00400032"), _text(issuer, "00400031")) if t), "")


def _title(metadata: Json) -> str | None:
    """Content Label, else the concept name, else the document's title, else the image type."""
    named = metadata.get("0040A043", {}).get("Value") or [{}]
    found = (_text(metadata, "00700080"), _text(named[0], "00080104"), _text(metadata, "00420010"))
    return next((t for t in found if t), None) or _text(metadata, "00080008").replace("\\", " ") or None
