"""Evolution API v2: a gateway to WhatsApp Web that many Brazilian teams run themselves.

In come its webhooks (``messages.upsert``; ``payload.py`` reads what they hold), out
go calls to its REST API. What differs from the Cloud API: no signature (a secret header, or a
token signed with ``jwt_key``), nothing of ours comes back in statuses (so a send in doubt is
repeated once its time is over), and no buttons that reliably show (choices are a numbered list).

A person is a phone number, a ``@lid`` where WhatsApp hides it, or both. Own messages,
groups, channels and ``status@broadcast`` are not for us. The instance's key lies in every
body (``apikey``): nothing of a body is ever logged but event names.

Source: Evolution API 2.3, ``webhook.controller.ts``, ``sendMessage.router.ts``,
``chat.router.ts``; Baileys' ``WAMessage``.
"""

from __future__ import annotations

import binascii
import hmac
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jwt

from chatbot import http
from chatbot.channels.answers import json_in, retry_after
from chatbot.channels.choices import as_text, offered
from chatbot.channels.evolution import payload
from chatbot.channels.formatting import plain, shortened, split, to_whatsapp
from chatbot.channels.json_fields import dict_of, dicts_of, id_of, list_of, text_of
from chatbot.config import secret
from chatbot.errors import BadSignature, ChannelDown, OutcomeUnknown, Permanent, Transient
from chatbot.messages import Inbound, Limits, Message, Part, Status, writable

if TYPE_CHECKING:
    import httpx  # imported by the first call: the webhook makes none

    from chatbot.config import Settings

#: How long a presence is shown; the gateway answers only when it is over.
TYPING_MILLISECONDS = 1500
#: No answer has more bytes; one with a file has so many beside it.
ANSWER_BYTES = 1024 * 1024
#: Where a header may carry the secret.
SECRET_HEADERS = ("X-Webhook-Secret", "apikey")
#: With this option each file travels inside its webhook, which then is larger than we take.
BASE64_OFF = 'Files are fetched from the gateway: switch it off (POST /webhook/set/<instance>, "base64": false)'


