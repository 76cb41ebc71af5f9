"""A small caller of C-STORE and C-ECHO that can also say what no decent one would, and certificates to call with."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from pathlib import Path

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def data_set(file: bytes) -> bytes:
    """What follows the file meta information."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def command(elements: dict[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", 0, e, len(v)) + v for e, v in sorted(elements.items()))
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def pdv(context: int, flags: int, data: bytes) -> bytes:
    value = struct.pack(">IBB", len(data) + 2, context, flags) + data
    return struct.pack(">BBI", 4, 0, len(value)) + value


def even(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


class Caller:
    """An association that was asked for; ``rejected`` tells (result, source, reason) where it was not given."""

    def __init__(
        self, port: int, calling: str = "CT1", called: str = "FHIRSERVER", contexts: tuple = ((CT, EXPLICIT),),
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        ask = A_ASSOCIATE()
        ask.application_context_name = "1.2.840.10008.3.1.1.1"
        ask.calling_ae_title, ask.called_ae_title = calling, called
        ask.presentation_context_definition_list = []
        for number, (sop_class, *syntaxes) in enumerate(contexts):
            context = build_context(sop_class, syntaxes)
            context.context_id = 2 * number + 1
            ask.presentation_context_definition_list.append(context)
        length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
        length.maximum_length_received, implementation.implementation_class_uid = 16384, "1.2.3.4"
        ask.user_information = [length, implementation]
        self.socket.sendall(A_ASSOCIATE_RQ(ask).encode())
        type_, body = self.pdu()
        self.rejected, self.contexts = None, {}
        whole = struct.pack(">BBI", type_, 0, len(body)) + body
        if type_ == 3:
            reject = A_ASSOCIATE_RJ()
            reject.decode(whole)
            self.rejected = (reject.result, reject.source, reject.reason_diagnostic)
        elif type_ != 2:
            raise ConnectionError(f"neither accepted nor rejected: {type_}")
        else:
            accept = A_ASSOCIATE_AC()
            accept.decode(whole)
            given = accept.to_primitive().presentation_context_definition_results_list
            self.contexts = {c.context_id: (c.result, str(c.transfer_syntax[0])) for c in given}

    def pdu(self) -> tuple[int, bytes]:
        """(0, nothing) where the connection was closed."""
        head = self._read(6)
        return (head[0], self._read(int.from_bytes(head[2:], "big"))) if len(head) == 6 else (0, b"")

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            try:
                more = self.socket.recv(count - len(found))
            except ConnectionResetError:
                return found
            if not more:
                return found
            found += more
        return found

    def ask(self, uid: str, sop_class: str = CT, context: int = 1, message: int = 7) -> None:
        """The C-STORE request, without its data set."""
        elements = {
            0x0002: even(sop_class), 0x0100: b"\1\0", 0x0110: message.to_bytes(2, "little"), 0x0700: b"\0\0", 0x0800: b"\1\0",
            0x1000: even(uid),
        }  # fmt: skip
        self.socket.sendall(pdv(context, 3, command(elements)))

    def send(self, data: bytes, context: int = 1, last: bool = True) -> None:
        for at in range(0, len(data), 65536):
            self.socket.sendall(pdv(context, 2 if last and at + 65536 >= len(data) else 0, data[at : at + 65536]))

    def store(self, uid: str, data: bytes, sop_class: str = CT, context: int = 1) -> tuple[int, str]:
        """Status and comment."""
        self.ask(uid, sop_class, context)
        self.send(data, context)
        return self.status()

    def status(self) -> tuple[int, str]:
        type_, body = self.pdu()
        assert type_ == 4, (type_, body)
        found, at = {}, 6
        while at < len(body):
            element, length = struct.unpack("<HI", body[at + 2 : at + 8])
            found[element] = body[at + 8 : at + 8 + length]
            at += 8 + length
        assert found[0x0120] == b"\7\0"
        return int.from_bytes(found[0x0900], "little"), found.get(0x0902, b"").decode().strip()

    def echo(self, context: int = 1) -> int:
        elements = {0x0002: even(VERIFICATION), 0x0100: b"\x30\0", 0x0110: b"\7\0", 0x0800: b"\1\1"}
        self.socket.sendall(pdv(context, 3, command(elements)))
        return self.status()[0]

    def release(self) -> int:
        """The type of the PDU that answers."""
        self.socket.sendall(b"\x05\0\0\0\0\4\0\0\0\0")
        type_, _ = self.pdu()
        self.socket.close()
        return type_

    def close(self) -> None:
        self.socket.close()

    def __del__(self) -> None:
        if hasattr(self, "socket"):
            self.close()

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def certificates(folder: Path, *names: str) -> None:
    """``<name>.pem`` and ``<name>.key``, signed by ``ca.pem``; and ``stranger``, signed by itself."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for name in ("ca", "stranger"):
        openssl("req", "-x509", *new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in names:
        openssl("req", *new[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-out", f"{name}.pem", "-extfile", "san",
        )  # fmt: skip
