"""What a decoder's process does: a question, and bytes for an answer, or text for what is wrong. ``Decoders`` starts it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from imaging.decoding import pictures, transcoding
from imaging.decoding.reading import Undecodable
from imaging.view import FAILED, MADE

_FUNCTIONS: dict[str, Callable[..., bytes]] = {
    "picture": pictures.picture,
    "decoded": transcoding.decoded,
    "encoded": transcoding.encoded,
    "transcoded": transcoding.transcoded,
}


def serve(connection: Connection) -> None:
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send_bytes(MADE + _FUNCTIONS[function](*arguments))
        except Undecodable as error:
            connection.send_bytes(FAILED + str(error).encode())
        except MemoryError:
            connection.send_bytes(FAILED + b"The image takes too much memory to be decoded.")
        except (KeyboardInterrupt, SystemExit):
            raise
        except (
            BaseException
        ) as error:  # hostile input: whatever a codec raises, the request is answered; Rust's panics are no Exception
            connection.send_bytes(FAILED + f"The image cannot be decoded ({type(error).__name__}).".encode())


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Connection(int(sys.argv[1])))
