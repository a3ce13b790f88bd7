"""Stage 3, worker side: consume a user's queue when somebody asks for it.

In come requests from ``chat.open``; each stays unacknowledged for as long as this
worker serves the user. It is the worker's *lease*: when the worker or its connection
is gone, the broker hands the request to another worker, which subscribes at once. No
registry, lock or timer decides who serves whom.

Promises: one message of a user in flight in the whole cluster, in order (the queue's
single active consumer, prefetch 1 per consumer, acks late); a session is closed only
while none of its messages is here, and its queue only while empty and unused. A message
that is given back pauses here, holding no thread; the pause grows each time. One that waits for
a thread waits here too, and is asked for anew before the broker loses patience with it.
A worker that has more than its share of the sessions hands some on.

An idle consumer leaves its queue *in order*: a message of our own goes through the queue
first, and with that one filling its prefetch the consumer is cancelled. Cancelled as it is,
it could be handed a message at that very moment, and the next worker the one behind it.

Everything below runs on the thread of the worker's event loop.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog
from amqp.exceptions import NotFound, PreconditionFailed
from celery import bootsteps
from celery.worker import state
from celery.worker.control import control_command, inspect_command
from kombu.serialization import prepare_accept_content

from chatbot import extras
from chatbot.broker import topology
from chatbot.broker.router import bind_user_queue, declare_user_queue, declare_user_queues
from chatbot.sessions.steps import SLICE, Steps

if TYPE_CHECKING:
    from chatbot.store.presence import Process

log = structlog.get_logger(__name__)

#: RabbitMQ closes the channel of a delivery that is not acknowledged for 30 minutes
#: (``consumer_timeout``), so a lease is handed back to ``chat.open`` well before, as soon
#: as no turn is under way. A turn that outlasts even that has its channel closed: leases are
#: handed out anew, and messages delivered again wait for the runs that live.
#: Handing back also spreads sessions over workers that joined since.
LEASE_SECONDS = 300.0
TICK_SECONDS = 1.0
#: The first and the longest pause of a message that was given back, and how it grows, before jitter.
#: Whoever waits for a run to be known to be gone (``presence.ALIVE_SECONDS``) asks soon after it is.
PUT_BACK_SECONDS, PUT_BACK_GROWTH = (1.0, 15.0), 1.4
#: Messages in the hands of Celery's pool, for each of its threads; others wait here for their turn.
HANDED_PER_THREAD = 2
#: A message that waited here for a thread this long is given back and comes again at once: RabbitMQ
#: gives 30 minutes from its delivery to its acknowledgement, and the turn itself needs some of them.
THREAD_SECONDS = 600.0
#: A worker with this much more than its share of the sessions hands on what is more than its share.
#: It looks so often: what it hands on is counted by the others only a little later.
SHARE_SLACK, SHARE_SESSIONS, SHARE_SECONDS = 1.25, 5, 6.0
#: A session whose own message to leave does not come back within this long is no longer the
#: one its queue delivers to: it leaves without.
LEAVE_SECONDS = 30.0
#: How a worker knows its message to leave among those of people.
LEAVE = "chatbot.leave"


@dataclass(slots=True)
class _Leaving:
    """A session that waits for its own message before it stops consuming; ``then`` goes on from there."""

    token: str
    asked_at: float
    idle_since: float
    then: Callable[[Session, Any], None]


@dataclass(slots=True)
class Session:
    """A user being served here. ``amqp_channel`` is shared on AMQP, its own on a virtual broker."""

    queue: str
    lease: Any
    leased_at: float
    active_at: float
    amqp_channel: Any = None
    delivery: Any = None
    put_backs: int = 0  # in a row
    handed: bool = False  # its message is in the hands of the pool
    waits_since: float | None = None  # for a thread
    came_again: bool = False  # what comes next waited before
    pausing: Any = None  # the timer of a message that was given back
    leaving: _Leaving | None = None
    closing: bool = False  # no longer consumed here, its queue is about to be deleted

    def is_busy(self) -> bool:
        """Whether a message of this user is being handled here."""
        return self.delivery is not None and not self.delivery.acknowledged


class Subscriptions(bootsteps.StartStopStep):
    """The consumers of user queues, in workers that were started with ``-Q chat.open``."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        self.sessions: dict[str, Session] = {}
        self._waiting: deque[Session] = deque()  # for a thread
        self._handed, self._most_handed = 0, math.inf
        consumer.subscriptions = None

    def include_if(self, consumer: Any) -> bool:
        """Serve chats only where ``chat.open`` is among the queues to consume.

        They hold requests, not tasks: Celery's own consumer must leave them alone.
        """
        queues = consumer.app.amqp.queues
        asked = topology.OPEN in queues.consume_from
        queues.deselect(topology.OPEN)
        if asked:
            extras.exit_without("agent")  # said before the broker is asked for anything
        return asked

    def start(self, consumer: Any) -> None:
        """Begin to take sessions. After a lost connection the leases come back by themselves."""
        bot = consumer.app.chatbot
        bot.warm_up()
        self._consumer = consumer
        self._arguments = bot.queue_arguments
        self._router = bot.router
        self._connection = consumer.connection
        self._virtual = consumer.connection.transport.driver_type == "memory"
        self._handle = consumer.create_task_handler()
        self._accept = prepare_accept_content(consumer.app.conf.accept_content)
        self._steps = Steps(self._later, tuple(consumer.channel_errors))
        self._stopping = False
        self.sessions = {}
        self._asked: deque[Any] = deque()
        self._presence = bot.presence
        self._most_handed = float(HANDED_PER_THREAD * consumer.pool.limit)
        self._handed = 0
        self._waiting = deque()
        self._shared_at = time.monotonic()
        self._amqp_channel: Any = None
        self._admin = consumer.connection.channel()
        topology.OPEN_QUEUE.bind(self._admin).declare()
        bot.dead_queue.bind(self._admin).declare()
        self._requests = consumer.connection.channel()
        # The lease is a delivery, so the prefetch count is the cap on live sessions: a
        # worker that has its fill leaves new users to others.
        self._most_sessions = bot.settings.max_sessions
        self._requests.basic_qos(0, self._most_sessions, False)
        self._take_sessions()
        consumer.subscriptions = self
        self._timer = consumer.timer.call_repeatedly(TICK_SECONDS, self._tick)

    def stop(self, consumer: Any) -> None:
        """Hand every session over, each as soon as nothing of it is under way here.

        Returns once the turns under way are done.
        """
        if consumer.subscriptions is None:
            return
        consumer.subscriptions = None
        self._timer.cancel()
        self._stopping = True
        if consumer.blueprint.state == bootsteps.RUN:
            self._forget_all()
            return  # the connection is lost, and the leases with it
        try:
            self._requests.basic_cancel("open")
            for lease in self._asked:
                lease.requeue()
            sessions = list(self.sessions.values())
            for session in sessions:
                if session.pausing or session.waits_since is not None:
                    if session.pausing:
                        session.pausing.cancel()
                    session.waits_since = None
                    self._settle(session, session.delivery.requeue, gives_back=True)
                elif session.closing:
                    self._hand_over(session)
                elif not session.is_busy():
                    self._leave(session, math.inf, self._give_up)
            self._finish_turns(consumer.hub)
            log.info("sessions.handed_over", sessions=len(sessions))
        except (*consumer.connection_errors, *consumer.channel_errors) as err:
            log.warning("sessions.handover_failed", error=repr(err))

    def _forget_all(self) -> None:
        self._steps.close()
        for session in self.sessions.values():
            session.handed = False  # the pool of the next connection counts anew
            if session.pausing:
                session.pausing.cancel()
        self.sessions = {}

    def _finish_turns(self, hub: Any) -> None:
        """Run the event loop until the turns under way have ended and the idle consumers have left.

        A busy user stays subscribed until then, because the next worker would begin the
        next message beside the turn; nobody waits for the turns of others.
        """
        if hub is None:
            return  # a virtual broker ends with its process
        loop = hub.create_loop()
        until = time.monotonic() + LEAVE_SECONDS
        while not state.should_terminate and any(
            session.is_busy() or (session.leaving and time.monotonic() < until) for session in self.sessions.values()
        ):
            next(loop)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if self._consumer.hub is None:  # a virtual broker, where nothing is added for later
            self._consumer.call_soon(call)
        else:
            # Not hub.call_soon: what that is given by a callback of its own waits for the
            # next event or for a second. Due timers are looked at before every wait.
            self._consumer.hub.call_later(seconds, call)

    def _take_sessions(self) -> None:
        if self._stopping:
            return
        self._requests.basic_consume(topology.OPEN, no_ack=False, callback=self._on_request, consumer_tag="open")

    # -- opening ----------------------------------------------------------------

    def _on_request(self, raw: Any) -> None:
        self._asked.append(self._requests.message_to_python(raw))
        if len(self._asked) == 1:
            self._steps.add(self._subscribe_asked)

    def _subscribe_asked(self) -> None:
        """Take a slice of the requests together: thousands come at once when a worker or the broker was away."""
        if self._stopping:
            return
        leases = [self._asked.popleft() for _ in range(min(SLICE, len(self._asked)))]
        if self._asked:
            self._steps.add(self._subscribe_asked)
        requests = [(lease, queue) for lease in leases if (queue := self._requested(lease))]
        consumers = self._declare([queue for _, queue in requests])
        opened = [
            session
            for (lease, queue), number in zip(requests, consumers, strict=True)
            if (session := self._subscribe(lease, queue, served=number > 0))
        ]
        for session in opened:
            # Bound only now that its consumer keeps it: what is routed to a queue that another
            # worker is deleting would be lost. The last answer stands for all: errors come before it.
            bind_user_queue(session.amqp_channel, session.queue, nowait=session is not opened[-1])

    def _requested(self, lease: Any) -> str:
        """Return the queue that a request names; reject what is no request of ours and return nothing."""
        try:
            lease.accept = self._accept
            queue = str(lease.payload["queue"])
            topology.user_of(queue)
        except Exception as err:  # noqa: BLE001  # whatever was published there
            log.error("session.request_unreadable", error=repr(err))
            lease.reject()
            return ""
        return queue

    def _subscribe(self, lease: Any, queue: str, *, served: bool) -> Session | None:
        """Serve a user from now on, unless somebody does already."""
        if queue in self.sessions or (served and not lease.delivery_info.get("redelivered")):
            # Two publishers asked at once. A lease that somebody let go of or lost comes
            # *re*delivered, and is taken even where its last holder still ends a turn.
            lease.ack()
            return None
        now = time.monotonic()
        session = Session(queue, lease, leased_at=now, active_at=now)
        self.sessions[queue] = session
        self._consume(session)
        return session

    def _declare(self, queues: list[str]) -> list[int]:
        """Declare users' queues; return how many consume each."""
        try:
            return declare_user_queues(self._admin, queues, self._arguments)
        except PreconditionFailed:
            self._admin = self._connection.channel()
            return [self._declare_one(queue) for queue in queues]

    def _declare_one(self, queue: str) -> int:
        try:
            return declare_user_queue(self._admin, queue, self._arguments)
        except PreconditionFailed:  # settings changed while it was live
            self._admin = self._connection.channel()
            return declare_user_queue(self._admin, queue, self._arguments, as_it_is=True)

    def _consume(self, session: Session) -> None:
        session.amqp_channel = self._channel_for_users()
        session.amqp_channel.basic_consume(
            session.queue,
            no_ack=False,
            consumer_tag=session.queue,
            callback=lambda raw: self._on_delivery(session, raw),
            nowait=True,
        )

    def _channel_for_users(self) -> Any:
        # Prefetch 1 *per consumer* on AMQP; a virtual broker counts per channel.
        if self._amqp_channel is None or self._virtual:
            self._amqp_channel = self._connection.channel()
            self._amqp_channel.basic_qos(0, 1, False)
        return self._amqp_channel

    def _on_delivery(self, session: Session, raw: Any) -> None:
        message = session.amqp_channel.message_to_python(raw)
        if message.properties.get("type") == LEAVE:
            self._steps.add(partial(self._on_leave, session, message))
            return
        message.accept = self._accept
        message.ack_log_error = partial(self._acknowledge, session, message)
        message.reject_log_error = partial(self._reject, session, message)
        session.delivery = message
        session.active_at = time.monotonic()
        session.waits_since = session.active_at
        if session.came_again:
            session.came_again = False
            self._waiting.appendleft(session)
        else:
            self._waiting.append(session)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give messages that wait for a thread to the pool, oldest first, as far as it has any soon."""
        while self._waiting and self._handed < self._most_handed:
            session = self._waiting.popleft()
            if session.waits_since is None:
                continue  # given back meanwhile
            session.waits_since = None
            session.handed = True
            self._handed += 1
            self._handle(session.delivery)

    def _taken_back(self, session: Session) -> None:
        """Count that the pool is done with a session's message."""
        if session.handed:
            session.handed = False
            self._handed -= 1
            if self._waiting:
                self._steps.add(self._hand_out)

    def _ask_anew(self, now: float) -> None:
        """Have the broker deliver anew what has waited for a thread for long: it counts from the delivery."""
        while self._waiting and (self._waiting[0].waits_since or now) < now - THREAD_SECONDS:
            session = self._waiting.popleft()
            if session.waits_since is None:
                continue
            session.waits_since = None
            session.came_again = True
            session.delivery.requeue()  # the only one in hand, so it is the next again

    def _acknowledge(self, session: Session, message: Any, *arguments: Any) -> None:
        self._taken_back(session)
        session.put_backs = 0
        self._settle(session, partial(_own(message).ack_log_error, *arguments))

    def _reject(
        self, session: Session, message: Any, logger: Any, errors: Any,
        requeue: bool = False,  # noqa: FBT001, FBT002  # as kombu calls it
    ) -> None:  # fmt: skip
        self._taken_back(session)
        reject = partial(_own(message).reject_log_error, logger, errors, requeue)
        if self._stopping or not requeue:
            self._settle(session, reject, gives_back=requeue)
        else:
            first, longest = PUT_BACK_SECONDS
            pause = random.uniform(0.5, 1.0) * min(first * PUT_BACK_GROWTH**session.put_backs, longest)  # noqa: S311  # jitter
            session.put_backs = min(session.put_backs + 1, 20)
            session.pausing = self._consumer.timer.call_after(pause, self._put_back, (session, reject))

    def _put_back(self, session: Session, reject: Callable[[], None]) -> None:
        session.pausing = None
        if self.sessions.get(session.queue) is session:
            self._settle(session, reject, gives_back=True)

    def _settle(self, session: Session, settle: Callable[[], None], *, gives_back: bool = False) -> None:
        """Have the broker told what became of a message; leave its queue first where it is time to."""
        if self.sessions.get(session.queue) is not session or not (self._stopping or self._is_overdue(session)):
            settle()
            return
        if gives_back and not self._virtual and self._consumers(session.queue) != 1:
            # Another worker waits behind this one, and would be handed the next message before this
            # one is back. Only the end of the channel does both at once.
            if self._stopping:
                self._forget(session)
            else:
                settle()
            return
        # Before the acknowledgement, while the finished message still fills the prefetch:
        # the other way round the next one would come here, and while it went back the
        # next worker would begin the one behind it.
        served = self._step_down(session)
        settle()
        self._hand_over(session, served=served)

    def _is_overdue(self, session: Session) -> bool:
        return not self._virtual and time.monotonic() - session.leased_at > LEASE_SECONDS

    # -- closing ----------------------------------------------------------------

    def close_idle(self, idle_timeout: float) -> int:
        """Close every session without activity for that many seconds; return how many."""
        limit = time.monotonic() - idle_timeout
        idle = [s for s in self.sessions.values() if s.active_at <= limit and self._is_idle(s)]
        for session in idle:
            self._steps.add(partial(self._close, session, limit))
        return len(idle)

    def _close(self, session: Session, limit: float) -> None:
        if session.active_at > limit or not self._is_idle(session):
            return
        with self._router.exclusive:
            self._leave(session, limit, self._unbind)

    def _leave(self, session: Session, idle_since: float, then: Callable[[Session, Any], None]) -> None:
        """Stop consuming once our own message is here, unless somebody wrote after ``idle_since``."""
        if self._virtual or (session.leaving and not self._is_leaving(session)):
            # One process, or a queue that delivers to another worker: nothing comes here meanwhile.
            session.leaving = None
            if not self._let_go(session):
                return
            if not self._virtual and self._consumers(session.queue) != 0:
                self._hand_over(session, served=True)
            else:
                then(session, None)
            return
        token = session.leaving.token if session.leaving else uuid4().hex
        if session.leaving is None:
            properties = {"type": LEAVE, "delivery_mode": 1, "message_id": token}
            self._admin.basic_publish(
                self._admin.prepare_message(b"", properties=properties), exchange="", routing_key=session.queue
            )
        session.leaving = _Leaving(token, time.monotonic(), idle_since, then)

    def _is_leaving(self, session: Session) -> bool:
        return session.leaving is not None and time.monotonic() - session.leaving.asked_at < LEAVE_SECONDS

    def _on_leave(self, session: Session, ours: Any) -> None:
        leaving = session.leaving
        if (
            leaving is None
            or ours.properties.get("message_id") != leaving.token
            or self.sessions.get(session.queue) is not session
        ):
            ours.ack()  # left over from a session that is gone
            return
        session.leaving = None
        if session.active_at > leaving.idle_since:
            ours.ack()
        elif self._step_down(session):
            ours.ack()
            self._hand_over(session, served=True)
        else:
            leaving.then(session, ours)

    def _step_down(self, session: Session) -> bool:
        """Stop consuming; return whether another worker consumes that queue, too.

        RabbitMQ 3.10 and 3.11 (rabbitmq-server#5460) make the next consumer the active one, but
        deliver nothing to it, and the next message that is published ends the queue's process.
        Whenever a consumer comes they do deliver, so one comes, and goes. Two workers consume
        only where two publishers asked at once: a lease is handed on after the cancelling.
        """
        session.amqp_channel.basic_cancel(session.queue)
        others = 0 if self._virtual else self._consumers(session.queue)
        if others:
            session.amqp_channel.basic_consume(session.queue, consumer_tag=f"{session.queue} again")
            session.amqp_channel.basic_cancel(f"{session.queue} again")
        return others != 0

    def _unbind(self, session: Session, ours: Any) -> None:
        """From here on a message comes back to its publisher, which opens the session anew."""
        session.closing = True
        if self._virtual:
            self._end(session, ours)
            return
        self._admin.queue_unbind(session.queue, exchange=topology.CHAT.name, routing_key=session.queue)
        self._steps.add_later(topology.UNBOUND_SECONDS, partial(self._end, session, ours))

    def _end(self, session: Session, ours: Any) -> None:
        """Delete the queue of a session that is no longer consumed; open it again if it is in use."""
        if self._stopping or self.sessions.get(session.queue) is not session:
            return
        deleted = self._delete(session.queue)
        if ours:
            ours.ack()
        # If it is not, a message slipped in: begin anew, wherever that is.
        self._hand_over(session, served=deleted or self._consumers(session.queue) != 0)
        if deleted:
            log.info("session.closed", sessions=len(self.sessions))

    def _is_idle(self, session: Session) -> bool:
        return (
            not self._stopping
            and not session.closing
            and not self._is_leaving(session)
            and not session.is_busy()
            and self.sessions.get(session.queue) is session
        )

    def _let_go(self, session: Session) -> bool:
        """Stop consuming; return ``False`` if a message was delivered while we did."""
        session.amqp_channel.basic_cancel(session.queue)
        if not session.is_busy():
            return True
        self._resume(session)
        return False

    def _delete(self, queue: str) -> bool:
        try:
            if self._virtual and self._admin.queue_declare(queue, passive=True).message_count:
                return False
            self._admin.queue_delete(queue, if_unused=True, if_empty=True)
        except PreconditionFailed:
            self._admin = self._connection.channel()
            return False
        except NotFound:
            self._admin = self._connection.channel()
        return True

    def _consumers(self, queue: str) -> int | None:
        """Return how many consume a queue; ``None`` when another worker has deleted it."""
        try:
            return int(self._admin.queue_declare(queue, passive=True).consumer_count)
        except NotFound:
            self._admin = self._connection.channel()
            return None

    def _hand_over(self, session: Session, *, served: bool = False) -> None:
        """Let go of a session that is not consumed here any more, for whichever worker asks first.

        Who else serves it has a lease of their own. Giving them ours as well would keep two
        workers handing one session to and fro.
        """
        self._forget(session)
        if served:
            session.lease.ack()
        else:
            session.lease.requeue()

    def _forget(self, session: Session) -> None:
        self.sessions.pop(session.queue, None)
        if self._virtual:
            session.amqp_channel.close()

    def _resume(self, session: Session) -> None:
        """Consume again once the turn under way has ended."""
        if self._is_idle(session):
            self._consume(session)
        elif session.is_busy():
            self._consumer.timer.call_after(0.2, self._steps.add, (partial(self._resume, session),))

    # -- as time goes by --------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        for session in list(self.sessions.values()):
            if session.delivery is not None and session.delivery.acknowledged:
                session.delivery = None
                session.active_at = now
            elif self._is_overdue(session) and not session.is_busy():
                self._steps.add(partial(self._renew, session))
        if len(self.sessions) >= self._most_sessions:
            self._steps.add(self._make_room)
        self._ask_anew(now)
        self._presence.told["sessions"] = len(self.sessions)
        if now - self._shared_at > SHARE_SECONDS:
            self._shared_at = now
            self._steps.add(self._share)

    def _share(self) -> None:
        """Hand on the sessions that are more than this worker's share, each as soon as it can be let go in order."""
        excess = excess_sessions(self._presence.id, len(self.sessions), self._presence.peers)
        if not excess:
            return
        log.info("sessions.shared", sessions=len(self.sessions), handed_on=excess)
        self._requests.basic_cancel("open")  # or they would come back here
        self._later(SHARE_SECONDS / 2, partial(self._steps.add, self._take_sessions))
        for session in sorted(self.sessions.values(), key=lambda session: session.active_at)[:excess]:
            session.leased_at = -math.inf  # overdue: the next tick, or the end of its turn, lets it go

    def _renew(self, session: Session) -> None:
        if self._is_idle(session):
            self._leave(session, session.active_at, self._give_up)

    def _give_up(self, session: Session, ours: Any) -> None:
        if ours:
            ours.ack()
        self._hand_over(session)

    def _make_room(self) -> None:
        """Close the least recently active sessions for users no worker has had room for."""
        waiting = self._admin.queue_declare(topology.OPEN, passive=True).message_count
        idle = sorted((s for s in self.sessions.values() if self._is_idle(s)), key=lambda s: s.active_at)
        closing = sum(session.closing or self._is_leaving(session) for session in self.sessions.values())
        for session in idle[: max(0, waiting - closing)]:
            self._close(session, session.active_at)


