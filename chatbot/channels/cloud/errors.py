"""What each error code of the Cloud API means for us: one table.

In comes a refusal (the answer to a call, or a ``failed`` status later), out goes the error
that has it treated. Meta's ``code`` decides, not the HTTP status (Meta, "Cloud API error
codes", May 2026). An answer without a code that is known here is judged by its HTTP status:
a server error may hide a message that was taken, a redirect means that our address is wrong.
Promise: what Meta writes in an error is not repeated, since it can quote a person; status,
code and subcode are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from chatbot.channels.answers import json_in, retry_after
from chatbot.channels.json_fields import dict_of
from chatbot.errors import ChannelDown, OutcomeUnknown, Permanent, TooFast, Transient, WindowClosed

if TYPE_CHECKING:
    import httpx


class Treatment(Enum):
    """What to do about a failed call."""

    RETRY = "try again, in place"
    SLOW_PAIR = "write to this person more slowly"
    SLOW_NUMBER = "send from this number more slowly"
    ALERT = "send from this number more slowly, and call a person"
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
    retry, pair, number, alert = Treatment.RETRY, Treatment.SLOW_PAIR, Treatment.SLOW_NUMBER, Treatment.ALERT
    never, reopen, stop = Treatment.NEVER, Treatment.REOPEN, Treatment.STOP
    # Codes of APIs that are not used here: they are judged, so that one that turns up is no surprise.
    elsewhere = {
        "group": (131020, 131041, 131059, 131201, 131202, 131204, *range(131207, 131216)),
        "calling": (*range(138000, 138008), 138009, 138012, 138013, 138018),
        "making of flows": range(139000, 139005),
        "blocking of people": range(139100, 139104),
        "user name": range(147001, 147006),
        "making of templates": (2388019, 2388040, 2388047, 2388073, 2388293, 2388299),
        "number's move or registration": (133016, 2388012, 2388091, 2388093, 2388103),
        "signing up": (*range(2494164, 2494169), 2494176, 2494177, 2494179),
    }
    return {
        # trouble of Meta's own
        1: Meaning(retry, "API unknown", 1.0),
        2: Meaning(retry, "API service", 5.0),
        131000: Meaning(retry, "something went wrong", 1.0),
        131016: Meaning(retry, "service unavailable", 5.0),
        131057: Meaning(retry, "account in maintenance mode", 60.0),
        133004: Meaning(retry, "server temporarily unavailable", 5.0),
        2494100: Meaning(retry, "number in maintenance mode", 60.0),
        # rate limits of the API, which are over soon and say nothing of our pace
        17: Meaning(retry, "user request limit", 10.0),
        613: Meaning(retry, "rate limit of this call", 10.0),
        80008: Meaning(retry, "rate limit of the business account's management", 10.0),
        # throughput
        131056: Meaning(pair, "pair rate limit", 4.0),
        4: Meaning(number, "application request limit", 60.0),
        80007: Meaning(number, "rate limit of the business account", 60.0),
        130429: Meaning(number, "Cloud API throughput", 1.0),
        131064: Meaning(number, "messaging limit of the account", 300.0),
        131048: Meaning(alert, "spam rate limit: people block or report this number", 300.0),
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
        131062: Meaning(never, "this kind of message needs a phone number"),
        131063: Meaning(never, "marketing templates are disabled"),
        137000: Meaning(never, "the person's identity key has changed"),
        **{code: Meaning(never, "template") for code in (132000, 132001, 132005, 132007, 132008)},
        **{code: Meaning(never, "template") for code in (132012, 132015, 132016)},
        **{code: Meaning(never, "flow") for code in (132068, 132069)},
        135000: Meaning(never, "generic user error"),
        **{code: Meaning(never, what) for what, codes in elsewhere.items() for code in codes},
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
        131044: Meaning(stop, "payment issue"),
        131045: Meaning(stop, "number not registered: incorrect certificate"),
        133010: Meaning(stop, "number not registered"),
    }


MEANINGS = _table()
#: Where a code alone says too little: by code and subcode.
BY_SUBCODE = {(100, 33): Meaning(Treatment.STOP, "no such number, or no access to it")}
#: A code has fewer digits; a longer number is something else.
_LARGEST_CODE = 9_999_999
#: Without words of Meta's own these come from somebody else: our address is wrong, or a proxy refuses us.
_NOT_METAS = frozenset({401, 403, 404, 405, 407})


def meaning_of(code: int | None, subcode: int | None = None) -> Meaning | None:
    """Return what a code means, ``None`` where it was never judged."""
    if code is None:
        return None
    found = BY_SUBCODE.get((code, subcode)) if subcode is not None else None
    return found or MEANINGS.get(code)


def failure(meaning: Meaning, says: str, pause: float | None) -> Transient | Permanent:
    """Return the error that has a failed call treated as its code asks for."""
    match meaning.treatment:
        case Treatment.RETRY:
            return Transient(says, retry_after=pause)
        case Treatment.SLOW_PAIR:
            return TooFast(says, retry_after=pause)
        case Treatment.SLOW_NUMBER | Treatment.ALERT:
            return TooFast(says, retry_after=pause, whole_number=True, alert=meaning.treatment is Treatment.ALERT)
        case Treatment.REOPEN:
            return WindowClosed(says)
        case Treatment.STOP:
            return ChannelDown(says, retry_after=pause)
        case Treatment.NEVER:
            return Permanent(says)


def classified(answer: httpx.Response) -> Transient | Permanent:
    """Return the error that a refused call stands for; its body has been read."""
    code, subcode = codes_in(answer)
    says = f"the Graph API answered {answer.status_code}, code {code}"
    says += "" if subcode is None else f", subcode {subcode}"
    asked = retry_after(answer)
    if meaning := meaning_of(code, subcode):
        return failure(meaning, f"{says} ({meaning.what})", asked or meaning.pause)
    return _by_status(answer, says, asked, code)


def codes_in(answer: httpx.Response) -> tuple[int | None, int | None]:
    """Return code and subcode of an answer, ``None`` where there is none."""
    error = _error_in(answer)
    return _code(error.get("code")), _code(error.get("error_subcode"))


def _by_status(answer: httpx.Response, says: str, asked: float | None, code: int | None) -> Transient | Permanent:
    if answer.is_redirect:
        return ChannelDown(f"{says}: a redirect, which is not followed (CHATBOT_WHATSAPP_GRAPH_URL)")
    if answer.status_code in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}:
        return Transient(says, retry_after=asked)
    if answer.is_server_error:  # with a code it is the Graph API that refused; without, nobody knows
        return Transient(says, retry_after=asked) if code is not None else OutcomeUnknown(says, retry_after=asked)
    if answer.status_code in _NOT_METAS and not _error_in(answer):
        return ChannelDown(f"{says}: this is not the Graph API (CHATBOT_WHATSAPP_GRAPH_URL, or a proxy)")
    return Permanent(says)


def _error_in(answer: httpx.Response) -> dict[str, Any]:
    return dict_of(dict_of(json_in(answer)).get("error"))


def _code(value: Any) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_CODE  # False is not 0
    return value if known else None
