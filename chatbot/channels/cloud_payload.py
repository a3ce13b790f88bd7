"""What WhatsApp Cloud API webhooks hold, read leniently.

In comes a raw body; out go its messages and statuses, in order. Promise: one item that
is not as documented costs no other one, and nothing is required that real bodies lack
(since 2026 a sender may have no phone number: then ``user_id``, a BSUID, names them).

What gives no message: reactions, edits and deletions of earlier messages, system
notices, and every change whose field is not ``messages`` (echoes, history, alerts).
Source: Meta, "WhatsApp Cloud API: webhook components", v26.0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from chatbot.errors import BadPayload
from chatbot.messages import Inbound, Message, Status

#: What a person sends that asks for no reply.
SILENT = frozenset({"reaction", "system", "edit", "revoke", "ephemeral", "request_welcome"})
#: Unix seconds beyond this (the year 5138) are a mistake.
LATEST = 1e11


def parse(body: bytes) -> Inbound:
    """Return every message and status of a webhook body. Raises ``BadPayload``."""
    try:
        decoded = json.loads(body.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as err:
        raise BadPayload(f"the body is not JSON: {type(err).__name__}") from err
    if not isinstance(decoded, dict):
        raise BadPayload("the body is not a JSON object")
    messages: list[Message] = []
    statuses: list[Status] = []
    for value in _values(decoded):
        account = _text(_dict(value.get("metadata")).get("phone_number_id"))
        contacts = [contact for contact in _list(value.get("contacts")) if isinstance(contact, dict)]
        messages += filter(None, (_message(item, account, contacts) for item in _list(value.get("messages"))))
        statuses += filter(None, (_status(item) for item in _list(value.get("statuses"))))
    return Inbound(tuple(messages), tuple(statuses))


def _values(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in _list(body.get("entry")):
        for change in _list(_dict(entry).get("changes")):
            if _dict(change).get("field") == "messages":
                yield _dict(change.get("value"))


def _message(item: Any, account: str, contacts: list[dict[str, Any]]) -> Message | None:
    item = _dict(item)
    id_, kind = _text(item.get("id")), _text(item.get("type")) or "unknown"
    phone, bsuid = _phone(item.get("from")), _text(item.get("from_user_id"))
    contact = _contact_of(phone, bsuid, contacts)
    phone = phone or _phone(contact.get("wa_id"))
    bsuid = bsuid or _text(contact.get("user_id"))
    user = phone or bsuid
    if not id_ or not user or kind in SILENT:
        return None
    return Message(
        user=user,
        id=id_,
        text=_read(kind, item),
        kind=kind,
        channel="whatsapp",
        account=account,
        phone=phone,
        bsuid=bsuid,
        name=_text(_dict(contact.get("profile")).get("name")),
        sent_at=_time(item.get("timestamp")),
    )


def _contact_of(phone: str, bsuid: str, contacts: list[dict[str, Any]]) -> dict[str, Any]:
    for contact in contacts:
        if (phone and _phone(contact.get("wa_id")) == phone) or (bsuid and _text(contact.get("user_id")) == bsuid):
            return contact
    # A lone contact names the sender only where the message itself names nobody: in a
    # batch of two people it would send the reply of one to the other.
    return contacts[0] if len(contacts) == 1 and not phone and not bsuid else {}


def _status(item: Any) -> Status | None:
    item = _dict(item)
    id_, status = _text(item.get("id")), _text(item.get("status"))
    if not id_ or not status:
        return None
    code = next((_dict(error).get("code") for error in _list(item.get("errors"))), 0)
    return Status(
        message_id=id_,
        status=status,
        recipient=_text(item.get("recipient_id")) or _text(item.get("recipient_user_id")),
        callback=_text(item.get("biz_opaque_callback_data")),
        error_code=code if isinstance(code, int) and not isinstance(code, bool) else 0,
    )


# -- what an agent can read of each type ----------------------------------------


def _read(kind: str, item: dict[str, Any]) -> str:
    content = _dict(item.get(kind))
    read = _READERS.get(kind)
    return read(content, item) if read else ""


def _caption(content: dict[str, Any], _: dict[str, Any]) -> str:
    return _text(content.get("caption"))


def _interactive(content: dict[str, Any], _: dict[str, Any]) -> str:
    chosen = _dict(content.get("button_reply")) or _dict(content.get("list_reply"))
    if chosen:
        return ": ".join(filter(None, (_text(chosen.get("title")), _text(chosen.get("description")))))
    form = _dict(content.get("nfm_reply"))
    return ": ".join(filter(None, (_text(form.get("name")), _text(form.get("response_json")))))


def _location(content: dict[str, Any], _: dict[str, Any]) -> str:
    place = ", ".join(filter(None, (_text(content.get("name")), _text(content.get("address")))))
    latitude, longitude = _number(content.get("latitude")), _number(content.get("longitude"))
    at = f"latitude {latitude}, longitude {longitude}" if latitude and longitude else ""
    where = f"{place} ({at})" if place and at else place or at
    return f"Enviei minha localização: {where}" if where else ""


def _cards(_: dict[str, Any], item: dict[str, Any]) -> str:
    people = []
    for card in _list(item.get("contacts")):
        name = _text(_dict(_dict(card).get("name")).get("formatted_name"))
        phones = [_text(_dict(phone).get("phone")) for phone in _list(_dict(card).get("phones"))]
        people.append(" ".join(filter(None, (name, *phones))))
    return f"Enviei um contato: {'; '.join(filter(None, people))}" if any(people) else ""


def _order(content: dict[str, Any], _: dict[str, Any]) -> str:
    products = [_dict(product) for product in _list(content.get("product_items"))]
    lines = ", ".join(filter(None, map(_product, products)))
    return ". ".join(filter(None, (lines and f"Fiz um pedido: {lines}", _text(content.get("text")))))


def _product(product: dict[str, Any]) -> str:
    name = _text(product.get("product_retailer_id"))
    many = _number(product.get("quantity"))
    return f"{many} × {name}" if many and name else name


_READERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "text": lambda content, _: _text(content.get("body")),
    "button": lambda content, _: _text(content.get("text")),
    "image": _caption,
    "video": _caption,
    "document": _caption,
    "interactive": _interactive,
    "location": _location,
    "contacts": _cards,
    "order": _order,
}


# -- lenient looks ---------------------------------------------------------------


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    """Return strings and whole numbers as text that UTF-8 can carry; nothing else is text."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    try:
        return str(value).encode("utf-8", "replace").decode("utf-8").strip("\0")
    except ValueError:  # an integer of thousands of digits
        return ""


def _phone(value: Any) -> str:
    return _text(value).strip().removeprefix("+")


def _number(value: Any) -> str:
    """Return a number, or a text in its place, as text; ``""`` for NaN and infinities."""
    if not isinstance(value, float):
        return _text(value)
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() else str(value)


def _time(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return seconds if 0 < seconds < LATEST else 0.0
