"""What WhatsApp Cloud API webhooks hold, read leniently.

In comes a raw body; out go its messages and statuses, every one of them, in order.
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
button, interactive          the title of what was chosen; of a form its name and answers
order                        a sentence with the products, and what was written with it
unsupported, or unheard of   nothing to read: an honest reply says so
===========================  =================================================================

No turn begins with (``Message.starts_turn``):

===========================  =================================================================
reaction                     ``text`` is the emoji, ``quoted`` the message reacted to
edit, revoke                 ``quoted`` is the message changed, ``text`` what it says now
system                       ``moved_to`` is the new number or BSUID of who changed it
call_permission_reply        an answer to a person who asked to call
ephemeral, request_welcome   nothing to read
anything in a group          ``group`` is set: groups are not served
anything from nobody         ``user`` is empty: nobody could be answered
===========================  =================================================================

Beside any type: ``quoted`` is the message it answers to, and ``context`` says in a
sentence which ad brought it, which product it is about, and that it was forwarded.
Changes of other fields (echoes of what the business wrote itself, history, alerts) hold
nothing inbound. They and errors are logged by name and code, never with texts or numbers.

Source: Meta, "WhatsApp Cloud API: messages webhook reference", v26.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from chatbot.channels.lenient import (
    code_of,
    decode,
    dict_of,
    dicts_of,
    id_of,
    list_of,
    name_of,
    number_of,
    phone_of,
    text_of,
    time_of,
)
from chatbot.messages import Inbound, Media, Message, Status

log = structlog.get_logger(__name__)

#: What we read of a change in the field ``messages``.
_READ = frozenset({"messaging_product", "metadata", "contacts", "messages", "statuses", "errors"})
_FIELD = re.compile(r"[a-z][a-z_]{0,63}")
#: Fields of one body, and errors of one item, that are logged at most.
_MOST_FIELDS, _MOST_CODES = 20, 10
#: How a notice says who somebody was, where nothing else does.
_CHANGED_FROM = re.compile(r"\bchanged from \+?(\S{1,200}) to ")

#: Types that come with a file.
_FILES = frozenset({"image", "video", "audio", "voice", "document", "sticker"})
#: Characters that are kept of an address, of what an ad says, and of what we sent along.
_LONGEST_URL, _LONGEST_AD, _LONGEST_CALLBACK = 2048, 1000, 512

#: Senders by ``wa_id`` and by ``user_id``.
Contacts = dict[tuple[str, str], dict[str, Any]]


def parse(body: bytes) -> Inbound:
    """Return every message and status of a webhook body. Raises ``BadPayload``."""
    messages: list[Message] = []
    statuses: list[Status] = []
    skipped = 0
    for value in _values(decode(body)):
        account = name_of(dict_of(value.get("metadata")).get("phone_number_id"))
        contacts = _contacts(value)
        read = [_message(item, account, contacts) for item in list_of(value.get("messages"))]
        reports = [_status(item) for item in list_of(value.get("statuses"))]
        skipped += read.count(None) + reports.count(None)
        messages += filter(None, read)
        statuses += filter(None, reports)
    if skipped:
        log.warning("webhook.skipped", items=skipped)
    return Inbound(tuple(messages), tuple(statuses))


def _values(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what each change in the field ``messages`` holds; log what else there is."""
    unread = set()
    for entry in dicts_of(body.get("entry")):
        for change in dicts_of(entry.get("changes")):
            field = change.get("field", "messages")
            if field != "messages":
                unread.add(_field(field))
                continue
            value = dict_of(change.get("value"))
            unread |= {f"messages.{_field(name)}" for name in value.keys() - _READ}
            if codes := _codes(value):
                log.warning("webhook.errors", codes=codes)
            yield value
    if unread:
        log.info("webhook.unread", fields=sorted(unread)[:_MOST_FIELDS])


def _field(name: Any) -> str:
    return name if isinstance(name, str) and _FIELD.fullmatch(name) else "?"


def _codes(value: dict[str, Any]) -> list[int]:
    return [code_of(error.get("code")) for error in dicts_of(value.get("errors"))[:_MOST_CODES]]


# -- messages and their senders --------------------------------------------------


def _message(item: Any, account: str, contacts: Contacts) -> Message | None:
    item = dict_of(item)
    id_ = id_of(item.get("id"))
    if not id_:
        return None
    kind = _kind(item)
    phone, bsuid, name = _sender(item, contacts)
    moved_to = _moved_to(item)
    if moved_to:
        phone, bsuid = _before(item, phone, bsuid, moved_to)
    user = phone or bsuid
    if codes := _codes(item):
        log.info("message.errors", kind=kind, codes=codes)
    return Message(
        user=user,
        id=id_,
        text=_read(kind, item),
        kind=kind,
        channel="whatsapp",
        account=account,
        phone=phone,
        bsuid=bsuid,
        name=name,
        sent_at=time_of(item.get("timestamp")),
        media=_media(kind, item),
        quoted=_quoted(kind, item),
        moved_to=moved_to if moved_to != user else "",
        group=id_of(item.get("group_id")),
        context=_context(item),
    )


def _kind(item: dict[str, Any]) -> str:
    kind = id_of(item.get("type")) or "unknown"
    inner = dict_of(item.get("interactive")).get("type")
    return "call_permission_reply" if kind == "interactive" and inner == "call_permission_reply" else kind


