"""Who wrote on the WhatsApp Cloud API, and who moved to another number or BSUID.

In come items of a webhook body; out go phones (digits) and BSUIDs. Since 2026 a person may
be known by a BSUID alone, and it may stand where a phone number used to: what looks like a
BSUID is one, in whatever field it comes. Promise: nobody is named by what a person wrote.
The English sentence of a system message holds the profile's name, which anybody may set to
"changed from <another's number> to …", so only fields are read.

Source: Meta, "Business-scoped user IDs" and "System messages webhook reference" (August 2026).
"""

from __future__ import annotations

import re
from typing import Any

from chatbot.channels.json_fields import dict_of, dicts_of, id_of, name_of, phone_of, text_of

#: A country, perhaps ``ENT`` (a BSUID several portfolios share), and up to 128 letters and digits.
_BSUID = re.compile(r"[A-Z]{2}\.(?:ENT\.)?[0-9A-Za-z]{1,128}")

#: Senders by ``wa_id`` and by ``user_id``; ``("", "")`` is one who is alone.
Contacts = dict[tuple[str, str], dict[str, Any]]


def person(*given: Any) -> tuple[str, str]:
    """Return the first phone and the first BSUID among these values, ``""`` for what is not there."""
    ids = [phone_of(value) for value in given]
    bsuids = [id_ for id_ in ids if _BSUID.fullmatch(id_)]
    return next((id_ for id_ in ids if id_ and id_ not in bsuids), ""), next(iter(bsuids), "")


def contacts_in(value: dict[str, Any]) -> Contacts:
    """Return the contacts of a change by what they are known by."""
    contacts = dicts_of(value.get("contacts"))
    known: Contacts = {("", ""): contacts[0]} if len(contacts) == 1 else {}
    for contact in contacts:
        phone, bsuid = person(contact.get("wa_id"))
        known.setdefault(("wa_id", phone), contact)
        known.setdefault(("user_id", id_of(contact.get("user_id")) or bsuid), contact)
    return known


def sender(item: dict[str, Any], contacts: Contacts) -> tuple[str, str, str]:
    """Return phone, BSUID and name of who wrote."""
    phone, bsuid = person(item.get("from"))
    bsuid = id_of(item.get("from_user_id")) or bsuid
    if not phone and not bsuid:
        # A lone contact names the sender only where the message itself names nobody: in a
        # batch of two people it would send the reply of one to the other.
        contact = contacts.get(("", ""), {})
    else:
        by_phone = contacts.get(("wa_id", phone)) if phone else None
        by_bsuid = contacts.get(("user_id", bsuid)) if bsuid else None
        contact = by_phone or by_bsuid or {}
    other_phone, other_bsuid = person(contact.get("wa_id"))
    return (
        phone or other_phone,
        bsuid or id_of(contact.get("user_id")) or other_bsuid,
        name_of(dict_of(contact.get("profile")).get("name")),
    )


def moved_to(item: dict[str, Any]) -> str:
    """Return what somebody is known by from now on: a number where there is one, else a BSUID."""
    system = dict_of(item.get("system"))
    if item.get("type") != "system" or not text_of(system.get("type")).endswith(("changed_number", "changed_user_id")):
        return ""
    phone, bsuid = person(system.get("new_wa_id"), system.get("wa_id"))
    return phone or id_of(system.get("user_id")) or bsuid


def before(item: dict[str, Any], phone: str, bsuid: str, to: str) -> tuple[str, str]:
    """Return phone and BSUID of somebody before they moved ``to``: some notices name only the new ones."""
    system = dict_of(item.get("system"))
    old_phone, old_bsuid = person(system.get("customer"))
    if phone in ("", to):
        phone = old_phone
    if bsuid in ("", to, id_of(system.get("user_id"))):
        bsuid = old_bsuid
    return phone, id_of(system.get("previous_user_id")) or bsuid
