"""What WhatsApp Cloud API webhooks hold, read leniently.

In comes a raw body; out go its messages, statuses and notices, every one of them, in order.
Promise: one item that is not as documented costs no other one, and nothing is required
that real bodies lack. Since 2026 a sender may have no phone number: then ``user_id``, a
BSUID, names them; ``contacts``, ``from``, ``wa_id`` and ``timestamp`` may all be missing.
Only an item without an id is left out, and counted in the log.

What each type means to the agent (``Message.text`` is what it reads):

===========================  =================================================================
text                         the text
image, video, document       the caption; the file is ``media``
audio, voice                 nothing to read; the file is ``media``, ``voice`` for a voice note
sticker                      nothing to read; the picture is ``media``
location                     a sentence with name, address and coordinates
contacts                     a sentence with the names and numbers of the cards
button, interactive          the title of what was chosen; of a form its name and answers; a sentence
                             about a product asked for, or with what is to be paid
order                        a sentence with the products, and what was written with it
payment                      a sentence: a status that says a payment was captured or failed
unsupported, or unheard of   nothing to read: an honest reply says so
===========================  =================================================================

No turn begins with (``Message.starts_turn``):

===========================  =================================================================
reaction                     ``text`` is the emoji, ``quoted`` the message reacted to
edit, revoke                 ``quoted`` is the message changed, ``text`` what it says now
unsupported edit, reaction   the same, where Meta says no more of it than ``unsupported.type``
pin, keep_in_chat,           what a person did with a message that is there, by ``unsupported.type``
poll_update
payment_pending              a payment that is still on its way
system                       ``moved_to`` is the new number or BSUID of who changed it
call_permission_reply        an answer to a person who asked to call
ephemeral, request_welcome   nothing to read
anything in a group          ``group`` is set: groups are not served
anything from nobody         ``user`` is empty: nobody could be answered
===========================  =================================================================

Beside any type: ``quoted`` is the message it answers to, and ``context`` says in a
sentence which ad brought it, which product it is about, and that it was forwarded;
``ctwa_clid`` is the ad's click. What an operator must hear of (alerts, echoes of what staff
wrote, preferences, calls) becomes a notice (``notices.py``). Fields that nobody reads
and errors are logged by name and code, never with texts or numbers.

Source: Meta, "WhatsApp Cloud API: messages webhook reference", v26.0 (August 2026).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import structlog

from chatbot.channels.cloud import notices as operators
from chatbot.channels.cloud.people import Contacts, before, contacts_in, moved_to, person, sender
from chatbot.channels.cloud.texts import led_to, payment, text_in
from chatbot.channels.json_fields import (
    code_of,
    decode,
    dict_of,
    dicts_of,
    id_of,
    list_of,
    name_of,
    text_of,
    time_of,
)
from chatbot.messages import Inbound, Media, Message, Notice, Pricing, Status

log = structlog.get_logger(__name__)

#: What we read of a change in the field ``messages``.
_READ = frozenset(
    {"messaging_product", "metadata", "contacts", "messages", "statuses", "errors", "message_echoes", "calls"}
)
_FIELD = re.compile(r"[a-z][a-z_]{0,63}")
#: Fields of one body, and errors of one item, that are logged at most.
_MOST_FIELDS, _MOST_CODES = 20, 10

#: Types that come with a file.
_FILES = frozenset({"image", "video", "audio", "voice", "document", "sticker"})
#: What ``unsupported.type`` says of things done to a message that is there: nobody waits for an answer.
_UNSPOKEN = frozenset({"edit", "pin", "keep_in_chat", "poll_update", "reaction"})
#: Characters that are kept of an address, and of what we sent along.
_LONGEST_URL, _LONGEST_CALLBACK = 2048, 512
#: Longer click ids of an ad are none: half of one says nothing.
_LONGEST_CLICK = 512


def parse(body: bytes) -> Inbound:
    """Return every message, status and notice of a webhook body. Raises ``BadPayload``."""
    messages: list[Message] = []
    statuses: list[Status] = []
    notices: list[Notice] = []
    skipped = 0
    for field, entry, value in _changes(decode(body)):
        notices += operators.read(field, entry, value)
        if field != "messages":
            continue
        account = name_of(dict_of(value.get("metadata")).get("phone_number_id"))
        contacts = contacts_in(value)
        read = [_message(item, account, contacts) for item in list_of(value.get("messages"))]
        payments, others = _payments_apart(list_of(value.get("statuses")))
        read += [_payment(item, account) for item in payments]
        reports = [_status(item) for item in others]
        skipped += read.count(None) + reports.count(None)
        messages += filter(None, read)
        statuses += filter(None, reports)
    if skipped:
        log.warning("webhook.skipped", items=skipped)
    return Inbound(tuple(messages), tuple(statuses), tuple(notices))


def _changes(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the field, entry and value of each change that somebody reads; log what else there is."""
    unread = set()
    for entry in dicts_of(body.get("entry")):
        for change in dicts_of(entry.get("changes")):
            field, value = change.get("field", "messages"), dict_of(change.get("value"))
            if field == "messages":
                unread |= {f"messages.{_field(name)}" for name in value.keys() - _READ}
                if codes := _codes(value):
                    log.warning("webhook.errors", codes=codes)
            elif not isinstance(field, str) or field not in operators.FIELDS:
                unread.add(_field(field))
                continue
            yield field, entry, value
    if unread:
        log.info("webhook.unread", fields=sorted(unread)[:_MOST_FIELDS])


