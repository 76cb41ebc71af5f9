"""A file's data set and the pixels of a frame, within bounds, for what is made of them."""

from __future__ import annotations

import warnings
from typing import Any

import pydicom
from pydicom.pixels import pixel_array

# Of what a frame holds when it is decoded: more is refused before anything is decoded
MAX_FRAME = 512 * 1024 * 1024


class Undecodable(Exception):
    """The pixels cannot be decoded, in words that tell nothing of the patient."""


def read(path: str, *, whole: bool = False, needed: bool = True) -> Any:
    """The data set; the pixels themselves are read where they are needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, defer_size=None if whole else 64 * 1024)
    if "PixelData" not in dataset and needed:
        raise Undecodable("This instance has no pixels.")
    if "PixelData" in dataset and frame_bytes(dataset) > MAX_FRAME:
        raise Undecodable("A frame of this image is too large to be decoded.")
    return dataset


def frame_bytes(dataset: Any) -> int:
    try:
        samples = int(dataset.get("SamplesPerPixel", 1) or 1)
        return int(dataset.Rows) * int(dataset.Columns) * samples * max(1, int(dataset.get("BitsAllocated", 8)) // 8)
    except (AttributeError, TypeError, ValueError):
        raise Undecodable("The size of the image is not told.") from None


def pixels(dataset: Any, frame: int, *, raw: bool = False) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pixel_array(dataset, index=frame, raw=raw)
    except Exception as error:
        raise Undecodable(f"The pixels cannot be decoded ({type(error).__name__}).") from None
