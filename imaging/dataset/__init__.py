"""DICOM files, as plain Python values. Of the server's own process, the only place that sees pydicom.

pydicom loads whatever codecs are installed. They are native code for hostile input, and belong to the decoders' processes alone.
"""

from __future__ import annotations

import sys

# None is how the import system marks what is not to be had
for _codec in ("gdcm", "pylibjpeg", "openjpeg", "rle", "jpeg_ls", "PIL"):
    sys.modules.setdefault(_codec, None)  # type: ignore[arg-type]

from imaging.dataset.instance import META, Instance, data_set_at, encodings, is_charset, is_uid, parse  # noqa: E402
from imaging.dataset.refusal import (  # noqa: E402
    CANNOT_UNDERSTAND,
    DATA_SET_MISMATCH,
    DUPLICATE_INSTANCE,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    TRANSFER_SYNTAX_NOT_SUPPORTED,
    Refused,
)

__all__ = [
    "CANNOT_UNDERSTAND",
    "DATA_SET_MISMATCH",
    "DUPLICATE_INSTANCE",
    "META",
    "NOT_AUTHORIZED",
    "OUT_OF_RESOURCES",
    "TRANSFER_SYNTAX_NOT_SUPPORTED",
    "Instance",
    "Refused",
    "data_set_at",
    "encodings",
    "is_charset",
    "is_uid",
    "parse",
]
