"""What every vendor's answers have in common.

In comes an answer that was read, out go its JSON and the pause it asks for. Promise: nothing
here raises, whatever the answer holds.
"""

from __future__ import annotations

import json
import math
import time
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

#: Whoever asks us to stay away for longer is asked again after this many seconds.
LONGEST_PAUSE = 3600.0
#: A ``Retry-After`` has fewer characters.
_LONGEST_HEADER = 64


def json_in(answer: httpx.Response) -> Any:
    """Return the JSON an answer holds, ``None`` where it holds none that can be read."""
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        return None


def retry_after(answer: httpx.Response) -> float | None:
    """Return the seconds asked for, ``LONGEST_PAUSE`` at most; ``None`` where none are.

    ``Retry-After`` is a number of seconds or a date, which is read by the clock of who wrote
    it (the answer's ``Date``) where that is told.
    """
    given = answer.headers.get("Retry-After", "").strip()[:_LONGEST_HEADER]
    try:
        seconds = float(given)
    except ValueError:
        until = _timestamp(given)
        if until is None:
            return None
        now = _timestamp(answer.headers.get("Date", "")[:_LONGEST_HEADER])
        seconds = max(until - (time.time() if now is None else now), 0.0)
    return min(seconds, LONGEST_PAUSE) if math.isfinite(seconds) and seconds >= 0 else None


def _timestamp(date: str) -> float | None:
    """Return the Unix seconds of an HTTP date."""
    try:
        parsed = parsedate_tz(date)
        return None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
