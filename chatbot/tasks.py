"""What Celery calls: each task translates its arguments and lets a stage do the work.

The names are a wire format; ``broker/router.py`` publishes them.
"""

from __future__ import annotations

import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from celery import Task, shared_task
from celery.exceptions import Reject

from chatbot.broker.router import ANSWER, MARK_READ, NOTE, NOTIFY, REPORT, SEND
from chatbot.errors import Discard, Permanent, Transient
from chatbot.messages import Message, Notice, Status

if TYPE_CHECKING:
    from chatbot.broker.router import Router
    from chatbot.broker.sharding import ShardedRouter
    from chatbot.conversation.turn import Conversation
    from chatbot.delivery.sender import Delivery
    from chatbot.sessions.housekeeping import Sessions
    from chatbot.store.notices import Notices
    from chatbot.store.presence import Redeliveries
    from chatbot.store.store import Store

log = structlog.get_logger(__name__)

#: How long ``chat`` waits for a reply.
WAIT_SECONDS = 120.0
#: A task that ended so many processes is not run again.
MOST_ENDED = 3


class Parts(Protocol):
    """What tasks let do the work; ``Chatbot`` has it."""

    @property
    def router(self) -> Router | ShardedRouter:
        """Publishes."""

    @property
    def redeliveries(self) -> Redeliveries:
        """Counts the processes that ended under one task."""

    @property
    def conversation(self) -> Conversation:
        """Takes turns."""

    @property
    def delivery(self) -> Delivery:
        """Delivers replies."""

    @property
    def sessions(self) -> Sessions:
        """Closes and rescues sessions."""

    @property
    def notices(self) -> Notices:
        """Keeps what providers told."""

    @property
    def store(self) -> Store:
        """Keeps conversations."""


class BotTask(Task):
    """A task that knows its chatbot and treats errors as they ask for."""

    abstract = True
    #: Seconds before a message goes back to its queue: what it needs is away, and it returns at once.
    put_back_pause = 2.0

    @property
    def bot(self) -> Parts:
        """The chatbot this process was built with."""
        return self.app.chatbot  # type: ignore[no-any-return]  # celery ships no types

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task: ``Transient`` puts the message back, ``Discard`` uses it up.

        One that ended its process ``MOST_ENDED`` times goes to the dead letters, where its queue has any.
        """
        with structlog.contextvars.bound_contextvars(task=self.name, task_id=self.request.id):
            try:
                with self._redelivery() as ended:
                    if ended >= MOST_ENDED:
                        log.error("task.ends_its_process", ended=ended)
                        raise Reject(f"it ended its process {ended} times", requeue=False)
                    return super().__call__(*args, **kwargs)
            except Transient as err:
                log.warning("task.put_back", error=str(err))
                time.sleep(self.put_back_pause)
                raise Reject(str(err), requeue=True) from err
            except Discard as err:
                log.info("task.discarded", reason=str(err))
                return None

    def _redelivery(self) -> AbstractContextManager[int]:
        """Count the processes that ended under this message, where it was delivered before."""
        delivered = self.request.delivery_info or {}
        return self.bot.redeliveries.counted(self.request.id) if delivered.get("redelivered") else nullcontext(0)


class Routed(BotTask):
    """A task whose queue is its user's: however it is called, it goes through the router."""

    abstract = True
    put_back_pause = 0.0  # its session pauses, and no thread with it (``sessions/bootstep.py``)

    def _redelivery(self) -> AbstractContextManager[int]:
        """Count nothing: a turn counts its own runs, and its author is told (``conversation/turn.py``)."""
        return nullcontext(0)

    def apply_async(self, args: Any = None, kwargs: Any = None, **_: Any) -> Any:
        """Route ``(user, text)`` to that user's queue. Raises what ``Router.route`` raises."""
        values = dict(zip(("user", "text"), args or (), strict=False)) | (kwargs or {})
        values.setdefault("id", f"shell.{uuid.uuid4().hex}")
        values.setdefault("sent_at", time.time())
        return self.bot.router.route(Message.from_dict(values))


@shared_task(name=ANSWER, base=Routed, bind=True)
def answer(self: Routed, user: str, text: str, **envelope: Any) -> None:
    """Take the turn of one message."""
    envelope.setdefault("id", self.request.id)
    self.bot.conversation.answer(Message.from_dict({"user": user, "text": text, **envelope}))


