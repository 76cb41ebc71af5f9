"""``fhirserver viewer install``: OHIF, as npm has it, checked, trimmed and unpacked into the data folder; nothing of it is run.

https://docs.ohif.org/deployment/
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

PACKAGE, VERSION = "@ohif/app", "3.13.2"
INTEGRITY = "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
_DONE = ".complete"
_MOST_BYTES, _MOST_FILES = 400 * 1024**2, 2000
# What is not served: a speech model's runtime, maps for debuggers, a service worker that would keep old versions, other hosts' files
_LEFT_OUT = frozenset(
    {"sw.js", "init-service-worker.js", "google.js", "silent-refresh.html", "serve.json", "_headers", "_redirects"}
)
_SQUEEZED = frozenset({".js", ".css", ".wasm", ".svg", ".json", ".html", ".jsonc"})
_SECONDS = 900
# Its scripts look for each other at the root of the host; here they are below the path that they are served at, whatever that is.
_AT_ROOT = b'__webpack_require__.p = "/";'
_WHERE_SERVED = b'__webpack_require__.p = (self.location.pathname.match(/^.*?\\/ohif\\//) || ["/ohif/"])[0];'


def folder(data: Path) -> Path:
    """Where it is, or would be."""
    return data / "cache" / f"ohif-{VERSION}"


def installed(data: Path) -> bool:
    return (folder(data) / _DONE).exists()


def install(data: Path, tarball: Path | None, say: Callable[[str], None]) -> None:
    """Once: where it is there nothing is fetched. ``tarball``: the package, where there is no way to npm.

    Error: RuntimeError.
    """
    if installed(data):
        say(f"the viewer, OHIF {VERSION}, is there: {folder(data)}")
        return
    cache = folder(data).parent
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        package = tarball or _fetched(Path(scratch), say)
        _checked(package)
        say("unpacking")
        unpacked = Path(scratch) / "unpacked"
        _unpack(package, unpacked)
        (unpacked / _DONE).touch()
        shutil.rmtree(folder(data), ignore_errors=True)  # what a cut left
        unpacked.rename(folder(data))
    say(f"the viewer, OHIF {VERSION}, is installed: {folder(data)}")


def _fetched(into: Path, say: Callable[[str], None]) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"npm is not installed; or give the file of {PACKAGE}@{VERSION} that npm pack made elsewhere")
    say(f"fetching {PACKAGE}@{VERSION}, 50 MB")
    command = [
        npm,
        "pack",
        f"{PACKAGE}@{VERSION}",
        "--loglevel=error",
        "--ignore-scripts",
        "--pack-destination",
        str(into.resolve()),
    ]
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"npm took longer than {_SECONDS} seconds") from None
    found = sorted(into.glob("*.tgz"))
    if done.returncode != 0 or len(found) != 1:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"npm could not fetch {PACKAGE}@{VERSION}: {last}")
    return found[0]


def _checked(package: Path) -> None:
    """https://www.w3.org/TR/SRI/"""
    with open(package, "rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != INTEGRITY:
        raise RuntimeError(f"{package.name} is not {PACKAGE}@{VERSION}: its sha512 is another; nothing was installed")


def _unpack(package: Path, into: Path) -> None:
    """Regular files below package/dist, under their own names and nowhere else."""
    size = count = 0
    with tarfile.open(package, "r:gz") as archive:
        for member in archive:
            path = _wanted(member)
            if path is None:
                continue
            size, count = size + member.size, count + 1
            if size > _MOST_BYTES or count > _MOST_FILES:
                raise RuntimeError(f"{package.name} holds more than a viewer does; nothing was installed")
            source = archive.extractfile(member)
            assert source is not None
            _write(into / path, source.read())


def _wanted(member: tarfile.TarInfo) -> PurePosixPath | None:
    """Where a member goes; None for what is left out. Error: RuntimeError for a path that leads out."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise RuntimeError("a path in the package leads out of it; nothing was installed")
    inside = member.isreg() and path.parts[:2] == ("package", "dist") and len(path.parts) > 2
    if not inside or path.parts[2] == "ort" or path.suffix == ".map" or path.name in _LEFT_OUT:
        return None
    return PurePosixPath(*path.parts[2:])


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".js":
        content = content.replace(_AT_ROOT, _WHERE_SERVED)
    elif path.suffix == ".css":
        content = content.replace(b"url(/", b"url(")
    path.write_bytes(content)
    if path.suffix in _SQUEEZED and len(content) > 1024:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 6, mtime=0))
