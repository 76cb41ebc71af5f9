"""What several threads have to do at the same time, done in one: while one does what has gathered, more gathers.

As databases commit in groups: https://www.postgresql.org/docs/current/wal-configuration.html (commit_delay, commit_siblings).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Piece(Generic[T, R]):
    things: list[T]
    results: list[R] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.results is not None or self.error is not None


class Coming:
    """One who will call, before long, or not at all: left when it does, or when the context ends."""

    def __init__(self, together: Together[Any, Any]) -> None:
        self._together, self._there = together, False

    def __enter__(self) -> Coming:
        self._there = True
        self._together.expect(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        if self._there:
            self._there = False
            self._together.expect(-1)


class Together(Generic[T, R]):
    """``work`` makes a result of each thing; it is given those of up to so many ``pieces`` at once, and waits so many ``seconds`` for
    those who are ``coming``. Thread-safe."""

    def __init__(self, work: Callable[[list[T]], list[R]], pieces: int = 32, seconds: float = 0.004) -> None:
        self._work, self._pieces, self._seconds = work, pieces, seconds
        self._gathered: list[_Piece[T, R]] = []
        self._gathering, self._working = threading.Condition(threading.RLock()), threading.Lock()
        self._coming = 0

    def expect(self, number: int) -> None:
        """So many more, or fewer, are coming."""
        with self._gathering:
            self._coming += number
            self._gathering.notify_all()

    def __call__(self, things: list[T], coming: Coming | None = None) -> list[R]:
        """The results of these. What ``work`` raises is raised where it was alone with them."""
        mine: _Piece[T, R] = _Piece(things)
        with self._gathering:
            self._gathered.append(mine)
            if coming is not None:
                coming.leave()
        while not mine.done:
            with self._working:
                if not mine.done:  # else another thread did it with its own
                    with self._gathering:
                        self._gathering.wait_for(self._all_there, self._seconds)
                        pieces, self._gathered = self._gathered[: self._pieces], self._gathered[self._pieces :]
                    self._do(pieces)
        if mine.error is not None:
            raise mine.error
        assert mine.results is not None
        return mine.results

    def _all_there(self) -> bool:
        return self._coming <= 0 or len(self._gathered) >= self._pieces

    def _do(self, pieces: list[_Piece[T, R]]) -> None:
        try:
            results = iter(self._work([thing for piece in pieces for thing in piece.things]))
            for piece in pieces:
                piece.results = [next(results) for _ in piece.things]
        except Exception as error:
            if len(pieces) == 1:
                pieces[0].error = error
                return
            for piece in pieces:  # one that cannot be done does not cost the others theirs
                self._do([piece])
