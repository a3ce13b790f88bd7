"""Stage 4: one turn. Claim, read the past, ask the agent, commit, hand the reply over.

In comes a ``Message``, out goes a committed ``Turn`` and a wake-up for the sender. A file
that came with it is read first (``media.py``), and the turn keeps the words it held.
Promises: one message, one turn, one reply (a message that already has its turn only
hands its reply over again); one person, one conversation (what comes in under a name that
leads to another one is forwarded there, in order; who moves takes the conversation along);
a run that was overtaken commits nothing; whoever cannot be answered hears an apology, and
the message is kept as a dead letter with the reason; while the model is down messages wait
in their queues, and each user is told so once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeVar
from uuid import uuid4

import structlog

from chatbot import language
from chatbot.breaker import Breaker
from chatbot.errors import CircuitOpen, Permanent, QueueFull, StaleTurn, Transient
from chatbot.media import Reading
from chatbot.messages import Message, Turn
from chatbot.retry import in_place
from chatbot.store import Begun, Moved, Store
from chatbot.typing_indicator import TypingIndicator

log = structlog.get_logger(__name__)

#: A message that took its worker down this often is not tried again. The last time it runs
#: alone: whatever else was in flight beside it is no suspect.
MAX_ATTEMPTS = 3
#: Redis or the broker may be away this long before the message goes back to its queue. All
#: waits of a turn together stay below RabbitMQ's ``consumer_timeout`` of 30 minutes.
PATIENCE_SECONDS = 120.0
#: A run that stopped without a word keeps other messages of its user waiting this long at
#: most. Its own message, delivered again, need not wait. Longer than any turn.
CLAIM_SECONDS = 1500.0
#: A file is fetched and read this often at most. One try takes about 3 minutes at the longest
#: (``media.py``), so a turn stays below ``CLAIM_SECONDS`` with the slowest settings.
READ_TRIES = 2
#: Typing is shown anew this often: WhatsApp shows it for 25 s.
TYPING_SECONDS = 20.0

#: Characters of a quoted message that are given as context.
LONGEST_QUOTE = 500

T = TypeVar("T")


class Agent(Protocol):
    """Whatever can answer a message: CrewAI in production, a few lines in a test."""

    def reply(self, message: Message, history: Sequence[Turn], image: str = "") -> str:
        """Return the answer. Raises ``Transient`` or ``Permanent``.

        ``image``, a data URL, is given only where ``read`` found one.
        """


class Outbound(Protocol):
    """Where a turn's consequences are published (``Router``)."""

    def route(self, message: Message) -> object: ...
    def wake_sender(self, user: str, number: int) -> None: ...
    def mark_read(self, message: Message) -> None: ...
    def bury(self, message: Message, reason: str) -> None: ...
    def notify(self, message: Message, what: str, text: str) -> None: ...


