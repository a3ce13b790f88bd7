"""Who is who: the name a person has here, by whatever number or id they write.

In come messages and statuses as a channel parsed them; out they go with their ``user``. A
*user* is a contact at one of our numbers, and a contact is one person behind a phone number,
a BSUID (WhatsApp's id of a person without one) or both: named by the phone where it is
known, else by the BSUID. That needs the message alone, so the webhook can do it; that a
BSUID and a phone are one person, or that somebody moved, is known in Redis (``store/turns.py``).

Most have one number, so users there are named by the contact alone and stay readable; a
contact at any other number of ours is ``<contact>@<number's id>``. A second number joins
without touching the first one's conversations.

With a key, users and message ids are pseudonyms: a keyed hash, from which nobody without
the key gets back to a phone number (WhatsApp's message ids hold it, in base64).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from urllib.parse import quote

from chatbot.messages import Message, Notice, Status

#: Characters of a pseudonym: 130 bits in base32.
PSEUDONYM = 26

#: A Brazilian mobile without the ninth digit that all have had since 2016 (Anatel, resolution 553):
#: country, area, and eight digits that begin like a mobile's. A landline begins with 2 to 5.
_BRAZIL = re.compile(r"(55[1-9]{2})([6-9][0-9]{7})")
#: A Mexican number with the 1 that mobiles had until 2019.
_MEXICO = re.compile(r"521([0-9]{10})")
_PHONE = re.compile(r"[0-9]+")


#: The broker's own queues are ``chat.<name>``, too.
_RESERVED = frozenset({"open", "dead"})


def key_of(user: str) -> str:
    """Return ``user`` as it stands in names of queues and of Redis' keys.

    One to one: ``.``, ``*`` and ``#`` mean something in routing keys and are percent-encoded,
    and so are names the broker's own queues have. Raises ``ValueError`` for an empty user or
    one over 200 bytes (AMQP names end at 255).
    """
    name = quote(user, safe="@").replace(".", "%2E")
    if name in _RESERVED:
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if not name or len(name) > 200:
        raise ValueError("a user id has 1 to 200 bytes once percent-encoded")
    return name


@dataclass(frozen=True, slots=True)
class Contact:
    """A person at one of our numbers: the ``user`` they are, and where a reply goes."""

    user: str
    phone: str = ""
    bsuid: str = ""

    def take_over(self, message: Message) -> Message:
        """Return ``message`` as one of this contact's, who wrote it under another name."""
        origin = message.origin or message.user
        return replace(message, user=self.user, phone=self.phone, bsuid=self.bsuid, origin=origin)


class Names:
    """Names users. ``home`` is the number of ours that names do not mention; with ``key`` they are pseudonyms."""

    def __init__(self, *, home: str = "", key: str = "") -> None:
        self._home = home
        self._key = key.encode()

    def user(self, contact: str, account: str = "") -> str:
        """Return the user that a phone or BSUID is at our number ``account`` (``""``: the one at home)."""
        name = canonical(contact)
        if account not in ("", self._home):
            name = f"{name}@{account}"
        return self._pseudonym(name) if self._key else name

    def name(self, message: Message) -> Message:
        """Return ``message`` with its author named; one from nobody stays so."""
        contact = message.phone or message.bsuid or message.user
        user = self.user(contact, message.account) if contact else ""
        if self._key:
            return replace(message, user=user, id=self._pseudonym(message.id), provider_id=message.id)
        return message if user == message.user else replace(message, user=user)

    def status(self, status: Status) -> Status:
        """Return ``status`` as it may be shown: with a key, without phone number and provider's id."""
        return replace(status, message_id=self._pseudonym(status.message_id), recipient="") if self._key else status

    def notice(self, notice: Notice) -> Notice:
        """Return ``notice`` with the person it is about named; with a key, without phone number and provider's id."""
        contact = notice.phone or notice.bsuid
        named = replace(notice, user=self.user(contact, notice.account)) if contact else notice
        if not self._key:
            return named
        message_id = self._pseudonym(notice.message_id) if notice.message_id else ""
        return replace(named, message_id=message_id, phone="", bsuid="")

    def by_bsuid(self, author: Message | Contact, account: str) -> str:
        """Return who the author would be by the BSUID alone; ``""`` where phone and BSUID are not both known."""
        return self.user(author.bsuid, account) if author.phone and author.bsuid else ""

    def moved(self, message: Message) -> Contact:
        """Return who the author of ``message``, which says that they moved, is from then on."""
        if _PHONE.fullmatch(message.moved_to):
            phone, bsuid = message.moved_to, message.bsuid
        else:
            phone, bsuid = message.phone, message.moved_to
        return Contact(self.user(phone or bsuid, message.account), phone, bsuid)

    def _pseudonym(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return base64.b32encode(digest).decode().lower()[:PSEUDONYM]


def canonical(contact: str) -> str:
    """Return the one spelling of a phone number; whatever else names a contact stays as it is.

    WhatsApp gives some Brazilian mobiles without their ninth digit and some Mexican ones
    with a 1 that is dialled no more: either way it is the same person.
    """
    if brazilian := _BRAZIL.fullmatch(contact):
        return f"{brazilian[1]}9{brazilian[2]}"
    if mexican := _MEXICO.fullmatch(contact):
        return f"52{mexican[1]}"
    return contact