def _field(name: Any) -> str:
    return name if isinstance(name, str) and _FIELD.fullmatch(name) else "?"


def _codes(value: dict[str, Any]) -> list[int]:
    return [code_of(error.get("code")) for error in dicts_of(value.get("errors"))[:_MOST_CODES]]


# -- messages --------------------------------------------------------------------


def _message(item: Any, account: str, contacts: Contacts) -> Message | None:
    item = dict_of(item)
    id_ = id_of(item.get("id"))
    if not id_:
        return None
    kind = _kind(item)
    phone, bsuid, name = sender(item, contacts)
    to = moved_to(item)
    if to:
        phone, bsuid = before(item, phone, bsuid, to)
    user = phone or bsuid
    if codes := _codes(item):
        log.info("message.errors", kind=kind, codes=codes)
    return Message(
        user=user,
        id=id_,
        text=text_in(kind, item),
        kind=kind,
        channel="whatsapp",
        account=account,
        phone=phone,
        bsuid=bsuid,
        name=name,
        sent_at=time_of(item.get("timestamp")),
        media=_media(kind, item),
        quoted=_quoted(kind, item),
        moved_to=to if to != user else "",
        group=id_of(item.get("group_id")),
        context=led_to(item),
        ctwa_clid=id_of(dict_of(item.get("referral")).get("ctwa_clid"), longest=_LONGEST_CLICK),
    )


def _kind(item: dict[str, Any]) -> str:
    kind = id_of(item.get("type")) or "unknown"
    inner = dict_of(item.get("interactive")).get("type")
    if kind == "interactive" and inner == "call_permission_reply":
        return "call_permission_reply"
    unsupported = id_of(dict_of(item.get("unsupported")).get("type"))
    return unsupported if kind == "unsupported" and unsupported in _UNSPOKEN else kind


def _media(kind: str, item: dict[str, Any]) -> Media | None:
    file = dict_of(item.get(kind))
    if kind not in _FILES or not (id_of(file.get("id")) or name_of(file.get("url"))):
        return None
    return Media(
        id=id_of(file.get("id")),
        mime_type=name_of(file.get("mime_type")),
        filename=name_of(file.get("filename")),
        url=text_of(file.get("url"))[:_LONGEST_URL],
        voice=kind == "voice" or file.get("voice") is True,
    )


def _quoted(kind: str, item: dict[str, Any]) -> str:
    content = dict_of(item.get(kind))
    if kind == "reaction":
        return id_of(content.get("message_id"))
    if kind in ("edit", "revoke"):
        return id_of(content.get("original_message_id"))
    return id_of(dict_of(item.get("context")).get("id"))


# -- statuses --------------------------------------------------------------------


def _payments_apart(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the items that say what became of a payment, and the others: a payment that failed is no failed send."""
    paid = [item for item in items if dict_of(item).get("type") == "payment"]
    return paid, [item for item in items if dict_of(item).get("type") != "payment"]


def _payment(item: dict[str, Any], account: str) -> Message | None:
    """Return what a person would say of their payment; each state of it is a message of its own."""
    about, status = id_of(item.get("id")), id_of(item.get("status"))
    id_ = id_of(f"payment.{status}.{about}")
    if not about or not status or not id_:
        return None
    phone, bsuid = person(item.get("recipient_id"), item.get("from"))
    bsuid = id_of(item.get("recipient_user_id")) or bsuid
    text = payment(status, dict_of(item.get("payment")))
    return Message(
        user=phone or bsuid,
        id=id_,
        text=text,
        kind="payment" if text else "payment_pending",
        channel="whatsapp",
        account=account,
        phone=phone,
        bsuid=bsuid,
        sent_at=time_of(item.get("timestamp")),
    )


def _status(item: Any) -> Status | None:
    item = dict_of(item)
    id_, status = id_of(item.get("id")), id_of(item.get("status"))
    if not id_ or not status:
        return None
    return Status(
        message_id=id_,
        status=status,
        recipient=id_of(item.get("recipient_id")) or id_of(item.get("recipient_user_id")),
        callback=text_of(item.get("biz_opaque_callback_data"))[:_LONGEST_CALLBACK],
        error_code=next(iter(_codes(item)), 0),
        pricing=_pricing(dict_of(item.get("pricing"))),
    )


def _pricing(told: dict[str, Any]) -> Pricing | None:
    if not told:
        return None
    return Pricing(
        category=id_of(told.get("category")),
        type=id_of(told.get("type")),
        model=id_of(told.get("pricing_model")),
        billable=told.get("billable") is True,
    )
