"""Evolution API v2: a gateway to WhatsApp Web that many Brazilian teams run themselves.

In come its webhooks (``messages.upsert``), out go calls to its REST API. What differs from
the Cloud API: no signature (a secret header, or a token signed with ``jwt_key``), nothing of
ours comes back in statuses (so a send in doubt is repeated once its time is over), and no
buttons that reliably show (choices are a numbered list).

A person is a phone number, a ``@lid`` where WhatsApp hides it, or both. Own messages,
groups, channels and ``status@broadcast`` are not for us. The instance's key lies in every
body (``apikey``): nothing of a body is ever logged but event names.

Source: Evolution API 2.3, ``webhook.controller.ts``, ``sendMessage.router.ts``,
``chat.router.ts``; Baileys' ``WAMessage``.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jwt
import structlog

from chatbot.channels.answers import json_in, retry_after
from chatbot.channels.formatting import split, to_whatsapp
from chatbot.channels.lenient import decode, dict_of, dicts_of, id_of, list_of, name_of, number_of, text_of, time_of
from chatbot.choices import as_text, offered
from chatbot.config import secret
from chatbot.errors import BadSignature, ChannelDown, OutcomeUnknown, Permanent, Transient
from chatbot.messages import Inbound, Limits, Media, Message, Part, Status

if TYPE_CHECKING:
    import httpx  # loaded by the first call: the webhook makes none

    from chatbot.config import Settings

log = structlog.get_logger(__name__)

#: How long a presence is shown; the gateway answers only when it is over.
TYPING_MILLISECONDS = 1500
#: Where a header may carry the secret.
SECRET_HEADERS = ("X-Webhook-Secret", "apikey")
_STATUSES = {
    "SERVER_ACK": "sent", "DELIVERY_ACK": "delivered", "READ": "read", "PLAYED": "played", "ERROR": "failed",
}  # fmt: skip
#: Message types that only wrap another one.
_WRAPPERS = ("ephemeralMessage", "viewOnceMessage", "viewOnceMessageV2", "documentWithCaptionMessage", "editedMessage")
#: Types that come with a file → our kind.
_FILES = {
    "imageMessage": "image", "videoMessage": "video", "audioMessage": "audio",
    "documentMessage": "document", "stickerMessage": "sticker",
}  # fmt: skip


class Evolution:
    """One Evolution server and the instances on it. ``timeout`` in seconds bounds every call."""

    window: float | None = None
    reopening: Part | None = None

    def __init__(
        self, *, url: str, api_key: str, instance: str, webhook_secret: str, jwt_key: str, timeout: float,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._instance = instance
        self._webhook_secret = webhook_secret.encode()
        self._jwt_key = jwt_key
        self._timeout = timeout
        self.limits = limits
        self._opening = threading.Lock()
        self._opened: httpx.Client | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Evolution:
        """Return the channel as the settings describe it."""
        return cls(
            url=settings.evolution_url or "",
            api_key=secret(settings.evolution_api_key),
            instance=settings.evolution_instance,
            webhook_secret=secret(settings.evolution_webhook_secret),
            jwt_key=secret(settings.evolution_jwt_key),
            timeout=settings.send_timeout,
            limits=Limits(per_second=settings.evolution_rate, pair_seconds=1 / settings.evolution_rate, pair_burst=20),
        )

    # -- inbound ----------------------------------------------------------------

    def challenge(self, query: Mapping[str, str]) -> str:  # noqa: ARG002  # as every channel
        """Raise ``BadSignature``: Evolution checks no address."""
        raise BadSignature("Evolution API asks for no verification; it only posts")

    def verify(self, body: bytes, header: Callable[[str], str | None]) -> None:  # noqa: ARG002  # it signs no body
        """Return when a header carries our secret, or a token signed with our ``jwt_key``. Raises ``BadSignature``."""
        bearer = (header("Authorization") or "").removeprefix("Bearer ").strip()
        given = [header(name) or "" for name in SECRET_HEADERS]
        matches = [
            hmac.compare_digest(text.encode("utf-8", "replace"), self._webhook_secret) for text in (*given, bearer)
        ]
        if self._webhook_secret and any(matches):
            return
        if self._jwt_key and bearer and self._signed(bearer):
            return
        raise BadSignature(
            "no header carries CHATBOT_EVOLUTION_WEBHOOK_SECRET or a token signed with CHATBOT_EVOLUTION_JWT_KEY"
        )

    def _signed(self, token: str) -> bool:
        try:
            jwt.decode(token, self._jwt_key, algorithms=["HS256"], options={"verify_aud": False}, leeway=60)
        except (jwt.InvalidTokenError, ValueError):
            return False
        return True

    def parse(self, body: bytes) -> Inbound:
        """Return every message and status of the body, in its order. Raises ``BadPayload``."""
        decoded = decode(body)
        event = text_of(decoded.get("event")).replace("_", ".").lower()
        instance = name_of(decoded.get("instance"))
        data = decoded.get("data")
        items = list_of(data) or [data]
        if event == "messages.upsert":
            items = list_of(dict_of(data).get("messages")) or items
            return Inbound(tuple(filter(None, (_message(dict_of(item), instance) for item in items))))
        if event == "messages.update":
            return Inbound(statuses=tuple(filter(None, (_status(dict_of(item)) for item in items))))
        log.info("webhook.unread", event_name=event[:64] if event.replace(".", "").isalpha() else "?")
        return Inbound()

    # -- outbound ---------------------------------------------------------------

    def compose(self, reply: str) -> list[Part]:
        """Return the parts a reply is sent as; choices are a numbered list."""
        return [Part(text) for text in split(to_whatsapp(as_text(*offered(reply))))]

    def send(self, to: Message, part: Part, *, callback: str) -> str:  # noqa: ARG002  # it gives nothing back
        """Send one text in reply to ``to``; return WhatsApp's id of it.

        Raises ``Transient`` (also ``ChannelDown``, ``OutcomeUnknown``) and ``Permanent``.
        """
        answer = self._call(to, "message/sendText", {"number": _address(to), "text": part.text, "linkPreview": True})
        if id_ := id_of(dict_of(dict_of(answer).get("key")).get("id")):
            return id_
        raise OutcomeUnknown("Evolution took a message and gave no id")

    def mark_read(self, to: Message, *, typing: bool) -> None:
        """Mark ``to`` as read and, with ``typing``, show that an answer is being written."""
        jid = to.bsuid or f"{to.phone}@s.whatsapp.net"
        read = {"readMessages": [{"remoteJid": jid, "fromMe": False, "id": to.id_at_provider}]}
        self._call(to, "chat/markMessageAsRead", read)
        if typing:
            presence = {"number": _address(to), "presence": "composing", "delay": TYPING_MILLISECONDS}
            self._call(to, "chat/sendPresence", presence)

    def failed(self, status: Status) -> Permanent:
        """Return what a ``failed`` status stands for: it says no more than that."""
        return Permanent(f"WhatsApp reported {status.status}")

    def download(self, message: Message, *, limit: int) -> bytes:
        """Return the file a person sent. Raises ``Permanent`` over ``limit`` bytes, else as ``send``."""
        asked = {"message": {"key": {"id": message.media.id if message.media else ""}}, "convertToMp4": False}
        encoded = text_of(dict_of(self._call(message, "chat/getBase64FromMediaMessage", asked)).get("base64"))
        if len(encoded) * 3 // 4 > limit + 2:
            raise Permanent(f"the file is over {limit} bytes")
        try:
            content = base64.b64decode(encoded.rpartition(",")[2], validate=True)
        except binascii.Error as err:
            raise Permanent("Evolution answered with a file that is not base64") from err
        if not content:
            raise Permanent("Evolution answered with no file")
        return content

    def close(self) -> None:
        """Close the connections, if there are any; a later call opens new ones."""
        with self._opening:
            opened, self._opened = self._opened, None
        if opened:
            opened.close()

    def _client(self) -> httpx.Client:
        import httpx

        with self._opening:
            if self._opened is None:
                key = self._api_key.encode("utf-8", "replace")
                self._opened = httpx.Client(timeout=self._timeout, headers={b"apikey": key})
            return self._opened

    def _call(self, to: Message, what: str, content: dict[str, Any]) -> Any:
        import httpx

        url = f"{self._url}/{what}/{quote(to.account or self._instance, safe='')}"
        try:
            answer = self._client().post(url, json=content)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as err:
            raise Transient(f"Evolution cannot be reached: {type(err).__name__}") from err
        except httpx.LocalProtocolError as err:
            raise ChannelDown("the key is no header value (CHATBOT_EVOLUTION_API_KEY)") from err
        except httpx.RequestError as err:
            raise OutcomeUnknown(f"Evolution did not answer: {type(err).__name__}") from err
        if answer.is_success:
            return json_in(answer)
        raise _classified(answer)


#: What a refusal means, by its HTTP status and, for 400, by its words: there are no error codes,
#: and whatever fails on the way out is a 400 too (``whatsapp.baileys.service.ts``).
_REFUSALS = {
    HTTPStatus.UNAUTHORIZED: (ChannelDown, "the key is refused (CHATBOT_EVOLUTION_API_KEY)"),
    HTTPStatus.FORBIDDEN: (ChannelDown, "the key may not use this instance"),
    HTTPStatus.NOT_FOUND: (ChannelDown, "there is no such instance (CHATBOT_EVOLUTION_INSTANCE)"),
    HTTPStatus.GATEWAY_TIMEOUT: (OutcomeUnknown, "a proxy before it waited in vain"),
    HTTPStatus.REQUEST_TIMEOUT: (Transient, "it was busy"),
    HTTPStatus.TOO_MANY_REQUESTS: (Transient, "it is asked too often"),
}  # fmt: skip
_FAILED = re.compile(r"Error: |Timed Out")


def _classified(answer: httpx.Response) -> Transient | Permanent:
    says = f"Evolution answered {answer.status_code}"
    pause = retry_after(answer)
    if answer.status_code in _REFUSALS:
        kind, what = _REFUSALS[HTTPStatus(answer.status_code)]
        return kind(f"{says}: {what}", retry_after=pause)
    if answer.is_server_error:
        return Transient(says, retry_after=pause)
    return _by_its_words(says, list_of(dict_of(dict_of(json_in(answer)).get("response")).get("message")))


def _by_its_words(says: str, told: list[Any]) -> Transient | Permanent:
    words = " ".join(map(text_of, told))
    if any(item.get("exists") is False for item in dicts_of(told)):
        return Permanent(f"{says}: this number is not on WhatsApp")
    if "connection closed" in words.lower():
        return ChannelDown(f"{says}: the instance is not connected; scan its QR code again")
    if _FAILED.search(words):
        return OutcomeUnknown(f"{says}: it failed on the way out")
    return Permanent(says)


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


_KINDS = {
    "conversation": "text", "extendedTextMessage": "text", **_FILES,
    "locationMessage": "location", "liveLocationMessage": "location",
    "contactMessage": "contacts", "contactsArrayMessage": "contacts",
    "buttonsResponseMessage": "interactive", "templateButtonReplyMessage": "interactive",
    "listResponseMessage": "interactive", "interactiveResponseMessage": "interactive",
    "reactionMessage": "reaction",
}  # fmt: skip
#: ``protocolMessage.type``: what became of an earlier message.
_PROTOCOL = {"REVOKE": "revoke", "0": "revoke", "MESSAGE_EDIT": "edit", "14": "edit"}


def _content(message: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the kind, what it holds, and where its context lies; wrappers are taken off."""
    for _ in range(len(_WRAPPERS)):
        inner = next((dict_of(dict_of(message.get(name)).get("message")) for name in _WRAPPERS if name in message), {})
        if not inner:
            break
        message = inner
    if "protocolMessage" in message:
        told = dict_of(message["protocolMessage"])
        return _PROTOCOL.get(text_of(told.get("type")), "system"), told, told
    if "pollUpdateMessage" in message:
        return "system", {}, {}
    for name, kind in _KINDS.items():
        if name in message:
            content = message[name]
            return kind, {"text": content} if isinstance(content, str) else dict_of(content), dict_of(content)
    return "unsupported", {}, {}


def _text(kind: str, content: dict[str, Any]) -> str:
    """Return what an agent can read."""
    if kind == "location":
        return _location(content)
    if kind == "contacts":
        cards = dicts_of(content.get("contacts")) or [content]
        people = ", ".join(filter(None, (text_of(card.get("displayName")) for card in cards)))
        return f"Enviei um contato: {people}" if people else ""
    if kind == "interactive":
        body = dict_of(content.get("body"))
        said = (
            content.get("selectedDisplayText"),
            content.get("title"),
            body.get("text"),
            content.get("selectedButtonId"),
        )
        return next(filter(None, map(text_of, said)), "")
    return text_of(content.get("text")) or text_of(content.get("caption"))


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


def _address(to: Message) -> str:
    return to.phone or to.bsuid
