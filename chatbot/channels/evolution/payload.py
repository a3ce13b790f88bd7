"""What Evolution API webhooks hold, read leniently.

In comes a raw body; out go its messages, statuses and notices, in order. Promise: one item
that is not as documented costs no other one; own messages, groups, channels and
``status@broadcast`` are dropped.

What each type means (``channels/cloud/payload.py`` says what an agent reads of it):

=====================================  =====================================================
anything that holds a ``message``      the message inside: view once (also V2's extension),
                                       documents with captions, an album's pictures, animated
                                       stickers, disappearing messages, edits
ptvMessage                             a video
listResponseMessage                    the title chosen and its description
albumMessage                           no turn: its pictures follow, each a message
secretEncryptedMessage                 no turn: an edit that nobody here can read
pinInChat, keepInChat, encReaction,    no turn
callLog, poll votes, key distributions
unheard of, or nothing                 nothing to read: an honest reply says so
=====================================  =====================================================

The instance's key lies in every body (``apikey``): nothing of a body is ever logged but
event names. ``connection.update`` is a notice: a phone that is not connected sends nothing.

Source: Evolution API 2.3, ``webhook.controller.ts``; Baileys' ``WAProto`` (``Message``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog

from chatbot.channels.json_fields import decode, dict_of, dicts_of, id_of, list_of, name_of, number_of, text_of, time_of
from chatbot.messages import Inbound, Media, Message, Notice, Status

log = structlog.get_logger(__name__)

_STATUSES = {
    "SERVER_ACK": "sent", "DELIVERY_ACK": "delivered", "READ": "read", "PLAYED": "played", "ERROR": "failed",
}  # fmt: skip
#: Messages inside messages inside messages are followed so far.
_DEEPEST = 8
#: Types that come with a file → our kind.
_FILES = {
    "imageMessage": "image", "videoMessage": "video", "ptvMessage": "video", "audioMessage": "audio",
    "documentMessage": "document", "stickerMessage": "sticker",
}  # fmt: skip
_KINDS = {
    "conversation": "text", "extendedTextMessage": "text", **_FILES,
    "locationMessage": "location", "liveLocationMessage": "location",
    "contactMessage": "contacts", "contactsArrayMessage": "contacts",
    "buttonsResponseMessage": "interactive", "templateButtonReplyMessage": "interactive",
    "listResponseMessage": "interactive", "interactiveResponseMessage": "interactive",
    "reactionMessage": "reaction",
}  # fmt: skip
#: Types that ask for no answer → our kind. ``callLogMesssage`` is spelt so.
_UNSPOKEN = {
    "pollUpdateMessage": "system", "secretEncryptedMessage": "edit", "encReactionMessage": "reaction",
    "pinInChatMessage": "pin", "keepInChatMessage": "keep_in_chat", "albumMessage": "album",
    "callLogMesssage": "call", "callLogMessage": "call", "call": "call", "bcallMessage": "call",
    "encCommentMessage": "system", "encEventResponseMessage": "system",
}  # fmt: skip
_KNOWN = frozenset({*_KINDS, *_UNSPOKEN, "protocolMessage"})
#: These travel beside a message, or alone: then there is none.
_KEYS = ("senderKeyDistributionMessage", "fastRatchetKeySenderKeyDistributionMessage")
#: ``protocolMessage.type``: what became of an earlier message.
_PROTOCOL = {"REVOKE": "revoke", "0": "revoke", "MESSAGE_EDIT": "edit", "14": "edit"}
#: States of an instance's connection, and how bad each is.
_STATES = {"open": "info", "connecting": "info", "close": "critical", "refused": "critical"}


def parse(body: bytes) -> Inbound:
    """Return every message, status and notice of the body, in its order. Raises ``BadPayload``."""
    decoded = decode(body)
    event = text_of(decoded.get("event")).replace("_", ".").lower()
    instance = name_of(decoded.get("instance"))
    data = decoded.get("data")
    items = list_of(data) or [data]
    if event == "messages.upsert":
        items = list_of(dict_of(data).get("messages")) or items
        _warn_of_base64(items)
        return Inbound(tuple(filter(None, (_message(dict_of(item), instance) for item in items))))
    if event == "messages.update":
        return Inbound(statuses=tuple(filter(None, (_status(dict_of(item)) for item in items))))
    if event == "connection.update":
        at = _moment(decoded.get("date_time"))
        return Inbound(notices=tuple(filter(None, (_connection(dict_of(item), instance, at) for item in items))))
    log.info("webhook.unread", event_name=event[:64] if event.replace(".", "").isalpha() else "?")
    return Inbound()


def _warn_of_base64(items: list[Any]) -> None:
    """Say in the log that files travel in the webhooks: what is larger than a body may be is refused."""
    if any("base64" in dict_of(dict_of(item).get("message")) or "base64" in dict_of(item) for item in items):
        log.warning("webhook.base64", says="the base64 option of Evolution's webhook is on; switch it off")


def _connection(item: dict[str, Any], instance: str, at: float) -> Notice | None:
    """Return the notice of an instance that is connected, or no longer."""
    state = text_of(item.get("state"))
    if state not in _STATES:
        return None
    code = number_of(item.get("statusReason"))[:20]
    details = {"state": state, **({"statusReason": code} if code else {})}
    return Notice("connection", instance, at, _STATES[state], f"connection {state}", details=details)


def _moment(written: Any) -> float:
    """Return the Unix seconds of an ISO 8601 time, 0 where there is none."""
    try:
        return max(datetime.fromisoformat(text_of(written)).timestamp(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


# -- messages -------------------------------------------------------------------------


def _message(item: dict[str, Any], instance: str) -> Message | None:
    key = dict_of(item.get("key"))
    id_, jid = id_of(key.get("id")), id_of(key.get("remoteJid"))
    if not id_ or key.get("fromMe") is not False or not _is_person(jid):
        return None
    others = [id_of(holder.get(name)) for holder in (key, item) for name in ("remoteJidAlt", "senderPn", "senderLid")]
    jids = [
        jid,
        *filter(_is_person, (other if "@" in other else f"{other}@s.whatsapp.net" for other in others if other)),
    ]
    phone = next((_phone(known) for known in jids if known.endswith("@s.whatsapp.net")), "")
    lid = next((known for known in jids if known.endswith("@lid")), "")
    kind, content, holder = _content(dict_of(item.get("message")))
    context = dict_of(holder.get("contextInfo")) or dict_of(item.get("contextInfo"))
    return Message(
        user=phone or lid,
        id=id_,
        text=_text(kind, content),
        kind=kind,
        channel="evolution",
        account=instance,
        phone=phone,
        bsuid=lid,
        name=name_of(item.get("pushName")),
        sent_at=time_of(_low(item.get("messageTimestamp"))),
        media=_media(id_, kind, content) if kind in _FILES.values() else None,
        quoted=id_of(context.get("stanzaId")) or id_of(dict_of(content.get("key")).get("id")),
    )


def _is_person(jid: str) -> bool:
    return jid.endswith(("@s.whatsapp.net", "@lid")) and bool(jid.partition("@")[0])


def _phone(jid: str) -> str:
    """Return the number of a jid; a ``:`` names one of the person's devices."""
    return jid.partition("@")[0].partition(":")[0]