class _Floor:
    """Turns share it; a suspect has it alone. A suspect that waits lets no new turn begin."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shared = 0
        self._waiting = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._alone and not self._shared)
            self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class Conversation:
    """Takes turns, for every user this process serves."""

    def __init__(
        self, store: Store, agent: Callable[[], Agent], outbound: Outbound, *, llm_tries: int,
        breaker: Breaker, read: Callable[[Message], Reading] = Reading,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._store = store
        self._agent = agent
        self._outbound = outbound
        self._llm_tries = llm_tries
        self._breaker = breaker
        self._read = read
        self._floor = _Floor()
        self._typing = TypingIndicator(self._mark_read, seconds=TYPING_SECONDS)
        self._sleep = sleep

    def answer(self, message: Message) -> Turn | None:
        """Take the turn of ``message`` and return it once the sender knows.

        Returns ``None`` where it has none here: it says that its author moved, and that is
        done; or its author is another user by now, whose queue has it. Raises
        ``StaleTurn`` when a newer run took over, ``CircuitOpen`` while the model is down,
        ``Transient`` when Redis or the broker stayed away for ``PATIENCE_SECONDS``: the
        message is not used up then.
        """
        try:
            if message.moved_to:
                self._move(message)
                return None
            turn = self._turn(message)
        except Moved as moved:
            self._forward(moved.to.take_over(message))
            return None
        if turn.failure:
            self._patiently(lambda: self._outbound.bury(message, turn.failure))
        self._patiently(lambda: self._outbound.wake_sender(message.user, turn.number))
        return turn

    def _move(self, message: Message) -> None:
        user = self._patiently(lambda: self._store.move(message))
        self._patiently(lambda: self._outbound.wake_sender(user, 0))  # for replies that moved along
        log.info("user.moved", message_id=message.id)

    def _forward(self, message: Message) -> None:
        """Send a message on to its author's queue: twice is harmless, and later than its turn at worst."""
        try:
            self._patiently(lambda: self._outbound.route(message))
            log.info("message.forwarded", message_id=message.id)
        except QueueFull as err:
            reason = str(err)
            log.warning("message.refused", message_id=message.id, reason=reason)
            self._patiently(lambda: self._outbound.bury(message, reason))

    def _turn(self, message: Message) -> Turn:
        with self._floor.shared():
            begun = self._begin(message)
            if begun.answered or begun.attempts != MAX_ATTEMPTS:
                return begun.answered or self._take_or_release(begun)
            self._patiently(lambda: self._store.not_begun(begun))
        with self._floor.alone():
            begun = self._begin(message)
            return begun.answered or self._take_or_release(begun)

    def _begin(self, message: Message) -> Begun:
        run = uuid4().hex
        return self._patiently(lambda: self._store.begin_turn(message, seconds=CLAIM_SECONDS, run=run))

    def _take_or_release(self, begun: Begun) -> Turn:
        try:
            return self._take(begun)
        except StaleTurn:
            raise
        except Exception:
            # Whatever becomes of this message now, the user's next one need not wait.
            self._store.release_turn(begun)
            raise

    def _take(self, begun: Begun) -> Turn:
        started = time.monotonic()
        begun, reply, failure = self._reply(self._with_quote(begun))
        turn = self._patiently(lambda: self._store.commit_turn(begun, reply, failure=failure))
        if turn is None:
            raise StaleTurn(f"a newer run took turn {begun.number}")
        took = round(time.monotonic() - started, 3)
        id_ = begun.message.id
        log.info("turn.committed", number=turn.number, message_id=id_, attempts=begun.attempts, seconds=took)
        return turn

    def _reply(self, begun: Begun) -> tuple[Begun, str, str]:
        """Return what to commit: the message with what its file says, the reply and, for an apology, the reason."""
        if begun.attempts > MAX_ATTEMPTS:
            return begun, *self._apology(begun, f"given up: it ended its worker {MAX_ATTEMPTS} times")
        try:
            with self._seen(begun):
                reading = self._read_file(begun.message)
                refusal = reading.refusal or (None if reading.message.text.strip() else language.UNREADABLE)
                spoken, begun = _language(begun), replace(begun, message=reading.message)
                if refusal:
                    reply = "" if refusal is language.UNREADABLE and _said_so(begun) else refusal[spoken]
                else:
                    reply = in_place(lambda: self._ask(begun, reading.image), tries=self._llm_tries, sleep=self._sleep)
        except CircuitOpen:
            if begun.waits == 0:
                self._tell_to_wait(begun)
            raise
        except (Transient, Permanent) as err:
            return begun, *self._apology(begun, f"{type(err).__name__}: {err}")
        return begun, reply, ""

    def _with_quote(self, begun: Begun) -> Begun:
        """Return it with what the message quotes, where that is still known, as context."""
        message = begun.message
        if not message.quoted:
            return begun
        quoted = self._patiently(lambda: self._store.quoted(message.user, message.quoted))
        if not quoted.strip():
            return begun
        context = f"Em resposta a: “{quoted[:LONGEST_QUOTE]}”"
        return replace(begun, message=replace(message, context=". ".join(filter(None, (context, message.context)))))

    def _read_file(self, message: Message) -> Reading:
        if message.media is None:
            return Reading(message)
        self._breaker.check()  # a message that waits for the model is not read again each time it comes back
        return in_place(lambda: self._read(message), tries=READ_TRIES, sleep=self._sleep)

    def _ask(self, begun: Begun, image: str) -> str:
        shown = (image,) if image else ()
        return self._breaker.call(lambda: self._agent().reply(begun.message, begun.history, *shown))

    @contextmanager
    def _seen(self, begun: Begun) -> Iterator[None]:
        """Mark the message as read, unless that was done, and show its author typing until the block ends."""
        message = begun.message
        if begun.waits or not (message.text.strip() or message.media):
            yield
            return
        self._mark_read(message)
        with self._typing.shown(message):
            yield

    def _mark_read(self, message: Message) -> None:
        try:
            self._outbound.mark_read(message)
        except Transient as err:
            log.warning("mark_read.skipped", error=str(err))

    def _tell_to_wait(self, begun: Begun) -> None:
        text = language.WAITING[_language(begun)]
        try:
            self._outbound.notify(begun.message, "waiting", text)
        except Transient as err:
            log.warning("notice.skipped", error=str(err))

    def _apology(self, begun: Begun, reason: str) -> tuple[str, str]:
        log.error("turn.failed", message_id=begun.message.id, reason=reason)
        return language.APOLOGY[_language(begun)], reason

    def _patiently(self, call: Callable[[], T]) -> T:
        return in_place(call, seconds=PATIENCE_SECONDS, sleep=self._sleep)


def _language(begun: Begun) -> str:
    """Return the language of the message or, where it has no words, of the past."""
    said = begun.message.text if begun.message.text.strip() else " ".join(turn.message.text for turn in begun.history)
    return language.guess(said, begun.message.phone)


def _said_so(begun: Begun) -> bool:
    """Return whether the last thing this person heard is that we cannot read what they sent."""
    return bool(begun.history) and begun.history[-1].reply in {"", *language.UNREADABLE.values()}
