"""Files that are made of data sets: with other values, in another form, or of the DICOM JSON model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from imaging.dataset.refusal import CANNOT_UNDERSTAND, DATA_SET_MISMATCH, OUT_OF_RESOURCES, Refused

Json = dict[str, Any]

_MAX_BULK = 256 * 1024 * 1024  # of the values of one data set: a part may be referred to more than once


def relabelled(data: bytes, **values: str) -> bytes:
    """A copy of a file with other values of these elements and new UIDs of its own: another examination of another patient."""
    fresh = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "SOPInstanceUID": generate_uid()}
    return corrected(data, fresh | values)


def corrected(data: bytes, values: dict[str, str]) -> bytes:
    """A copy of a file with other values of these elements."""
    dataset = pydicom.dcmread(BytesIO(data))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(file, dataset)
    return file.getvalue()


def explicit(data: bytes) -> bytes:
    """An Implicit VR Little Endian file as Explicit VR Little Endian, pixels untouched. Errors: Refused, where a value cannot be written."""
    file = BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(BytesIO(data))
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
    except Exception as error:
        raise Refused(CANNOT_UNDERSTAND, f"This instance cannot be written anew ({type(error).__name__}).") from None
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Part:
    """Bulk data of a request, and the transfer syntax in which it is compressed, if it is."""

    data: bytes
    syntax: str | None = None


def of_json(told: Json, bulk: Mapping[str, Part]) -> bytes:
    """A file of the DICOM JSON model. ``bulk``: by BulkDataURI, of this request alone: nothing is fetched from elsewhere.

    PS3.18 section 10.5.2. Errors: Refused.
    """
    used: list[str] = []
    size = 0

    def resolve(_tag: str, _vr: str, uri: str) -> bytes:
        nonlocal size
        used.append(uri)
        data = bulk[uri].data if uri in bulk else b""
        size += len(data)
        if size > _MAX_BULK:
            raise Refused(OUT_OF_RESOURCES, "The values of the data set are too large.")
        return data

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta = {tag: told[tag] for tag in told if tag.startswith("0002")}
            dataset = Dataset.from_json({tag: told[tag] for tag in told if tag not in meta}, resolve)
            file = _file(dataset, _syntax(meta), told.get("7FE00010", {}).get("BulkDataURI"), bulk)
    except Refused:
        raise
    except AttributeError:
        raise Refused(DATA_SET_MISMATCH, "The metadata have no SOPClassUID or SOPInstanceUID.") from None
    except Exception as error:
        raise Refused(CANNOT_UNDERSTAND, f"The metadata cannot be read ({type(error).__name__}).") from None
    if not all(uri in bulk for uri in used):
        raise Refused(CANNOT_UNDERSTAND, "A BulkDataURI is not the Content-Location of a part of this request.")
    return file


def _file(dataset: Dataset, syntax: str, pixels: str | None, bulk: Mapping[str, Part]) -> bytes:
    compressed = bulk[pixels].syntax if pixels is not None and pixels in bulk else None
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(compressed or syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if compressed:
        dataset.PixelData = encapsulate([dataset.PixelData])
        dataset["PixelData"].VR = "OB"
    file = BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return file.getvalue()


def _syntax(meta: Json) -> str:
    values = (meta.get("00020010") or {}).get("Value") or [str(ExplicitVRLittleEndian)]
    return str(values[0])
