"""The simulator itself: what people say goes to the webhook, what we send comes here.

Promise: a text that was accepted is in ``sent`` before the caller hears of it, and its
statuses follow from background threads.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from chatbot.simulator import graph, said
from chatbot.simulator.faults import Fault, Faults
from chatbot.simulator.files import File, Files
from chatbot.simulator.instance import Instance
from chatbot.simulator.rates import RateLimiter
from chatbot.simulator.state import Bubble, State
from chatbot.simulator.webhooks import Poster, is_number, message_body, signed, status_body


class Simulator:
    """One pretended WhatsApp for one business number."""

    def __init__(
        self, *, webhook_url: str, app_secret: str, phone_number_id: str = "100000000000001",
        evolution: Instance | None = None,
    ) -> None:  # fmt: skip
        self.phone_number_id = phone_number_id
        self.state = State()
        self.faults = Faults()
        self.rates = RateLimiter()
        self.files = Files()
        self.evolution = evolution
        self._poster = Poster(webhook_url, signed(app_secret))
        self._evolution_poster = evolution.poster() if evolution else None

    def start(self) -> None:
        """Start posting statuses; may be called again."""
        self._poster.start()

    def close(self) -> None:
        """End the threads, the pages' event streams and any scripted delay."""
        self.state.close()
        for poster in filter(None, (self._poster, self._evolution_poster)):
            poster.close()

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond ``close``."""
        self._poster.closed.wait(seconds)

    def say(self, messages: list[dict[str, Any]], *, once: bool = False) -> int:
        """Post what people wrote in one webhook; return its HTTP status, 0 without answer.

        With ``once`` a message that was taken before is not posted again.
        """
        messages = [self._complete(message) for message in messages if self.state.claim(message["id"]) or not once]
        if not messages:
            return 200
        for message in messages:
            if not said.changes(message):
                self._show(message)
        status = self._post(messages)
        for message in messages:
            self.state.settle(message["id"], taken=status == 200)
            if status == 200:
                self._change(message)
        return status

    def _complete(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the message with what a webhook tells of the one it is about."""
        message = dict(message)
        file: File | None = message.get("file")
        if file is not None and message.get("via") == "evolution":
            message["file"] = replace(file, id=message["id"])  # Evolution gives it to who names the message
        if quoted := self.state.bubble(message.get("quotes") or ""):
            if quoted.side == "out" and is_number(quoted.user):
                message["quoted_from"] = quoted.user
            if message.get("choice"):
                message["listed"] = bool(quoted.menu)
                message["option"] = next((o for o in quoted.options if o.title == message["text"]), None)
        if edited := self.state.bubble(message.get("edits") or ""):
            message["before"] = self.files.get(edited.content.get("file", {}).get("id", ""))
        return message

    def _show(self, message: dict[str, Any]) -> None:
        if message.get("file") is not None:
            self.files.keep(message["file"])
        self.state.say(
            message_id=message["id"], user=message["from"], name=message["name"], quotes=message.get("quotes") or "",
            **said.shown(message),
        )  # fmt: skip

    def _change(self, message: dict[str, Any]) -> None:
        user, text = message["from"], message["text"]
        if target := message.get("reacts_to"):
            self.state.react(target, user, text)
        if target := message.get("edits"):
            self.state.edit(target, user, text)
        if target := message.get("revokes"):
            self.state.revoke(target, user)

    def _post(self, messages: list[dict[str, Any]]) -> int:
        if self.evolution is None or self._evolution_poster is None or messages[0].get("via") != "evolution":
            return self._poster.post(message_body(self.phone_number_id, messages))
        statuses = [self._evolution_poster.post(self.evolution.upsert(message)) for message in messages]
        return next((status for status in statuses if status != 200), 200)

    def accept(self, text: graph.Text, fault: Fault | None = None, *, silent: bool = False) -> str:
        """Take a text of the business to its person; return its new id. ``silent``: no status is ever posted."""
        message_id = new_id()
        silent = silent or (fault is not None and fault.kind in ("no_status", "drop_all"))
        copies = 2 if fault is not None and fault.kind == "duplicate_status" else 1
        seen = self.state.send(
            message_id=message_id, user=text.to, text=text.body, callback=text.callback, silent=silent,
            options=text.options, menu=text.menu, quotes=text.quotes,
        )  # fmt: skip
        if not silent:
            statuses = ("sent", "delivered", "read") if seen else ("sent", "delivered")
            self._report(message_id, text.to, text.callback, [s for s in statuses for _ in range(copies)])
        return message_id

    def report_read(self, bubbles: list[Bubble]) -> None:
        """Tell the business that a person has now read these."""
        for bubble in bubbles:
            self._report(bubble.id, bubble.user, bubble.callback, ["read"])

    def _report(self, message_id: str, to: str, callback: str, statuses: list[str]) -> None:
        bodies: list[dict[str, Any]] = [
            status_body(self.phone_number_id, message_id=message_id, status=status, to=to, callback=callback)
            for status in statuses
        ]
        self._poster.enqueue(bodies)


def new_id() -> str:
    """Return a message id that looks like Meta's."""
    return f"wamid.{secrets.token_urlsafe(24)}"
