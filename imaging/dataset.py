"""A DICOM file -> Instance, plain Python values. The only file of the archive that sees pydicom.

Whatever a peer sends, the answer is an Instance or ``Refused``; UIDs are checked before anything else and never become paths.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.charset import convert_encodings, python_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.encaps import parse_basic_offsets
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from imaging.attributes import ATTRIBUTES, BIG_ENDIAN, DEFLATED, LEVELS
from imaging.study import Accession

# PS3.18 Table I.2-2
OUT_OF_RESOURCES, DATA_SET_MISMATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
TRANSFER_SYNTAX_NOT_SUPPORTED, DUPLICATE_INSTANCE, NOT_AUTHORIZED = 0xC122, 0x0111, 0x0124

_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_BULK = 1024  # bytes; what is larger stays in the file
_DEFER = 64 * 1024
_MAX_FRAMES = 100_000
_BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")
_LONGEST = 1024
_MAX_METADATA = 8 * 1024 * 1024
_GROUP_LENGTH = 0x0000
_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)

Json = dict[str, Any]


@dataclass
class Refused(Exception):
    """An instance that is not stored: its failure reason, what is wrong, and the UIDs if they could be read."""

    reason: int
    text: str
    sop_class: str = ""
    sop_instance: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """What the index keeps of a file. ``frames``: for each frame the (offset, length) segments of its bytes in the file."""

    study: str
    series: str
    uid: str
    sop_class: str
    transfer_syntax: str
    attributes: dict[str, dict[str, str]]
    accessions: tuple[Accession, ...]
    title: str | None
    metadata: Json
    frames: tuple[tuple[tuple[int, int], ...], ...]


def is_uid(value: str) -> bool:
    """PS3.5 section 9.1"""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def encodings(charset: str) -> list[str]:
    """How Python calls a Specific Character Set. Error: ValueError for one that is not in the standard."""
    terms = charset.split("\\")
    if not charset or any(term not in python_encoding for term in terms):
        raise ValueError(f"not a Specific Character Set of DICOM: {charset} (example: ISO_IR 100)")
    return list(convert_encodings(terms))


def parse(path: Path, charset: str | None = None) -> Instance:
    """``charset``: of a data set that does not tell its own. Errors: Refused."""
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            return _parse(file, path.stat().st_size, charset)
    except Refused:
        raise
    except (RecursionError, MemoryError):
        raise Refused(CANNOT_UNDERSTAND, "The data set is nested too deep or too large.") from None
    except Exception as error:  # a parser of hostile input: whatever it raises, the file is refused
        raise Refused(CANNOT_UNDERSTAND, f"Not a DICOM file that can be read ({type(error).__name__}).") from None


def _parse(file: BinaryIO, size: int, charset: str | None) -> Instance:
    file.seek(128)
    if file.read(4) != b"DICM":
        raise Refused(CANNOT_UNDERSTAND, "Not a DICOM file: no DICM prefix.")
    file.seek(0)
    syntax = str(read_file_meta_info(file.name).get("TransferSyntaxUID", ""))
    if syntax == DEFLATED:
        raise Refused(TRANSFER_SYNTAX_NOT_SUPPORTED, "Deflated data sets are not taken.")
    if not is_uid(syntax):
        raise Refused(CANNOT_UNDERSTAND, "The transfer syntax is missing.")
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=True, defer_size=_DEFER)
    assumed = charset if charset and not dataset.get("SpecificCharacterSet") else None
    if assumed:
        dataset.set_original_encoding(*dataset.original_encoding, encodings(assumed))
    uids = _uids(dataset)
    at_pixels = file.tell()
    frames = _frames(file, at_pixels, size, dataset, syntax) if at_pixels < size else ()
    return Instance(
        *uids,
        transfer_syntax=syntax,
        attributes={level: _attributes(dataset, level) for level in LEVELS},
        accessions=_accessions(dataset),
        title=_title(dataset),
        metadata=_metadata(dataset, assumed is not None),
        frames=frames,
    )


def _uids(dataset: Any) -> tuple[str, str, str, str]:
    """Study, series, instance, class: present and well-formed, or the instance is refused."""
    found = {n: str(dataset.get(n) or "") for n in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")}
    told = (
        found["SOPClassUID"] if is_uid(found["SOPClassUID"]) else "",
        found["SOPInstanceUID"] if is_uid(found["SOPInstanceUID"]) else "",
    )
    for name, value in found.items():
        if not is_uid(value):
            raise Refused(DATA_SET_MISMATCH, f"{name} is {'not a UID' if value else 'missing'}.", *told)
    return found["StudyInstanceUID"], found["SeriesInstanceUID"], found["SOPInstanceUID"], found["SOPClassUID"]


def _attributes(dataset: Any, level: str) -> dict[str, str]:
    found = {}
    for attribute in ATTRIBUTES:
        if attribute.level == level and attribute.keyword in dataset:
            text = _text(dataset, attribute.keyword)
            if text:
                found[attribute.keyword] = text
    return found


def _text(dataset: Any, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # a value that its VR does not allow
        return ""
    if value is None:
        return ""
    parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    return _CONTROL.sub(" ", "\\".join(str(part) for part in parts)).strip()[:_LONGEST]


def _accessions(dataset: Any) -> tuple[Accession, ...]:
    """The study's own, and that of each Request Attributes item."""
    items = [dataset, *(dataset.get("RequestAttributesSequence") or ())]
    found = [Accession(_text(item, "AccessionNumber"), _issuer(item)) for item in items]
    return tuple(dict.fromkeys(accession for accession in found if accession.number))


