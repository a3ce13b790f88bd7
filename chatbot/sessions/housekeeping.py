"""Stage 6: sessions end when idle, and none stays without a worker.

Beat calls both functions here. Closing happens in the workers, which know what is in
flight (``sessions/bootstep.py``); rescuing looks from outside at queues that should be
served and at outboxes that should be empty. Both may run twice or late. Of rescues, one runs at a
time: it ends within seconds, however many sessions there are, and the next one goes on
where it ended. While nobody delivers, or senders are behind, it wakes none of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import structlog
from amqp.exceptions import ConnectionError as ConnectionLost
from amqp.exceptions import NotFound
from celery import Celery
from kombu import Connection
from kombu.exceptions import ChannelError, OperationalError

from chatbot.broker import topology
from chatbot.errors import BrokerUnavailable
from chatbot.store.store import Store

log = structlog.get_logger(__name__)

#: A pass looks at sessions for so long; in that time it finds so many without a worker at most.
LOOK_SECONDS = 2.0
MOST_ORPHANS = 500
#: No other pass begins while one is under way. A process that ended under it is waited for this long.
PASS_SECONDS = 30.0
#: So many are read from Redis at once.
PAGE = 100
#: Senders are not woken while so many messages wait for them.
MOST_WAITING = 1000
#: An outbox is overdue again this long after its sender was woken.
WAKE_AGAIN_SECONDS = 30.0
#: Workers have so long to say whom they serve.
LIVE_SECONDS = 1.0
#: That nobody delivers is said this often.
ALERT_SECONDS = 3600.0
AWAY_HELP = "no process consumes the queue `send`: start a sender"


class Opener(Protocol):
    """What rescuing publishes, and for whom (``Router``)."""

    def serves(self, user: str) -> bool: ...
    def request_subscriber(self, queue: str) -> None: ...
    def wake_sender(self, user: str, number: int) -> None: ...


class Sessions:
    """Closes and rescues the sessions of the users whom this process's broker serves."""

    def __init__(
        self, celery: Celery, store: Store, router: Opener, *, idle_timeout: float,
        clock: Callable[[], float] = time.monotonic,
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

        What is too old to be answered has left the queues by itself (``x-message-ttl``). Raises ``Transient``
        while the broker cannot be used.
        """
        with _reached():
            self._celery.control.broadcast("close_idle_sessions", arguments={"idle_timeout": self._idle_timeout})

    def rescue(self) -> dict[str, int]:
        """Open again what nobody consumes and deliver what is overdue; return the counts.

        Raises ``Transient`` while the broker or Redis cannot be used.
        """
        rescued = {"reopened": 0, "outboxes": 0}
        with _reached(), self._celery.connection_for_read() as connection:
            broker = connection.as_uri()  # without the password
            with self._store.alone(f"rescue:{broker}", seconds=PASS_SECONDS) as free:
                if free:
                    look = _Look(connection)
                    rescued = {"outboxes": self._wake_senders(look), "reopened": self._reopen(look, broker)}
        if any(rescued.values()):
            log.warning("sessions.rescued", **rescued)
        return rescued

    def live(self) -> dict[str, dict[str, object]]:
        """Return who is being served: user → worker, seconds idle, busy or not."""
        answers = self._celery.control.broadcast("live_sessions", reply=True, timeout=LIVE_SECONDS) or []
        return {
            user: {"worker": worker, **state}
            for answer in answers
            for worker, users in answer.items()
            for user, state in users.items()
        }

    # -- outboxes ---------------------------------------------------------------

    def _wake_senders(self, look: _Look) -> int:
        """Wake senders for the outboxes that are overdue, as many as they may take soon; return how many."""
        send = look.at(topology.SEND)
        if send is None or (send.consumer_count == 0 and not look.embedded):
            self._say_that_nobody_delivers()
            return 0
        users = self._take_due(MOST_WAITING - send.message_count)
        for user in users:
            self._router.wake_sender(user, 0)
        return len(users)

    def _take_due(self, most: int) -> list[str]:
        """Take up to ``most`` overdue users of this broker; those of other brokers stay as they are."""
        taken: list[str] = []
        skip, now = 0, self._store.now()
        while len(taken) < most:
            page = self._store.due_outboxes(before=now, skip=skip, most=PAGE)
            if not page:
                break
            ours = [user for user in page if self._router.serves(user)]
            taken += self._store.take_due(ours[: most - len(taken)], seconds=WAKE_AGAIN_SECONDS)
            skip += len(page) - len(ours)
        return taken

    def _say_that_nobody_delivers(self) -> None:
        overdue = self._store.due_outboxes(before=self._store.now(), most=1)
        if overdue and self._store.alert_once("nobody_delivers", seconds=ALERT_SECONDS):
            log.critical("senders.away", help=AWAY_HELP)

    # -- sessions ---------------------------------------------------------------

    def _reopen(self, look: _Look, broker: str) -> int:
        """Ask for workers where a slice of the sessions has none; return for how many."""
        orphans = self._orphans(look, broker)
        if orphans:
            # A session that is being closed has no consumer either, but not for long.
            self._sleep(2 * topology.UNBOUND_SECONDS)
            orphans = [queue for queue in orphans if look.consumers(queue) == 0]
        for queue in orphans:
            self._router.request_subscriber(queue)
        return len(orphans)

    def _orphans(self, look: _Look, broker: str) -> list[str]:
        """Return the queues of a slice that nobody consumes; forget the sessions that are long over."""
        idle_since = self._store.now() - self._idle_timeout
        orphans: list[str] = []
        for user, active_at in self._slice(broker):
            queue = topology.queue_name(user)
            consumers = look.consumers(queue)
            if consumers is None and active_at < idle_since:
                self._store.end_session(user, unless_active_since=active_at)
            elif consumers == 0 and not look.embedded:  # an embedded broker counts none, and its workers end with it
                orphans.append(queue)
                if len(orphans) == MOST_ORPHANS:
                    break
        return orphans

    def _slice(self, broker: str) -> Iterator[tuple[str, float]]:
        """Yield sessions of this broker from where the last pass ended, until the time is up or all were there."""
        until, last = self._clock() + LOOK_SECONDS, self._store.rescued_until(broker)
        try:
            while page := self._store.sessions_after(last, most=PAGE):
                for user, active_at in page:
                    if self._clock() >= until:
                        return
                    last = active_at
                    if self._router.serves(user):
                        yield user, active_at
            last = -math.inf
        finally:
            self._store.note_rescued(broker, last)


@contextmanager
def _reached() -> Iterator[None]:
    """Raise ``BrokerUnavailable`` where the connection is lost, or there is none."""
    try:
        yield
    except (OSError, ConnectionLost, OperationalError) as err:
        raise BrokerUnavailable(f"the broker cannot be used: {type(err).__name__}") from err


class _Look:
    """Looks at queues over one channel, which the broker closes where there is no such queue."""

    def __init__(self, connection: Connection) -> None:
        self.embedded = connection.transport.driver_type == "memory"
        self._connection = connection
        self._amqp_channel = connection.channel()

    def consumers(self, queue: str) -> int | None:
        """Return how many consume a queue; ``None`` where there is no such queue."""
        found = self.at(queue)
        return None if found is None else int(found.consumer_count)

    def at(self, queue: str) -> Any:  # py-amqp ships no types
        """Return the ``message_count`` and ``consumer_count`` of a queue; ``None`` where there is no such queue."""
        try:
            return self._amqp_channel.queue_declare(queue, passive=True)
        except (NotFound, ChannelError):
            self._amqp_channel = self._connection.channel()
            return None
