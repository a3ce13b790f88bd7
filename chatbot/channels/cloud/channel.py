"""WhatsApp Cloud API: verify and parse what Meta posts, send what we answer.

Every failure of a call becomes one of our errors (``errors.py``): tried again, sent
more slowly, kept aside, or a person is called.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from chatbot import http, texts
from chatbot.channels.answers import json_in
from chatbot.channels.choices import as_text, offered
from chatbot.channels.cloud import media, payload
from chatbot.channels.cloud.errors import classified, failure, meaning_of
from chatbot.channels.formatting import plain, shortened, split, to_whatsapp
from chatbot.config import secret
from chatbot.errors import BadSignature, OutcomeUnknown, Permanent, Transient
from chatbot.messages import Choice, Inbound, Limits, Message, Part, Status, writable
from chatbot.texts import OPTIONS, PICK

if TYPE_CHECKING:
    from chatbot.config import Settings


#: Reply buttons, list rows and what they hold at most (Meta, "Interactive messages").
BUTTONS, BUTTON_TITLE = 3, 20
ROWS, ROW_TITLE, ROW_DESCRIPTION = 10, 24, 72
INTERACTIVE_BODY = 1024
#: A person can be written to freely for this long after their last message.
WINDOW_SECONDS = 86_400.0
#: No answer of the Graph API to what we send has more bytes.
ANSWER_BYTES = 1024 * 1024

_SIGNED = "X-Hub-Signature-256"
_SIGNATURE = re.compile(r"sha256=[0-9a-f]{64}")
_NOT_SIGNED = "the signature is missing or wrong (CHATBOT_WHATSAPP_APP_SECRET)"


class WhatsApp:
    """One of our numbers on the Cloud API. ``timeout`` in seconds bounds the whole of every call that sends."""

    too_large = ""

    def __init__(
        self,
        *,
        graph_url: str,
        phone_number_id: str,
        access_token: str,
        app_secret: str,
        verify_token: str,
        timeout: float,
        previous_app_secret: str = "",
        template: str = "",
        limits: Limits | None = None,
    ) -> None:
        self._graph_url = graph_url.rstrip("/")
        self._phone_number_id = phone_number_id
        self._app_secrets = [secret.encode() for secret in (app_secret, previous_app_secret) if secret]
        self.limits = limits
        self.window = WINDOW_SECONDS
        self.reopening = Part("", template=template) if template else None
        self._verify_token = verify_token.encode()
        self._service = http.Service(
            "the Graph API",
            setting="CHATBOT_WHATSAPP_ACCESS_TOKEN",
            timeout=timeout,
            max_bytes=ANSWER_BYTES,
            # As bytes: a token with odd characters is Meta's to refuse (code 190).
            headers={b"Authorization": f"Bearer {access_token}".encode("utf-8", "replace")},
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> WhatsApp:
        """Return the channel as the settings describe it."""
        return cls(
            graph_url=settings.whatsapp_graph_url,
            phone_number_id=settings.whatsapp_phone_number_id or "",
            access_token=secret(settings.whatsapp_access_token),
            app_secret=secret(settings.whatsapp_app_secret),
            verify_token=secret(settings.whatsapp_verify_token),
            timeout=settings.send_timeout,
            previous_app_secret=secret(settings.whatsapp_app_secret_previous),
            template=settings.whatsapp_template,
            limits=Limits(
                per_second=settings.whatsapp_rate,
                pair_seconds=settings.whatsapp_pair_seconds,
                pair_burst=settings.whatsapp_pair_burst,
            ),
        )

    # -- inbound ----------------------------------------------------------------

    def challenge(self, query: Mapping[str, str]) -> str:
        """Return what Meta wants to read back. Raises ``BadSignature`` for a wrong token."""
        given = query.get("hub.verify_token", "").encode("utf-8", "replace")
        known = bool(self._verify_token) and hmac.compare_digest(given, self._verify_token)
        if query.get("hub.mode") != "subscribe" or not known:
            raise BadSignature("the verify token is not ours (CHATBOT_WHATSAPP_VERIFY_TOKEN)")
        return query.get("hub.challenge", "")

    def check_head(self, header: Callable[[str], str | None]) -> None:
        """Return when there is something that looks like a signature. Raises ``BadSignature``."""
        if not _SIGNATURE.fullmatch(header(_SIGNED) or ""):
            raise BadSignature(_NOT_SIGNED)

    def verify(self, body: bytes, header: Callable[[str], str | None]) -> None:
        """Return when ``X-Hub-Signature-256`` (``sha256=<hex>``) was made over ``body`` with our app secret.

        The previous secret counts too. Compared in constant time; any header bytes are
        allowed. Raises ``BadSignature``.
        """
        given = (header(_SIGNED) or "").encode("utf-8", "replace")
        # Every secret is tried, whatever the first one said: the time tells nothing.
        if not sum([hmac.compare_digest(given, _signature(body, known)) for known in self._app_secrets]):
            raise BadSignature(_NOT_SIGNED)

    def parse(self, body: bytes) -> Inbound:
        """Return every message, status and notice of the body, in its order. Raises ``BadPayload``."""
        return payload.parse(body)

    def download(self, message: Message, *, limit: int) -> bytes:
        """Return the file of a message, of ``limit`` bytes at most.

        Raises ``Transient`` (also ``ChannelDown``), and ``Permanent`` for a file that is too
        large, that is not there, or that lies on a host which is not Meta's.
        """
        return media.fetch(self._service, self._graph_url, message.media.id if message.media else "", limit=limit)

    # -- outbound ---------------------------------------------------------------

    def compose(self, reply: str) -> list[Part]:
        """Return the parts a reply is sent as: texts and, at the end, the choices it offers."""
        text, choices = offered(writable(reply))
        if not choices or not _fit(choices):
            return [Part(part) for part in split(to_whatsapp(shortened(as_text(text, choices))))]
        parts = split(to_whatsapp(shortened(text))) or [PICK[texts.guess(text)]]
        if len(parts[-1]) > INTERACTIVE_BODY:
            parts.append(PICK[texts.guess(text)])
        return [*(Part(part) for part in parts[:-1]), Part(parts[-1], choices)]

    def plain(self, reply: str) -> list[Part]:
        """Return the parts of a reply as it was written, without formatting and choices."""
        return [Part(part) for part in plain(reply)]

    def send(self, to: Message, part: Part, *, callback: str) -> str:
        """Send one part in reply to ``to``; return Meta's id of it.

        ``callback`` comes back in the status webhooks. Raises ``Transient`` (also
        ``TooFast``, ``ChannelDown``, ``OutcomeUnknown``) and ``Permanent`` (also ``WindowClosed``).
        """
        recipient = {"to": to.phone} if to.phone else {"recipient": to.bsuid}
        callbacks = {"biz_opaque_callback_data": callback} if callback else {}
        answer = self._call(to, {"recipient_type": "individual", **recipient, **_content(part), **callbacks})
        if id_ := _id_in(answer):
            return id_
        raise OutcomeUnknown("the Graph API accepted a message and gave no id")

    def mark_read(self, to: Message, *, typing: bool) -> None:
        """Mark ``to`` as read, with the typing indicator where asked (25 s, or until the reply)."""
        if to.kind == "payment":  # a status told of it: no message of theirs is there to be read
            return
        indicator = {"typing_indicator": {"type": "text"}} if typing else {}
        self._call(to, {"status": "read", "message_id": to.id_at_provider, **indicator})

    def failed(self, status: Status) -> Transient | Permanent:
        """Return what a ``failed`` status stands for, as if the call had failed that way."""
        says = f"WhatsApp reported failed, code {status.error_code}"
        meaning = meaning_of(status.error_code or None)
        if meaning is None:
            return Permanent(says)
        return failure(meaning, f"{says} ({meaning.what})", meaning.pause)

    def close(self) -> None:
        """Close the connections, if there are any; a later call opens new ones."""
        self._service.close()

    def _call(self, to: Message, content: dict[str, Any]) -> Any:
        url = f"{self._graph_url}/{quote(to.account or self._phone_number_id, safe='')}/messages"
        with self._service.calling():
            answer = self._service.post(url, {"messaging_product": "whatsapp", **content})
        if answer.is_success:
            return json_in(answer)
        raise classified(answer)


def _content(part: Part) -> dict[str, Any]:
    """Return what a part is to the API: a text, buttons, a list, or a template."""
    if part.template:
        name, _, language_code = part.template.partition(":")
        return {"type": "template", "template": {"name": name, "language": {"code": language_code or "pt_BR"}}}
    if not part.choices:
        return {"type": "text", "text": {"body": part.text, "preview_url": "http" in part.text}}
    if len(part.choices) <= BUTTONS and all(
        len(choice.title) <= BUTTON_TITLE and not choice.description for choice in part.choices
    ):
        buttons = [{"type": "reply", "reply": {"id": str(n), "title": c.title}} for n, c in enumerate(part.choices)]
        action: dict[str, Any] = {"buttons": buttons}
        return {"type": "interactive", "interactive": {"type": "button", "body": {"text": part.text}, "action": action}}
    rows = [
        {"id": str(n), "title": c.title, **({"description": c.description} if c.description else {})}
        for n, c in enumerate(part.choices)
    ]
    action = {"button": OPTIONS[texts.guess(part.text)], "sections": [{"rows": rows}]}
    return {"type": "interactive", "interactive": {"type": "list", "body": {"text": part.text}, "action": action}}


def _fit(choices: tuple[Choice, ...]) -> bool:
    different = len({choice.title for choice in choices}) == len(choices)
    return (
        different
        and len(choices) <= ROWS
        and all(len(choice.title) <= ROW_TITLE and len(choice.description) <= ROW_DESCRIPTION for choice in choices)
    )


def _signature(body: bytes, secret: bytes) -> bytes:
    return b"sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()


def _id_in(body: Any) -> str:
    try:
        id_ = body["messages"][0]["id"]
    except (KeyError, IndexError, TypeError):
        return ""
    return id_ if isinstance(id_, str) else ""
