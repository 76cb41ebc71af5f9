"""Pictures for people: rendered instances and frames, of series and studies too, and thumbnails.

PS3.18 sections 8.3.5 and 10.4.1.1.3: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_8.3.5.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from auth.principal import Principal
from imaging import wado
from imaging.archive import Archive
from imaging.dicomweb.edge import SECURE, Problem, decoding, found, multipart_response
from imaging.dicomweb.retrieve import frame_numbers
from imaging.index import Stored
from imaging.view import FORMATS, View, Window

_FUNCTIONS = ("linear", "linear-exact", "sigmoid")
_MAX_SIDE = 8192
_THUMBNAIL = (128, 128)
_NUMBER = r"[+-]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(?:[eE][+-]?\d{1,2})?"


def rendered(archive: Archive, principal: Principal, request: Request) -> Response:
    view, warnings = asked(request)
    owner, uids, rows = found(archive, principal, request)
    shown = [row for row in rows if row.count]
    if not shown:
        raise Problem(406, "There are no pixels to be shown.")
    pictures = [(row, number) for row in shown for number in frame_numbers(request, row)]
    listed = "frames" in request.path_params and len(pictures) > 1
    form, view = _form(request, view, single=len(shown) == 1 and not listed)
    archive.note(principal, "wado", [(owner, uids[0])], "")
    headers = _warned(warnings)
    if not form.multipart:
        one = pictures[0] if len(pictures) == 1 else (shown[0], shown[0].count // 2 + 1)
        return Response(_picture(archive, *one, view), 200, headers, view.media)
    answer = multipart_response(_parts(archive, pictures, view), view.media)
    answer.headers.update(_warned(warnings))
    return answer


def thumbnail(archive: Archive, principal: Principal, request: Request) -> Response:
    """Of what stands for the study, series, instance or frame; as large as 128 pixels, or as the viewport says."""
    view, warnings = asked(request)
    owner, uids, rows = found(archive, principal, request)
    chosen = wado.representative(rows)
    if chosen is None:
        raise Problem(404, "There are no pixels to be shown.")
    stored, number = chosen
    if "frames" in request.path_params:
        [number] = frame_numbers(request, stored)[:1]
    _, view = _form(request, replace(view, size=view.size or _THUMBNAIL), single=True)
    archive.note(principal, "wado", [(owner, uids[0])], "")
    return Response(_picture(archive, stored, number, view), 200, _warned(warnings), view.media)


def _picture(archive: Archive, stored: Stored, number: int, view: View) -> bytes:
    with decoding(), archive.blobs.local(stored.digest) as path:
        return archive.decoders.call("picture", str(path), number - 1, view, name=stored.digest)


def _parts(archive: Archive, pictures: list[tuple[Stored, int]], view: View) -> Iterator[tuple[str, tuple[bytes]]]:
    """Each as it is asked for. One of many that cannot be shown is left out; when it is the first, that is told."""
    for n, (stored, number) in enumerate(pictures):
        try:
            yield view.media, (_picture(archive, stored, number, view),)
        except Problem:
            if n == 0:
                raise


def _warned(warnings: list[str]) -> dict[str, str]:
    return SECURE | ({"Warning": ", ".join(f'299 fhirserver "{text}"' for text in warnings)} if warnings else {})


# ---------------------------------------------------------------- what is asked for


def _form(request: Request, view: View, *, single: bool) -> tuple[wado.Form, View]:
    """Errors: 406."""
    accept = request.query_params.get("accept") or request.headers.get("accept", "")
    for wanted in wado.accepted(accept):
        media = {"*/*": view.media, "image/*": view.media}.get(wanted.media, wanted.media)
        multipart = wanted.multipart and wanted.media != "*/*"
        if media in FORMATS and (multipart or single or wanted.media == "*/*"):
            return wado.Form(media, "*", multipart or not single), replace(view, media=media)
    several = "" if single else "multipart/related; type="
    raise Problem(406, f"Pictures are {' or '.join(several + media for media in FORMATS)}.")


def asked(request: Request) -> tuple[View, list[str]]:
    """The query parameters of Table 8.3.5-1, and what of them is not done. Errors: 400."""
    view, warnings = View(), []
    for name, value in request.query_params.items():
        if name == "window":
            view = replace(view, window=_window(value))
        elif name == "viewport":
            view = _viewport(view, value)
        elif name == "quality":
            if not re.fullmatch("[0-9]{1,3}", value) or not 1 <= int(value) <= 100:
                raise Problem(400, "quality is a number from 1 to 100.")
            view = replace(view, quality=int(value))
        elif name in ("annotation", "iccprofile"):
            warnings.append(f"The {name} parameter is not supported.")
        elif name not in ("accept", "charset"):
            raise Problem(400, "A parameter that is not known: window, viewport, quality, accept are.")
    return view, warnings


def _window(text: str) -> Window:
    """``centre,width,function``"""
    match = re.fullmatch(rf"({_NUMBER}),({_NUMBER})(?:,([a-z-]+))?", text.lower())
    function = (match and match[3]) or "linear"
    if match is None or function not in _FUNCTIONS or float(match[2]) <= 0:
        raise Problem(
            400, f"window is centre,width,function; the width more than 0, the function one of {', '.join(_FUNCTIONS)}."
        )
    return Window(float(match[1]), float(match[2]), function)


def _viewport(view: View, text: str) -> View:
    """``vw,vh[,sx,sy[,sw,sh]]``; a negative width or height mirrors. PS3.18 section 8.3.5.1.3"""
    parts = text.split(",")
    if len(parts) not in (2, 4, 6) or not all(part == "" or re.fullmatch(_NUMBER, part) for part in parts):
        raise Problem(400, "viewport is width,height or width,height,x,y,width,height.")
    numbers = [int(float(part)) if part else 0 for part in parts] + [0] * 4
    width, height, x, y, part_width, part_height = numbers[:6]
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE) or x < 0 or y < 0:
        raise Problem(400, f"A viewport is up to {_MAX_SIDE} pixels wide and high.")
    whole = part_width == part_height == x == y == 0
    part = None if whole else (x, y, abs(part_width) or _MAX_SIDE * 8, abs(part_height) or _MAX_SIDE * 8)
    return replace(view, size=(width, height), part=part, flip=(part_width < 0, part_height < 0))
