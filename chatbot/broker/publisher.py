"""What a router publishes with: pooled connections, confirms counted, every wait bounded.

In comes what is to be done with a ``Publisher``; it is done on one connection or, where
that one died, on the next. Promise: it ends by its deadline, in ``BrokerUnavailable`` at
the latest, and a broker that is known to be away keeps no second thread waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from amqp.exceptions import MessageNacked
from celery import Celery
from kombu import Producer, Queue
from kombu.common import maybe_declare
from kombu.exceptions import LimitExceeded, OperationalError

from chatbot.broker import topology
from chatbot.broker.internals.frames import Frames
from chatbot.errors import BrokerUnavailable

T = TypeVar("T")

#: Of a timeout, the share that is used up, and the share one step on a connection may take.
#: What is left is for the wait for a thread and for a processor, which come before and after.
USED, STEP = 0.7, 0.2


class Publisher(Producer):
    """The producer of one channel, which knows what the broker made of each message by its number, from 1 on.

    ``unconfirmed`` and ``nacked`` hold numbers, ``returned`` the routing keys of what was unroutable.
    ``step`` is what the connection gives each read, in seconds; ``remaining`` says how many are left
    until a deadline and raises when there are none. ``known`` are the queues that are no user's.
    """

    def __init__(
        self, channel: Any, *, step: float, remaining: Callable[[float], float], known: Sequence[Queue] = ()
    ) -> None:
        self.number = 0
        self._known = known
        self._step = step
        self.remaining = remaining
        self.unconfirmed: set[int] = set()
        self.nacked: set[int] = set()
        self.returned: list[str] = []
        self._confirms = hasattr(channel, "confirm_select")  # a virtual broker has what ``publish`` returned from
        if self._confirms:
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_confirm)
            channel.events["basic_nack"].add(self._on_nack)
        super().__init__(channel, on_return=lambda _, __, key, ___: self.returned.append(key))

    def forget(self) -> None:
        """Forget what became of the messages so far, and what becomes of those that nobody waited for."""
        self.unconfirmed.clear()
        self.nacked.clear()
        self.returned.clear()

    def publish(self, *arguments: Any, **options: Any) -> Any:
        """Publish, and return before it is confirmed."""
        result = super().publish(*arguments, **options)
        self.number += 1
        if self._confirms:
            self.unconfirmed.add(self.number)
        return result

    def declare_known(self) -> None:
        """Declare the queues that are no user's, whatever was declared before."""
        for queue in self._known:
            queue(self.channel).declare()

    def settle(self, deadline: float) -> None:
        """Return once everything is confirmed, ``returned`` or ``nacked``. Raises ``BrokerUnavailable``.

        Only the last read has a limit of its own: that costs two system calls a frame.
        """
        while self.unconfirmed:
            left = self.remaining(deadline)
            with suppress(TimeoutError):
                self.channel.connection.drain_events(timeout=left if left < self._step else None)

    def confirm(self, deadline: float) -> None:
        """Return as ``settle`` does. Raises ``MessageNacked`` when something was."""
        self.settle(deadline)
        if self.nacked:
            raise MessageNacked

    def _on_confirm(self, number: int, multiple: bool) -> None:  # noqa: FBT001  # as py-amqp calls it
        self.unconfirmed -= self._meant(number, multiple)

    def _on_nack(self, number: int, multiple: bool) -> None:  # noqa: FBT001
        self.nacked |= self._meant(number, multiple)
        self.unconfirmed -= self.nacked

    def _meant(self, number: int, multiple: bool) -> set[int]:  # noqa: FBT001
        return {each for each in self.unconfirmed if each == number or (multiple and each < number)}


