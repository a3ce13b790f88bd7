"""JSON from outside, read leniently: what is readable is read, and nothing here raises but ``decode``.

In come bytes of a vendor; out come plain values. Promise: a value that is not as
documented costs no other one, and every text returned can be written as UTF-8.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from chatbot.errors import BadPayload

#: Values nested deeper than this are read as ``null`` where the decoder has no room for them.
DEEPEST = 50
#: Longer ids are none: names on the broker and headers of a message have bounds.
LONGEST_ID = 200
#: Names of people, files and types are cut here (characters).
LONGEST_NAME = 256
#: Integers of more digits become floats: beyond 4,300 Python refuses the whole body.
_MOST_DIGITS = 100
#: Unix seconds beyond this (the year 5138) are a mistake.
_LATEST = 1e11

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def decode(body: bytes) -> dict[str, Any]:
    """Return the JSON object ``body`` holds. Raises ``BadPayload``.

    Taken all the same: bytes that are not UTF-8 (read as U+FFFD), control characters in
    strings, ``NaN`` and infinities, numbers of any length, nesting of any depth. Of a key
    that is there twice the last counts.
    """
    text = body.decode("utf-8", "replace")
    try:
        try:
            decoded = _DECODER.decode(text)
        except RecursionError:
            decoded = _DECODER.decode(_shallow(text))
    except ValueError as err:
        raise BadPayload(f"the body is not JSON: {type(err).__name__}") from err
    if not isinstance(decoded, dict):
        raise BadPayload("the body is not a JSON object")
    return decoded


def _shallow(text: str) -> str:
    """Return JSON with ``null`` for everything nested deeper than ``DEEPEST``."""
    kept, begin, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in ("[", "{"):
            depth += 1
            if depth == DEEPEST + 1:
                kept += [text[begin : token.start()], "null"]
        elif token[0] in ("]", "}"):
            depth -= 1
            if depth == DEEPEST:
                begin = token.end()
    return "".join([*kept, text[begin:] if depth <= DEEPEST else ""])


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


_DECODER = json.JSONDecoder(parse_int=_whole, strict=False)


def dict_of(value: Any) -> dict[str, Any]:
    """Return a dict as it is; nothing else is one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """Return a list as it is; nothing else is one."""
    return value if isinstance(value, list) else []


def dicts_of(value: Any) -> list[dict[str, Any]]:
    """Return the dicts of a list."""
    return [item for item in list_of(value) if isinstance(item, dict)]


def text_of(value: Any) -> str:
    """Return strings and whole numbers as text that UTF-8 can carry; nothing else is text."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return str(value).encode("utf-8", "replace").decode("utf-8").strip("\0")


def name_of(value: Any) -> str:
    """Return a short text, cut at ``LONGEST_NAME`` characters."""
    return text_of(value)[:LONGEST_NAME]


def id_of(value: Any, *, longest: int = LONGEST_ID) -> str:
    """Return an id; one over ``longest`` characters, or that cannot be printed, is none."""
    id_ = text_of(value).strip()
    return id_ if len(id_) <= longest and id_.isprintable() else ""


def phone_of(value: Any) -> str:
    """Return a phone number without its ``+``."""
    return id_of(value).removeprefix("+")


def number_of(value: Any) -> str:
    """Return a number, or a text in its place, as text; ``""`` for NaN and infinities."""
    if not isinstance(value, float):
        return text_of(value)
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() else str(value)


def time_of(value: Any) -> float:
    """Return Unix seconds, 0 where there are none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return 0.0
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return seconds if 0 < seconds < _LATEST else 0.0


def code_of(value: Any) -> int:
    """Return an error code, 0 where there is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
