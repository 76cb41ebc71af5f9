"""From one transfer syntax to another: frames and whole files.

PS3.18 section 10.4 and PS3.5 Annex A: https://dicom.nema.org/medical/dicom/current/output/chtml/part05/chapter_A.html
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from imaging.decoding.reading import MAX_FRAME, Undecodable, frame_bytes, pixels, read
from imaging.view import TRANSCODED

# By name: GDCM's for RLE ends the process where samples are not a multiple of three
_ENCODERS = {JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg", RLELossless: "pylibjpeg"}
_SUBSAMPLED = "YBR_FULL_422"
_PIXEL_MODULE = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


def decoded(path: str, frame: int) -> bytes:
    """One frame, from 0, as it is in Explicit VR Little Endian: colours as stored. Errors: Undecodable."""
    dataset = read(path)
    array = pixels(dataset, frame, raw=True)
    if (
        array.ndim == 3
        and int(dataset.get("PlanarConfiguration", 0) or 0) == 1
        and not dataset.file_meta.TransferSyntaxUID.is_compressed
    ):
        array = array.transpose(2, 0, 1)
    return _little(array)


def _little(array: Any) -> bytes:
    return bytes(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def encoded(path: str, frame: int, syntax: str) -> bytes:
    """One frame, from 0, in a lossless compressed transfer syntax. Errors: Undecodable."""
    dataset = read(path)
    one = Dataset()
    for keyword in _PIXEL_MODULE:
        if keyword in dataset:
            setattr(one, keyword, dataset.get(keyword))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
            array, told = decoder.as_array(dataset, index=frame, raw=True)
    except Exception as error:
        raise Undecodable(f"The pixels cannot be decoded ({type(error).__name__}).") from None
    made = told["photometric_interpretation"]  # of what was decoded, which the file's may not be
    one.PhotometricInterpretation = "YBR_FULL" if made == _SUBSAMPLED else made
    one.NumberOfFrames, one.PlanarConfiguration = 1, 0
    one.PixelData = _little(array)
    one["PixelData"].VR = "OW" if int(one.BitsAllocated) > 8 else "OB"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    _compress(one, syntax)
    return bytes(get_frame(one.PixelData, 0, number_of_frames=1))


def transcoded(path: str, syntax: str) -> bytes:
    """The whole file in another transfer syntax, losslessly, under the same UIDs. Errors: Undecodable."""
    dataset = read(path, whole=True, needed=False)
    if "PixelData" in dataset and frame_bytes(dataset) * int(dataset.get("NumberOfFrames") or 1) > MAX_FRAME:
        raise Undecodable("The instance is too large to be transcoded.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "PixelData" in dataset and dataset.file_meta.TransferSyntaxUID.is_compressed and not _is_deflated(dataset):
                dataset.decompress(as_rgb=False, generate_instance_uid=False)
                if dataset.PhotometricInterpretation == _SUBSAMPLED:  # the codec made all samples of it
                    dataset.PhotometricInterpretation = "YBR_FULL"
            if "PixelData" in dataset and dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
                _swap(dataset)
            if syntax != ExplicitVRLittleEndian and "PixelData" in dataset:
                dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                if dataset.PhotometricInterpretation == _SUBSAMPLED:
                    dataset.PixelData = _little(pixel_array(dataset, raw=True))
                    dataset.PhotometricInterpretation = "YBR_FULL"
                _compress(dataset, syntax)
            dataset.file_meta.TransferSyntaxUID = UID(syntax)
            out = BytesIO()
            pydicom.dcmwrite(out, dataset, implicit_vr=False, little_endian=True)
    except Undecodable:
        raise
    except Exception as error:
        raise Undecodable(f"This image cannot be given in {TRANSCODED[syntax]} ({type(error).__name__}).") from None
    return out.getvalue()


def _compress(dataset: Any, syntax: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.compress(UID(syntax), encoding_plugin=_ENCODERS[syntax], generate_instance_uid=False)
    except Exception as error:
        raise Undecodable(f"This image cannot be given in {TRANSCODED[syntax]} ({type(error).__name__}).") from None


def _is_deflated(dataset: Any) -> bool:
    return bool(dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian)


def _swap(dataset: Any) -> None:
    """Words of 16 bits and more turn; pydicom turns the other elements when it writes them."""
    size = int(dataset.BitsAllocated) // 8
    if size > 1:
        dataset.PixelData = np.frombuffer(dataset.PixelData, f">u{size}").astype(f"<u{size}").tobytes()
