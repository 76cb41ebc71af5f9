"""When a reading is due: product defaults by urgency, which a contract will replace. Pure.

stat 60 minutes, asap 4 hours, urgent 24 hours, routine 72 hours, from the moment the images are complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

FINAL_WITHIN: Mapping[str, timedelta] = {
    "stat": timedelta(minutes=60),
    "asap": timedelta(hours=4),
    "urgent": timedelta(hours=24),
    "routine": timedelta(hours=72),
}


def due(priority: str, complete_at: datetime) -> datetime:
    return complete_at + FINAL_WITHIN[priority]
