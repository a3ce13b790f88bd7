"""What Meta's Graph API accepts and answers at ``/<version>/<phone-number-id>/messages``.

In come parsed bodies, out go calls or ``Refused``; nothing is kept here. Figures and
wording follow the Cloud API reference (v26.0).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

LONGEST_TEXT = 4096
#: Interactive messages: what each of their texts may hold.
LONGEST_BODY = 1024
BUTTONS, BUTTON_TITLE = 3, 20
ROWS, ROW_TITLE, ROW_DESCRIPTION = 10, 24, 72


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
class Option:
    """One button of a message, or one row of its list: only a row has a description."""

    id: str
    title: str
    description: str = ""


def titles(options: Iterable[Option]) -> tuple[str, ...]:
    """Return what the options say."""
    return tuple(option.title for option in options)


@dataclass(frozen=True, slots=True)
class Text:
    """A message to a person: ``to`` is a number in digits or a user id (``BR.…``).

    ``options`` are its buttons or, where ``menu`` names the button that opens them, the rows
    of its list; ``quotes`` is the message it answers to. A template shows as its name.
    """

    to: str
    body: str
    callback: str = ""
    by_user_id: bool = False
    options: tuple[Option, ...] = ()
    menu: str = ""
    quotes: str = ""

    def accepted(self, message_id: str) -> dict[str, Any]:
        """Return Meta's answer to an accepted message."""
        known_as = "user_id" if self.by_user_id else "wa_id"
        return {
            "messaging_product": "whatsapp",
            "contacts": [{"input": self.to, known_as: self.to}],
            "messages": [{"id": message_id}],
        }


#: A text, its options, and the button of its list.
_Content = tuple[str, tuple[Option, ...], str]


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
    if kind not in _CONTENTS:
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
    kind = body.get("type", "text")
    content = body.get(kind)
    text, options, menu = _CONTENTS[kind](content if isinstance(content, dict) else {})
    user = "".join(filter(str.isdigit, str(to))) if to else str(recipient)
    if not user:
        raise _invalid("Param to is not a valid phone number.")
    return Text(
        user, text, str(body.get("biz_opaque_callback_data") or ""), by_user_id=not to, options=options, menu=menu,
        quotes=_quoted(body.get("context")),
    )  # fmt: skip


def _quoted(context: Any) -> str:
    if context is None:
        return ""
    return _string(context if isinstance(context, dict) else {}, "message_id", "context['message_id']", 512)


def _plain(content: dict[str, Any]) -> _Content:
    return _string(content, "body", "text['body']", LONGEST_TEXT), (), ""


def _template(content: dict[str, Any]) -> _Content:
    language = content.get("language")
    _string(language if isinstance(language, dict) else {}, "code", "template['language']['code']", 16)
    return f"[{_string(content, 'name', 'template[name]', 512)}]", (), ""


def _interactive(content: dict[str, Any]) -> _Content:
    body, action = content.get("body"), content.get("action")
    text = _string(body if isinstance(body, dict) else {}, "text", "interactive['body']['text']", LONGEST_BODY)
    action = action if isinstance(action, dict) else {}
    menu = ""
    if content.get("type") == "button":
        offers = [button.get("reply") for button in _listed(action, "buttons", BUTTONS)]
        longest = BUTTON_TITLE
    elif content.get("type") == "list":
        menu = _string(action, "button", "interactive['action']['button']", BUTTON_TITLE)
        sections = _listed(action, "sections", ROWS)
        offers = [row for section in sections for row in _listed(section, "rows", ROWS)]
        longest = ROW_TITLE
    else:
        raise _invalid("Param interactive['type'] must be one of {BUTTON, LIST}.")
    options = tuple(_option(offer, longest) for offer in _objects(offers))
    ids = {option.id for option in options}
    if len(set(titles(options))) < len(options) or len(ids) < len(options) or len(options) > ROWS:
        raise _invalid(f"An interactive message has 1 to {ROWS} choices, each with a title and an id of its own.")
    return text, options, menu


def _option(offer: dict[str, Any], longest: int) -> Option:
    title = _string(offer, "title", "interactive title", longest)
    description = offer.get("description") or ""
    if len(str(description)) > ROW_DESCRIPTION:
        raise _invalid(f"A description must be at most {ROW_DESCRIPTION} characters long.")
    return Option(_string(offer, "id", "interactive id", 256), title, str(description))


def _listed(holder: dict[str, Any], name: str, most: int) -> list[dict[str, Any]]:
    items = _objects(holder.get(name))
    if not 1 <= len(items) <= most:
        raise _invalid(f"Param {name} must have 1 to {most} items.")
    return items


def _objects(items: Any) -> list[dict[str, Any]]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _invalid("An interactive message lists objects.")
    return items


def _string(holder: dict[str, Any], name: str, where: str, longest: int) -> str:
    text = holder.get(name)
    if not isinstance(text, str) or not text.strip():
        raise _invalid(f"The parameter {where} is required.")
    if len(text) > longest:
        raise _invalid(f"Param {where} must be at most {longest} characters long.")
    return text


_CONTENTS: dict[str, Callable[[dict[str, Any]], _Content]] = {
    "text": _plain,
    "template": _template,
    "interactive": _interactive,
}


def _invalid(message: str) -> Refused:
    return Refused(400, 100, f"(#100) {message}")
