"""What the WhatsApp Cloud API tells beside messages and statuses, as notices for an operator.

In comes a change of a webhook body; out go its notices. Promise: one item that is not as
documented costs no other one; a notice is bounded in size, and its ``summary`` holds
Meta's fixed words only.

==============================  ==============================================================
account_update, account_alerts  the account is restricted, banned, deleted; limits, badge, photo
and other fields of an account  quality, limits, templates, display name, PIN
user_preferences                who stopped or resumed marketing: ``details["value"]``
smb_message_echoes              what staff wrote in the phone's app: to whom, ``text``, id
standby                         what was said while Meta's Business Agent holds the conversation
messaging_handovers             who holds it from now on
calls                           a call to or from us
==============================  ==============================================================

A notice of an account is about its id and names nobody. One about a person is about our
number (``phone_number_id``) and names them by phone and BSUID.

Source: Meta, "Webhooks reference", "Standby webhooks" (August 2026). What is under
``value.standby``, how its echoes hold their content under ``message``, and the shape of
``messaging_handovers`` are from bodies that public projects recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from chatbot.channels.cloud.people import person
from chatbot.channels.cloud.texts import text_in
from chatbot.channels.json_fields import dict_of, dicts_of, id_of, list_of, name_of, number_of, text_of, time_of
from chatbot.messages import Notice

#: Meta's fixed words, which may stand in a log.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
#: Pairs of details of one notice, their depth, and characters of a value that are kept.
_MOST_DETAILS, _DEEPEST, _LONGEST_DETAIL = 30, 3, 300
#: Characters that are kept of what somebody wrote (Meta allows so many).
_LONGEST_TEXT = 4096

#: Events of an account that stop messages, or soon will.
_CRITICAL = frozenset({"ACCOUNT_VIOLATION", "ACCOUNT_RESTRICTION", "DISABLED_UPDATE", "ACCOUNT_DELETED"})
#: Events and decisions that ask for somebody to look.
_WARNING = frozenset({
    "PARTNER_REMOVED", "PARTNER_APP_UNINSTALLED", "ACCOUNT_OFFBOARDED", "FLAGGED", "DOWNGRADE", "REJECTED", "DISABLED",
    "PAUSED", "LIMIT_EXCEEDED", "LOCKED", "PENDING_DELETION", "DELETED", "DEFERRED", "PIN_CHANGED", "PIN_RESET_REQUEST",
    "RED", "YELLOW",
})  # fmt: skip
_BY_ALERT = {"CRITICAL": "critical", "WARNING": "warning", "INFORMATIONAL": "info"}
#: Fields of an account → where its value says what happened.
_ACCOUNT_FIELDS = {
    "account_update": ("event",), "account_alerts": ("alert_type", "alert_info.alert_type"),
    "account_review_update": ("decision",), "phone_number_quality_update": ("event",),
    "phone_number_name_update": ("decision",), "business_capability_update": (),
    "message_template_status_update": ("event",), "message_template_quality_update": ("new_quality_score",),
    "template_category_update": ("new_category",), "payment_configuration_update": ("status",), "security": ("event",),
}  # fmt: skip

_Reader = Callable[[dict[str, Any], str], Iterator[Notice]]


def read(field: str, entry: dict[str, Any], value: dict[str, Any]) -> list[Notice]:
    """Return the notices of one change; ``field`` is ``messages`` or one of ``FIELDS``."""
    if field in _ACCOUNT_FIELDS:
        return [_of_account(field, entry, value)]
    account = name_of(dict_of(value.get("metadata")).get("phone_number_id"))
    if field == "messages":
        return [*_echoes(value, account), *_calls(value, account)]
    return list(_PERSON_FIELDS[field](value, account))


# -- about an account ------------------------------------------------------------


def _of_account(field: str, entry: dict[str, Any], value: dict[str, Any]) -> Notice:
    details = _flat(value)
    event = next((word for place in _ACCOUNT_FIELDS[field] if (word := _word(details.get(place)))), "")
    return Notice(
        kind=field,
        account=id_of(entry.get("id")),
        at=time_of(entry.get("time")),
        severity=_severity(field, event, details),
        summary=_summary(field, event),
        details=details,
    )


def _severity(field: str, event: str, details: dict[str, str]) -> str:
    if field == "account_alerts":
        return _BY_ALERT.get(details.get("alert_info.alert_severity", ""), "warning")
    if details.get("ban_info.waba_ban_state") == "REINSTATE":
        return "info"
    return "critical" if event in _CRITICAL else "warning" if event in _WARNING else "info"


# -- about a person --------------------------------------------------------------


def _preferences(value: dict[str, Any], account: str) -> Iterator[Notice]:
    for item in dicts_of(value.get("user_preferences")):
        phone, bsuid = person(item.get("wa_id"))
        bsuid = id_of(item.get("user_id")) or bsuid
        if phone or bsuid:
            details = {name: given for name in ("category", "value") if (given := _word(item.get(name)))}
            yield Notice(
                kind="user_preferences",
                account=account,
                at=time_of(item.get("timestamp")),
                summary=_summary("user_preferences", details.get("value", "")),
                phone=phone,
                bsuid=bsuid,
                details=details,
            )


def _echoes(value: dict[str, Any], account: str, kind: str = "smb_message_echoes") -> Iterator[Notice]:
    for echo in dicts_of(value.get("message_echoes")):
        inner = {**echo, **dict_of(echo.get("message"))}
        phone, bsuid = person(inner.get("to"), inner.get("recipient"))
        bsuid = id_of(inner.get("to_user_id")) or id_of(inner.get("recipient_user_id")) or bsuid
        yield from _written(kind, account, outer=echo, item=inner, who=(phone, bsuid), what="echo")


def _standby(value: dict[str, Any], account: str) -> Iterator[Notice]:
    held = dict_of(value.get("standby")) or value
    for item in dicts_of(held.get("messages")):
        phone, bsuid = person(item.get("from"))
        bsuid = id_of(item.get("from_user_id")) or bsuid
        yield from _written("standby", account, outer=item, item=item, who=(phone, bsuid), what="message")
    yield from _echoes(held, account, "standby")


def _written(
    kind: str, account: str, *, outer: dict[str, Any], item: dict[str, Any], who: tuple[str, str], what: str
) -> Iterator[Notice]:  # fmt: skip
    """Yield the notice of a message that did not come to us, or that we did not send."""
    id_ = id_of(outer.get("id")) or id_of(item.get("id"))
    if not id_:
        return
    # Recorded echoes of Meta's agent have no type and a text.
    type_ = _word(item.get("type")) or ("text" if "text" in item else "")
    changed = dict_of(item.get(type_)).get("original_message_id")
    more = {"what": what, "type": type_, "original_message_id": id_of(changed)}
    yield Notice(
        kind=kind,
        account=account,
        at=time_of(outer.get("timestamp")) or time_of(item.get("timestamp")),
        summary=_summary(kind, what, type_),
        phone=who[0],
        bsuid=who[1],
        message_id=id_,
        text=text_in(type_, item)[:_LONGEST_TEXT],
        details={name: given for name, given in more.items() if given},
    )


def _handovers(value: dict[str, Any], account: str) -> Iterator[Notice]:
    sender, recipient = dict_of(value.get("sender")), dict_of(value.get("recipient"))
    phone, bsuid = person(sender.get("phone_number"), sender.get("wa_id"))
    event = _word(value.get("type"))
    told = dict_of(value.get(event))
    yield Notice(
        kind="messaging_handovers",
        account=account or id_of(recipient.get("phone_number_id")),
        at=time_of(value.get("timestamp")),
        summary=_summary("messaging_handovers", event),
        phone=phone,
        bsuid=id_of(sender.get("user_id")) or bsuid,
        details={"type": event, **_flat(told)},
    )


def _calls(value: dict[str, Any], account: str) -> Iterator[Notice]:
    for call in dicts_of(value.get("calls")):
        id_ = id_of(call.get("id")) or id_of(call.get("wacid"))
        ours = call.get("direction") == "BUSINESS_INITIATED"
        phone, bsuid = person(call.get("to" if ours else "from"))
        bsuid = id_of(call.get("to_user_id" if ours else "from_user_id")) or bsuid
        words = {name: given for name in ("event", "direction", "status") if (given := _word(call.get(name)))}
        if not id_:
            continue
        yield Notice(
            kind="calls",
            account=account,
            at=time_of(call.get("timestamp")),
            summary=_summary("calls", *words.values()),
            phone=phone,
            bsuid=bsuid,
            message_id=id_,
            details=words,
        )


_PERSON_FIELDS: dict[str, _Reader] = {
    "user_preferences": _preferences,
    "smb_message_echoes": _echoes,
    "standby": _standby,
    "messaging_handovers": _handovers,
    "calls": _calls,
}
#: Fields beside ``messages`` that are read.
FIELDS = frozenset({*_ACCOUNT_FIELDS, *_PERSON_FIELDS})


# -- words and details -----------------------------------------------------------


def _word(value: Any) -> str:
    """Return a fixed word of Meta's; anything else is none."""
    word = text_of(value)
    return word if _WORD.fullmatch(word) else ""


def _summary(*words: str) -> str:
    return " ".join(filter(None, words))


def _flat(value: dict[str, Any], prefix: str = "", depth: int = _DEEPEST) -> dict[str, str]:
    """Return the plain values inside, by dotted names: some, and each of them short."""
    found: dict[str, str] = {}
    for name, given in list(value.items())[:_MOST_DETAILS]:
        place = f"{prefix}{name_of(name)}"
        if isinstance(given, (dict, list)) and depth:
            inner = given if isinstance(given, dict) else {str(n): item for n, item in enumerate(list_of(given))}
            found |= _flat(inner, f"{place}.", depth - 1)
        elif text := number_of(given):
            found[place] = text[:_LONGEST_DETAIL]
    return dict(list(found.items())[:_MOST_DETAILS])
