"""The store that the stages use: every concern over one client.

All state of a user changes inside one Lua script, which Redis runs alone, or in one transaction
(``move``). All times that processes are compared by are Redis' own.
"""

from __future__ import annotations

from typing import Any

from chatbot.store.client import reachable
from chatbot.store.marks import Marks
from chatbot.store.outbox import Outbox
from chatbot.store.pacing import Pacing
from chatbot.store.sessions import ServedUsers
from chatbot.store.turns import Turns


class Store(Turns, Outbox, Pacing, ServedUsers, Marks):
    """Turns, outboxes, schedules, sessions and marks. Raises ``Transient`` while Redis cannot be used."""

    def ping(self) -> None:
        """Return when Redis answers."""
        with reachable():
            self._redis.ping()

    def info(self) -> dict[str, Any]:
        """Return what Redis says of itself: version, persistence, memory policy."""
        with reachable():
            return {**self._redis.info("server"), **self._redis.info("persistence"), **self._redis.info("memory")}