def excess_sessions(own: str, sessions: int, peers: Sequence[Process]) -> int:
    """Return how many of its ``sessions`` the worker ``own`` has beyond its share among the workers that live.

    0 where it is not much more, or nobody else is there.
    """
    mine = next((peer for peer in peers if peer.id == own), None)
    if mine is None:
        return 0
    others = [
        peer.sessions
        for peer in peers
        if peer.id != own and peer.lives and "worker" in peer.kind and peer.broker == mine.broker
    ]
    share = math.ceil((sessions + sum(others)) / (len(others) + 1))
    return sessions - share if others and sessions > share * SHARE_SLACK + SHARE_SESSIONS else 0


def _own(message: Any) -> Any:
    """Return ``message`` with kombu's own methods again: with ours it holds itself, until a collection finds it."""
    for name in ("ack_log_error", "reject_log_error"):
        vars(message).pop(name, None)
    return message


@control_command(args=[("idle_timeout", float)])
def close_idle_sessions(panel: Any, idle_timeout: float) -> dict[str, int]:
    """Close the sessions of this worker that had no activity for ``idle_timeout`` seconds."""
    subscriptions = getattr(panel.consumer, "subscriptions", None)
    return {"closing": subscriptions.close_idle(float(idle_timeout)) if subscriptions else 0}


@inspect_command()
def live_sessions(panel: Any) -> dict[str, Any]:
    """List the users this worker serves, with the seconds since their last activity."""
    subscriptions = getattr(panel.consumer, "subscriptions", None)
    if subscriptions is None:
        return {}
    now = time.monotonic()
    return {
        topology.user_of(s.queue): {"idle": round(now - s.active_at, 1), "busy": s.is_busy()}
        for s in subscriptions.sessions.values()
    }
