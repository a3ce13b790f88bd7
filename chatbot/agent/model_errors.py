"""What the failure of a model means, by what its server answered.

In come a status, a body and the pause that was asked for; out goes one of our errors. Promise: an
error holds a status and nothing else, for what a server writes may echo what a person wrote.
The classes are the same for every server; the wording of llama.cpp, LM Studio, vLLM, OpenAI and
Ollama is known here and nowhere else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from chatbot.errors import ChatbotError, ModelTimeout, Permanent, ServiceDown, Transient

#: Characters of an error that are looked at.
LONGEST = 2_000
#: Longer pauses are not believed.
LONGEST_PAUSE = 3_600.0


class TooLong(ChatbotError):
    """The request does not fit what the model can read at once. The agent shortens it and asks again."""


class Filtered(ChatbotError):
    """A content filter does not let the model answer. The agent says so."""


#: Statuses that a request which is too long has had: 500 from older servers of llama.cpp.
_LENGTH_STATUSES = frozenset({400, 413, 422, 429, 500})
_LENGTH_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
_LENGTH_WORDS = re.compile(
    r"context (?:size|length|window)|maximum model length|max(?:imum)?[ _]model[ _]len"
    r"|tokens? when context the overflows|context overflow|(?:prompt|input|inputs|request) (?:is )?too (?:long|large)"
    r"|too large for model|input length|maximum number of tokens|maximum context"
    r"|reduce the length|shorter input|exceed the configured limit|request entity too large"
    r"|max_new_tokens. must be <="
)
#: 429, but because this request alone has more tokens than a minute may have.
_ALONE_TOO_LARGE = re.compile(r"request too large")
_FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed"}
)
_DOWN_CODES = frozenset(
    {
        "insufficient_quota", "billing_not_active", "billing_hard_limit_reached", "access_terminated",
        "model_not_found", "invalid_api_key", "unsupported_parameter", "unsupported_value", "api_key_invalid",
    }
)  # fmt: skip
_DOWN_WORDS = re.compile(r"no models? (?:is )?loaded|not a valid model|api key not valid|unsupported parameter")
_TIMEOUTS = frozenset({408, 504, 524})
#: Refused because of what it is, not because of who asks or when.
_ONE_REQUEST = frozenset({400, 406, 411, 413, 414, 415, 422, 431, 451})


def meaning(status: int, body: str, *, retry_after: float | None = None) -> ChatbotError:
    """Return what an answer with this status means.

    ``TooLong`` and ``Filtered`` concern this request and are the agent's business. ``Permanent``:
    this request cannot be answered. ``ServiceDown``: nobody is answered, until the server or its
    operator does something. ``ModelTimeout``: it was worked on for too long. ``Transient``: later.
    """
    codes, words = _read(body)
    return _of_this_request(status, codes, words) or _of_the_service(status, codes, words, retry_after)


def _of_this_request(status: int, codes: set[str], words: str) -> ChatbotError | None:
    if codes & _FILTER_CODES:
        return Filtered("a content filter refused the request")
    if _is_too_long(status, codes, words):
        return TooLong("the request is too long for the model")
    return None


def _of_the_service(status: int, codes: set[str], words: str, retry_after: float | None) -> ChatbotError:
    says = f"the model's server answered with the status {status}"
    if status in _TIMEOUTS:
        return ModelTimeout(says, retry_after=retry_after)
    if codes & _DOWN_CODES or _DOWN_WORDS.search(words):
        return ServiceDown(says, retry_after=retry_after)
    if status in {409, 425, 429}:
        return Transient(says, retry_after=retry_after)
    if status in _ONE_REQUEST:
        return Permanent(says)
    return ServiceDown(says, retry_after=retry_after)


def in_answer(error: Any) -> ChatbotError:
    """Return what an error means that a gateway wrote into an answer with status 200."""
    code = error.get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and re.fullmatch(r"[45]\d\d", str(code)) else 200
    return meaning(status, json.dumps({"error": error}))


def pause(header: str | None) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, if it does."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return min(seconds, LONGEST_PAUSE) if math.isfinite(seconds) and seconds > 0 else None


def _is_too_long(status: int, codes: set[str], words: str) -> bool:
    if codes & _LENGTH_CODES or status == 413:
        return True
    if status == 429:
        return bool(_ALONE_TOO_LARGE.search(words))
    return status in _LENGTH_STATUSES and bool(_LENGTH_WORDS.search(words))


def _read(body: str) -> tuple[set[str], str]:
    """Return the codes and the words of an error, in small letters."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return set(), body[:LONGEST].lower()
    codes: set[str] = set()
    words: list[str] = []
    for level in _levels(content):
        codes |= {str(level[name])[:80].lower() for name in ("code", "type", "status") if level.get(name)}
        if level.get("flagged_input") or level.get("reasons"):
            codes.add("content_filter")  # OpenRouter's moderation
        words += [str(level[name])[:LONGEST] for name in ("message", "error", "detail") if level.get(name)]
    return codes, " ".join(words)[:LONGEST].lower()


def _levels(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of an error from the outside in; a plain text is one."""
    for _ in range(4):
        if isinstance(content, str):
            content = {"message": content}
        if not isinstance(content, dict):
            return
        yield content
        inner = (content.get(name) for name in ("error", "innererror", "metadata"))
        content = next((value for value in inner if isinstance(value, dict)), None)