def _issuer(item: Any) -> str:
    sequence = item.get("IssuerOfAccessionNumberSequence") or ()
    return next((t for s in sequence for t in (_text(s, "UniversalEntityID"), _text(s, "LocalNamespaceEntityID")) if t), "")


def _title(dataset: Any) -> str | None:
    return (
        _text(dataset, "ContentLabel")
        or _text(dataset, "DocumentTitle")
        or _text(dataset, "ImageType").replace("\\", " ")
        or None
    )


def _metadata(dataset: Any, assumed: bool) -> Json:
    """The DICOM JSON model without bulk data, in UTF-8. PS3.18 Annex F. Errors: Refused where there is too much of it."""
    found: Json = {}
    size = 0
    for tag in list(dataset.keys()):
        if tag.element == _GROUP_LENGTH or tag.group == 0x0002:
            continue
        raw = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value is None and raw.length:
            continue  # deferred, so bulk
        try:
            element: DataElement = dataset[tag]
            if element.VR in _BULK_VRS and element.value is not None and len(element.value) > _BULK:
                continue
            told = element.to_json_dict(None, 1024)
            size += len(json.dumps(told))
        except Exception:  # noqa: S112 - one element that cannot be told does not hide the others
            continue
        if size > _MAX_METADATA:
            raise Refused(
                OUT_OF_RESOURCES,
                "The data set without its pixels is too large.",
                str(dataset.SOPClassUID),
                str(dataset.SOPInstanceUID),
            )
        found[f"{tag.group:04X}{tag.element:04X}"] = told
    if assumed or "00080005" in found:
        found["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return dict(sorted(found.items())) if assumed else found


# ---------------------------------------------------------------- frames


def _frames(file: BinaryIO, at: int, size: int, dataset: Any, syntax: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    """PS3.5 section 8 and A.4: where each frame's bytes are. Errors: Refused where they are not all there."""
    count = int(dataset.get("NumberOfFrames") or 1)
    if not 0 < count <= _MAX_FRAMES:
        raise Refused(
            DATA_SET_MISMATCH, "NumberOfFrames is out of range.", str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
        )
    found = _pixel_data(file, at, syntax)
    if found is None:
        return ()
    start, length = found
    if length == 0xFFFFFFFF:
        return _encapsulated(file, start, size, count)
    if start + length > size:
        raise Refused(CANNOT_UNDERSTAND, "The pixel data are cut off.", str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
    frame = _native_frame_bytes(dataset, length, count)
    return tuple(((start + i * frame, frame),) for i in range(count)) if frame else ()


def _pixel_data(file: BinaryIO, at: int, syntax: str) -> tuple[int, int] | None:
    """(offset, length) of the value of the pixel data element that begins at ``at``."""
    file.seek(at)
    head = file.read(12)
    order = "big" if syntax == BIG_ENDIAN else "little"
    tag = int.from_bytes(head[0:2], order) << 16 | int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
    if tag not in _PIXELS:
        return None
    if head[4:6].isalpha():
        return at + 12, int.from_bytes(head[8:12], order)  # type: ignore[arg-type]
    return at + 8, int.from_bytes(head[4:8], order)  # type: ignore[arg-type]


def _native_frame_bytes(dataset: Any, length: int, count: int) -> int:
    """0 where a frame does not begin at a byte."""
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel", 1)) * int(dataset.BitsAllocated)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    frame = bits // 8
    if frame * count > length:
        raise Refused(
            CANNOT_UNDERSTAND,
            "The pixel data are shorter than Rows, Columns and NumberOfFrames say.",
            str(dataset.SOPClassUID),
            str(dataset.SOPInstanceUID),
        )
    return frame if bits % 8 == 0 else 0


def _encapsulated(file: BinaryIO, start: int, size: int, count: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    file.seek(start)
    offsets = parse_basic_offsets(file)
    first = file.tell()
    fragments = list(_fragments(file, size))
    if count == 1:
        return (tuple(fragments),)
    if len(fragments) == count:
        return tuple((fragment,) for fragment in fragments)
    if len(offsets) != count:
        raise Refused(CANNOT_UNDERSTAND, "The frames cannot be told apart: no offset table, and not one fragment a frame.")
    starts = [first + offset for offset in offsets]
    ends = [*starts[1:], size]
    return tuple(tuple(f for f in fragments if low <= f[0] - 8 < high) for low, high in zip(starts, ends, strict=True))


def _fragments(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each item's value, up to the sequence delimiter."""
    while len(head := file.read(8)) == 8:
        if head[:4] == b"\xfe\xff\xdd\xe0":
            return
        offset, length = file.tell(), int.from_bytes(head[4:], "little")
        if head[:4] != b"\xfe\xff\x00\xe0" or offset + length > size:
            raise Refused(CANNOT_UNDERSTAND, "The encapsulated pixel data are broken or cut off.")
        yield offset, length
        file.seek(offset + length)


def relabelled(data: bytes, **values: str) -> bytes:
    """A copy of a file with other values of these elements and new UIDs of its own: another examination of another patient."""
    dataset = pydicom.dcmread(BytesIO(data))
    fresh = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "SOPInstanceUID": generate_uid()}
    for keyword, value in (fresh | values).items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = BytesIO()
    pydicom.dcmwrite(file, dataset)
    return file.getvalue()


def explicit(data: bytes) -> bytes:
    """An Implicit VR Little Endian file as Explicit VR Little Endian, pixels untouched."""
    dataset = pydicom.dcmread(BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
    return file.getvalue()
