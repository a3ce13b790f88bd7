"""The values that travel: what a person wrote, what we answered, what happened to it.

All are frozen and go through JSON and back. Unreadable stored state raises
``ValueError``; it never becomes a new, empty value.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Self

from chatbot.errors import EndsItsProcess

#: Kinds of messages that ask for no answer.
SILENT = frozenset({
    "reaction", "system", "edit", "revoke", "ephemeral", "request_welcome", "call_permission_reply",
    "pin", "keep_in_chat", "poll_update", "album", "call", "payment_pending",
})  # fmt: skip

_BREAKS = re.compile(r"\r\n?")
#: Control characters that part words, and those that say nothing.
_BLANKS = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f]")


def writable(text: str) -> str:
    """Return ``text`` as UTF-8, JSON and a chat can carry it: no lone surrogate, no control character.

    Two surrogates that belong together become the character they stand for, a lone one
    becomes U+FFFD.
    """
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CONTROLS.sub("", _BLANKS.sub(" ", _BREAKS.sub("\n", whole)))


class _Json:
    """``to_json``/``from_json`` for frozen dataclasses."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dict, less those that have their default."""
        values = ((name, getattr(self, name), default) for name, default in self._defaults().items())
        return {
            name: value.to_dict() if isinstance(value, _Json) else value
            for name, value, default in values
            if value != default
        }

    def to_json(self) -> str:
        """Return the fields as one JSON object."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``; fields a newer version added are ignored.

        Raises ``ValueError`` when a field that has no default is missing.
        """
        known = cls._defaults()
        try:
            return cls(**{name: value for name, value in stored.items() if name in known})
        except TypeError as err:
            raise ValueError(f"stored {cls.__name__} is not readable: {err}") from err

    @classmethod
    def from_json(cls, stored: str) -> Self:
        """Rebuild from ``to_json``. Raises ``ValueError`` on anything else."""
        decoded = json.loads(stored)
        if not isinstance(decoded, dict):
            raise ValueError(f"stored {cls.__name__} is not an object")
        return cls.from_dict(decoded)

    @classmethod
    @cache  # asked for with every message
    def _defaults(cls) -> dict[str, Any]:
        """Return the fields' names and defaults (``MISSING`` where there is none)."""
        return {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]  # a mixin for dataclasses


@dataclass(frozen=True, slots=True)
class Media(_Json):
    """A file a person sent, not fetched yet.

    ``id`` is the vendor's, ``mime_type`` as it says, ``url`` where the vendor gave one,
    ``voice`` set for a voice note (not for a music file).
    """

    id: str
    mime_type: str = ""
    filename: str = ""
    url: str = ""
    voice: bool = False