class Publishers:
    """The publishers of one process on one broker, one a connection; safe to use from many threads.

    ``timeout`` in seconds bounds each call; ``url`` is the broker's, by default that of ``celery``.
    Each connection declares the queues that are no user's, ``dead_queue`` among them.
    """

    def __init__(
        self,
        celery: Celery,
        *,
        timeout: float,
        url: str | None = None,
        dead_queue: Queue = topology.DEAD_QUEUE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = (topology.OPEN_QUEUE, topology.SEND_QUEUE, dead_queue)
        self._timeout = timeout
        self._clock = clock
        # Each step fails well inside the deadline, so that a second connection can
        # still be tried: the first may have died with the broker.
        self._step = timeout * STEP
        limits = dict.fromkeys(("read_timeout", "write_timeout", "connect_retries_timeout"), self._step)
        connection = celery.connection_for_write(
            url,
            connect_timeout=self._step,
            # Whatever Celery's own publishing does: py-amqp would take in the confirms that are counted here.
            transport_options={
                **limits,
                "max_retries": 1,
                "interval_start": 0.1,
                "confirm_publish": False,
                "frame_writer": Frames,
            },
        )
        self.pool = connection.Pool(limit=celery.conf.broker_pool_limit)
        self._on: dict[int, Publisher] = {}  # by the connection's id
        self._errors = (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)
        self._away = False
        self._asking = threading.Lock()
        #: A virtual broker neither confirms nor returns what is unroutable.
        self.virtual = connection.transport.driver_type == "memory"

    def deadline(self) -> float:
        """Return the moment by which calls that start now give up, for several calls to share.

        While the broker is away they do so after one step: a request may have waited for a
        thread as long as those took that found out, and is to be refused in time, too.
        """
        return self._clock() + self._timeout * (STEP if self._away else USED)

    def _remaining(self, deadline: float) -> float:
        """Return the seconds left. Raises ``BrokerUnavailable`` when there are none."""
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise BrokerUnavailable(f"the broker did not confirm within {self._timeout:g} s")
        return remaining

    def run(self, deadline: float, publish: Callable[[Publisher], T]) -> T:
        """Run ``publish`` and return what it does, unless the broker is known to be away.

        Once a call has waited for its whole time, one at a time asks and the others end at
        once: a web process whose threads all wait would keep everybody waiting. Raises
        ``BrokerUnavailable``.
        """
        if not self._away:
            return self._try(deadline, publish)
        if not self._asking.acquire(blocking=False):
            raise BrokerUnavailable("the broker cannot be used; another call is asking for it")
        try:
            return self._try(deadline, publish)
        finally:
            self._asking.release()

    def close(self) -> None:
        """Close every connection."""
        self.pool.force_close_all()

    def _try(self, deadline: float, publish: Callable[[Publisher], T]) -> T:
        try:
            confirmed = self._retried(deadline, publish)
        except BrokerUnavailable:
            self._away = True
            raise
        self._away = False
        return confirmed

    def _retried(self, deadline: float, publish: Callable[[Publisher], T]) -> T:
        """Run ``publish`` on a pooled connection, and on a fresh one while time is left."""
        while True:
            try:
                with self._publisher(deadline) as publisher:
                    return publish(publisher)
            except self._errors as err:
                if self._clock() >= deadline - 2 * self._step:  # no time left to connect anew and ask
                    raise BrokerUnavailable(f"the broker cannot be used: {err!r}") from err
                time.sleep(0.05)

    @contextmanager
    def _publisher(self, deadline: float) -> Iterator[Publisher]:
        try:
            connection = self.pool.acquire(block=True, timeout=self._remaining(deadline))
        except LimitExceeded as err:
            raise BrokerUnavailable("every connection to the broker is in use") from err
        try:
            yield self._publisher_on(connection)
        except (*self._errors, BrokerUnavailable):
            # Not to be used again: what it still waits for would be taken for the
            # answer to the next request.
            connection.collect(socket_timeout=0.1)
            raise
        finally:
            connection.release()

    def _publisher_on(self, connection: Any) -> Publisher:
        """Return the publisher of a connection's channel: confirms are counted on each channel."""
        channel = connection.default_channel
        publisher = self._on.get(id(connection))
        if publisher is None or publisher.channel is not channel:
            if not self.virtual:
                # For each read and write. The kernel's (``read_timeout``) ends none in the middle of a frame.
                connection.connection.transport.sock.settimeout(self._step)
            for queue in self._known:
                maybe_declare(queue, channel)
            publisher = self._on[id(connection)] = Publisher(
                channel, step=self._step, remaining=self._remaining, known=self._known
            )
        return publisher
