"""A data set as the DICOM JSON model, and where its bulk data are in the file.

PS3.18 Annex F: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/chapter_F.html
Most elements are ASCII text or binary numbers and are told from their bytes; whatever else there is goes through pydicom.
"""

from __future__ import annotations

import base64
import math
import struct
from array import array
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement

from imaging.dataset.refusal import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refused

Json = dict[str, Any]
Bulk = tuple[str, int, int]  # path of tags, offset and length of the value in the file

INLINE = 1024  # bytes of a binary value that are told in place; what is larger stays in the file
DEFER = 64 * 1024  # of any value
BULK_MARK = '"BulkDataURI":"@'  # what stands for the URL of /dicomweb; a JSON text's value cannot hold it
_MAX_METADATA = 32 * 1024 * 1024
_MAX_NESTED, _MAX_ITEMS = 16 * 1024 * 1024, 300_000
_ITEM = b"\xfe\xff\x00\xe0"
_GROUP_LENGTH = 0x0000
_BINARY = {"OB": 1, "UN": 1, "OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}  # VR -> bytes of a word
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_TEXTS = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UC", "UI"})
_LONG_TEXTS = frozenset({"LT", "ST", "UR", "UT"})
_DECIMAL = frozenset({"DS", "IS"})


class Told:
    """The JSON of one data set, whose ``bulk`` is found on the way. ``at``: the path of its bulk data below /dicomweb.

    Errors: Refused where there is too much of it.
    """

    def __init__(self, dataset: Any, at: str, in_file: bool) -> None:
        self._at, self._in_file, self._size = at, in_file, 0
        self._nested = self._items = 0  # bytes and items of sequences
        self.bulk: list[Bulk] = []
        self.json = self._elements(dataset, "", 0)
        if "00080005" in self.json:
            self.json["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}

    def _elements(self, dataset: Any, path: str, base: int) -> Json:
        """``base``: where in the file that begins in which pydicom tells where values are."""
        found: Json = {}
        for tag, raw in sorted(dataset.items()):
            if tag.element == _GROUP_LENGTH or tag.group == 0x0002:
                continue
            name = f"{tag:08X}"
            told = self._element(dataset, tag, raw, path + name, base)
            if told is not None:
                found[name] = told
        return found

    def _element(self, dataset: Any, tag: Any, raw: Any, path: str, base: int) -> Json | None:
        vr = _vr(raw, tag)
        if isinstance(raw, RawDataElement):
            length = raw.length if raw.value is None else len(raw.value)
            self._count(min(length, DEFER))
            if vr == "SQ" and length:
                self._sequences(dataset, raw, length)
            if vr != "SQ" and length > (INLINE if vr in _BINARY or " or " in vr else DEFER):
                return self._bulk(vr.rpartition(" or ")[2], path, base + raw.value_tell, length)
            told = _told(vr, raw.value or b"", raw.is_little_endian)
            if told is not None:
                return told
        try:
            element: DataElement = dataset[tag]
        except Exception:  # one element that cannot be told does not hide the others
            return None
        if element.VR == "SQ":
            # One that tells its length was read by itself, from where its value begins.
            within = base + raw.value_tell if isinstance(raw, RawDataElement) else base
            return self._sequence(element, path, within)
        return _slow(element)

    def _sequence(self, element: DataElement, path: str, base: int) -> Json:
        items = [self._elements(item, f"{path}.{n}.", base) for n, item in enumerate(element.value or ())]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}

    def _bulk(self, vr: str, path: str, offset: int, length: int) -> Json:
        if not self._in_file or length == 0xFFFFFFFF:
            return {"vr": vr}
        self.bulk.append((path, offset, length))
        return {"vr": vr, "BulkDataURI": f"@{self._at}{path}"}

    def _sequences(self, dataset: Any, raw: RawDataElement, length: int) -> None:
        """One that tells its length was not looked into yet."""
        self._nested += length
        if self._nested <= _MAX_NESTED:
            self._items += (_deferred(dataset, raw) if raw.value is None else raw.value).count(_ITEM)
        if self._nested > _MAX_NESTED or self._items > _MAX_ITEMS:
            raise Refused(CANNOT_UNDERSTAND, "The data set has too many elements.")

    def _count(self, length: int) -> None:
        self._size += length + 32
        if self._size > _MAX_METADATA:
            raise Refused(OUT_OF_RESOURCES, "The data set without its pixels is too large.")


def _deferred(dataset: Any, raw: RawDataElement) -> bytes:
    with open(dataset.filename, "rb") as file:
        file.seek(raw.value_tell)
        return file.read(raw.length)


def _vr(raw: Any, tag: Any) -> str:
    if raw.VR not in (None, "UN"):
        return str(raw.VR)
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"


def _told(vr: str, value: bytes, little: bool) -> Json | None:
    """None where pydicom has to look."""
    if not value:
        return {"vr": vr} if vr != "SQ" and " or " not in vr else None
    if vr in _NUMBERS:
        size = struct.calcsize(_NUMBERS[vr])
        if len(value) % size:
            return None
        numbers = struct.unpack(f"{'<' if little else '>'}{len(value) // size}{_NUMBERS[vr]}", value)
        return {"vr": vr, "Value": [_finite(n) for n in numbers]}
    if vr in _BINARY:
        return {"vr": vr, "InlineBinary": base64.b64encode(value if little else turned(value, _BINARY[vr])).decode()}
    if not value.isascii() or b"\x1b" in value:
        return None
    text = value.decode("ascii").rstrip(" \0")
    if vr in _TEXTS or vr in _DECIMAL or vr == "PN":
        parts = [part.strip(" \0") for part in text.split("\\")]
        return _valued(vr, [_one(vr, part) for part in parts])
    if vr in _LONG_TEXTS:
        return _valued(vr, [text or None])
    return None


def word_of(told: Json, path: str) -> int:
    """How many bytes a word of the value at this path has, 1 where it has no byte order. ``told``: the data set's JSON."""
    *above, tag = path.split(".")
    for sequence, item in zip(above[::2], above[1::2], strict=False):
        told = told.get(sequence, {}).get("Value", [])[int(item)]
    vr = told.get(tag, {}).get("vr", "")
    return struct.calcsize(_NUMBERS[vr]) if vr in _NUMBERS else _BINARY.get(vr, 1)


def turned(value: bytes, size: int) -> bytes:
    """F.2.7: little endian, however it is stored. ``size``: bytes of a word."""
    words = array({1: "B", 2: "H", 4: "I", 8: "Q"}[size], value[: len(value) // size * size])
    words.byteswap()
    return words.tobytes()


def _valued(vr: str, values: list[Any]) -> Json:
    return {"vr": vr, "Value": values} if any(value is not None for value in values) else {"vr": vr}


def _one(vr: str, text: str) -> Any:
    if not text:
        return None
    if vr == "PN":
        groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
        return {name: group for name, group in groups if group} or None
    if vr not in _DECIMAL:
        return text
    try:
        return int(text) if vr == "IS" else _finite(float(text))
    except ValueError:
        return text  # F.2.3: "Number or String"


def _finite(number: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    return number if not isinstance(number, float) or math.isfinite(number) else str(number)


def _slow(element: DataElement) -> Json | None:
    try:
        if element.VR in _DECIMAL:
            values = element.value if element.VM > 1 else [element.value]
            return _valued(element.VR, [_one(element.VR, str(value)) for value in values])
        told: Json = element.to_json_dict(None, INLINE)
    except Exception:
        return None
    return told


def texts(told: Json | None) -> str:
    """An element's values as DICOM writes them, with backslashes between."""
    return "\\".join(_text(value) for value in (told or {}).get("Value", ()))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        groups = (value.get(name, "") for name in ("Alphabetic", "Ideographic", "Phonetic"))
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)
