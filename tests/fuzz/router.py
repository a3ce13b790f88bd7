"""A router that keeps what it is given, and refuses the users the real one refuses."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from chatbot.broker import topology
from chatbot.messages import Message, Notice, Status


class Router:
    """Plays ``chatbot.broker.router.Router`` for the webhook."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reports: list[Status] = []
        self.notices: list[Notice] = []
        self.buried: list[Message] = []

    def forget(self) -> None:
        """Begin anew."""
        self.messages, self.reports, self.notices, self.buried = [], [], [], []

    def deadline(self) -> float:
        """Return a deadline nobody looks at."""
        return 0.0

    def route_all(self, messages: Iterable[Message], *, deadline: float) -> list[tuple[Message, ValueError]]:
        """Keep the messages; return those of unusable users."""
        refused = []
        for message in messages:
            try:
                topology.queue_name(message.user)
            except ValueError as err:
                refused.append((message, err))
            else:
                self.messages.append(message)
        return refused

    def report_all(self, statuses: Iterable[Status], *, deadline: float) -> None:
        """Keep the statuses."""
        self.reports += statuses

    def note_all(self, notices: Iterable[Notice], *, deadline: float) -> None:
        """Keep the notices, each of which can travel."""
        for notice in notices:
            json.dumps(notice.to_dict(), allow_nan=False).encode()
            self.notices.append(notice)

    def bury(self, message: Message, reason: str, *, deadline: float) -> None:
        """Keep the message as a dead letter."""
        self.buried.append(message)

    def notify(self, *_: Any, deadline: float) -> None:
        """Tell nobody."""
