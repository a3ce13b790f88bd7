"""Stage 6: sessions end when idle, and none stays without a worker.

Beat calls both functions here. Closing happens in the workers, which know what is in
flight (``subscriptions.py``); rescuing looks from outside at queues that should be
served and at outboxes that should be empty. Both may run twice, late or at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import structlog
from amqp.exceptions import NotFound
from celery import Celery
from kombu import Connection
from kombu.exceptions import ChannelError

from chatbot import topology
from chatbot.store import Store

log = structlog.get_logger(__name__)


class Opener(Protocol):
    """What rescuing publishes, and for whom (``Router``)."""

    def serves(self, user: str) -> bool: ...
    def request_subscriber(self, queue: str) -> None: ...
    def wake_sender(self, user: str, number: int) -> None: ...


class Sessions:
    """Closes and rescues the sessions of the users whom this process's broker serves."""

    def __init__(
        self, celery: Celery, store: Store, router: Opener, *, idle_timeout: float,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._celery = celery
        self._store = store
        self._router = router
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._sleep = sleep

    def close_idle(self) -> None:
        """Have every worker close its sessions that were idle for ``idle_timeout`` seconds.

        What is too old to be answered has left the queues by itself (``x-message-ttl``).
        """
        self._celery.control.broadcast("close_idle_sessions", arguments={"idle_timeout": self._idle_timeout})

    def rescue(self) -> dict[str, int]:
        """Open again what nobody consumes and deliver what is overdue; return the counts."""
        now = self._clock()
        orphans: list[str] = []
        with self._celery.connection_for_read() as connection:
            # An embedded broker counts no consumers, and its workers end with it.
            embedded = connection.transport.driver_type == "memory"
            look = _Look(connection)
            for user, active_at in self._store.sessions().items():
                if not self._router.serves(user):
                    continue
                consumers = look.consumers(topology.queue_name(user))
                if consumers is None and active_at < now - self._idle_timeout:
                    self._store.end_session(user, unless_active_since=active_at)
                elif consumers == 0 and not embedded:
                    orphans.append(topology.queue_name(user))
            if orphans:
                # A session that is being closed has no consumer either, but not for long.
                self._sleep(2 * topology.UNBOUND_SECONDS)
                orphans = [queue for queue in orphans if look.consumers(queue) == 0]
        for queue in orphans:
            self._router.request_subscriber(queue)
        overdue = [user for user in self._store.due_outboxes(before=now) if self._router.serves(user)]
        for user in overdue:
            self._router.wake_sender(user, 0)
        rescued = {"reopened": len(orphans), "outboxes": len(overdue)}
        if any(rescued.values()):
            log.warning("sessions.rescued", **rescued)
        return rescued

    def live(self) -> dict[str, dict[str, object]]:
        """Return who is being served: user → worker, seconds idle, busy or not."""
        answers = self._celery.control.inspect(timeout=1.0)._request("live_sessions") or {}  # noqa: SLF001  # as its own commands do
        return {user: {"worker": worker, **state} for worker, users in answers.items() for user, state in users.items()}


class _Look:
    """Looks at queues over one channel, which the broker closes where there is no such queue."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._amqp_channel = connection.channel()

    def consumers(self, queue: str) -> int | None:
        """Return how many consume a queue; ``None`` where there is no such queue."""
        try:
            return int(self._amqp_channel.queue_declare(queue, passive=True).consumer_count)
        except (NotFound, ChannelError):
            self._amqp_channel = self._connection.channel()
            return None
