"""Decoders run in processes of their own, with bounds on memory and time: one that crashes or hangs costs one request.

The processes are made when the first picture is asked for, and another when one had to be ended.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from multiprocessing.connection import Connection
from typing import Any

from imaging.view import MADE

SECONDS, MEMORY = 30.0, 3 * 1024**3
_LARGEST = 4 * 1024 * 1024  # of a picture that is kept


class DecodingFailed(Exception):
    """In words for the client. ``crashed``: it is not that the image has no such form, but that its decoding came to nothing."""

    def __init__(self, text: str, *, crashed: bool = False) -> None:
        super().__init__(text)
        self.crashed = crashed


class Decoders:
    """A few processes; ``call`` waits for a free one. Thread-safe."""

    def __init__(self, number: int = 2, seconds: float = SECONDS, memory: int = MEMORY, kept: int = 64 * 1024 * 1024) -> None:
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(number):
            self._free.put(None)
        self._number, self._seconds, self._memory = number, seconds, memory
        self._kept, self._room = OrderedDict[Any, bytes](), kept
        self._lock = threading.Lock()

    def call(self, function: str, *arguments: Any, name: str = "") -> bytes:
        """One of the functions of ``process`` on these arguments; ``name`` stands for the first, a path, where answers are kept.

        Errors: DecodingFailed."""
        key = (function, name, *arguments[1:]) if name else None
        if key is not None and (known := self._known(key)) is not None:
            return known
        process, answer = self._free.get(), None
        try:
            if process is None or not process.alive:
                process = _Process(self._memory)
            answer = process.ask((function, arguments), self._seconds)
        except _Lost:
            raise DecodingFailed("The image could not be decoded: it takes too much time or memory.", crashed=True) from None
        finally:
            self._free.put(None if answer is None else process)
            if answer is None and process is not None:  # whatever it was: its next answer would be that of this question
                process.end()
        if isinstance(answer, str):
            raise DecodingFailed(answer)
        if key is not None:
            self._keep(key, answer)
        return answer

    def _known(self, key: Any) -> bytes | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def _keep(self, key: Any, answer: bytes) -> None:
        if len(answer) > _LARGEST:
            return
        with self._lock:
            if key in self._kept:  # another was asked the same meanwhile
                return
            self._kept[key] = answer
            self._room -= len(answer)
            while self._room < 0 and self._kept:
                _, gone = self._kept.popitem(last=False)
                self._room += len(gone)

    def close(self) -> None:
        for _ in range(self._number):
            with contextlib.suppress(queue.Empty):
                if process := self._free.get(timeout=1):
                    process.end()


class _Lost(Exception):
    """The process did not answer."""


class _Process:
    """``python -m imaging.decoding.process``, which sees a socket and the files that it is told to read."""

    def __init__(self, memory: int) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "imaging.decoding.process", str(theirs.fileno()), str(memory)]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603 - our own
        theirs.close()
        self._ours = Connection(ours.detach())

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: Any, seconds: float) -> bytes | str:
        try:
            self._ours.send(question)
            if not self._ours.poll(seconds):
                raise _Lost
            answer = self._ours.recv_bytes()
        except (EOFError, OSError, MemoryError):
            raise _Lost from None
        return answer[1:] if answer[:1] == MADE else answer[1:].decode(errors="replace")

    def end(self) -> None:
        self._process.kill()
        self._process.wait(5)
        self._ours.close()