@shared_task(name=SEND, base=BotTask, bind=True)
def send(self: BotTask, user: str, number: int = 0) -> int:  # noqa: ARG001  # shown in Flower
    """Deliver what waits for a user, up to turn ``number`` and beyond; return how many turns."""
    return self.bot.delivery.deliver(user)


@shared_task(name=MARK_READ, base=BotTask, bind=True, acks_late=False)
def mark_read(
    self: BotTask, user: str, message_id: str, message: dict[str, Any], asked_at: float  # noqa: ARG001
) -> None:  # fmt: skip
    """Mark a message as read and show typing: a courtesy, never tried again, and soon or never."""
    try:
        self.bot.delivery.mark_read(Message.from_dict(message), asked_at=asked_at)
    except (Transient, Permanent) as err:
        raise Discard(f"not marked as read: {err}") from err


@shared_task(name=NOTIFY, base=BotTask, bind=True, acks_late=False)
def notify(self: BotTask, user: str, what: str, text: str, message: dict[str, Any]) -> bool:  # noqa: ARG001
    """Tell a user something that is no reply: once, and never tried again."""
    try:
        return self.bot.delivery.notify(Message.from_dict(message), what, text)
    except (Transient, Permanent) as err:
        raise Discard(f"not told: {err}") from err


@shared_task(name=REPORT, base=BotTask, bind=True)
def report(self: BotTask, message_id: str, status_name: str, status: dict[str, Any]) -> None:  # noqa: ARG001
    """Settle a send in doubt by the provider's own word, and wake the sender for what waits behind it.

    It delivers nothing itself: come back after a crash, it would find the part settled,
    and leave alone an outbox it had claimed.
    """
    user = self.bot.delivery.report(Status.from_dict(status))
    if user is not None:
        self.bot.router.wake_sender(user, 0)


@shared_task(name=NOTE, base=BotTask, bind=True)
def note(self: BotTask, kind: str, severity: str, notice: dict[str, Any]) -> None:  # noqa: ARG001
    """Keep what an operator must hear of, and say so in the log."""
    self.bot.notices.keep(Notice.from_dict(notice))


# Used up when they start: one that ends its worker is not begun again, the next beat asks anew.
@shared_task(name="chatbot.close_idle_sessions", base=BotTask, bind=True, acks_late=False)
def close_idle_sessions(self: BotTask) -> None:
    """Close the sessions nobody used for a while. The next beat tries again."""
    try:
        self.bot.sessions.close_idle()
    except Transient as err:
        raise Discard(f"nothing closed: {err}") from err


@shared_task(name="chatbot.rescue_sessions", base=BotTask, bind=True, acks_late=False)
def rescue_sessions(self: BotTask) -> dict[str, int]:
    """Open again what lost its worker; deliver what is overdue. The next beat tries again."""
    try:
        return self.bot.sessions.rescue()
    except Transient as err:
        raise Discard(f"nothing rescued: {err}") from err


# -- for developers: called like functions from a shell, they run right there (``celery -A chatbot shell``) --


@shared_task(name="chatbot.chat", bind=True)
def chat(self: Any, user: str, text: str, *, timeout: float = WAIT_SECONDS) -> str:
    """Say ``text`` as ``user`` and return the reply.

    The message travels like any other, through the user's queue and conversation; only
    the channel is this shell. Raises ``TimeoutError`` after ``timeout`` seconds, and
    what ``Router.route`` raises.
    """
    bot = self.app.chatbot
    message = Message(user=user, id=f"shell.{uuid.uuid4().hex}", text=text, sent_at=time.time())
    bot.router.route(message)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        turn = bot.store.turn_of(message)
        if turn is not None:
            return str(turn.reply)
        time.sleep(0.02)
    raise TimeoutError(f"no reply within {timeout:g} s: is a worker running (-Q chat.open)?")


@shared_task(name="chatbot.sessions", bind=True)
def sessions(self: Any) -> dict[str, dict[str, object]]:
    """Return who is being served right now: user → worker, seconds idle, busy."""
    live: dict[str, dict[str, object]] = self.app.chatbot.sessions.live()
    return live


@shared_task(name="chatbot.counts", bind=True)
def counts(self: Any) -> dict[str, int]:
    """Return how often each thing happened that should stay rare (docs/operate.md, "Counts")."""
    counted: dict[str, int] = self.app.chatbot.store.counts()
    return counted


@shared_task(name="chatbot.history", bind=True)
def history(self: Any, user: str) -> list[tuple[str, str]]:
    """Return what ``user`` said and heard, oldest first."""
    return [(turn.message.text, turn.reply) for turn in self.app.chatbot.store.history(user)]
