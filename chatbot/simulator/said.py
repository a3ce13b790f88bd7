"""What a person says: read from the body of ``/say``, and shown as a bubble.

In comes JSON, out go messages (dicts) that ``webhooks`` writes as Meta does. ``from``,
``name``, ``text`` and ``id`` are in every message; the rest says what kind it is:

=====================  =================================================================
``media``              a file (``files.File.from_dict``); ``text`` is its caption
``location``           ``latitude``, ``longitude``, perhaps ``name`` and ``address``
``contact``            a card: ``name`` and ``phone``
``choice``             a tap on the button or row of the message ``quotes`` that says ``text``
``quotes``             the id of the message this one answers to
``reacts_to``          the id of a message; ``text`` is the emoji, empty to take it back
``edits``              the id of a message of the person's own; ``text`` is what it says now
``revokes``            the id of a message of the person's own, which is deleted
``via``                ``evolution``: it comes in through Evolution API
=====================  =================================================================

The last three change another message: they have no bubble of their own.
"""

from __future__ import annotations

import re
from typing import Any

from chatbot.simulator.files import File

LONGEST_TEXT = 65_536
LONGEST_NAME = 256
#: Emojis are a few code points each (families, flags): a reaction is one of them.
LONGEST_REACTION = 32
CHANGES = ("reacts_to", "edits", "revokes")

_USER = re.compile(r"\d{5,20}|[A-Z]{2}\.[A-Za-z0-9]{1,128}")
_PREVIEWS = {"image": "📷 {}", "document": "📄 {}", "audio": "🎤 {}", "sticker": "💟 {}"}
_NAMELESS = {"image": "Imagem", "document": "Documento", "audio": "Mensagem de voz", "sticker": "Figurinha"}


def read(item: Any, new_id: str) -> dict[str, Any]:
    """Return one message; ``new_id`` is its id where it has none. Raises ``ValueError`` saying what is wrong."""
    if not isinstance(item, dict):
        raise ValueError("a message is an object with `from`, `name` and `text`, perhaps `media`")
    user = str(item.get("from") or "").lstrip("+")
    if not _USER.fullmatch(user):
        raise ValueError("`from` is a number in digits or a user id (`BR.…`)")
    message: dict[str, Any] = {
        "from": user,
        "name": str(item.get("name") or user)[:LONGEST_NAME],
        "id": str(item.get("id") or new_id)[:LONGEST_NAME],
        "file": File.from_dict(item["media"]) if item.get("media") else None,
        "location": _location(item["location"]) if item.get("location") else None,
        "contact": _contact(item["contact"]) if item.get("contact") else None,
        "choice": item.get("choice") is True,
        "via": str(item.get("via") or ""),
        **{name: str(item.get(name) or "")[:LONGEST_NAME] for name in ("quotes", *CHANGES)},
    }
    message["text"] = _text(item, message)
    _one_kind(message)
    return message


def changes(message: dict[str, Any]) -> bool:
    """Return whether a message only changes another one."""
    return any(message.get(name) for name in CHANGES)


def shown(message: dict[str, Any]) -> dict[str, Any]:
    """Return ``type``, ``content`` and ``text`` of the bubble that shows a message."""
    text, file = message["text"], message.get("file")
    if place := message.get("location"):
        return {"type": "location", "content": place, "text": f"📍 {place['name'] or 'Localização'}"}
    if card := message.get("contact"):
        return {"type": "contacts", "content": card, "text": f"👤 {card['name']}"}
    if file is not None:
        named = text or file.filename or _NAMELESS[file.kind]
        content = {"file": file.shown(), "caption": text}
        return {"type": file.kind, "content": content, "text": _PREVIEWS[file.kind].format(named)}
    return {"type": "text", "content": {"choice": True} if message.get("choice") else {}, "text": text}


def _text(item: dict[str, Any], message: dict[str, Any]) -> str:
    text = item.get("text")
    wordless = any(message[name] for name in ("file", "location", "contact", "reacts_to", "revokes"))
    if wordless and text is None:
        return ""
    longest = LONGEST_REACTION if message["reacts_to"] else LONGEST_TEXT
    if not isinstance(text, str) or not (text.strip() or wordless) or len(text) > longest:
        raise ValueError(f"`text` has 1 to {longest} characters")
    return text


def _one_kind(message: dict[str, Any]) -> None:
    kinds = [name for name in ("file", "location", "contact", "choice", *CHANGES) if message[name]]
    if len(kinds) > 1:
        raise ValueError(f"a message is of one kind, this one has {' and '.join(kinds)}".replace("file", "media"))
    if message["via"] == "evolution" and (message["quotes"] or set(kinds) - {"file", "choice"}):
        raise ValueError("through Evolution go texts and files")


def _location(given: Any) -> dict[str, Any]:
    given = given if isinstance(given, dict) else {}
    at = [given.get("latitude"), given.get("longitude")]
    for degrees, most in zip(at, (90, 180), strict=True):
        if isinstance(degrees, bool) or not isinstance(degrees, int | float) or not -most <= degrees <= most:
            raise ValueError("`location` has a `latitude` of -90 to 90 and a `longitude` of -180 to 180")
    return {
        "latitude": at[0],
        "longitude": at[1],
        **{name: str(given.get(name) or "").strip()[:LONGEST_NAME] for name in ("name", "address")},
    }


def _contact(given: Any) -> dict[str, Any]:
    given = given if isinstance(given, dict) else {}
    card = {name: str(given.get(name) or "").strip()[:LONGEST_NAME] for name in ("name", "phone")}
    if not card["name"] or not any(map(str.isdigit, card["phone"])):
        raise ValueError("`contact` has a `name` and a `phone`")
    return card
