"""Pictures of frames: how an image is to look, on a screen.

PS3.18 section 8.3.5: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_8.3.5.html
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_color_lut, apply_rescale
from pydicom.uid import ExplicitVRBigEndian

from imaging.decoding.reading import Undecodable, pixels, read
from imaging.view import FORMATS, View, Window

_UNSIGNED = {1: np.uint8, 2: np.uint16}  # by bytes of a sample


def picture(path: str, frame: int, view: View) -> bytes:
    """One frame, from 0, as JPEG or PNG. Errors: Undecodable."""
    dataset = read(path)
    _of_frame(dataset, frame)
    image = Image.fromarray(_shown(dataset, pixels(dataset, frame), view.window))
    if view.part:
        x, y, width, height = view.part
        image = image.crop((x, y, min(x + width, image.width), min(y + height, image.height)))
    if view.flip[0]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if view.flip[1]:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if view.size:
        image = _fitted(image, _aspect(dataset), view.size)
    out = BytesIO()
    options: dict[str, Any] = {"quality": view.quality} if view.media == "image/jpeg" else {"compress_level": 3}
    image.save(out, FORMATS[view.media], **options)
    return out.getvalue()


# PS3.3 C.7.6.16.2: what an enhanced image says of all its frames, or of each
_GROUPS = (
    ("PixelValueTransformationSequence", ("RescaleIntercept", "RescaleSlope")),
    ("FrameVOILUTSequence", ("WindowCenter", "WindowWidth", "VOILUTFunction")),
    ("PixelMeasuresSequence", ("PixelSpacing",)),
)


def _of_frame(dataset: Any, frame: int) -> None:
    """The data set says of itself what its functional groups say of this frame."""
    each = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    groups = [*(dataset.get("SharedFunctionalGroupsSequence") or ())[:1], *each[frame : frame + 1]]
    for group in groups:
        for macro, keywords in _GROUPS:
            for item in (group.get(macro) or ())[:1]:
                for keyword in keywords:
                    if keyword in item:
                        setattr(dataset, keyword, item.get(keyword))


def _shown(dataset: Any, array: Any, window: Window | None) -> Any:
    """8 bits a sample: palette, modality LUT, window, polarity. PS3.4 N.2"""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
                coloured = apply_color_lut(array, dataset)
                return (coloured >> 8).astype(np.uint8) if coloured.dtype.itemsize > 1 else coloured
            if array.ndim == 3:
                return _eight_bits(array, int(dataset.get("BitsStored", 8)))
            return _grey(dataset, array, window)
    except Undecodable:
        raise
    except Exception as error:
        raise Undecodable(f"The image cannot be shown ({type(error).__name__}).") from None


def _eight_bits(array: Any, bits: int) -> Any:
    return array.astype(np.uint8) if bits <= 8 else (array >> (bits - 8)).astype(np.uint8)


def _grey(dataset: Any, array: Any, window: Window | None) -> Any:
    """Each value that is stored is worked out once, and looked up for each pixel, which takes a third of the time."""
    unsigned: Any = _UNSIGNED.get(array.dtype.itemsize) if array.dtype.kind in "iu" else None
    if unsigned is None:
        return _shades(dataset, array, window)
    bits = np.ascontiguousarray(array).view(unsigned)
    [found] = np.nonzero(np.bincount(bits.ravel()))
    table = np.zeros(found[-1] + 1, np.uint8)
    table[found] = _shades(dataset, found.astype(unsigned).view(array.dtype), window)
    return table.take(bits)


def _shades(dataset: Any, stored: Any, window: Window | None) -> Any:
    values = apply_rescale(stored, dataset).astype(np.float64)
    if window is not None:
        shown = _windowed(values, window)
    elif dataset.get("VOILUTSequence"):
        shown = _looked_up(dataset, values)
    elif (chosen := _own_window(dataset)) is not None:
        shown = _windowed(values, chosen)
    else:
        shown = _stretched(values, _padding(dataset, stored))
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return 255 - shown if inverted else shown


def _own_window(dataset: Any) -> Window | None:
    centre, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    try:
        centre, width = (float(v[0]) if isinstance(v, pydicom.multival.MultiValue) else float(v) for v in (centre, width))
    except (TypeError, ValueError, IndexError):
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").lower().replace("_", "-")
    return Window(centre, width, function) if width >= 1 or (width > 0 and function != "linear") else None


def _looked_up(dataset: Any, values: Any) -> Any:
    """PS3.3 C.11.2.1.1: what the modality LUT gives is looked up; the table's own bits are all the greys there are."""
    item = dataset.VOILUTSequence[0]
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    table = item.LUTData
    if isinstance(table, bytes):
        order = ">" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
        table = np.frombuffer(table, np.uint8 if len(table) == entries else f"{order}u2")
    if first > 0x7FFF and values.min() < 0:
        first -= 0x10000  # it is as signed as the values are, which its VR does not tell
    table = np.asarray(table, np.float64)[: entries or 0x10000]
    looked_up = table[np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.intp)]
    return np.clip(looked_up / (2**bits - 1) * 255, 0, 255).astype(np.uint8)


def _padding(dataset: Any, array: Any) -> Any:
    """Where nothing of the patient is. PS3.3 C.7.5.1.1.2"""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(array.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return (array >= low) & (array <= high)


def _windowed(values: Any, window: Window) -> Any:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3"""
    centre, width = window.centre, max(window.width, 1e-6)
    if window.function == "sigmoid":
        shown = 255 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
    elif window.function == "linear-exact":
        shown = ((values - centre) / width + 0.5) * 255
    else:
        shown = ((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5) * 255
    return np.clip(shown, 0, 255).astype(np.uint8)


def _stretched(values: Any, padding: Any) -> Any:
    seen = values if padding.all() else values[~padding]
    low, high = float(seen.min()), float(seen.max())
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def _aspect(dataset: Any) -> float:
    """How much taller than wide a pixel is."""
    ratio = dataset.get("PixelAspectRatio") or dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    try:
        aspect = float(ratio[0]) / float(ratio[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return 1.0
    return aspect if 0.01 <= aspect <= 100 else 1.0


def _fitted(image: Image.Image, aspect: float, size: tuple[int, int]) -> Image.Image:
    """As large as fits, without distortion."""
    height = image.height * aspect
    scale = min(size[0] / image.width, size[1] / height)
    target = max(1, round(image.width * scale)), max(1, round(height * scale))
    return image.resize(target, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BILINEAR)