@dataclass(frozen=True, slots=True)
class Message(_Json):
    """What a person wrote to us, once parsed.

    ``user`` names the person in queues and keys, ``id`` is the provider's message
    id (the idempotency key), ``text`` is empty when there is nothing an agent could
    read (a sticker), ``phone`` in digits and ``bsuid`` (``BR.…``) say where a reply
    goes, ``account`` which of our numbers was written to, ``sent_at`` in Unix seconds.
    ``media`` is the file it came with, ``quoted`` the provider's id of the message it
    answers to, ``moved_to`` the new phone or BSUID of an author who changed it (``user``,
    ``phone`` and ``bsuid`` are the old ones then), ``group`` the id of the group it was
    written in, ``context`` a sentence on what led to it (an ad, a product).
    ``user`` is empty when nothing says who wrote. ``origin`` is the user it came in as,
    where it was forwarded to another name of the same person. ``provider_id`` is the
    provider's id where ``id`` is a pseudonym of it: never to be shown.
    ``replays`` counts how often an operator brought it back from the dead letters.
    ``ctwa_clid`` is the click on an ad that led to it, which its campaign counts.
    """

    user: str
    id: str
    text: str
    kind: str = "text"
    channel: str = "shell"
    account: str = ""
    phone: str = ""
    bsuid: str = ""
    name: str = ""
    sent_at: float = 0.0
    media: Media | None = None
    quoted: str = ""
    moved_to: str = ""
    group: str = ""
    context: str = ""
    origin: str = ""
    provider_id: str = ""
    replays: int = 0
    ctwa_clid: str = ""

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Rebuild with the file as ``Media``. Raises ``ValueError``."""
        media = stored.get("media")
        if isinstance(media, dict):
            stored = {**stored, "media": Media.from_dict(media)}
        return super(Message, cls).from_dict(stored)

    @property
    def key(self) -> str:
        """What has one turn: the message, or one replay of it."""
        return f"{self.id}~{self.replays}" if self.replays else self.id

    @property
    def id_at_provider(self) -> str:
        """What the provider calls it."""
        return self.provider_id or self.id

    @property
    def starts_turn(self) -> bool:
        """Whether it is answered: no reaction, edit or notice, from one person and not in a group."""
        return bool(self.user) and not self.group and self.kind not in SILENT

    @property
    def is_nobodys(self) -> bool:
        """Whether somebody wrote it, and nothing that can be used says who: it is kept, for nobody can be answered."""
        asks = not self.group and self.kind not in SILENT
        return not self.user and asks and bool(self.text.strip() or self.media)

    @property
    def told(self) -> str:
        """What an agent is shown: the text, behind what led to it."""
        return f"[{self.context}]\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class Turn(_Json):
    """One message and its reply, as committed: the ``number``-th turn of its user.

    ``failure`` says why the reply is only an apology: the message is a dead letter then.
    """

    number: int
    message: Message
    reply: str
    committed_at: float
    failure: str = ""

    @property
    def is_poison(self) -> bool:
        """Whether the message ended what answered it."""
        return self.failure.startswith(EndsItsProcess.__name__)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Rebuild with the message as a ``Message``. Raises ``ValueError``."""
        message = stored.get("message")
        if not isinstance(message, dict):
            raise ValueError("stored Turn has no message")
        return super(Turn, cls).from_dict({**stored, "message": Message.from_dict(message)})


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers a person may pick: ``title`` is what they send back."""

    title: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What one call to a channel sends: a text and, under it, the choices offered.

    Or, with no text of ours, a ``template`` (``name:language``) that the vendor has approved.
    """

    text: str
    choices: tuple[Choice, ...] = ()
    template: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How fast a channel takes messages: from one number, and from it to one person.

    ``per_second`` from the number; to one person ``pair_burst`` at once, then one every
    ``pair_seconds``.
    """

    per_second: float
    pair_seconds: float
    pair_burst: int


@dataclass(frozen=True, slots=True)
class Callback:
    """Which part of which turn of a user a call sent: what a provider is given along with it, and says in its statuses.

    ``str`` of it is what the provider is given.
    """

    user: str
    number: int
    part: int

    def __str__(self) -> str:
        return f"{self.user}:{self.number}:{self.part}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Rebuild from ``str``. Raises ``ValueError`` on anything else: it is not ours."""
        user, number, part = text.rsplit(":", 2)
        return cls(user, int(number), int(part))


@dataclass(frozen=True, slots=True)
class Pricing(_Json):
    """What the provider says a message costs: Meta's ``category``, ``type`` and ``pricing_model``, as they come.

    ``type`` is ``regular`` where it is charged, and begins with ``free`` where it is not.
    ``billable`` says the same, and is to disappear.
    """

    category: str = ""
    type: str = ""
    model: str = ""
    billable: bool = False


@dataclass(frozen=True, slots=True)
class Status(_Json):
    """What the provider says became of a message we sent.

    ``message_id`` is the provider's id, ``status`` one of ``sent``, ``delivered``,
    ``read``, ``played``, ``failed`` or whatever is invented next, ``callback`` the
    ``biz_opaque_callback_data`` we sent along, ``error_code`` 0 when none, ``pricing``
    what it costs where the provider says it.
    """

    message_id: str
    status: str
    recipient: str = ""
    callback: str = ""
    error_code: int = 0
    pricing: Pricing | None = None

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Rebuild with the price as ``Pricing``. Raises ``ValueError``."""
        pricing = stored.get("pricing")
        if isinstance(pricing, dict):
            stored = {**stored, "pricing": Pricing.from_dict(pricing)}
        return super(Status, cls).from_dict(stored)


@dataclass(frozen=True, slots=True)
class Notice(_Json):
    """What a provider tells that is no message and no status, and that an operator must hear of.

    ``kind`` is the provider's name for it (``account_update``, ``smb_message_echoes``),
    ``account`` the id of what it is about: one of our numbers, or the business account.
    ``at`` is in Unix seconds (0 where it was not said), ``severity`` ``info``, ``warning`` or
    ``critical``. ``summary`` is fit for a log: fixed words, no text of anybody's and no number.

    About a person: ``user`` is who they are here, ``phone`` and ``bsuid`` as in ``Message``;
    ``message_id`` and ``text`` are those of a message that somebody else than us sent them
    or had from them. ``details`` holds what else an operator needs, by the provider's names.
    """

    kind: str
    account: str = ""
    at: float = 0.0
    severity: str = "info"
    summary: str = ""
    user: str = ""
    phone: str = ""
    bsuid: str = ""
    message_id: str = ""
    text: str = ""
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inbound:
    """Everything one webhook POST held, in its order."""

    messages: tuple[Message, ...] = ()
    statuses: tuple[Status, ...] = ()
    notices: tuple[Notice, ...] = ()
