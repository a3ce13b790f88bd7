"""Names and shapes of everything on the broker.

exchange ``chat`` (topic) → ``chat.<user>`` one queue per user, ``chat.open``
requests for a subscriber, ``send`` replies to deliver (bound to ``send.#``).
exchange ``chat.dead`` (fanout) → queue ``chat.dead``: what could not be handled.

``PRECONDITION_FAILED`` follows a declare whose arguments differ from the live queue's, so a
change here meets old queues: those of users until they are closed, the fixed ones (``Fixed``)
until somebody deletes them. Both are used as they are.

At their bounds: ``send`` refuses what comes (a wake-up is published again by the rescue, a status
is answered 503 and comes again, a note or a mark is left out). ``chat.dead`` lets go of its oldest
letters, which are lost: it is told to keep the newest, as a message can be answered for 24 hours.
To refuse instead would lose the newest unseen where RabbitMQ itself moves a message there, and
would block its user's queue where we do.
"""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import unquote

import structlog
from amqp.exceptions import PreconditionFailed
from kombu import Exchange, Queue

from chatbot.identity import key_of

log = structlog.get_logger(__name__)

CHAT = Exchange("chat", type="topic", durable=True)
DEAD = Exchange("chat.dead", type="fanout", durable=True)

OPEN = "chat.open"
SEND = "send"
HOUSEKEEPING = "housekeeping"

#: A user's queue is deleted this long after it was unbound. RabbitMQ confirms, and loses,
#: what was routed to a queue and reaches it while it is being deleted.
UNBOUND_SECONDS = 0.5

_PREFIX = "chat."

#: Wake-ups, statuses and marks that wait for a sender.
MAX_TO_SEND = 100_000


class Fixed(Queue):
    """A queue that is no user's. Where it exists with other arguments, it is used as it is, and that is logged once."""

    #: Names of queues that were found with other arguments, by this process.
    found_other: frozenset[str] = frozenset()
    _finding = threading.Lock()

    def queue_declare(self, nowait: bool = False, passive: bool = False, channel: Any = None) -> Any:  # noqa: FBT001, FBT002
        """Declare it, on a channel of its own, which a refusal closes."""
        channel = channel or self.channel
        if passive or not hasattr(channel, "send_method"):  # a virtual broker refuses nothing
            return super().queue_declare(nowait=nowait, passive=passive, channel=channel)
        try:
            with channel.connection.channel() as own:
                return super().queue_declare(channel=own)
        except PreconditionFailed:
            self._note_other()
            return super().queue_declare(passive=True, channel=channel)

    def _note_other(self) -> None:
        with Fixed._finding:
            known, Fixed.found_other = self.name in Fixed.found_other, Fixed.found_other | {self.name}
        if not known:
            log.warning("queue.has_other_arguments", queue=self.name, advice=migration(self.name))


def migration(queue: str) -> str:
    """Return what to do about a fixed queue that an older release declared."""
    return (
        f"it is used as it is, without today's bounds; once it is empty run `rabbitmqctl delete_queue {queue} "
        "--if-empty` and restart workers and senders, which declare it anew"
    )


def dead_queue(*, letters: int, size: int) -> Fixed:
    """Return the queue of dead letters, which keeps so many, and so many bytes of them: the newest."""
    bounds = {"x-max-length": letters, "x-max-length-bytes": size, "x-overflow": "drop-head"}
    return Fixed("chat.dead", DEAD, durable=True, queue_arguments=bounds)


_TO_DEAD = {"x-dead-letter-exchange": DEAD.name}
#: Requests for a subscriber: an unacknowledged one is a worker's lease on a session.
OPEN_QUEUE = Fixed(OPEN, CHAT, routing_key=OPEN, durable=True, queue_arguments=_TO_DEAD)
SEND_QUEUE = Fixed(
    SEND, CHAT, routing_key="send.#", durable=True,
    queue_arguments={**_TO_DEAD, "x-max-length": MAX_TO_SEND, "x-overflow": "reject-publish"},
)  # fmt: skip
#: What beat asks for expires when the next beat is due, and is nothing to keep.
HOUSEKEEPING_QUEUE = Fixed(HOUSEKEEPING, CHAT, routing_key=HOUSEKEEPING, durable=True)
#: With the default bounds; ``Chatbot.dead_queue`` has those of the settings.
DEAD_QUEUE = dead_queue(letters=100_000, size=1024**3)


def queue_name(user: str) -> str:
    """Return the name of the user's queue, which is its routing key too. Raises what ``key_of`` raises."""
    return _PREFIX + key_of(user)


def user_of(queue: str) -> str:
    """Return the user a queue belongs to: the inverse of ``queue_name``."""
    return unquote(queue.removeprefix(_PREFIX))


def user_queue_arguments(*, reply_window: float, max_waiting: int) -> dict[str, Any]:
    """Return the arguments of every ``chat.<user>``.

    ``reply_window`` in seconds: older messages can no longer be answered and go to
    the dead letters. ``max_waiting`` messages may wait; the next is refused.
    """
    return {
        "x-single-active-consumer": True,
        "x-message-ttl": int(reply_window * 1000),
        "x-dead-letter-exchange": DEAD.name,
        "x-max-length": max_waiting,
        "x-overflow": "reject-publish",
    }
