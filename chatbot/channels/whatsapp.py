"""WhatsApp Cloud API: verify and parse what Meta posts, send what we answer.

Every failure of a call becomes one of our errors: tried again, kept aside, or a person
is called. Meta's ``code`` decides, not the HTTP status (Meta, "Cloud API error codes").
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from chatbot.channels import cloud_payload
from chatbot.config import secret
from chatbot.errors import BadSignature, ChannelDown, OutcomeUnknown, Permanent, Transient
from chatbot.messages import Inbound, Message, Part

if TYPE_CHECKING:
    import httpx  # loaded by the first call: the webhook makes none

    from chatbot.config import Settings

#: Longest text body the API takes (Meta, "Text messages").
LIMIT = 4096

#: Pauses in seconds after a code that only means "slow down".
SLOW_DOWN = {
    131056: 6.0,  # pair rate: one message per 6 s to the same person, after a burst
    130429: 1.0,  # throughput of this number
    80007: 60.0,  # rate of the whole business account
    4: 60.0,  # rate of the app
    131048: 60.0,  # spam rate
    131000: 1.0, 131016: 5.0, 131057: 60.0, 133004: 5.0, 2: 5.0, 1: 1.0,  # Meta's own trouble
}  # fmt: skip
#: No later try can help this message.
NEVER = frozenset({100, 131008, 131009, 131021, 131026, 131030, 131047, 131049, 131051, 131052, 131053, 132000, 135000})
#: Nothing can be sent at all until a person acts: token, permission, policy, payment.
DOWN = frozenset({0, 3, 10, 190, 368, 131005, 131031, 131042, 131045, *range(200, 300)})


class WhatsApp:
    """One of our numbers on the Cloud API. ``timeout`` in seconds bounds every call."""

    def __init__(
        self,
        *,
        graph_url: str,
        phone_number_id: str,
        access_token: str,
        app_secret: str,
        verify_token: str,
        timeout: float,
    ) -> None:
        self._graph_url = graph_url.rstrip("/")
        self._phone_number_id = phone_number_id
        self._access_token = access_token
        self._app_secret = app_secret.encode()
        self._verify_token = verify_token.encode()
        self._timeout = timeout
        self._opening = threading.Lock()
        self._opened: httpx.Client | None = None

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
        )

    # -- inbound ----------------------------------------------------------------

    def challenge(self, query: Mapping[str, str]) -> str:
        """Return what Meta wants to read back. Raises ``BadSignature`` for a wrong token."""
        given = query.get("hub.verify_token", "").encode("utf-8", "replace")
        known = bool(self._verify_token) and hmac.compare_digest(given, self._verify_token)
        if query.get("hub.mode") != "subscribe" or not known:
            raise BadSignature("the verify token is not ours (CHATBOT_WHATSAPP_VERIFY_TOKEN)")
        return query.get("hub.challenge", "")

    def verify(self, body: bytes, header: Callable[[str], str | None]) -> None:
        """Return when ``X-Hub-Signature-256`` (``sha256=<hex>``) was made over ``body`` with our app secret.

        Compared in constant time; any header bytes are allowed. Raises ``BadSignature``.
        """
        expected = b"sha256=" + hmac.new(self._app_secret, body, hashlib.sha256).hexdigest().encode()
        given = (header("X-Hub-Signature-256") or "").encode("utf-8", "replace")
        if not self._app_secret or not hmac.compare_digest(given, expected):
            raise BadSignature("the signature is missing or wrong (CHATBOT_WHATSAPP_APP_SECRET)")

    def parse(self, body: bytes) -> Inbound:
        """Return every message and status of the body, in its order. Raises ``BadPayload``."""
        return cloud_payload.parse(body)

    # -- outbound ---------------------------------------------------------------

    def compose(self, reply: str) -> list[Part]:
        """Return the parts a reply is sent as."""
        return [Part(text) for text in split(reply)]

    def send(self, to: Message, part: Part, *, callback: str) -> str:
        """Send one part in reply to ``to``; return Meta's id of it.

        ``callback`` comes back in the status webhooks. Raises ``Transient`` (also
        ``ChannelDown``, ``OutcomeUnknown``) and ``Permanent``.
        """
        recipient = {"to": to.phone} if to.phone else {"recipient": to.bsuid}
        answer = self._call(
            to,
            {
                "recipient_type": "individual",
                **recipient,
                "type": "text",
                "text": {"body": part.text, "preview_url": "http" in part.text},
                "biz_opaque_callback_data": callback,
            },
        )
        if id_ := _id_in(answer):
            return id_
        raise OutcomeUnknown("the Graph API accepted a message and gave no id")

    def mark_read(self, to: Message, *, typing: bool) -> None:
        """Mark ``to`` as read, with the typing indicator where asked (25 s, or until the reply)."""
        indicator = {"typing_indicator": {"type": "text"}} if typing else {}
        self._call(to, {"status": "read", "message_id": to.id, **indicator})

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
                # As bytes: a token with odd characters is Meta's to refuse (code 190).
                bearer = f"Bearer {self._access_token}".encode("utf-8", "replace")
                self._opened = httpx.Client(timeout=self._timeout, headers={b"Authorization": bearer})
            return self._opened

    def _call(self, to: Message, content: dict[str, Any]) -> Any:
        import httpx

        url = f"{self._graph_url}/{quote(to.account or self._phone_number_id, safe='')}/messages"
        try:
            answer = self._client().post(url, json={"messaging_product": "whatsapp", **content})
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as err:
            raise Transient(f"the Graph API cannot be reached: {type(err).__name__}") from err
        except httpx.LocalProtocolError as err:  # a line break in the token: nothing went out
            raise ChannelDown("the access token is no header value (CHATBOT_WHATSAPP_ACCESS_TOKEN)") from err
        except httpx.RequestError as err:
            raise OutcomeUnknown(f"the Graph API did not answer: {type(err).__name__}") from err
        if answer.is_success:
            return _json(answer)
        raise _classified(answer)


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _classified(answer: httpx.Response) -> Transient | Permanent:
    code = _code_in(_json(answer))
    says = f"the Graph API answered {answer.status_code}, code {code}"
    asked = _retry_after(answer)
    if code in DOWN:
        return ChannelDown(says, retry_after=asked)
    if code in NEVER:
        return Permanent(says)
    if code is not None and code in SLOW_DOWN:
        return Transient(says, retry_after=asked or SLOW_DOWN[code])
    if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or answer.is_server_error:
        return Transient(says, retry_after=asked)
    return Permanent(says)


def _code_in(body: Any) -> int | None:
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None  # False is not 0


def _id_in(body: Any) -> str:
    try:
        id_ = body["messages"][0]["id"]
    except (KeyError, IndexError, TypeError):
        return ""
    return id_ if isinstance(id_, str) else ""


def _retry_after(answer: httpx.Response) -> float | None:
    """Return the seconds asked for; the header's other form, a date, is not read."""
    try:
        seconds = float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


#: Where a long text may end, best first: paragraph, line, sentence, word.
_BORDERS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?…])\s"), re.compile(r"\s"))


def split(text: str, limit: int = LIMIT) -> list[str]:
    """Return ``text`` in parts of at most ``limit`` characters; only white space is lost.

    A word (and so a link) is cut only where it alone is longer than the limit.
    """
    parts = []
    rest = text.strip()
    while len(rest) > limit:
        end = _border(rest, limit)
        parts.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*parts, rest] if rest else parts


def _border(text: str, limit: int) -> int:
    window = text[: limit + 1]
    for border in _BORDERS:
        ends = [match.start() for match in border.finditer(window) if match.start() > 0]
        # A border in the first half would make many small parts: look for the next kind.
        if ends and (ends[-1] > limit // 2 or border is _BORDERS[-1]):
            return ends[-1]
    return limit
