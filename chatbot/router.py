"""Stage 2, publisher side: a message goes to its user's queue, and somebody listens there.

In comes a ``Message``; out goes a Celery task ``chatbot.answer`` on exchange ``chat``
with routing key ``chat.<user>``, persistent, mandatory and confirmed. Promise: when
``route`` returns, the broker has the message on disk and either a worker consumes its
queue or a request for one is on disk too. A crash in between leaves an empty session, or
a message that was not answered for and is given again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

from amqp import spec
from amqp.exceptions import MessageNacked, PreconditionFailed
from celery import Celery
from celery.result import AsyncResult
from kombu import Producer, Queue
from kombu.common import maybe_declare
from kombu.exceptions import LimitExceeded, OperationalError

from chatbot import topology
from chatbot.errors import BrokerUnavailable, QueueFull
from chatbot.messages import Message, Status

ANSWER = "chatbot.answer"
SEND = "chatbot.send"
MARK_READ = "chatbot.mark_read"
NOTIFY = "chatbot.notify"
REPORT = "chatbot.report"

T = TypeVar("T")

#: A message that keeps coming back as unroutable, or is refused with room left, finds its queue gone each time.
_TRIES = 5
_REFUSED_SECONDS = 0.1
#: Of a timeout, the share that is used up, and the share one step on a connection may take.
#: What is left is for the wait for a thread and for a processor, which come before and after.
USED, STEP = 0.7, 0.2


class _Publisher(Producer):
    """The producer of one channel, which knows what the broker made of each message by its number, from 1 on.

    ``unconfirmed`` and ``nacked`` hold numbers, ``returned`` the routing keys of what was unroutable.
    """

    def __init__(self, channel: Any) -> None:
        self.number = 0
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
        """Forget what became of the messages so far."""
        self.nacked.clear()
        self.returned.clear()

    def publish(self, *arguments: Any, **options: Any) -> Any:
        """Publish, and return before it is confirmed."""
        result = super().publish(*arguments, **options)
        self.number += 1
        if self._confirms:
            self.unconfirmed.add(self.number)
        return result

    def wait_confirmed(self, remaining: Callable[[], float]) -> None:
        """Return once everything is confirmed, ``returned`` or ``nacked``; ``remaining()`` is the seconds left."""
        while self.unconfirmed:
            self.channel.connection.drain_events(timeout=remaining())

    def _on_confirm(self, number: int, multiple: bool) -> None:  # noqa: FBT001  # as py-amqp calls it
        self.unconfirmed -= self._meant(number, multiple)

    def _on_nack(self, number: int, multiple: bool) -> None:  # noqa: FBT001
        self.nacked |= self._meant(number, multiple)
        self.unconfirmed -= self.nacked

    def _meant(self, number: int, multiple: bool) -> set[int]:  # noqa: FBT001
        return {each for each in self.unconfirmed if each <= number} if multiple else {number}


class Router:
    """Publishes for one process; safe to use from many threads.

    ``timeout`` in seconds bounds each message: after it ``BrokerUnavailable`` is raised
    and the message counts as not taken. ``queue_arguments`` are those of ``chat.<user>``.
    ``url`` is the broker's, by default that of ``celery``.
    """

    def __init__(
        self,
        celery: Celery,
        *,
        timeout: float,
        queue_arguments: dict[str, Any],
        url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._celery = celery
        self._timeout = timeout
        self._queue_arguments = queue_arguments
        self._clock = clock
        # Each step fails well inside the deadline, so that a second connection can
        # still be tried: the first may have died with the broker.
        self._step = timeout * STEP
        limits = dict.fromkeys(("read_timeout", "write_timeout", "connect_retries_timeout"), self._step)
        connection = celery.connection_for_write(
            url,
            connect_timeout=self._step,
            # Whatever Celery's own publishing does: py-amqp would take in the confirms that are counted here.
            transport_options={**limits, "max_retries": 1, "interval_start": 0.1, "confirm_publish": False},
        )
        self._pool = connection.Pool(limit=celery.conf.broker_pool_limit)
        self._publishers: dict[int, _Publisher] = {}  # by the connection's id
        self._errors = (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)
        self._away = False
        self._asking = threading.Lock()
        # A virtual broker cannot return what is unroutable, so there nobody may delete
        # a queue between its declaration and the publish. On AMQP nothing is locked.
        self._virtual = connection.transport.driver_type == "memory"
        self.exclusive: Any = threading.Lock() if self._virtual else nullcontext()

    def deadline(self) -> float:
        """Return the moment by which calls that start now give up, for several calls to share."""
        return self._clock() + self._timeout * USED

    def route(self, message: Message, *, deadline: float | None = None) -> AsyncResult[Any]:
        """Publish ``message`` to its user's queue and return once the broker confirmed.

        Raises ``BrokerUnavailable`` when it did not by the deadline (the message may still
        have been taken: the message id makes a second try harmless), ``QueueFull`` when
        the user's bounded queue refused it, ``ValueError`` for an unusable user id.
        """
        queue = topology.queue_name(message.user)
        until = self.deadline() if deadline is None else deadline
        as_it_is: set[str] = set()
        return self._until_confirmed(until, lambda p: self._publish_message(p, message, queue, as_it_is, until))

    def route_all(
        self, messages: Sequence[Message], *, deadline: float | None = None
    ) -> list[tuple[Message, QueueFull | ValueError]]:
        """Route messages, those of one user in their order; return what was refused, and why.

        Those of different users go out together and are confirmed together. Raises
        ``BrokerUnavailable`` when one was not taken by the deadline.
        """
        until = self.deadline() if deadline is None else deadline
        refused: list[tuple[Message, QueueFull | ValueError]] = []
        waves: list[dict[str, Message]] = []  # by queue: the first message of each user, the second of each …
        waves_of: Counter[str] = Counter()
        for message in messages:
            try:
                queue = topology.queue_name(message.user)
            except ValueError as err:
                refused.append((message, err))
                continue
            if waves_of[queue] == len(waves):
                waves.append({})
            waves[waves_of[queue]][queue] = message
            waves_of[queue] += 1
        for wave in waves:
            for message in self._route_together(wave, until):
                try:
                    self.route(message, deadline=until)
                except QueueFull as err:
                    refused.append((message, err))
        return refused

    def _route_together(self, wave: dict[str, Message], deadline: float) -> list[Message]:
        """Publish one message each to several queues; return those that are still to be routed."""
        if len(wave) == 1 or self._virtual:
            return list(wave.values())
        return self._until_confirmed(deadline, lambda publisher: self._publish_together(publisher, wave, deadline))

    def serves(self, user: str) -> bool:  # noqa: ARG002  # as with several brokers (``shards.py``)
        """Return whether this process's workers serve ``user``: with one broker, all of them."""
        return True

    def ping(self) -> None:
        """Return when the broker answers. Raises ``BrokerUnavailable``."""
        self._until_confirmed(self.deadline(), lambda publisher: publisher.channel.basic_qos(0, 1, False))

    def request_subscriber(self, queue: str) -> None:
        """Ask for a worker to consume ``queue``. Raises ``BrokerUnavailable``."""
        deadline = self.deadline()
        self._until_confirmed(deadline, lambda publisher: self._request(publisher, queue, deadline))

    def wake_sender(self, user: str, number: int, *, countdown: float = 0.0) -> None:
        """Say that turn ``number`` of ``user`` waits in the outbox, for a sender to look in ``countdown`` seconds.

        Raises ``BrokerUnavailable``.
        """
        self._send(SEND, (user, number), f"send.{_suffix(user)}", countdown=countdown)

    def mark_read(self, message: Message, *, countdown: float = 0.0) -> None:
        """Have ``message`` marked as read in ``countdown`` seconds, with a typing indicator."""
        arguments = (message.user, message.id)
        address = replace(message, text="").to_dict()  # the text has no business in that queue
        self._send(
            MARK_READ, arguments, f"send.{_suffix(message.user)}", countdown=countdown,
            message=address, asked_at=time.time() + countdown,
        )  # fmt: skip

    def notify(self, message: Message, what: str, text: str, *, deadline: float | None = None) -> None:
        """Have the author of ``message`` told something that is no reply. Raises ``BrokerUnavailable``."""
        address = replace(message, text="").to_dict()
        self._send(
            NOTIFY, (message.user, what), f"send.{_suffix(message.user)}", deadline=deadline,
            text=text, message=address,
        )  # fmt: skip

    def report(self, status: Status, *, deadline: float | None = None) -> None:
        """Pass on what became of a part we sent. Raises ``BrokerUnavailable``."""
        arguments = (status.message_id, status.status)
        self._send(REPORT, arguments, "send.status", deadline=deadline, status=status.to_dict())

    def bury(self, message: Message, reason: str, *, deadline: float | None = None) -> None:
        """Put ``message`` into the dead-letter queue with the reason. Raises ``BrokerUnavailable``."""
        until = self.deadline() if deadline is None else deadline
        headers = {"reason": reason[:500], "user": message.user}
        self._until_confirmed(
            until,
            lambda publisher: self._publish(
                publisher, until, **_task(message), exchange=topology.DEAD.name, routing_key="", headers=headers
            ),
        )

    def close(self) -> None:
        """Close every connection of this router."""
        self._pool.force_close_all()

    # -- on one connection ------------------------------------------------------

    def _publish_message(
        self, publisher: _Publisher, message: Message, queue: str, as_it_is: set[str], deadline: float
    ) -> AsyncResult[Any]:
        def publish(**where: Any) -> AsyncResult[Any]:
            return self._publish(publisher, deadline, **_task(message), **where)

        for _ in range(_TRIES):
            try:
                with self.exclusive:
                    if self._virtual:
                        self._open(publisher, queue, as_it_is)
                    result = publish(exchange=topology.CHAT.name, routing_key=queue)
                    if not publisher.returned:
                        self._look(publisher, queue, deadline)
                        return result
                # No such queue, or one that is being closed. That one must not be bound as it is:
                # it could still be deleted under a message, and declared anew by another publisher
                # before the look. So the message goes straight into it first. Either it is kept
                # now, because it is not empty, or it is gone and what is declared below is new.
                publish(queue=Queue(queue), declare=())
                self._open(publisher, queue, as_it_is)
            except PreconditionFailed:
                as_it_is.add(queue)  # settings changed while it was live: tried again as it is
                raise
            except MessageNacked as err:
                # The queue is full, or its process ended under the message and is started again.
                if self._is_full(publisher, queue):
                    raise QueueFull("the user's queue is full") from err
                time.sleep(_REFUSED_SECONDS)
        raise BrokerUnavailable(f"the user's queue was away {_TRIES} times while a message was on its way")

    def _publish_together(self, publisher: _Publisher, wave: dict[str, Message], deadline: float) -> list[Message]:
        """Publish all before the first is confirmed, then look after all; return those that no queue took."""
        publisher.forget()
        numbers = {}
        for queue, message in wave.items():
            self._give(publisher, deadline, **_task(message), exchange=topology.CHAT.name, routing_key=queue)
            numbers[publisher.number] = queue
        publisher.wait_confirmed(lambda: self._remaining(deadline))
        left = {*publisher.returned, *(numbers.get(number) for number in publisher.nacked)}
        taken = [queue for queue in wave if queue not in left]
        for queue, consumers in zip(taken, declare_user_queues(publisher.channel, taken, passive=True), strict=True):
            if consumers == 0:
                self._request(publisher, queue, deadline)
        return [message for queue, message in wave.items() if queue in left]

    def _is_full(self, publisher: _Publisher, queue: str) -> bool:
        """Return whether a queue that refused a message had no room; some may have been taken out since."""
        waiting = int(publisher.channel.queue_declare(queue, passive=True).message_count)
        return bool(waiting >= self._queue_arguments.get("x-max-length", math.inf) / 2)

    def _open(self, publisher: _Publisher, queue: str, as_it_is: set[str]) -> None:
        """Declare and bind a queue, without waiting: an error comes with the answer to the publish that follows."""
        arguments, existing = self._queue_arguments, queue in as_it_is
        declare_user_queue(publisher.channel, queue, arguments, as_it_is=existing, nowait=True)
        bind_user_queue(publisher.channel, queue, nowait=True)

    def _look(self, publisher: _Publisher, queue: str, deadline: float) -> None:
        """Make sure of a message that was confirmed: that its queue is there, and that somebody consumes it.

        A confirm alone is no proof. What reaches a queue whose process ends, because it is
        deleted or the broker shuts down in order, RabbitMQ confirms and loses. A queue that
        still answers after the confirm has the message; one that does not raises here, and
        the message is published once more. A worker is asked for only now: earlier, it could
        declare a lost queue anew, and the look would take that one for the old.
        """
        if int(publisher.channel.queue_declare(queue, passive=True).consumer_count) == 0:
            self._request(publisher, queue, deadline)

    def _request(self, publisher: _Publisher, queue: str, deadline: float) -> None:
        publisher.forget()
        publisher.publish(
            {"queue": queue},
            exchange=topology.CHAT.name,
            routing_key=topology.OPEN,
            delivery_mode="persistent",
            mandatory=True,
        )
        self._wait_confirmed(publisher, deadline)

    def _send(
        self, task: str, arguments: tuple[Any, ...], routing_key: str, *,
        countdown: float = 0.0, deadline: float | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        until = self.deadline() if deadline is None else deadline
        self._until_confirmed(
            until,
            lambda publisher: self._publish(
                publisher, until, task=task, arguments=arguments, kwargs=kwargs,
                exchange=topology.CHAT.name, routing_key=routing_key,
                argsrepr=repr(arguments), kwargsrepr="{}", countdown=countdown or None,
            ),
        )  # fmt: skip

    def _publish(self, publisher: _Publisher, deadline: float, **options: Any) -> AsyncResult[Any]:
        """Publish a task and return once the broker confirmed. Raises ``MessageNacked``."""
        publisher.forget()
        result = self._give(publisher, deadline, **options)
        self._wait_confirmed(publisher, deadline)
        return result

    def _give(
        self, publisher: _Publisher, deadline: float, *, task: str, arguments: tuple[Any, ...],
        kwargs: dict[str, Any], **options: Any,
    ) -> AsyncResult[Any]:  # fmt: skip
        self._remaining(deadline)
        try:
            return self._celery.send_task(
                task, arguments, kwargs, producer=publisher, retry=False, delivery_mode="persistent",
                mandatory=True, **options,
            )  # fmt: skip
        except OperationalError as err:
            raise err.__cause__ or err from None  # Celery wraps what the broker answered

    def _wait_confirmed(self, publisher: _Publisher, deadline: float) -> None:
        publisher.wait_confirmed(lambda: self._remaining(deadline))
        if publisher.nacked:
            raise MessageNacked

    def _remaining(self, deadline: float) -> float:
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise BrokerUnavailable(f"the broker did not confirm within {self._timeout:g} s")
        return remaining

    def _until_confirmed(self, deadline: float, publish: Callable[[_Publisher], T]) -> T:
        """Run ``publish`` and return what it does, unless the broker is known to be away.

        Once a call has waited for its whole time, one at a time asks and the others end at
        once: a web process whose threads all wait would keep everybody waiting.
        """
        if not self._away:
            return self._try(deadline, publish)
        if not self._asking.acquire(blocking=False):
            raise BrokerUnavailable("the broker cannot be used; another call is asking for it")
        try:
            return self._try(deadline, publish)
        finally:
            self._asking.release()

    def _try(self, deadline: float, publish: Callable[[_Publisher], T]) -> T:
        try:
            confirmed = self._retried(deadline, publish)
        except BrokerUnavailable:
            self._away = True
            raise
        self._away = False
        return confirmed

    def _retried(self, deadline: float, publish: Callable[[_Publisher], T]) -> T:
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
    def _publisher(self, deadline: float) -> Iterator[_Publisher]:
        try:
            connection = self._pool.acquire(block=True, timeout=self._remaining(deadline))
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

    def _publisher_on(self, connection: Any) -> _Publisher:
        """Return the publisher of a connection's channel: confirms are counted on each channel."""
        channel = connection.default_channel
        publisher = self._publishers.get(id(connection))
        if publisher is None or publisher.channel is not channel:
            for queue in (topology.OPEN_QUEUE, topology.SEND_QUEUE, topology.DEAD_QUEUE):
                maybe_declare(queue, channel)
            publisher = self._publishers[id(connection)] = _Publisher(channel)
        return publisher


def declare_user_queue(
    channel: Any, queue: str, arguments: dict[str, Any], *, as_it_is: bool = False, nowait: bool = False
) -> int:
    """Declare a user's queue; return how many consume it (none that it knows of, with ``nowait``).

    With ``as_it_is`` an existing queue is taken with whatever arguments it has: what
    to do after ``PreconditionFailed``, which closes the channel.
    """
    arguments = {} if as_it_is else arguments
    declared = channel.queue_declare(
        queue, passive=as_it_is, durable=True, auto_delete=False, nowait=nowait, arguments=arguments
    )
    return int(declared.consumer_count) if declared else 0


def declare_user_queues(
    channel: Any, queues: Sequence[str], arguments: dict[str, Any] | None = None, *, passive: bool = False
) -> list[int]:
    """Declare users' queues in one round trip, or only look (``passive``); return how many consume each.

    For AMQP only. After an error, which closes the channel, each has to be declared by itself.
    """
    for queue in queues:
        channel.send_method(
            spec.Queue.Declare, "BsbbbbbF", (0, queue, passive, True, False, False, False, arguments or {})
        )
    return [int(channel.wait(spec.Queue.DeclareOk, returns_tuple=True)[2]) for _ in queues]


def bind_user_queue(channel: Any, queue: str, *, nowait: bool = False) -> None:
    """Have what is published for a user routed to their queue. Only for a queue that nobody can be deleting."""
    channel.queue_bind(queue, exchange=topology.CHAT.name, routing_key=queue, nowait=nowait)


def _task(message: Message) -> dict[str, Any]:
    """Return the task that answers a message; its text is shown nowhere."""
    return {
        "task": ANSWER,
        "arguments": (message.user, message.text),
        "kwargs": {k: v for k, v in message.to_dict().items() if k not in {"user", "text"}},
        "argsrepr": repr((message.user, message.id, len(message.text))),
        "kwargsrepr": "{}",
    }


def _suffix(user: str) -> str:
    return topology.queue_name(user).removeprefix("chat.")
