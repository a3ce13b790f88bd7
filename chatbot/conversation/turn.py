"""Stage 4: one turn. Claim, read the past, ask the agent, commit, hand the reply over.

In comes a ``Message``, out goes a committed ``Turn`` and a wake-up for the sender. A file
that came with it is read first (``conversation/media.py``), and the turn keeps the words it held.
Promises: one message, one turn, one reply (a message that already has its turn only
hands its reply over again); one person, one conversation (what comes in under a name that
leads to another one is forwarded there, in order; who moves takes the conversation along);
a run that was overtaken commits nothing, and one that lives is not overtaken; a message that may have
ended its worker is answered in a process of its own (``conversation/quarantine.py``) and holds nobody up; while the
model or a file cannot be reached messages wait in their queues, each user is told so once and answered
when it is back; whoever cannot be answered at all hears an apology, and the message is kept as
one dead letter with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import structlog

from chatbot import texts
from chatbot.conversation.media import Reading, kind_of
from chatbot.errors import (
    CircuitOpen,
    EndsItsProcess,
    ModelTimeout,
    NoRoom,
    Permanent,
    QueueFull,
    ServiceDown,
    StaleTurn,
    Transient,
    TurnUnderWay,
)
from chatbot.messages import Message, Turn
from chatbot.resilience.breaker import Breaker
from chatbot.resilience.repeater import Repeater
from chatbot.resilience.retry import in_place
from chatbot.store.keys import DEDUPE_SECONDS
from chatbot.store.presence import Runs
from chatbot.store.store import Store
from chatbot.store.turns import Answered, Begun, Committed, Moved

log = structlog.get_logger(__name__)

#: From this run of a message on that was never heard of again it is a suspect, and is answered in a
#: process of its own: what it does there harms nobody else.
SUSPECT_ATTEMPTS = 3
#: Workers that ended this often while a suspect was apart say nothing of it; even so it ends somewhere.
MAX_ATTEMPTS = 10
#: A message that failed for a passing reason goes back to its queue this often at most, with growing
#: pauses (``sessions/bootstep.py``), where others are answered meanwhile. What was not asked for did not fail.
MAX_WAITS = 8
#: One with a file that failed this often is given up also where the files of others fail: nobody waits for ever.
MAX_FILE_WAITS = 30
#: Redis or the broker may be away this long before the message goes back to its queue. Each wait of a
#: turn has an end, but together they may be longer than RabbitMQ's ``consumer_timeout`` of 30 minutes. The
#: message is delivered again then, and waits for the run that lives, or finds its turn.
PATIENCE_SECONDS = 120.0
#: A file is fetched and read this often at most. One try takes about 3 minutes at the longest
#: (``conversation/media.py``).
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
    def mark_read(self, message: Message, *, at: float) -> None: ...
    def bury(self, message: Message, reason: str) -> None: ...
    def notify(self, message: Message, what: str, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Answer:
    """What to commit: the message with what its file says, the reply and, for an apology, the reason."""

    message: Message
    reply: str
    failure: str = ""


class Conversation:
    """Takes turns, for every user this process serves.

    ``apart(message, history)`` does what ``think`` does in another process.
    """

    def __init__(
        self, store: Store, agent: Callable[[], Agent], outbound: Outbound, *, runs: Runs, llm_tries: int,
        breaker: Breaker, read: Callable[[Message], Reading] = Reading,
        apart: Callable[[Message, Sequence[Turn]], tuple[Message, str]] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._store = store
        self._agent = agent
        self._outbound = outbound
        self._runs = runs
        self._llm_tries = llm_tries
        self._breaker = breaker
        self._read = read
        self._apart = apart or self.think
        self._files: dict[tuple[str, str], Breaker] = {}
        self._typing = Repeater(seconds=TYPING_SECONDS, name="typing-indicator")
        self._sleep = sleep

    def answer(self, message: Message) -> Turn | None:
        """Take the turn of ``message`` and return it once the sender knows.

        Returns ``None`` where it has none here: it says that its author moved, and that is
        done; or its author is another user by now, whose queue has it. Raises
        ``TurnUnderWay`` while another run has the turn, ``StaleTurn`` when one took over,
        ``Transient`` while the model is down, or when Redis or the broker stayed away for
        ``PATIENCE_SECONDS``: the message is not used up then.
        """
        try:
            if message.moved_to:
                self._move(message)
                return None
            taken = self._turn(message)
        except Moved as moved:
            self._forward(moved.to.take_over(message))
            return None
        turn = taken.turn
        if turn.failure:
            self._patiently(lambda: self._bury_once(message, turn.failure))
        if taken.is_next:
            self._patiently(lambda: self._outbound.wake_sender(message.user, turn.number))
        return turn

    def think(self, message: Message, history: Sequence[Turn]) -> tuple[Message, str]:
        """Return ``message`` with what its file says, and the reply. Raises ``Transient`` and ``Permanent``."""
        reading = self._read_file(message)
        refusal = reading.refusal or (None if reading.message.text.strip() else texts.UNREADABLE)
        if refusal:
            said = refusal is texts.UNREADABLE and _said_so(history)
            return reading.message, "" if said else refusal[_language(message, history)]
        reply = in_place(
            lambda: self._ask(reading.message, history, reading.image), tries=self._llm_tries, sleep=self._sleep
        )
        return reading.message, reply

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

    def _bury_once(self, message: Message, reason: str) -> None:
        """Keep a message as a dead letter, unless that was done: a turn is handed over again after a cut connection."""
        dead = f"dead:{message.key}"
        if not self._store.was_told(message.user, dead):
            self._outbound.bury(message, reason)
            self._store.tell_once(message.user, dead, seconds=DEDUPE_SECONDS)

    def _turn(self, message: Message) -> Committed:
        with self._runs.run(lambda fence: self._store.renew_turn(message.user, fence)) as fence:
            begun = self._begin(message, fence)
            if isinstance(begun, Answered):
                return Committed(begun.turn, is_next=True)
            return self._take_or_release(begun)

    def _begin(self, message: Message, fence: str) -> Begun | Answered:
        try:
            return self._patiently(lambda: self._store.begin_turn(message, fence=fence))
        except TurnUnderWay as busy:
            other = busy.fence
            if not self._patiently(lambda: self._runs.is_gone(other)):
                raise
        return self._patiently(lambda: self._store.begin_turn(message, fence=fence, gone=other))

    def _take_or_release(self, begun: Begun) -> Committed:
        try:
            return self._take(begun)
        except StaleTurn:
            raise
        except (NoRoom, CircuitOpen):
            # It did not fail: however often it was not asked for, that is no reason to give it up later.
            self._store.release_turn(begun, waited=begun.waits == 0)
            raise
        except Exception:
            # Whatever becomes of this message now, the user's next one need not wait.
            self._store.release_turn(begun)
            raise

    def _take(self, begun: Begun) -> Committed:
        started = time.monotonic()
        begun = self._with_quote(begun)
        answer = self._reply(begun)
        begun = replace(begun, message=answer.message)
        committed = self._patiently(lambda: self._store.commit_turn(begun, answer.reply, failure=answer.failure))
        if committed is None:
            raise StaleTurn(f"another run took turn {begun.number}")
        took = round(time.monotonic() - started, 3)
        id_ = begun.message.id
        log.info("turn.committed", number=begun.number, message_id=id_, attempts=begun.attempts, seconds=took)
        return committed

    def _reply(self, begun: Begun) -> _Answer:
        """Return what to commit. Raises ``Transient`` where the message is to wait."""
        if begun.attempts > MAX_ATTEMPTS:
            return self._apology(begun, f"{EndsItsProcess.__name__}: {MAX_ATTEMPTS} runs of it never ended")
        think = self._apart if begun.attempts >= SUSPECT_ATTEMPTS else self.think
        try:
            with self._seen(begun):
                message, reply = think(begun.message, begun.history)
        except Permanent as err:
            return self._apology(begun, f"{type(err).__name__}: {err}")
        except NoRoom:
            raise
        except Transient as err:
            if self._is_given_up(begun, err):
                return self._apology(begun, f"{type(err).__name__}: {err}")
            if begun.waits == 0:
                self._tell_to_wait(begun)
            raise
        return _Answer(message, reply)

    def _is_given_up(self, begun: Begun, err: Transient) -> bool:
        """Return whether it is this message that fails, as far as one can tell, and not a service that fails everybody.

        A text is given up only where others are answered; a file that may be what fails, unless those of others
        fail too.
        """
        kind = kind_of(begun.message)
        if begun.waits < MAX_WAITS or isinstance(err, CircuitOpen):
            return False
        if kind and begun.waits >= MAX_FILE_WAITS:
            return True
        was_heard = kind == "audio" and isinstance(err, ServiceDown | ModelTimeout)  # a text by then
        if not kind or was_heard:
            return self._breaker.answers()
        return not (self._breaker.is_open() or self._reads(begun.message).is_open())

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
        return self._reads(message).call(
            lambda: in_place(lambda: self._read(message), tries=READ_TRIES, sleep=self._sleep), key=message.user
        )

    def _reads(self, message: Message) -> Breaker:
        """Return the breaker of what reads such a file: its channel and, for some kinds, another server."""
        kind = kind_of(message)
        return self._files.setdefault(
            (message.channel, kind), self._breaker.another(f"what reads files ({kind})", counts=(Transient,))
        )

    def _ask(self, message: Message, history: Sequence[Turn], image: str) -> str:
        shown = (image,) if image else ()
        return self._breaker.call(lambda: self._agent().reply(message, history, *shown), key=message.user)

    @contextmanager
    def _seen(self, begun: Begun) -> Iterator[None]:
        """Mark the message as read, unless that was done, and show its author typing until the block ends."""
        message = begun.message
        if begun.waits or not (message.text.strip() or message.media):
            yield
            return
        self._mark_read(begun)
        with self._typing.repeating(lambda: self._mark_read(begun)):
            yield

    def _mark_read(self, begun: Begun) -> None:
        try:
            self._outbound.mark_read(begun.message, at=begun.now())
        except Transient as err:
            log.warning("mark_read.skipped", error=str(err))

    def _tell_to_wait(self, begun: Begun) -> None:
        self._store.count("turn_waits")
        text = texts.WAITING[_language(begun.message, begun.history)]
        try:
            self._outbound.notify(begun.message, "waiting", text)
        except Transient as err:
            log.warning("notice.skipped", error=str(err))

    def _apology(self, begun: Begun, reason: str) -> _Answer:
        log.error("turn.failed", message_id=begun.message.id, reason=reason)
        return _Answer(begun.message, texts.APOLOGY[_language(begun.message, begun.history)], failure=reason)

    def _patiently(self, call: Callable[[], T]) -> T:
        return in_place(call, seconds=PATIENCE_SECONDS, sleep=self._sleep)


def _language(message: Message, history: Sequence[Turn]) -> str:
    """Return the language of the message or, where it has no words, of the past."""
    said = message.text if message.text.strip() else " ".join(turn.message.text for turn in history)
    return texts.guess(said, message.phone)


def _said_so(history: Sequence[Turn]) -> bool:
    """Return whether the last thing this person heard is that we cannot read what they sent."""
    return bool(history) and history[-1].reply in {"", *texts.UNREADABLE.values()}
