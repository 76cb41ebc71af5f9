"""Is there room on the disk? Writes are refused before it is full: a database that meets the end of its disk stops.

https://hl7.org/fhir/R4/http.html (507: RFC 4918 section 11.5)
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from fhirserver.errors import InsufficientStorage

_EVERY = 0.5  # seconds


class Room:
    """Of these folders' disks: what is free beyond the reserve."""

    def __init__(self, folders: tuple[Path, ...], reserve: int) -> None:
        self._folders, self._reserve = folders, reserve
        self._looked, self._enough = float("-inf"), True

    @property
    def free(self) -> int:
        """Bytes, on the fullest of the disks."""
        return min(shutil.disk_usage(folder).free for folder in self._folders)

    def enough(self) -> bool:
        now = time.monotonic()
        if now - self._looked > _EVERY:
            self._looked, self._enough = now, self.free >= self._reserve
        return self._enough

    def require(self) -> None:
        """Error: 507."""
        if not self.enough():
            raise InsufficientStorage(
                "The server's disk is nearly full, so it only reads. Nothing was changed; try again later."
            )
