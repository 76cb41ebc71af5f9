"""The commands about images' bytes: ``store``, ``check-images``, ``sweep-images``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pymongo.database import Database

from fhirserver import uploading
from fhirserver.app import Installation
from fhirserver.errors import Unavailable
from fhirserver.progress import Progress
from fhirserver.settings import Settings
from imaging import keeping, media
from imaging.blobs import Away

Opened = Callable[[Settings], AbstractContextManager[Database[dict[str, Any]]]]
_UPLOADING = 3600.0  # seconds: what is so young may get its row any moment


def add_commands(commands: Any, common: argparse.ArgumentParser, opened: Opened) -> None:
    """``opened`` gives the database for as long as a command needs it."""

    @contextmanager
    def installed(settings: Settings) -> Iterator[Installation]:
        with opened(settings) as database:
            try:
                yield Installation(settings, database)
            except (Away, Unavailable) as error:
                raise RuntimeError(str(error)) from None

    def command(name: str, help_: str, run: Callable[[argparse.Namespace, Settings, Any], int]) -> Any:
        parser = commands.add_parser(name, parents=[common], help=help_)
        parser.set_defaults(run=lambda options, settings: run(options, settings, installed))
        return parser

    store = command("store", "store DICOM files: files, folders, ZIPs, CDs", _store)
    store.add_argument("files", nargs="+", type=Path, metavar="FILES", help="files, and folders and ZIPs with files in them")
    store.add_argument("--organization", metavar="ID", help="whose images they are; else the installation's own")
    store.add_argument("--url", help="a DICOMweb server to store them at, instead of this installation")
    store.add_argument("--token", metavar="T", help="an access token for it; - reads standard input's first line")
    check = command("check-images", "read every image's file and name those that are damaged, missing or nobody's", _check)
    check.add_argument("--workers", type=int, default=4, metavar="N", help="files that are read at once (4)")
    sweep = command("sweep-images", "remove the files older than a day that no image is in", _sweep)
    sweep.add_argument(
        "--force",
        action="store_true",
        help="the database is the right one, though it looks as if it were another, or an older state of it",
    )


Installed = Callable[[Settings], AbstractContextManager[Installation]]


def _store(options: argparse.Namespace, settings: Settings, installed: Installed) -> int:
    if options.url:
        if not options.token or options.organization:
            raise ValueError("with --url, give the token of whose images they are: --token T")
        token = sys.stdin.readline().strip() if options.token == "-" else options.token
        return _stored(options.files, uploading.Remote(options.url, token))
    if options.token:
        raise ValueError("--token is for a server: give its --url")
    with installed(settings) as installation:
        return _stored(options.files, uploading.Local(installation, options.organization or settings.organization))


def _stored(paths: list[Path], target: uploading.Local | uploading.Remote) -> int:
    total = sum(1 for _ in media.files(paths, media.Passed()))
    done, passed = Counter[str](), media.Passed()
    try:
        with Progress(total, "files") as progress:
            for result in target.results(media.files(paths, passed)):
                done[result.what] += 1
                if result.reason:
                    progress.tell(f"{result.what} {result.found.name}: {result.reason}")
                progress.step(result.found.size)
    finally:
        for name, reason in passed.unreadable:
            print(f"refused {name}: {reason}")
        refused = done[uploading.REFUSED] + len(passed.unreadable)
        told = {what: done[what] for what in (uploading.THERE, uploading.WARNED)} | {"refused": refused}
        told |= {"skipped as not DICOM": done[uploading.SKIPPED], "DICOMDIR not read": done[uploading.DIRECTORY]}
        told |= {"links and devices not followed": passed.links}
        print(", ".join([f"stored {done[uploading.STORED]:,}", *(f"{n:,} {what}" for what, n in told.items() if n)]))
    return 1 if refused else 0


def _check(options: argparse.Namespace, settings: Settings, installed: Installed) -> int:
    if options.workers < 1:
        raise ValueError("--workers is 1 or more")
    found = Counter[str]()
    with installed(settings) as installation:
        index, blobs = installation.images.index, installation.images.blobs
        with Progress(keeping.count(index), "objects") as progress:
            for finding in keeping.check(index, blobs, options.workers, time.time() - _UPLOADING, progress.step):
                found[finding.problem] += 1
                progress.tell(str(finding))
    print(", ".join([f"{progress.count:,} objects read", *(f"{number:,} {problem}" for problem, number in found.items())]))
    return 1 if found else 0


def _sweep(options: argparse.Namespace, settings: Settings, installed: Installed) -> int:
    with installed(settings) as installation:
        try:
            removed = installation.images.sweep_orphans(force=options.force)
        except keeping.NotSweptError as error:
            raise RuntimeError(f"{error}; if it is the right one, and current: fhirserver sweep-images --force") from None
    print(f"removed {len(removed):,} files, {sum(kept.size for kept in removed) / 1e6:,.1f} MB")
    return 0