def _contacts(value: dict[str, Any]) -> Contacts:
    """Return the contacts by what they are known by; ``("", "")`` is one who is alone."""
    contacts = dicts_of(value.get("contacts"))
    known: Contacts = {("", ""): contacts[0]} if len(contacts) == 1 else {}
    for contact in contacts:
        known.setdefault(("wa_id", phone_of(contact.get("wa_id"))), contact)
        known.setdefault(("user_id", id_of(contact.get("user_id"))), contact)
    return known


def _sender(item: dict[str, Any], contacts: Contacts) -> tuple[str, str, str]:
    """Return phone, BSUID and name of who wrote."""
    phone, bsuid = phone_of(item.get("from")), id_of(item.get("from_user_id"))
    if not phone and not bsuid:
        # A lone contact names the sender only where the message itself names nobody: in a
        # batch of two people it would send the reply of one to the other.
        contact = contacts.get(("", ""), {})
    else:
        by_phone = contacts.get(("wa_id", phone)) if phone else None
        by_bsuid = contacts.get(("user_id", bsuid)) if bsuid else None
        contact = by_phone or by_bsuid or {}
    return (
        phone or phone_of(contact.get("wa_id")),
        bsuid or id_of(contact.get("user_id")),
        name_of(dict_of(contact.get("profile")).get("name")),
    )


def _moved_to(item: dict[str, Any]) -> str:
    """Return what somebody is known by from now on: a number where there is one, else a BSUID."""
    system = dict_of(item.get("system"))
    if item.get("type") != "system" or not text_of(system.get("type")).endswith(("changed_number", "changed_user_id")):
        return ""
    return phone_of(system.get("new_wa_id")) or phone_of(system.get("wa_id")) or id_of(system.get("user_id"))


def _before(item: dict[str, Any], phone: str, bsuid: str, moved_to: str) -> tuple[str, str]:
    """Return phone and BSUID of somebody before they moved: some notices name only the new ones."""
    if (phone or bsuid) and moved_to not in (phone, bsuid):
        return phone, bsuid
    system = dict_of(item.get("system"))
    said = _CHANGED_FROM.search(text_of(system.get("body")))
    before = phone_of(system.get("customer")) or id_of(said[1] if said else "")
    return (before, "") if before.isdigit() else ("", before)


# -- what came with a message ----------------------------------------------------


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


def _context(item: dict[str, Any]) -> str:
    quote, ad = dict_of(item.get("context")), dict_of(item.get("referral"))
    product = id_of(dict_of(quote.get("referred_product")).get("product_retailer_id"))
    shown = " — ".join(filter(None, (text_of(ad.get(part)) for part in ("headline", "body", "source_url"))))
    forwarded = quote.get("forwarded") is True or quote.get("frequently_forwarded") is True
    sentences = (
        f"Cheguei pelo anúncio: {shown[:_LONGEST_AD]}." if shown else "",
        f"Pergunto sobre o produto {product}." if product else "",
        "Encaminhei esta mensagem." if forwarded else "",
    )
    return " ".join(filter(None, sentences))


# -- what an agent can read of each type -----------------------------------------


def _read(kind: str, item: dict[str, Any]) -> str:
    read = _READERS.get(kind)
    return read(dict_of(item.get(kind)), item) if read else ""


def _caption(content: dict[str, Any], _: dict[str, Any]) -> str:
    return text_of(content.get("caption"))


def _interactive(content: dict[str, Any], _: dict[str, Any]) -> str:
    chosen = dict_of(content.get("button_reply")) or dict_of(content.get("list_reply"))
    if chosen:
        return ": ".join(filter(None, (text_of(chosen.get("title")), text_of(chosen.get("description")))))
    form = dict_of(content.get("nfm_reply"))
    return ": ".join(filter(None, (text_of(form.get("name")), text_of(form.get("response_json")))))


def _location(content: dict[str, Any], _: dict[str, Any]) -> str:
    place = ", ".join(filter(None, (text_of(content.get("name")), text_of(content.get("address")))))
    latitude, longitude = number_of(content.get("latitude")), number_of(content.get("longitude"))
    at = f"latitude {latitude}, longitude {longitude}" if latitude and longitude else ""
    where = f"{place} ({at})" if place and at else place or at
    return f"Enviei minha localização: {where}" if where else ""


def _cards(_: dict[str, Any], item: dict[str, Any]) -> str:
    people = []
    for card in dicts_of(item.get("contacts")):
        name = text_of(dict_of(card.get("name")).get("formatted_name"))
        phones = [text_of(phone.get("phone")) for phone in dicts_of(card.get("phones"))]
        people.append(" ".join(filter(None, (name, *phones))))
    return f"Enviei um contato: {'; '.join(filter(None, people))}" if any(people) else ""


def _order(content: dict[str, Any], _: dict[str, Any]) -> str:
    lines = ", ".join(filter(None, map(_product, dicts_of(content.get("product_items")))))
    return ". ".join(filter(None, (lines and f"Fiz um pedido: {lines}", text_of(content.get("text")))))


def _product(product: dict[str, Any]) -> str:
    name = text_of(product.get("product_retailer_id"))
    many = number_of(product.get("quantity"))
    return f"{many} × {name}" if many and name else name


def _edit(content: dict[str, Any], _: dict[str, Any]) -> str:
    return text_of(dict_of(dict_of(content.get("message")).get("text")).get("body"))


_READERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "text": lambda content, _: text_of(content.get("body")),
    "button": lambda content, _: text_of(content.get("text")),
    "reaction": lambda content, _: text_of(content.get("emoji")),
    "image": _caption,
    "video": _caption,
    "document": _caption,
    "interactive": _interactive,
    "location": _location,
    "contacts": _cards,
    "order": _order,
    "edit": _edit,
}


# -- statuses --------------------------------------------------------------------


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
    )
