"""How far long work is, on stderr: on a terminal a bar that moves, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_WIDTH = 24


class Progress:
    """Of ``total`` things (0: nobody knows). Not for several threads."""

    def __init__(self, total: int, things: str) -> None:
        self._total, self._things = total, things
        self._begun = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._due = 0.0 if self._terminal else self._begun + 10.0
        self.count, self.size = 0, 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stderr.write(f"\r\x1b[K{self.line()}\n" if self._terminal else f"{self.line()}\n")

    def step(self, size: int) -> None:
        """One more, of so many bytes."""
        self.count += 1
        self.size += size
        if time.monotonic() >= self._due:
            self._show()

    def tell(self, line: str) -> None:
        """A line on stdout, and the bar below it."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        if self._terminal:
            self._show()

    def _show(self) -> None:
        sys.stderr.write(f"\r{self._bar()} {self.line()}\x1b[K" if self._terminal else f"{self.line()}\n")
        sys.stderr.flush()
        self._due = time.monotonic() + (0.2 if self._terminal else 10.0)

    def _bar(self) -> str:
        done = min(_WIDTH, _WIDTH * self.count // self._total) if self._total else 0
        return f"[{'#' * done}{'.' * (_WIDTH - done)}]"

    def line(self) -> str:
        seconds = max(time.monotonic() - self._begun, 0.001)
        parts = [
            f"{self.count:,} of {self._total:,} {self._things}" if self._total else f"{self.count:,} {self._things}",
            f"{self.size / 1e6:,.1f} MB",
            f"{self.count / seconds:,.0f}/s",
            f"{self.size / 1e6 / seconds:,.1f} MB/s",
        ]
        if 0 < self.count < self._total:
            left = round(seconds / self.count * (self._total - self.count))
            parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
        return ", ".join(parts)
