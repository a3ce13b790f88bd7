"""Cloud API webhooks: bodies as Meta writes them, signed, posted over HTTP.

In come messages and statuses, out go POSTs. Statuses leave from background threads, the
ones of a message in their order; one that is not answered 200 is posted again, a few times.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from chatbot.simulator.files import File
    from chatbot.simulator.graph import Option


log = logging.getLogger(__name__)

#: The business's number, as people know it.
DISPLAY_NUMBER = "5511400000000"
THREADS = 8
MOST_WAITING = 100_000
TIMEOUT = 20.0
CLOSING_SECONDS = 5.0
PAUSES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


def is_number(user: str) -> bool:
    """Return whether the user is known by a phone number; the others have a user id."""
    return user.isdigit()


def message_body(phone_number_id: str, messages: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return one webhook with these messages, as ``said.read`` returns them.

    What was said in answer to another message has ``quoted_from``, who wrote that one; a tap
    may have ``option``, what was tapped on, and ``listed``, whether it was a row; an edit
    ``before``, the file that the message came with.
    """
    said = list(messages)
    names = {message["from"]: message["name"] for message in said}
    contacts = [
        {"profile": {"name": name}, ("wa_id" if is_number(user) else "user_id"): user} for user, name in names.items()
    ]
    written = [
        {
            ("from" if is_number(message["from"]) else "from_user_id"): message["from"],
            "id": message["id"],
            "timestamp": _now(),
            **_content(message),
        }
        for message in said
    ]
    return _envelope(phone_number_id, {"contacts": contacts, "messages": written})


def _content(message: dict[str, Any]) -> dict[str, Any]:
    """Return type, content and context of a message (Meta, "messages webhook reference", v26.0)."""
    changed = _change(message)
    if changed:
        return changed
    context = _context(message)
    file = message.get("file")
    if file is not None:
        return {**context, "type": file.kind, file.kind: file.in_message(message["text"])}
    if place := message.get("location"):
        return {
            **context,
            "type": "location",
            "location": {name: value for name, value in place.items() if value != ""},
        }
    if card := message.get("contact"):
        return {**context, "type": "contacts", "contacts": [_card(card)]}
    if message.get("choice"):
        return {**context, "type": "interactive", "interactive": _tapped(message)}
    return {**context, "type": "text", "text": {"body": message["text"]}}


def _change(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a message changes of another one; a reaction without an emoji takes one back."""
    text = message["text"]
    if target := message.get("reacts_to"):
        return {"type": "reaction", "reaction": {"message_id": target, **({"emoji": text} if text else {})}}
    if target := message.get("edits"):
        file: File | None = message.get("before")
        now = (
            {"type": file.kind, file.kind: file.in_message(text)} if file else {"type": "text", "text": {"body": text}}
        )
        return {"type": "edit", "edit": {"original_message_id": target, "message": now}}
    if target := message.get("revokes"):
        return {"type": "revoke", "revoke": {"original_message_id": target}}
    return {}


def _context(message: dict[str, Any]) -> dict[str, Any]:
    if not message.get("quotes"):
        return {}
    return {"context": {"from": message.get("quoted_from") or DISPLAY_NUMBER, "id": message["quotes"]}}


def _tapped(message: dict[str, Any]) -> dict[str, Any]:
    option: Option | None = message.get("option")
    title = message["text"]
    chosen = {"id": option.id if option else title[:256], "title": title}
    if not message.get("listed"):
        return {"type": "button_reply", "button_reply": chosen}
    described = {"description": option.description} if option and option.description else {}
    return {"type": "list_reply", "list_reply": {**chosen, **described}}


def _card(card: dict[str, Any]) -> dict[str, Any]:
    name, _, rest = card["name"].partition(" ")
    number = "".join(filter(str.isdigit, card["phone"]))
    return {
        "name": {"formatted_name": card["name"], "first_name": name, **({"last_name": rest} if rest else {})},
        "phones": [{"phone": card["phone"], "type": "CELL", "wa_id": number}],
    }


def status_body(phone_number_id: str, *, message_id: str, status: str, to: str, callback: str) -> dict[str, Any]:
    """Return one webhook that says what became of a message of ours."""
    report: dict[str, Any] = {
        "id": message_id,
        "status": status,
        "timestamp": _now(),
        ("recipient_id" if is_number(to) else "recipient_user_id"): to,
    }
    if callback:
        report["biz_opaque_callback_data"] = callback
    return _envelope(phone_number_id, {"statuses": [report]})


def _envelope(phone_number_id: str, value: dict[str, Any]) -> dict[str, Any]:
    metadata = {"display_phone_number": DISPLAY_NUMBER, "phone_number_id": phone_number_id}
    change = {"value": {"messaging_product": "whatsapp", "metadata": metadata, **value}, "field": "messages"}
    return {"object": "whatsapp_business_account", "entry": [{"id": "100000000000002", "changes": [change]}]}


def _now() -> str:
    return str(int(time.time()))


def signed(app_secret: str) -> Callable[[bytes], dict[str, str]]:
    """Return what makes the headers Meta posts a body with."""

    def headers(content: bytes) -> dict[str, str]:
        signature = hmac.new(app_secret.encode(), content, hashlib.sha256).hexdigest()
        return {"User-Agent": "facebookexternalua", "X-Hub-Signature-256": f"sha256={signature}"}

    return headers


class Poster:
    """Posts webhooks: at once (``post``) or from its threads (``enqueue``).

    ``headers`` makes those that prove to the receiver who posts a body.
    """

    def __init__(self, url: str, headers: Callable[[bytes], dict[str, str]]) -> None:
        self._url, self._headers = url, headers
        self._jobs: queue.Queue[list[dict[str, Any]] | None] = queue.Queue(MOST_WAITING)
        self._threads: list[threading.Thread] = []
        self.closed = threading.Event()

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=THREADS)
        return httpx.Client(timeout=TIMEOUT, limits=limits, trust_env=False)

    def start(self) -> None:
        """Start the threads, once."""
        if self._threads:
            return
        _ = self._client  # built before threads could race for it
        self._threads = [
            threading.Thread(target=self._work, name=f"simulator-{n}", daemon=True) for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads; what still waits is not posted."""
        self.closed.set()
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + CLOSING_SECONDS  # a post that hangs is left to die with the process
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if "_client" in self.__dict__:
            self._client.close()

    def post(self, body: dict[str, Any]) -> int:
        """Post one webhook and return its HTTP status, 0 where there was no answer."""
        import httpx

        content = json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", **self._headers(content)}
        try:
            return self._client.post(self._url, content=content, headers=headers).status_code
        except httpx.HTTPError as err:
            log.warning("simulator.webhook.failed: %s", type(err).__name__)
            return 0

    def enqueue(self, bodies: list[dict[str, Any]]) -> None:
        """Have these posted one after the other, soon."""
        if not bodies or self.closed.is_set():
            return
        try:
            self._jobs.put_nowait(bodies)
        except queue.Full:
            log.warning("simulator.webhook.dropped: %d wait already", MOST_WAITING)

    def _work(self) -> None:
        while (bodies := self._jobs.get()) is not None:
            for body in bodies:
                try:
                    self._post_until_taken(body)
                except Exception:
                    log.exception("simulator.webhook.error")

    def _post_until_taken(self, body: dict[str, Any]) -> None:
        for pause in PAUSES:
            if self.closed.wait(pause) or self.post(body) == 200:
                return
        log.warning("simulator.webhook.given_up")
