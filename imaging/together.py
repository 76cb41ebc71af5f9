"""What several threads have to do at the same time, done in one: while one does what has gathered, more gathers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Piece(Generic[T, R]):
    things: list[T]
    results: list[R] | None = None
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.results is not None or self.error is not None


class Together(Generic[T, R]):
    """``work`` makes a result of each thing; it is given those of up to so many ``pieces`` at once. Nobody is waited for: measured,
    that costs more than it spares. After one of the errors ``alone``, which may be one piece's, each is tried by itself. Thread-safe."""

    def __init__(self, work: Callable[[list[T]], list[R]], alone: tuple[type[Exception], ...], pieces: int = 32) -> None:
        self._work, self._alone, self._pieces = work, alone, pieces
        self._gathered: list[_Piece[T, R]] = []
        self._gathering, self._working = threading.Lock(), threading.Lock()

    def __call__(self, things: list[T]) -> list[R]:
        """The results of these, or what ``work`` raised."""
        mine: _Piece[T, R] = _Piece(things)
        with self._gathering:
            self._gathered.append(mine)
        while not mine.done:
            with self._working:
                if not mine.done:  # else another thread did it with its own
                    with self._gathering:
                        pieces, self._gathered = self._gathered[: self._pieces], self._gathered[self._pieces :]
                    self._do(pieces)
        if mine.error is not None:
            raise mine.error
        assert mine.results is not None
        return mine.results

    def _do(self, pieces: list[_Piece[T, R]]) -> None:
        try:
            results = iter(self._work([thing for piece in pieces for thing in piece.things]))
            for piece in pieces:
                piece.results = [next(results) for _ in piece.things]
        except BaseException as error:
            if len(pieces) > 1 and isinstance(error, self._alone):
                for piece in pieces:  # one that cannot be done does not cost the others theirs
                    self._do([piece])
                return
            for piece in pieces:
                piece.error = error
