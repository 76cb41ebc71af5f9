"""Bytes in S3, or in what speaks its language. https://docs.aws.amazon.com/AmazonS3/latest/API/

Credentials come from boto3's usual environment. Each object is written with its SHA-256, which the store checks. An object cannot be
locked, so an orphan is first set aside, and found there by who reads it after all; a day later it is removed.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import io
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from imaging.blobs import PIECE, Away, Blobs, Damaged, Incoming, Kept, Segments, is_digest, joined

T = TypeVar("T")

log = logging.getLogger("imaging.blobs")

PART = 16 * 1024**2  # bytes; what is larger is uploaded in parts of this size
CACHE = 4 * 1024**3  # bytes of files that decoders were given
_YOUNG = 12 * 3600.0  # seconds; what is older is written again when it is kept again
_FULL = ("InsufficientCapacity", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded")
_MISSING = ("NoSuchKey", "404", "NotFound")
_RANGE = ("InvalidRange", "416")


class S3(Blobs):
    """A bucket, below a prefix. Thread-safe."""

    def __init__(self, bucket: str, prefix: str, folder: Path, endpoint: str | None = None) -> None:
        super().__init__(folder)
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._cache = folder / "cache"
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = Config(
            connect_timeout=3,
            read_timeout=20,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=64,
            s3={"addressing_style": "path" if endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._client: Any = boto3.client("s3", endpoint_url=endpoint, config=config)

    # ------------------------------------------------------------ keeping

    def keep(self, incoming: Incoming) -> str:
        digest = incoming.digest
        try:
            there = self._told(self._key(digest))
            young = there is not None and there.modified > time.time() - _YOUNG and there.size == incoming.size
            if not young:
                with open(incoming.path, "rb") as file:
                    self._put(self._key(digest), file, incoming.size, digest)
        finally:
            incoming.discard()
        return digest

    def _put(self, key: str, file: io.BufferedReader, size: int, digest: str) -> None:
        if size <= PART:
            self._ask("put_object", key, Body=file, ContentLength=size, ChecksumSHA256=_coded(bytes.fromhex(digest)))
            return
        upload = self._ask("create_multipart_upload", key, ChecksumAlgorithm="SHA256")["UploadId"]
        try:
            parts = list[dict[str, Any]]()
            while data := file.read(PART):
                told = {"PartNumber": len(parts) + 1, "ChecksumSHA256": _coded(hashlib.sha256(data).digest())}
                parts.append(told | {"ETag": self._ask("upload_part", key, UploadId=upload, Body=data, **told)["ETag"]})
            self._ask("complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(Exception):
                self._ask("abort_multipart_upload", key, UploadId=upload)
            raise

    # ------------------------------------------------------------ reading

    def read(self, digest: str, segments: Segments | None = None) -> bytes:
        if segments is None:
            return b"".join(self.chunks(digest))
        return b"".join(self._exactly(digest, offset, length) for offset, length in joined(segments) if length)

    def _exactly(self, digest: str, offset: int, length: int) -> bytes:
        def whole(key: str) -> bytes:
            body = self._ask("get_object", key, Range=f"bytes={offset}-{offset + length - 1}")["Body"]
            with _answering(), body:
                data: bytes = body.read()
            return data

        data = self._healed(digest, whole)
        if len(data) != length:
            raise Damaged("An image's object is shorter than it was.")
        return data

    def chunks(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        pieces = self._pieces(digest, start, end)
        return chain((next(pieces, b""),), pieces)  # begun, so that what is not there is told at once

    def _pieces(self, digest: str, start: int, end: int | None) -> Iterator[bytes]:
        if end is not None and end <= start:
            return
        wanted = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        reply = self._healed(digest, lambda key: self._ask("get_object", key, **wanted))
        missing = reply["ContentLength"]
        with _answering(), reply["Body"] as body:
            while data := body.read(PIECE):
                missing -= len(data)
                yield data
        if missing or (end is not None and reply["ContentLength"] != end - start):
            raise Damaged("An image's object is shorter than it was.")

    def size(self, digest: str) -> int:
        return self._healed(digest, lambda key: int(self._ask("head_object", key)["ContentLength"]))

    def exists(self, digest: str) -> bool:
        try:
            return is_digest(digest) and self.size(digest) >= 0
        except FileNotFoundError:
            return False

    @contextmanager
    def local(self, digest: str) -> Iterator[Path]:
        """Downloaded once, and kept while there is room for it and while somebody reads it."""
        if not is_digest(digest):
            raise FileNotFoundError(digest)
        path = self._cache / digest
        while True:
            try:
                file = open(path, "rb")  # noqa: SIM115 - closed below
            except FileNotFoundError:
                self._download(digest, path)
                continue
            with file:
                fcntl.flock(file, fcntl.LOCK_SH)  # others' trimming leaves it alone
                if os.fstat(file.fileno()).st_nlink:
                    os.utime(file.fileno())
                    yield path
                    return

    def _download(self, digest: str, path: Path) -> None:
        part, hashed = self.spool / uuid.uuid4().hex, hashlib.sha256()
        try:
            with open(part, "xb") as file:
                for chunk in self.chunks(digest):
                    hashed.update(chunk)
                    file.write(chunk)
            if hashed.hexdigest() != digest:
                raise Damaged("An image's bytes are not what they were.")
            self._trim(CACHE - part.stat().st_size)
            os.rename(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _trim(self, most: int) -> None:
        """Remove what was not read for longest, until ``most`` bytes are left."""
        with os.scandir(self._cache) as entries:
            files = sorted(((entry.stat(), entry.path) for entry in entries), key=lambda one: one[0].st_mtime)
        left = sum(told.st_size for told, _ in files)
        for told, path in files:
            if left <= most:
                return
            with suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
                left -= told.st_size

    # ------------------------------------------------------------ all, and orphans

    def digests(self) -> Iterator[Kept]:
        return (kept for kept in self._listed(self._prefix) if is_digest(kept.digest))

    def remove(self, digest: str, older_than: float) -> bool:
        """Set aside; of what was set aside before then, nothing is left."""
        key, aside = self._key(digest), self._aside(digest)
        there = self._told(key)
        if there is not None:
            if there.modified >= older_than:
                return False
            self._copy(key, aside)
            self._ask("delete_object", key)
            return True
        was = self._told(aside)
        if was is None or was.modified >= older_than:
            return False
        self._ask("delete_object", aside)
        return True

    def sweep(self, older_than: float) -> int:
        """Uploads in parts, and what was set aside and is there again, too."""
        swept = super().sweep(older_than)
        with _answering():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix)
            stale = [up for page in pages for up in page.get("Uploads", ()) if up["Initiated"].timestamp() < older_than]
        for upload in stale:
            with suppress(FileNotFoundError):
                self._ask("abort_multipart_upload", upload["Key"], UploadId=upload["UploadId"])
        for aside in [kept for kept in self._listed(f"{self._prefix}aside/") if kept.modified < older_than]:
            again = self._told(self._key(aside.digest))
            if again is not None and again.modified >= older_than:  # so nobody sets it aside right now
                self._ask("delete_object", self._aside(aside.digest))
        return swept + len(stale)

    def marked(self) -> str | None:
        try:
            with _answering():
                return str(self._ask("get_object", f"{self._prefix}mark")["Body"].read().decode())
        except FileNotFoundError:
            return None

    def mark(self, text: str) -> None:
        self._ask("put_object", f"{self._prefix}mark", Body=text.encode())

    # ------------------------------------------------------------ asking

    def _key(self, digest: str) -> str:
        if not is_digest(digest):
            raise FileNotFoundError(digest)
        return f"{self._prefix}{digest[:2]}/{digest[2:4]}/{digest}"

    def _aside(self, digest: str) -> str:
        return f"{self._prefix}aside/{digest}"

    def _ask(self, what: str, key: str, **arguments: Any) -> Any:
        with _answering():
            return getattr(self._client, what)(Bucket=self._bucket, Key=key, **arguments)

    def _healed(self, digest: str, ask: Callable[[str], T]) -> T:
        """``ask`` with the object's key; what was set aside is put back first."""
        try:
            return ask(self._key(digest))
        except FileNotFoundError:
            if self._told(self._aside(digest)) is None:
                raise
            self._copy(self._aside(digest), self._key(digest))
            return ask(self._key(digest))

    def _copy(self, source: str, target: str) -> None:
        self._ask("copy_object", target, CopySource={"Bucket": self._bucket, "Key": source}, MetadataDirective="REPLACE")

    def _told(self, key: str) -> Kept | None:
        try:
            head = self._ask("head_object", key)
        except FileNotFoundError:
            return None
        return Kept(key.rpartition("/")[2], head["LastModified"].timestamp(), head["ContentLength"])

    def _listed(self, prefix: str) -> Iterator[Kept]:
        with _answering():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for row in page.get("Contents", ()):
                    yield Kept(
                        row["Key"].rpartition("/")[2],
                        row["LastModified"].timestamp(),
                        row["Size"],
                        "/aside/" in f"/{row['Key']}",
                    )


@contextmanager
def _answering() -> Iterator[None]:
    """What goes wrong, in the words of the interface."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            raise FileNotFoundError(errno.ENOENT, "An image's object is not there.") from None
        if code in _RANGE:
            raise Damaged("An image's object is shorter than it was.") from None
        if code in _FULL:
            raise OSError(errno.ENOSPC, "The store of the images is full.") from None
        raise _away(f"The store of the images refuses: {code}") from None
    except (BotoCoreError, ConnectionError) as error:
        raise _away(f"The store of the images does not answer: {type(error).__name__}") from None


def _away(text: str) -> Away:
    log.warning(text)
    return Away(text)


def _coded(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
