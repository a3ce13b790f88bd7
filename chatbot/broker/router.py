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
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog
from amqp import spec
from amqp.exceptions import MessageNacked, PreconditionFailed
from celery import Celery
from celery.result import AsyncResult
from kombu import Queue
from kombu.exceptions import OperationalError

from chatbot.broker import topology
from chatbot.broker.call import Call
from chatbot.broker.fill_level import SILENT_SECONDS, FillLevel
from chatbot.broker.group_commit import GroupCommit
from chatbot.broker.internals.frames import together
from chatbot.broker.publisher import Publisher, Publishers
from chatbot.errors import BrokerUnavailable, QueueFull, SendQueueFull
from chatbot.identity import key_of
from chatbot.messages import Message, Notice, Status
from chatbot.resilience.later import Later

log = structlog.get_logger(__name__)

T = TypeVar("T")

ANSWER = "chatbot.answer"
SEND = "chatbot.send"
MARK_READ = "chatbot.mark_read"
NOTIFY = "chatbot.notify"
REPORT = "chatbot.report"
NOTE = "chatbot.note"
_STATUS = "send.status"

#: A message that keeps coming back as unroutable, or is refused with room left, finds its queue gone each time.
_TRIES = 5
_REFUSED_SECONDS = 0.1
#: Confirms that nobody waits for are left unread up to here.
UNREAD = 100
#: Statuses of one POST, which may hold thousands: what other threads want published goes out in between.
REPORTED_TOGETHER = 250


@dataclass(eq=False, slots=True)
class _Wanted:
    """A call to be published by ``deadline``, with its ``task_id`` once it is confirmed.

    With ``to_user`` its routing key names the user's queue, which may not be there:
    ``returned`` says that the broker just said so.
    """

    call: Call
    routing_key: str
    deadline: float
    to_user: bool = False
    returned: bool = False
    task_id: str = ""

    @property
    def where(self) -> dict[str, Any]:
        return {"exchange": topology.CHAT.name, "routing_key": self.routing_key}


