"""What each error code of the Cloud API means for us: one table.

Meta's ``code`` decides, not the HTTP status (Meta, "Cloud API error codes", May 2026; a
code comes as the answer to a call, or later in a ``failed`` status). A code that is not
here is judged by its HTTP status.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from chatbot.channels.answers import json_in, retry_after
from chatbot.errors import ChannelDown, Permanent, TooFast, Transient, WindowClosed

if TYPE_CHECKING:
    import httpx


class Treatment(Enum):
    """What to do about a failed call."""

    RETRY = "try again, in place"
    SLOW_PAIR = "write to this person more slowly"
    SLOW_NUMBER = "send from this number more slowly"
    NEVER = "no later try can help this message"
    REOPEN = "the 24 h window is closed: only a template gets through"
    STOP = "nothing can be sent until a person acts"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A code's treatment, with the pause in seconds where Meta names or implies one."""

    treatment: Treatment
    what: str
    pause: float | None = None


def _table() -> dict[int, Meaning]:
    retry, pair, number = Treatment.RETRY, Treatment.SLOW_PAIR, Treatment.SLOW_NUMBER
    never, reopen, stop = Treatment.NEVER, Treatment.REOPEN, Treatment.STOP
    return {
        # trouble of Meta's own
        1: Meaning(retry, "API unknown", 1.0),
        2: Meaning(retry, "API service", 5.0),
        131000: Meaning(retry, "something went wrong", 1.0),
        131016: Meaning(retry, "service unavailable", 5.0),
        131057: Meaning(retry, "account in maintenance mode", 60.0),
        133004: Meaning(retry, "server temporarily unavailable", 5.0),
        # throughput
        131056: Meaning(pair, "pair rate limit", 4.0),
        4: Meaning(number, "application request limit", 60.0),
        80007: Meaning(number, "rate limit of the business account", 60.0),
        130429: Meaning(number, "Cloud API throughput", 1.0),
        131048: Meaning(number, "spam rate limit", 60.0),
        # this message, or this person
        100: Meaning(never, "invalid parameter"),
        130472: Meaning(never, "the person is part of an experiment"),
        130497: Meaning(never, "restricted from messaging people of this country"),
        131008: Meaning(never, "required parameter missing"),
        131009: Meaning(never, "parameter value invalid"),
        131021: Meaning(never, "recipient is the sender"),
        131026: Meaning(never, "message undeliverable"),
        131030: Meaning(never, "recipient not in the allowed list"),
        131049: Meaning(never, "not delivered, for a healthy ecosystem"),
        131050: Meaning(never, "the person stopped marketing messages"),
        131051: Meaning(never, "message type unsupported"),
        131052: Meaning(never, "media download"),
        131053: Meaning(never, "media upload"),
        **{code: Meaning(never, "template") for code in (132000, 132001, 132005, 132007, 132012, 132015, 132016)},
        **{code: Meaning(never, "flow") for code in (132068, 132069)},
        135000: Meaning(never, "generic user error"),
        # the window
        131047: Meaning(reopen, "more than 24 h since the person's last message"),
        # a person must act: token, permission, policy, payment, registration
        0: Meaning(stop, "access token not valid"),
        3: Meaning(stop, "API method not permitted"),
        10: Meaning(stop, "permission denied"),
        33: Meaning(stop, "the business number was deleted"),
        190: Meaning(stop, "access token expired"),
        **{code: Meaning(stop, "permission") for code in range(200, 300)},
        368: Meaning(stop, "blocked for policy violations"),
        131005: Meaning(stop, "access denied"),
        131031: Meaning(stop, "account locked"),
        131037: Meaning(stop, "display name not approved"),
        131042: Meaning(stop, "payment issue"),
        131045: Meaning(stop, "number not registered: incorrect certificate"),
        133010: Meaning(stop, "number not registered"),
    }


MEANINGS = _table()


def failure(meaning: Meaning, says: str, pause: float | None) -> Transient | Permanent:
    """Return the error that has a failed call treated as its code asks for."""
    match meaning.treatment:
        case Treatment.RETRY:
            return Transient(says, retry_after=pause)
        case Treatment.SLOW_PAIR:
            return TooFast(says, retry_after=pause)
        case Treatment.SLOW_NUMBER:
            return TooFast(says, retry_after=pause, whole_number=True)
        case Treatment.REOPEN:
            return WindowClosed(says)
        case Treatment.STOP:
            return ChannelDown(says, retry_after=pause)
        case Treatment.NEVER:
            return Permanent(says)


def classified(answer: httpx.Response) -> Transient | Permanent:
    """Return the error that a refused call stands for; its body has been read."""
    code = _code_in(json_in(answer))
    says = f"the Graph API answered {answer.status_code}, code {code}"
    asked = retry_after(answer)
    if code is not None and code in MEANINGS:
        meaning = MEANINGS[code]
        return failure(meaning, f"{says} ({meaning.what})", asked or meaning.pause)
    if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or answer.is_server_error:
        return Transient(says, retry_after=asked)
    return Permanent(says)


def _code_in(body: Any) -> int | None:
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None  # False is not 0
