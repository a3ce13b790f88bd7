"""Several brokers, each with the workers of its own: a user's queue is on one of them.

In comes what a ``Router`` takes; it goes on to the router of the user's broker. Promise:
every process that knows the same brokers chooses the same one for a user, in whatever
order they are written; one broker more takes over its share of the users and moves nobody
else (rendezvous hashing: Thaler and Ravishankar, "A Name-Based Mapping Scheme for
Rendezvous", 1996).

Each broker is a cell: workers, senders and beat consume from their own
(``CHATBOT_BROKER_URL``). Redis is one for all, and so are its claims: two cells that hold
messages of one user cannot take two turns at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

from celery.result import AsyncResult

from chatbot.broker import topology
from chatbot.broker.router import Router
from chatbot.errors import BrokerUnavailable, QueueFull
from chatbot.messages import Callback, Message, Notice, Status


def name_of(url: str) -> str:
    """Return the name of a broker: its address without user and password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 5672}/{parts.path.removeprefix('/')}"


def choose(user: str, brokers: Iterable[str]) -> str:
    """Return the one of ``brokers`` (names) that serves ``user``."""
    return max(brokers, key=lambda name: hashlib.blake2b(f"{name}\n{user}".encode(), digest_size=8).digest())


class ShardedRouter:
    """Publishes to the broker of each user, ``routers`` by the names of theirs; ``own`` is this process's.

    Takes and raises what ``Router`` does. A broker that is away costs its own users only.
    """

    #: Real brokers say what is unroutable: nothing is locked.
    exclusive = nullcontext()

    def __init__(self, routers: Mapping[str, Router], *, own: str) -> None:
        self._routers = routers
        self._own = own

    def serves(self, user: str) -> bool:
        """Return whether the workers of this process's broker serve ``user``."""
        return choose(user, self._routers) == self._own

    def deadline(self) -> float:
        """Return the moment by which calls that start now give up, for several calls to share."""
        return max(router.deadline() for router in self._routers.values())

    def route(self, message: Message, *, deadline: float | None = None) -> AsyncResult[Any]:
        """Publish ``message`` to its user's queue."""
        return self._of(message.user).route(message, deadline=deadline)

    def route_all(
        self, messages: Sequence[Message], *, deadline: float | None = None
    ) -> list[tuple[Message, QueueFull | ValueError]]:
        """Publish messages, those of one user in their order, to the brokers that are there before it raises."""
        theirs: dict[str, list[Message]] = {}
        for message in messages:
            theirs.setdefault(choose(message.user, self._routers), []).append(message)
        refused, away = [], None
        for name, of_one in theirs.items():
            try:
                refused += self._routers[name].route_all(of_one, deadline=deadline)
            except BrokerUnavailable as err:
                away = err
        if away:
            raise away
        return refused

    def ping(self) -> None:
        """Return when every broker answers. Raises ``BrokerUnavailable`` naming the first that does not."""
        for name, router in self._routers.items():
            try:
                router.ping()
            except BrokerUnavailable as err:
                raise BrokerUnavailable(f"{name}: {err}") from err

    def request_subscriber(self, queue: str) -> None:
        """Ask for a worker to consume ``queue``."""
        self._of(topology.user_of(queue)).request_subscriber(queue)

    def wake_sender(self, user: str, number: int, *, countdown: float = 0.0) -> None:
        """Say that turn ``number`` of ``user`` waits in the outbox."""
        self._of(user).wake_sender(user, number, countdown=countdown)

    def mark_read(self, message: Message, *, at: float) -> None:
        """Have ``message`` marked as read, asked for at ``at``."""
        self._of(message.user).mark_read(message, at=at)

    def notify(self, message: Message, what: str, text: str, *, deadline: float | None = None) -> None:
        """Have the author of ``message`` told something that is no reply."""
        self._of(message.user).notify(message, what, text, deadline=deadline)

    def report(self, status: Status, *, deadline: float | None = None) -> None:
        """Pass on what became of a part we sent; its callback begins with the user."""
        self._routers[self._sent_by(status)].report(status, deadline=deadline)

    def report_all(self, statuses: Sequence[Status], *, deadline: float | None = None) -> None:
        """Pass statuses on to the brokers that are there before it raises."""
        theirs: dict[str, list[Status]] = {}
        for status in statuses:
            theirs.setdefault(self._sent_by(status), []).append(status)
        away = None
        for name, of_one in theirs.items():
            try:
                self._routers[name].report_all(of_one, deadline=deadline)
            except BrokerUnavailable as err:
                away = err
        if away:
            raise away

    def note_all(self, notices: Sequence[Notice], *, deadline: float | None = None) -> None:
        """Pass on what an operator must hear of, by this process's own broker: all senders write to one Redis."""
        self._routers[self._own].note_all(notices, deadline=deadline)

    def bury(self, message: Message, reason: str, *, deadline: float | None = None) -> None:
        """Put ``message`` into the dead-letter queue of its user's broker."""
        self._of(message.user).bury(message, reason, deadline=deadline)

    def close(self) -> None:
        """Close every connection."""
        for router in self._routers.values():
            router.close()

    def _sent_by(self, status: Status) -> str:
        """Return the broker of the user whose reply a status is about, any one where that is none of ours."""
        try:
            user = Callback.parse(status.callback).user
        except ValueError:
            user = status.callback
        return choose(user, self._routers)

    def _of(self, user: str) -> Router:
        return self._routers[choose(user, self._routers)]


def sharded(urls: Iterable[str], *, own: str, connect: Callable[[str], Router]) -> ShardedRouter:
    """Return the router over brokers at ``urls``, one of which, ``own``, is this process's."""
    return ShardedRouter({name_of(url): connect(url) for url in urls}, own=name_of(own))
