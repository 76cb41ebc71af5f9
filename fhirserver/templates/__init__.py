"""Starter templates of reports: Questionnaires to begin with, which a facility makes its own.

https://hl7.org/fhir/R4/questionnaire.html
"""

from __future__ import annotations

import json
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

NAMES = ("chest-xray", "head-ct", "abdomen-ct", "knee-mr", "mammography")


def templates() -> tuple[dict[str, Any], ...]:
    """Each template, the reader's to change."""
    return tuple(json.loads(_text(name), parse_float=Decimal) for name in NAMES)


@cache
def _text(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