def _low(timestamp: Any) -> Any:
    """Return the seconds of a timestamp that may be protobuf's 64-bit ``{low, high}``."""
    return timestamp.get("low") if isinstance(timestamp, dict) else timestamp


def _content(message: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the kind, what it holds, and where its context lies; what only wraps a message is taken off."""
    for _ in range(_DEEPEST):
        inner = {} if _KNOWN & message.keys() else _wrapped(message)
        if not inner:
            break
        message = inner
    if "protocolMessage" in message:
        told = dict_of(message["protocolMessage"])
        return _PROTOCOL.get(text_of(told.get("type")), "system"), told, told
    for name, kind in _KINDS.items():
        if name in message:
            content = message[name]
            return kind, {"text": content} if isinstance(content, str) else dict_of(content), dict_of(content)
    for name, kind in _UNSPOKEN.items():
        if name in message:
            return kind, {}, {}
    # Something else beside the keys is a message of a type we do not know.
    only_keys = any(name in message for name in _KEYS) and not message.keys() - {*_KEYS, "messageContextInfo", "base64"}
    return "system" if only_keys else "unsupported", {}, {}


def _wrapped(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message that one of these types holds: WhatsApp invents wrappers faster than they are listed."""
    return next((inner for held in message.values() if (inner := dict_of(dict_of(held).get("message")))), {})


def _text(kind: str, content: dict[str, Any]) -> str:
    """Return what an agent can read."""
    if kind == "location":
        return _location(content)
    if kind == "contacts":
        cards = dicts_of(content.get("contacts")) or [content]
        people = ", ".join(filter(None, (text_of(card.get("displayName")) for card in cards)))
        return f"Enviei um contato: {people}" if people else ""
    if kind == "interactive":
        return _chosen(content)
    return text_of(content.get("text")) or text_of(content.get("caption"))


def _chosen(content: dict[str, Any]) -> str:
    """Return the title of what was chosen, with a list's description of it."""
    body = dict_of(content.get("body"))
    said = (content.get("selectedDisplayText"), content.get("title"), body.get("text"), content.get("selectedButtonId"))
    title, description = next(filter(None, map(text_of, said)), ""), text_of(content.get("description"))
    return ": ".join(filter(None, (title, description)))


def _location(content: dict[str, Any]) -> str:
    place = ", ".join(filter(None, (text_of(content.get("name")), text_of(content.get("address")))))
    latitude, longitude = number_of(content.get("degreesLatitude")), number_of(content.get("degreesLongitude"))
    at = f"latitude {latitude}, longitude {longitude}" if latitude and longitude else ""
    where = f"{place} ({at})" if place and at else place or at
    return f"Enviei minha localização: {where}" if where else ""


def _media(id_: str, kind: str, content: dict[str, Any]) -> Media:
    return Media(
        id=id_,
        mime_type=name_of(content.get("mimetype")),
        filename=name_of(content.get("fileName")),
        voice=kind == "audio" and content.get("ptt") is True,
    )


def _status(item: dict[str, Any]) -> Status | None:
    id_ = id_of(item.get("keyId")) or id_of(dict_of(item.get("key")).get("id"))
    status = _STATUSES.get(text_of(item.get("status")).upper())
    return Status(message_id=id_, status=status) if id_ and status else None
