"""Where the bytes of a series are, read at once when one instance of it after another is asked for, as a viewer does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from imaging.index.rows import Stored

_FIRST = 4  # instances that are read one by one
_MOST = 20_000  # instances and frames that are remembered
_SERIES = 2_000


@dataclass(slots=True)
class _Series:
    revision: int
    asked: int = 0
    rows: dict[str, Stored] = field(default_factory=dict)


class Ahead:
    """Rows by series and instance, as they are in one revision of the study. Thread-safe."""

    def __init__(self, read: Callable[[str], list[Stored]]) -> None:
        self._read = read
        self._series: dict[str, _Series] = {}
        self._room = _MOST
        self._lock = threading.Lock()

    def row(self, series: str, revision: int, instance: str) -> Stored | None:
        """None where it is to be read by itself."""
        with self._lock:
            known = self._series.get(series)
            if known is None or known.revision != revision:
                self._drop(series)
                if len(self._series) >= _SERIES:
                    self._clear()
                known = self._series[series] = _Series(revision)
            known.asked += 1
            now = known.asked == _FIRST
        if now:  # this one thread reads, the others go on one by one until it has
            rows = self._read(series)
            with self._lock:
                if self._series.get(series) is known:  # else it was forgotten meanwhile
                    self._take(known, rows)
        return known.rows.get(instance)

    def forget(self) -> None:
        with self._lock:
            self._clear()

    def _take(self, known: _Series, rows: list[Stored]) -> None:
        size = sum(1 + row.count for row in rows)
        if size > _MOST // 2:
            return
        if size > self._room:
            self._clear()
        else:
            self._room -= size
            known.rows = {row.uid: row for row in rows}

    def _drop(self, series: str) -> None:
        gone = self._series.pop(series, None)
        self._room += sum(1 + row.count for row in gone.rows.values()) if gone else 0

    def _clear(self) -> None:
        self._series.clear()
        self._room = _MOST
