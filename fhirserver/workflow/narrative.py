"""What a response tells a person: its answers as text and as XHTML, and what a correction changed. Pure.

https://hl7.org/fhir/R4/narrative.html
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fhirserver.workflow.answers import DEPTH, Document, link, named, rows, says, value, walk

# Where the conclusion is, in the order of preference, when a template does not use these names
IMPRESSION = ("impression", "conclusion", "19005-8")
_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")


def lines(response: Document) -> Iterator[tuple[str, str, str]]:
    """(linkId, heading, text) of every answered item, in order."""
    for item in walk(rows(response)):
        if text := _text(item):
            yield link(item), named(item), text


def _text(item: Document) -> str:
    told = [_told(found[1]) for answer in rows(item, "answer") if (found := value(answer))]
    return "; ".join(filter(None, told))


def _told(found: Any) -> str:
    if isinstance(found, dict):
        unit = found.get("unit") or found.get("code") or ""
        measure = f"{found.get('comparator', '')}{found['value']} {unit}".strip() if "value" in found else ""
        names = (found.get(name) for name in ("display", "text", "title", "code", "reference", "url"))
        return measure or str(next(filter(None, names), ""))
    return {True: "yes", False: "no"}[found] if isinstance(found, bool) else str(found)


def conclusion(response: Document) -> str | None:
    said = {name: text for name, _, text in lines(response)}
    return next((said[name] for name in IMPRESSION if name in said), None)


def narrative(response: Document) -> str:
    """XHTML of the whole report: a heading for each section, a line for each answer within it."""
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{"".join(_blocks(rows(response), 0))}</div>'


def _blocks(items: Iterable[Document], depth: int) -> Iterator[str]:
    for item in items if depth <= DEPTH else ():
        if not says(item):
            continue
        text, beneath = _text(item), [row for answer in rows(item, "answer") for row in rows(answer)]
        if depth and text:
            heading = named(item).rstrip()
            label = html.escape(heading if heading.endswith((":", "?")) else f"{heading}:")
            yield _paragraphs(text, f"<b>{label}</b> ")
            yield from _blocks([*rows(item), *beneath], depth)
        else:
            level = min(depth + 3, 6)
            yield f"<h{level}>{html.escape(named(item))}</h{level}>"
            if text:
                yield _paragraphs(text)
            yield from _blocks([*rows(item), *beneath], depth + 1)


def _paragraphs(text: str, label: str = "") -> str:
    """An empty line parts paragraphs; other line breaks are kept."""
    parts = _PARAGRAPHS.split("\n".join(text.strip().splitlines()))
    return "".join(
        f"<p>{label if not number else ''}{html.escape(part).replace(chr(10), '<br/>')}</p>"
        for number, part in enumerate(parts)
    )


def differences(before: Document, after: Document) -> list[tuple[str, str, str, str]]:
    """(linkId, heading, text before, text after) of each item that tells something else now, in order."""
    old, new = _numbered(before), _numbered(after)
    # What was taken out stands after what it followed
    taken: dict[tuple[str, int] | None, list[tuple[str, int]]] = {}
    last = None
    for key in old:
        if key in new:
            last = key
        else:
            taken.setdefault(last, []).append(key)
    order = [key for kept in (None, *new) for key in ([kept] if kept else []) + taken.get(kept, [])]
    nothing = ("", "")
    return [
        (key[0], (new.get(key) or old[key])[0], old.get(key, nothing)[1], new.get(key, nothing)[1])
        for key in order
        if old.get(key, nothing)[1] != new.get(key, nothing)[1]
    ]


def _numbered(response: Document) -> dict[tuple[str, int], tuple[str, str]]:
    """(linkId, the how manieth of that name) -> (heading, text)."""
    found: dict[tuple[str, int], tuple[str, str]] = {}
    times: dict[str, int] = {}
    for name, heading, text in lines(response):
        times[name] = times.get(name, -1) + 1
        found[name, times[name]] = heading, text
    return found
