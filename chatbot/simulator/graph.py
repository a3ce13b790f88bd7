"""What Meta's Graph API accepts and answers at ``/<version>/<phone-number-id>/messages``.

In come parsed bodies, out go calls or ``Refused``; nothing is kept here. Figures and
wording follow the Cloud API reference (v26.0).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

LONGEST_TEXT = 4096


class Refused(Exception):
    """Meta would answer this call with an error."""

    def __init__(self, status: int, code: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The error as Meta writes it."""
        return {
            "error": {
                "message": str(self),
                "type": "OAuthException",
                "code": self.code,
                "error_data": {"messaging_product": "whatsapp", "details": str(self)},
                "fbtrace_id": f"A{secrets.token_urlsafe(16)}",
            }
        }


@dataclass(frozen=True, slots=True)
class Text:
    """A text message to a person: ``to`` is a number in digits or a user id (``BR.…``)."""

    to: str
    body: str
    callback: str = ""
    by_user_id: bool = False

    def accepted(self, message_id: str) -> dict[str, Any]:
        """Return Meta's answer to an accepted message."""
        known_as = "user_id" if self.by_user_id else "wa_id"
        return {
            "messaging_product": "whatsapp",
            "contacts": [{"input": self.to, known_as: self.to}],
            "messages": [{"id": message_id}],
        }


@dataclass(frozen=True, slots=True)
class Read:
    """A message was read, and perhaps an answer is being typed."""

    message_id: str
    typing: bool = False


def authorize(header: str | None) -> None:
    """Raise ``Refused`` unless the call carries a bearer token; any token will do."""
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(401, 190, "Invalid OAuth access token - Cannot parse access token")


def parse(body: Any) -> Text | Read:
    """Return what is asked for. Raises ``Refused`` as Meta would."""
    if not isinstance(body, dict):
        raise _invalid("The request body must be a JSON object.")
    if body.get("messaging_product") != "whatsapp":
        raise _invalid("The parameter messaging_product is required.")
    if "status" in body:
        return _read(body)
    kind = body.get("type", "text")
    if kind != "text":
        raise Refused(400, 131051, f"(#131051) Message type {str(kind)[:32]!r} is not simulated")
    return _text(body)


def _read(body: dict[str, Any]) -> Read:
    if body["status"] != "read":
        raise _invalid("Param status must be one of {READ}.")
    message_id = body.get("message_id")
    if not isinstance(message_id, str) or not message_id:
        raise _invalid("The parameter message_id is required.")
    indicator = body.get("typing_indicator")
    if indicator is not None and indicator != {"type": "text"}:
        raise _invalid("Param typing_indicator['type'] must be one of {TEXT}.")
    return Read(message_id, typing=indicator is not None)


def _text(body: dict[str, Any]) -> Text:
    to, recipient = body.get("to"), body.get("recipient")
    if not (to or recipient):
        raise _invalid("The parameter to is required.")
    content = body.get("text")
    text = content.get("body") if isinstance(content, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise _invalid("The parameter text['body'] is required.")
    if len(text) > LONGEST_TEXT:
        raise _invalid(f"Param text['body'] must be at most {LONGEST_TEXT} characters long.")
    user = "".join(filter(str.isdigit, str(to))) if to else str(recipient)
    if not user:
        raise _invalid("Param to is not a valid phone number.")
    return Text(user, text, str(body.get("biz_opaque_callback_data") or ""), by_user_id=not to)


def _invalid(message: str) -> Refused:
    return Refused(400, 100, f"(#100) {message}")
