"""What a person sees of the authorization server: templates, their words in each language, and the style that all pages share.

Server-rendered, usable without JavaScript and with a keyboard.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from auth.pages import words

_FOLDER = Path(__file__).parent
_NONE: Mapping[str, tuple[str, str]] = {}
STYLESHEET = (_FOLDER / "style.css").read_bytes()
# https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#styling
STYLE = json.dumps({
    "color_background": "#ffffff", "color_error": "#a3261b", "color_highlight": "#0b6e8f", "color_modal_backdrop": "#16212b",
    "color_success": "#1d7044", "color_text": "#16212b", "dim_border_radius": "6px", "dim_font_size": "16px",
    "dim_spacing_size": "16px", "font_family_body": "system-ui, sans-serif", "font_family_heading": "system-ui, sans-serif",
}).encode()  # fmt: skip
STYLESHEET_PATH = f"/auth/style-{sha256(STYLESHEET).hexdigest()[:12]}.css"
STYLE_PATH = f"/auth/style-{sha256(STYLE).hexdigest()[:12]}.json"


@dataclass(frozen=True, slots=True)
class Language:
    """One that the pages speak."""

    code: str

    def say(self, key: str, **values: Any) -> str:
        """The words for this, with what is put into them."""
        return words.WORDS[key][words.LANGUAGES.index(self.code)].format(**values)

    def scope(self, text: str) -> tuple[str, str]:
        """A scope in plain language: what, and its letters in words."""
        return words.scope(text, self.code)

    def parts(self, text: str) -> list[tuple[str, str]]:
        """(scope, words) of the kinds that a person may leave of a scope."""
        return words.parts(text, self.code)

    def kind(self, type_: str) -> str:
        return words.kind(type_, self.code)


def language(preferred: str | None) -> Language:
    """The first of the preferred ones that the pages speak, else English."""
    for part in (preferred or "").replace(" ", ",").split(","):
        code = part.split(";")[0].strip().lower().split("-")[0]
        if code in words.LANGUAGES:
            return Language(code)
    return Language(words.LANGUAGES[0])


@cache
def _environment(package: str) -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader(one, ".") for one in dict.fromkeys((package, "auth.pages"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(
    name: str, spoken: Language, package: str = "auth.pages", added: Mapping[str, tuple[str, str]] = _NONE, **values: Any
) -> str:
    """A page as HTML: a template of this package or, with words that are ``added``, of another one, which may extend those here."""
    vocabulary = ChainMap(dict(added), words.WORDS)
    common = {"stylesheet": STYLESHEET_PATH, "lang": spoken.code, "languages": words.NAMES, "language": spoken}
    return _environment(package).get_template(f"{name}.html").render(say=_said(spoken, vocabulary), **common, **values)


def _said(spoken: Language, vocabulary: Mapping[str, tuple[str, str]]) -> Any:
    """Escaped, whatever is put into the words."""

    def say(key: str, **values: Any) -> Markup:
        return Markup(vocabulary[key][words.LANGUAGES.index(spoken.code)]).format(**values)  # noqa: S704 - our own words

    return say
