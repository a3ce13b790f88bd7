"""Names and shapes of everything on the broker; no name is made anywhere else.

exchange ``chat`` (topic) → ``chat.<user>`` one queue per user, ``chat.open``
requests for a subscriber, ``send`` replies to deliver (bound to ``send.#``).
exchange ``chat.dead`` (fanout) → queue ``chat.dead``: what could not be handled.

``PRECONDITION_FAILED`` follows a declare whose arguments differ from the live
queue's, so a change here meets old queues until they are closed.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

from kombu import Exchange, Queue

CHAT = Exchange("chat", type="topic", durable=True)
DEAD = Exchange("chat.dead", type="fanout", durable=True)

OPEN = "chat.open"
SEND = "send"
HOUSEKEEPING = "housekeeping"

#: A user's queue is deleted this long after it was unbound. RabbitMQ confirms, and loses,
#: what was routed to a queue and reaches it while it is being deleted.
UNBOUND_SECONDS = 0.5

_PREFIX = "chat."
_RESERVED = frozenset({"open", "dead"})

_TO_DEAD = {"x-dead-letter-exchange": DEAD.name}
#: Requests for a subscriber: an unacknowledged one is a worker's lease on a session.
OPEN_QUEUE = Queue(OPEN, CHAT, routing_key=OPEN, durable=True, queue_arguments=_TO_DEAD)
SEND_QUEUE = Queue(SEND, CHAT, routing_key="send.#", durable=True, queue_arguments=_TO_DEAD)
#: What beat asks for expires when the next beat is due, and is nothing to keep.
HOUSEKEEPING_QUEUE = Queue(HOUSEKEEPING, CHAT, routing_key=HOUSEKEEPING, durable=True)
DEAD_QUEUE = Queue("chat.dead", DEAD, durable=True)


def queue_name(user: str) -> str:
    """Return the name of the user's queue, which is its routing key too.

    One to one: ``.``, ``*`` and ``#`` mean something in routing keys and are
    percent-encoded, and so are names this topology keeps for itself. Raises
    ``ValueError`` for an empty user or one over 200 bytes (AMQP names end at 255).
    """
    name = quote(user, safe="@").replace(".", "%2E")
    if name in _RESERVED:
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if not name or len(name) > 200:
        raise ValueError("a user id has 1 to 200 bytes once percent-encoded")
    return _PREFIX + name


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
