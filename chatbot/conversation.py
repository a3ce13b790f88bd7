"""Stage 4: one turn. Claim, read the past, ask the agent, commit, hand the reply over.

In comes a ``Message``, out goes a committed ``Turn`` and a wake-up for the sender.
Promises: one message, one turn, one reply (a message that already has its turn only
hands its reply over again); a run that was overtaken commits nothing; whoever cannot be
answered hears an apology, and the message is kept as a dead letter with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from chatbot import language
from chatbot.errors import Permanent, StaleTurn, Transient
from chatbot.messages import Message, Turn
from chatbot.retry import in_place
from chatbot.store import Begun, Store

log = structlog.get_logger(__name__)

#: A message that took its worker down this often is not tried again.
MAX_ATTEMPTS = 3
#: Redis or the broker may be away this long before the message goes back to its queue. All
#: waits of a turn together stay below RabbitMQ's ``consumer_timeout`` of 30 minutes.
PATIENCE_SECONDS = 120.0
#: A run that stopped without a word keeps other messages of its user waiting this long at
#: most. Its own message, delivered again, need not wait. Longer than any turn.
CLAIM_SECONDS = 1500.0

T = TypeVar("T")


class Agent(Protocol):
    """Whatever can answer a message: CrewAI in production, a few lines in a test."""

    def reply(self, message: Message, history: Sequence[Turn]) -> str:
        """Return the answer. Raises ``Transient`` or ``Permanent``."""


class Outbound(Protocol):
    """Where a turn's consequences are published (``Router``)."""

    def wake_sender(self, user: str, number: int) -> None: ...
    def mark_read(self, message: Message) -> None: ...
    def bury(self, message: Message, reason: str) -> None: ...


class Conversation:
    """Takes turns, for every user this process serves."""

    def __init__(
        self, store: Store, agent: Callable[[], Agent], outbound: Outbound, *, llm_tries: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._store = store
        self._agent = agent
        self._outbound = outbound
        self._llm_tries = llm_tries
        self._sleep = sleep

    def answer(self, message: Message) -> Turn:
        """Take the turn of ``message`` and return it once the sender knows.

        Raises ``StaleTurn`` when a newer run took over, ``Transient`` when Redis or the
        broker stayed away for ``PATIENCE_SECONDS``: the message is not used up then.
        """
        begun = self._patiently(lambda: self._store.begin_turn(message, seconds=CLAIM_SECONDS))
        turn = begun.answered or self._take_or_release(begun)
        self._patiently(lambda: self._outbound.wake_sender(message.user, turn.number))
        return turn

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
        message = begun.message
        started = time.monotonic()
        reply = self._reply(begun)
        turn = self._patiently(lambda: self._store.commit_turn(begun, reply))
        if turn is None:
            raise StaleTurn(f"a newer run took turn {begun.number}")
        took = round(time.monotonic() - started, 3)
        log.info("turn.committed", number=turn.number, message_id=message.id, attempts=begun.attempts, seconds=took)
        return turn

    def _reply(self, begun: Begun) -> str:
        message = begun.message
        if begun.attempts > MAX_ATTEMPTS:
            return self._apologise(message, f"given up: it ended its worker {MAX_ATTEMPTS} times")
        if not message.text.strip():
            return language.UNREADABLE[language.guess("", message.phone)]
        self._mark_read(message)
        try:
            return in_place(
                lambda: self._agent().reply(message, begun.history), tries=self._llm_tries, sleep=self._sleep
            )
        except (Transient, Permanent) as err:
            return self._apologise(message, f"{type(err).__name__}: {err}")

    def _mark_read(self, message: Message) -> None:
        try:
            self._outbound.mark_read(message)
        except Transient as err:
            log.warning("mark_read.skipped", error=str(err))

    def _apologise(self, message: Message, reason: str) -> str:
        log.error("turn.failed", message_id=message.id, reason=reason)
        self._patiently(lambda: self._outbound.bury(message, reason))
        return language.APOLOGY[language.guess(message.text, message.phone)]

    def _patiently(self, call: Callable[[], T]) -> T:
        return in_place(call, seconds=PATIENCE_SECONDS, sleep=self._sleep)