class Evolution:
    """One Evolution server and the instances on it. ``timeout`` in seconds bounds the whole of every call."""

    window: float | None = None
    reopening: Part | None = None
    #: What is likely where a body is too large, for the log.
    too_large = f"is the base64 option of its webhook on? {BASE64_OFF}"

    def __init__(
        self, *, url: str, api_key: str, instance: str, webhook_secret: str, jwt_key: str, timeout: float,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self._url = url.rstrip("/")
        self._instance = instance
        self._webhook_secret = webhook_secret.encode()
        self._jwt_key = jwt_key
        self.limits = limits
        self._service = gateway(api_key, timeout=timeout)

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

    def check_head(self, header: Callable[[str], str | None]) -> None:
        """Do all of ``verify``, which looks at headers only. Raises ``BadSignature``."""
        self.verify(b"", header)

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
        """Return every message, status and notice of the body, in its order. Raises ``BadPayload``."""
        return payload.parse(body)

    # -- outbound ---------------------------------------------------------------

    def compose(self, reply: str) -> list[Part]:
        """Return the parts a reply is sent as; choices are a numbered list."""
        return [Part(text) for text in split(to_whatsapp(shortened(as_text(*offered(writable(reply))))))]

    def plain(self, reply: str) -> list[Part]:
        """Return the parts of a reply as it was written."""
        return [Part(text) for text in plain(reply)]

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
        """Return the file a person sent, of ``limit`` bytes at most.

        Raises ``Transient`` (also ``ChannelDown``), and ``Permanent`` for a file that is too
        large, empty or no file.
        """
        asked = {"message": {"key": {"id": message.media.id if message.media else ""}}, "convertToMp4": False}
        bound = _encoded_length(limit) + ANSWER_BYTES
        answer = self._call(message, "chat/getBase64FromMediaMessage", asked, sends=False, max_bytes=bound)
        encoded = dict_of(answer).pop("base64", "")
        if not isinstance(encoded, str) or not encoded:
            raise Permanent("Evolution answered with no file")
        return _decoded(encoded.rpartition(",")[2], limit)

    def close(self) -> None:
        """Close the connections, if there are any; a later call opens new ones."""
        self._service.close()

    def _call(
        self, to: Message, what: str, content: dict[str, Any], *, sends: bool = True, max_bytes: int = ANSWER_BYTES
    ) -> Any:
        url = f"{self._url}/{what}/{quote(to.account or self._instance, safe='')}"
        with self._service.calling(sends=sends):
            answer = self._service.post(url, content, max_bytes=max_bytes)
        if answer.is_success:
            return json_in(answer)
        error = _classified(answer)
        if isinstance(error, OutcomeUnknown) and not sends:
            raise Transient(str(error), retry_after=error.retry_after)
        raise error


def _encoded_length(size: int) -> int:
    """Return how many characters base64 makes of ``size`` bytes."""
    return (size + 2) // 3 * 4


def _decoded(encoded: str, limit: int) -> bytes:
    """Return the file, of ``limit`` bytes at most. Raises ``Permanent``."""
    if len(encoded) > _encoded_length(limit):
        raise Permanent(f"the file is over {limit} bytes")
    try:
        content = binascii.a2b_base64(encoded, strict_mode=True)  # takes the text as it is: no copy is made
    except ValueError:
        raise Permanent("Evolution answered with a file that is not base64") from None
    if len(content) > limit:
        raise Permanent(f"the file is over {limit} bytes")
    return content


def gateway(api_key: str, *, timeout: float) -> http.Service:
    """Return the gateway, which is called with this key."""
    return http.Service(
        "Evolution",
        setting="CHATBOT_EVOLUTION_API_KEY",
        timeout=timeout,
        max_bytes=ANSWER_BYTES,
        headers={b"apikey": api_key.encode("utf-8", "replace")},
    )


def webhook_trouble(settings: Settings, *, timeout: float) -> str:
    """Ask the gateway how it posts to us; return what to change, ``""`` where nothing is wrong or it does not say.

    Raises ``Transient``, ``Permanent``.
    """
    url = f"{settings.evolution_url}/webhook/find/{quote(settings.evolution_instance, safe='')}"
    answer = gateway(secret(settings.evolution_api_key), timeout=timeout).look(url)
    told = dict_of(json_in(answer)) if answer.is_success else {}
    told = dict_of(told.get("webhook")) or told  # 1.x and some forks wrap it
    if any(told.get(name) is True for name in ("webhookBase64", "webhook_base64", "base64")):
        return f"the base64 option of its webhook is on: larger files are refused with 413. {BASE64_OFF}"
    return ""


#: What a refusal means, by its HTTP status and, for 400, by its words: there are no error codes,
#: and whatever fails on the way out is a 400 too (``whatsapp.baileys.service.ts``).
_REFUSALS = {
    HTTPStatus.UNAUTHORIZED: (ChannelDown, "the key is refused (CHATBOT_EVOLUTION_API_KEY)"),
    HTTPStatus.FORBIDDEN: (ChannelDown, "the key may not use this instance"),
    HTTPStatus.NOT_FOUND: (ChannelDown, "there is no such instance (CHATBOT_EVOLUTION_INSTANCE)"),
    HTTPStatus.METHOD_NOT_ALLOWED: (ChannelDown, "this is not Evolution (CHATBOT_EVOLUTION_URL)"),
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: (ChannelDown, "a proxy refuses us"),
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
    if answer.is_redirect:
        return ChannelDown(f"{says}: a redirect, which is not followed (CHATBOT_EVOLUTION_URL)", retry_after=pause)
    if answer.is_server_error:  # it may have failed after WhatsApp took the message, or a proxy waited in vain
        return OutcomeUnknown(says, retry_after=pause)
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


def _address(to: Message) -> str:
    return to.phone or to.bsuid
