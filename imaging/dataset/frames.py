"""Where each frame's bytes are in a file, so that a frame is one ranged read.

PS3.5 section 8 and A.4: https://dicom.nema.org/medical/dicom/current/output/chtml/part05/sect_A.4.html
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from pydicom.encaps import parse_basic_offsets

from imaging.attributes import BIG_ENDIAN
from imaging.dataset.refusal import CANNOT_UNDERSTAND, DATA_SET_MISMATCH, OUT_OF_RESOURCES, Refused

Frames = tuple[tuple[tuple[int, int], ...], ...]

MAX_FRAMES = MAX_FRAGMENTS = 100_000
_UNDEFINED = 0xFFFFFFFF
PIXELS = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
_BEGINNINGS = (b"\xff\xd8", b"\xff\x4f\xff\x51")  # of a JPEG and of a JPEG 2000 stream


def pixel_data(file: Any, at: int, syntax: str) -> tuple[int, str, int, int] | None:
    """(tag, VR, offset and length of the value) of the pixel data element that begins at ``at``."""
    file.seek(at)
    head = file.read(12)
    order: Literal["big", "little"] = "big" if syntax == BIG_ENDIAN else "little"
    tag = int.from_bytes(head[0:2], order) << 16 | int.from_bytes(head[2:4], order)
    if tag not in PIXELS:
        return None
    if head[4:6].isalpha():
        return tag, head[4:6].decode("ascii"), at + 12, int.from_bytes(head[8:12], order)
    return tag, "OW", at + 8, int.from_bytes(head[4:8], order)


def frame_count(told: dict[str, Any]) -> int:
    """Errors: Refused."""
    values = told.get("00280008", {}).get("Value") or [1]
    count = values[0] if isinstance(values[0], int) else 0
    if not 0 < count <= MAX_FRAMES:
        raise Refused(DATA_SET_MISMATCH, "NumberOfFrames is out of range.")
    return count


def located(file: Any, size: int, start: int, length: int, told: dict[str, Any], count: int) -> Frames:
    """For each frame the (offset, length) segments of its bytes; none where frames cannot be told apart, or do not begin at a byte.

    Errors: Refused where the bytes are not all there.
    """
    if length == _UNDEFINED:
        return _encapsulated(file, start, size, told, count)
    if start + length > size:
        raise Refused(CANNOT_UNDERSTAND, "The pixel data are cut off.")
    frame = _native_frame_bytes(told, length, count)
    return tuple(((start + i * frame, frame),) for i in range(count)) if frame else ()


def _native_frame_bytes(told: dict[str, Any], length: int, count: int) -> int:
    bits = _number(told, "00280010") * _number(told, "00280011") * _number(told, "00280002", 1) * _number(told, "00280100")
    if told.get("00280004", {}).get("Value") == ["YBR_FULL_422"]:
        bits = bits * 2 // 3
    if bits * count > length * 8:
        raise Refused(CANNOT_UNDERSTAND, "The pixel data are shorter than Rows, Columns and NumberOfFrames say.")
    return bits // 8 if bits % 8 == 0 else 0


def _number(told: dict[str, Any], tag: str, default: int = 0) -> int:
    values = told.get(tag, {}).get("Value") or [default]
    if not isinstance(values[0], int) or values[0] < 0:
        raise Refused(CANNOT_UNDERSTAND, "The size of the image is not told.")
    return values[0]


def _encapsulated(file: Any, start: int, size: int, told: dict[str, Any], count: int) -> Frames:
    file.seek(start)
    if int.from_bytes(file.read(8)[4:], "little") > 4 * MAX_FRAMES:
        raise Refused(CANNOT_UNDERSTAND, "The offset table is of more frames than there may be.")
    file.seek(start)
    offsets = parse_basic_offsets(file)
    first = file.tell()
    fragments = list(islice(_fragments(file, size), MAX_FRAGMENTS + 1))
    if len(fragments) > MAX_FRAGMENTS:
        raise Refused(OUT_OF_RESOURCES, "The encapsulated pixel data have too many fragments.")
    if not fragments:
        raise Refused(CANNOT_UNDERSTAND, "The encapsulated pixel data have no fragment.")
    if count == 1:
        return (tuple(fragments),)
    if len(fragments) == count:
        return tuple((fragment,) for fragment in fragments)
    if len(offsets) != count:
        offsets = _begin(file, fragments, first)
    if len(offsets) != count or len(fragments) < count:
        return ()
    starts = [first + offset for offset in offsets]
    ends = [*starts[1:], size]
    return tuple(tuple(f for f in fragments if low <= f[0] - 8 < high) for low, high in zip(starts, ends, strict=True))


def _begin(file: Any, fragments: list[tuple[int, int]], first: int) -> list[int]:
    """Without an offset table: where a compressed stream begins, a frame does."""
    found = []
    for offset, _ in fragments:
        file.seek(offset)
        if file.read(4).startswith(_BEGINNINGS):
            found.append(offset - 8 - first)
    return found


def _fragments(file: Any, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each item's value, up to the sequence delimiter."""
    while len(head := file.read(8)) == 8:
        if head[:4] == b"\xfe\xff\xdd\xe0":
            return
        offset, length = file.tell(), int.from_bytes(head[4:], "little")
        if head[:4] != b"\xfe\xff\x00\xe0" or offset + length > size:
            raise Refused(CANNOT_UNDERSTAND, "The encapsulated pixel data are broken or cut off.")
        yield offset, length
        file.seek(offset + length)