class Router:
    """Publishes for one process; safe to use from many threads.

    ``timeout`` in seconds bounds each message: after it ``BrokerUnavailable`` is raised
    and the message counts as not taken. ``queue_arguments`` are those of ``chat.<user>``.
    ``url`` is the broker's, by default that of ``celery``; ``dead_queue`` is ``chat.dead``.
    """

    def __init__(
        self,
        celery: Celery,
        *,
        timeout: float,
        queue_arguments: dict[str, Any],
        url: str | None = None,
        dead_queue: Queue = topology.DEAD_QUEUE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._celery = celery
        self._queue_arguments = queue_arguments
        self._publishers = Publishers(celery, timeout=timeout, url=url, dead_queue=dead_queue, clock=clock)
        self._fill_level = FillLevel(dead_queue)
        self._group = GroupCommit(self._write)
        self._later = Later(name="wake-ups")
        # A virtual broker cannot return what is unroutable, so there nobody may delete
        # a queue between its declaration and the publish. On AMQP nothing is locked.
        self._silent_until = 0.0
        self._virtual = self._publishers.virtual
        self.exclusive: Any = threading.Lock() if self._virtual else nullcontext()

    def deadline(self) -> float:
        """Return the moment by which calls that start now give up, for several calls to share."""
        return self._publishers.deadline()

    def route(self, message: Message, *, deadline: float | None = None) -> AsyncResult[Any]:
        """Publish ``message`` to its user's queue and return once the broker confirmed.

        Raises ``BrokerUnavailable`` when it did not by the deadline (the message may still
        have been taken: the message id makes a second try harmless), ``QueueFull`` when
        the user's bounded queue refused it, ``ValueError`` for an unusable user id.
        """
        return self._celery.AsyncResult(self._commit(_wanted(message, self._until(deadline))))

    def route_all(
        self, messages: Sequence[Message], *, deadline: float | None = None
    ) -> list[tuple[Message, QueueFull | ValueError]]:
        """Route messages, those of one user in their order; return what was refused, and why.

        Those of different users go out together and are confirmed together. Raises
        ``BrokerUnavailable`` when one was not taken by the deadline.
        """
        until = self._until(deadline)
        refused: list[tuple[Message, QueueFull | ValueError]] = []
        waves: list[list[tuple[Message, _Wanted]]] = []  # the first message of each user, the second of each …
        waves_of: Counter[str] = Counter()
        for message in messages:
            try:
                wanted = _wanted(message, until)
            except ValueError as err:
                refused.append((message, err))
                continue
            if waves_of[message.user] == len(waves):
                waves.append([])
            waves[waves_of[message.user]].append((message, wanted))
            waves_of[message.user] += 1
        for wave in waves:
            self._group_commit([wanted for _, wanted in wave])
            for message, wanted in wave:
                try:
                    self._finish(wanted)
                except QueueFull as err:
                    refused.append((message, err))
        return refused

    def serves(self, user: str) -> bool:  # noqa: ARG002  # as with several brokers (``broker/sharding.py``)
        """Return whether this process's workers serve ``user``: with one broker, all of them."""
        return True

    def ping(self) -> None:
        """Return when the broker answers. Raises ``BrokerUnavailable``."""
        self._publishers.run(self.deadline(), lambda publisher: publisher.channel.basic_qos(0, 1, False))

    def request_subscriber(self, queue: str) -> None:
        """Ask for a worker to consume ``queue``. Raises ``BrokerUnavailable``."""
        deadline = self.deadline()
        self._publishers.run(deadline, lambda publisher: self._request(publisher, [queue], deadline))

    def wake_sender(self, user: str, number: int, *, countdown: float = 0.0) -> None:
        """Say that turn ``number`` of ``user`` waits in the outbox, now or in ``countdown`` seconds.

        For so long it waits in this process and is lost with it, and then rescue comes later; rescue
        comes for one that the full queue refuses, too. Raises ``BrokerUnavailable`` where it is said now.
        """
        if countdown > 0:
            self._later.call(countdown, user, partial(self._wake_or_leave, user, number))
            return
        with self._may_be_refused(SEND):
            self._commit(self._to_sender(SEND, (user, number), f"send.{key_of(user)}"))

    def _wake_or_leave(self, user: str, number: int) -> None:
        try:
            self.wake_sender(user, number)
        except BrokerUnavailable as err:
            log.warning("delivery.left_to_rescue", error=str(err))

    def mark_read(self, message: Message, *, at: float) -> None:
        """Have ``message`` marked as read, with a typing indicator while it is being answered: a courtesy.

        ``at`` is the time as Redis has it: it is soon done or never.
        It is written and not waited for, and may be lost with the broker. Raises
        ``BrokerUnavailable`` when it could not be written.
        """
        arguments = (message.user, message.id)
        address = replace(message, text="").to_dict()  # the text has no business in that queue
        wanted = self._to_sender(MARK_READ, arguments, f"send.{key_of(message.user)}", message=address, asked_at=at)
        self._publishers.run(wanted.deadline, lambda publisher: self._tell(publisher, wanted))

    def notify(self, message: Message, what: str, text: str, *, deadline: float | None = None) -> None:
        """Have the author of ``message`` told something that is no reply, unless the full queue refuses it.

        Raises ``BrokerUnavailable``.
        """
        address = replace(message, text="").to_dict()
        wanted = self._to_sender(
            NOTIFY, (message.user, what), f"send.{key_of(message.user)}", deadline=deadline,
            text=text, message=address,
        )  # fmt: skip
        with self._may_be_refused(NOTIFY):
            self._commit(wanted)

    def report(self, status: Status, *, deadline: float | None = None) -> None:
        """Pass on what became of a part we sent. Raises ``BrokerUnavailable``, for a full queue too."""
        self._commit(_report(status, self._until(deadline)))

    def report_all(self, statuses: Sequence[Status], *, deadline: float | None = None) -> None:
        """Pass statuses on, each as a message of its own, ``REPORTED_TOGETHER`` at a time.

        Raises ``BrokerUnavailable`` when one was not taken by the deadline.
        """
        until = self._until(deadline)
        for at in range(0, len(statuses), REPORTED_TOGETHER):
            group = [_report(status, until) for status in statuses[at : at + REPORTED_TOGETHER]]
            self._group_commit(group)
            for wanted in group:
                self._finish(wanted)

    def note_all(self, notices: Sequence[Notice], *, deadline: float | None = None) -> None:
        """Pass on what an operator must hear of, all together. Raises ``BrokerUnavailable``."""
        calls = [
            self._to_sender(NOTE, (notice.kind, notice.severity), "send.notice", deadline=deadline,
                            notice=notice.to_dict())
            for notice in notices
        ]  # fmt: skip
        if calls:
            self._group_commit(calls)
        for call in calls:
            self._finish(call)

    def bury(self, message: Message, reason: str, *, deadline: float | None = None) -> None:
        """Put ``message`` into the dead-letter queue with the reason. Raises ``BrokerUnavailable``."""
        until = self._until(deadline)
        headers = {"reason": reason[:500], "user": message.user}

        def publish(publisher: Publisher) -> None:
            where = {"exchange": topology.DEAD.name, "routing_key": topology.DEAD.name}
            self._publish_known(publisher, until, _call(message), **where, headers=headers)
            self._fill_level.look(publisher.channel)

        self._publishers.run(until, publish)

    def close(self) -> None:
        """Close every connection of this router."""
        self._publishers.close()

    def _to_sender(
        self, task: str, arguments: tuple[Any, ...], routing_key: str, *,
        deadline: float | None = None, **kwargs: Any,
    ) -> _Wanted:  # fmt: skip
        """Return the call of a sender's task."""
        call = Call(task, arguments, kwargs, shown=repr(arguments))
        return _Wanted(call, routing_key, self._until(deadline))

    def _until(self, deadline: float | None) -> float:
        return self.deadline() if deadline is None else min(deadline, self.deadline())

    @contextmanager
    def _may_be_refused(self, task: str) -> Iterator[None]:
        """Go on where the queue of the senders is full; say so once a minute."""
        try:
            yield
        except SendQueueFull:
            if time.monotonic() >= self._silent_until:
                self._silent_until = time.monotonic() + SILENT_SECONDS
                log.error("send.queue_full", task=task)

    # -- with what other threads want, then alone ------------------------------------

    def _commit(self, wanted: _Wanted) -> str:
        """Publish it and return its task's id once it is confirmed."""
        self._group_commit([wanted])
        return self._finish(wanted)

    def _group_commit(self, group: Sequence[_Wanted]) -> None:
        """Publish a group with what other threads want just now; what could not be is left without an id."""
        if not self._virtual:
            self._group.commit(group)

    def _write(self, groups: Sequence[Sequence[_Wanted]]) -> None:
        group = [wanted for group in groups for wanted in group]
        deadline = min(wanted.deadline for wanted in group)
        with suppress(BrokerUnavailable):  # each has time of its own left, or finds out by itself
            self._publishers.run(deadline, lambda publisher: self._publish_together(publisher, group, deadline))

    def _finish(self, wanted: _Wanted) -> str:
        """Return the task's id; what has none yet is published alone, whatever that takes."""
        if not wanted.task_id:
            as_it_is: set[str] = set()
            try:
                wanted.task_id = self._publishers.run(
                    wanted.deadline, lambda publisher: self._publish_alone(publisher, wanted, as_it_is)
                )
            except MessageNacked as err:  # a user's full queue has been told apart already
                raise SendQueueFull("the queue of the senders refused it: it is full") from err
        return wanted.task_id

    # -- on one connection ------------------------------------------------------

    def _publish_together(self, publisher: Publisher, group: Sequence[_Wanted], deadline: float) -> None:
        """Publish all before the first is confirmed, then look after all; those that no queue took get no id."""
        publisher.forget()
        given = {}
        with together(publisher.channel):
            for wanted in group:
                task_id = self._give(publisher, deadline, wanted.call, **wanted.where)
                given[publisher.number] = wanted, task_id
        publisher.settle(deadline)
        taken = []
        for number, (wanted, task_id) in given.items():
            wanted.returned = wanted.routing_key in publisher.returned
            if number not in publisher.nacked and not wanted.returned:
                taken.append((wanted, task_id))
        self._look(publisher, list({wanted.routing_key: None for wanted, _ in taken if wanted.to_user}), deadline)
        for wanted, task_id in taken:
            wanted.task_id = task_id

    def _tell(self, publisher: Publisher, wanted: _Wanted) -> None:
        """Publish, and do not wait for the broker; now and then for all at once, so that its answers are read."""
        self._give(publisher, wanted.deadline, wanted.call, mandatory=False, **wanted.where)
        if len(publisher.unconfirmed) >= UNREAD:
            publisher.settle(wanted.deadline)

    def _publish_alone(self, publisher: Publisher, wanted: _Wanted, as_it_is: set[str]) -> str:
        if not wanted.to_user:
            return self._publish_known(publisher, wanted.deadline, wanted.call, **wanted.where)
        queue, deadline = wanted.routing_key, wanted.deadline
        for _ in range(_TRIES):
            try:
                with self.exclusive:
                    if self._virtual:
                        self._open(publisher, queue, as_it_is)
                    if not wanted.returned:
                        task_id = self._publish(publisher, deadline, wanted.call, **wanted.where)
                        wanted.returned = bool(publisher.returned)
                    if not wanted.returned:
                        self._look(publisher, [queue], deadline)
                        return task_id
                # No such queue, or one that is being closed. That one must not be bound as it is:
                # it could still be deleted under a message, and declared anew by another publisher
                # before the look. So the message goes straight into it first. Either it is kept
                # now, because it is not empty, or it is gone and what is declared below is new.
                wanted.returned = False
                self._publish(publisher, deadline, wanted.call, queue=Queue(queue))
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

    def _is_full(self, publisher: Publisher, queue: str) -> bool:
        """Return whether a queue that refused a message had no room; some may have been taken out since."""
        waiting = int(publisher.channel.queue_declare(queue, passive=True).message_count)
        return bool(waiting >= self._queue_arguments.get("x-max-length", math.inf) / 2)

    def _open(self, publisher: Publisher, queue: str, as_it_is: set[str]) -> None:
        """Declare and bind a queue, without waiting: an error comes with the answer to the publish that follows."""
        arguments, existing = self._queue_arguments, queue in as_it_is
        declare_user_queue(publisher.channel, queue, arguments, as_it_is=existing, nowait=True)
        bind_user_queue(publisher.channel, queue, nowait=True)

    def _look(self, publisher: Publisher, queues: Sequence[str], deadline: float) -> None:
        """Make sure of messages that were confirmed: that their queues are there, and that somebody consumes each.

        A confirm alone is no proof. What reaches a queue whose process ends, because it is
        deleted or the broker shuts down in order, RabbitMQ confirms and loses. A queue that
        still answers after the confirm has the message; one that does not raises here, and
        the message is published once more. A worker is asked for only now: earlier, it could
        declare a lost queue anew, and the look would take that one for the old.
        """
        consumers = declare_user_queues(publisher.channel, queues, passive=True)
        self._request(publisher, [queue for queue, count in zip(queues, consumers, strict=True) if not count], deadline)

    def _request(self, publisher: Publisher, queues: Sequence[str], deadline: float) -> None:
        """Ask for a worker to consume each of these queues."""

        def publish() -> None:
            publisher.forget()
            for queue in queues:
                publisher.publish(
                    {"queue": queue},
                    exchange=topology.CHAT.name,
                    routing_key=topology.OPEN,
                    delivery_mode="persistent",
                    mandatory=True,
                )
            publisher.confirm(deadline)

        _taken(publisher, publish)

    def _publish_known(self, publisher: Publisher, deadline: float, call: Call, **where: Any) -> str:
        """Publish to a queue that is no user's, and is declared with each connection."""
        return _taken(publisher, lambda: self._publish(publisher, deadline, call, **where))

    def _publish(self, publisher: Publisher, deadline: float, call: Call, **where: Any) -> str:
        """Publish a call and return once the broker confirmed. Raises ``MessageNacked``."""
        publisher.forget()
        task_id = self._give(publisher, deadline, call, **where)
        publisher.confirm(deadline)
        return task_id

    def _give(
        self, publisher: Publisher, deadline: float, call: Call, *, mandatory: bool = True, **where: Any
    ) -> str:  # fmt: skip
        publisher.remaining(deadline)
        message = call.message(self._celery)
        self._celery.amqp.send_task_message(
            publisher, call.task, message, retry=False, delivery_mode="persistent", mandatory=mandatory,
            declare=(), **where,
        )  # fmt: skip
        return str(message.headers["id"])


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

    After an error, which closes the channel, each has to be declared by itself.
    """
    if not hasattr(channel, "send_method"):  # a virtual broker, which nothing travels to
        return [declare_user_queue(channel, queue, arguments or {}, as_it_is=passive) for queue in queues]
    with together(channel):
        for queue in queues:
            channel.send_method(
                spec.Queue.Declare, "BsbbbbbF", (0, queue, passive, True, False, False, False, arguments or {})
            )
    return [int(channel.wait(spec.Queue.DeclareOk, returns_tuple=True)[2]) for _ in queues]


def bind_user_queue(channel: Any, queue: str, *, nowait: bool = False) -> None:
    """Have what is published for a user routed to their queue. Only for a queue that nobody can be deleting."""
    channel.queue_bind(queue, exchange=topology.CHAT.name, routing_key=queue, nowait=nowait)


def _wanted(message: Message, deadline: float) -> _Wanted:
    return _Wanted(_call(message), topology.queue_name(message.user), deadline, to_user=True)


def _report(status: Status, deadline: float) -> _Wanted:
    arguments = (status.message_id, status.status)
    return _Wanted(Call(REPORT, arguments, {"status": status.to_dict()}, shown=repr(arguments)), _STATUS, deadline)


def _call(message: Message) -> Call:
    """Return what answers a message; its text is shown nowhere."""
    envelope = message.to_dict()
    user, text = envelope.pop("user"), envelope.pop("text")
    return Call(ANSWER, (user, text), envelope, shown=repr((user, message.id, len(text))))


def _taken(publisher: Publisher, publish: Callable[[], T]) -> T:
    """Publish to a queue that is no user's; where it is gone, declare it and publish once more."""
    published = publish()
    if publisher.returned:
        publisher.declare_known()
        published = publish()
    if publisher.returned:
        raise OperationalError(f"no queue takes {publisher.returned}")
    return published
