"""What every vendor's answers have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx


def json_in(answer: httpx.Response) -> Any:
    """Return the JSON an answer holds, ``None`` where it holds none."""
    try:
        return answer.json()
    except ValueError:
        return None


def retry_after(answer: httpx.Response) -> float | None:
    """Return the seconds asked for; the header's other form, a date, is not read."""
    try:
        seconds = float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
