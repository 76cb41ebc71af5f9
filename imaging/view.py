"""How a picture is to look, and which forms there are beside the stored one. Plain values, which decoders are told.

PS3.18 section 8.3.5: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_8.3.5.html
"""

from __future__ import annotations

from dataclasses import dataclass

from imaging.attributes import EXPLICIT_LE

FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}
# What an instance or a frame can be given in, beside the form that it is stored in
TRANSCODED = {
    EXPLICIT_LE: "Explicit VR Little Endian",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.5": "RLE Lossless",
}

# What a decoder's answer is, its first byte. The rest are bytes too: one that hostile input took over can give a wrong picture, and
# nothing that is run.
MADE, FAILED = b"+", b"-"


@dataclass(frozen=True, slots=True)
class Window:
    """PS3.3 C.11.2.1.2: centre, width, and the function: linear, linear-exact, sigmoid."""

    centre: float
    width: float
    function: str = "linear"


@dataclass(frozen=True, slots=True)
class View:
    """Media type, size in pixels, the part of the image that is shown (x, y, width, height), window, quality, whether it is mirrored."""

    media: str = "image/jpeg"
    size: tuple[int, int] | None = None
    part: tuple[int, int, int, int] | None = None
    window: Window | None = None
    quality: int = 90
    flip: tuple[bool, bool] = (False, False)
