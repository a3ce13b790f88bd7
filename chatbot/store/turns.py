"""Conversations in Redis: who said what, and whose turn it is.

In comes a message, out goes the right to answer it; in comes the reply, out goes a committed turn, whose
reply is in the outbox (``store/outbox.py``) then. Promises: a turn is written by compare-and-set, so a run that
lost its claim writes nothing once another one began. A claim is short, is renewed while its run lives
(``store/presence.py``), and has a fencing token that no other run ever had, so a Redis that was set
back gives nobody's token away a second time. One person has one conversation, by whatever names they
write: all others lead to it (``store/merge.py``), and no turn begins under them.

What a Redis that comes back as it was some seconds ago (a failover to an asynchronous replica, a
crash with ``appendfsync everysec``) can break: turns and notes of those seconds are gone, so a message
answered then may be answered again or, where the broker has forgotten it, stay without its turn; and a
part that was sent then may be sent again. What it cannot: nobody stays silent for longer than
``CLAIM_SECONDS``, and what is answered from then on is answered in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from chatbot.errors import TurnUnderWay
from chatbot.identity import Contact, Names
from chatbot.messages import Message, Turn
from chatbot.store import keys
from chatbot.store.client import Records, reachable
from chatbot.store.merge import Moves, destination
from chatbot.store.outbox import OVERDUE_SECONDS
from chatbot.store.presence import CLAIM_SECONDS


@dataclass(frozen=True, slots=True)
class Begun:
    """The right to commit turn ``number`` of a user, and what the agent should know.

    ``fence`` is the token of the run that has it. ``attempts`` counts the runs of this message
    that never ended, this one included; ``waits`` how often it was given back in good order.
    ``at`` is when it began (Redis' time).
    """

    message: Message
    fence: str
    number: int
    attempts: int
    waits: int
    history: tuple[Turn, ...]
    at: float = 0.0
    began: float = field(default_factory=time.monotonic, compare=False)

    def now(self) -> float:
        """Return the time as Redis has it by now, by this process's own seconds since the turn began."""
        return self.at + time.monotonic() - self.began


@dataclass(frozen=True, slots=True)
class Answered:
    """The message had its turn before."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Committed:
    """A turn that was written; ``is_next`` unless its reply waits behind others, whose sender takes it along."""

    turn: Turn
    is_next: bool


class Moved(Exception):
    """The author is another user by now: ``to``."""

    def __init__(self, to: Contact) -> None:
        super().__init__("the user moved")
        self.to = to


class Turns(Records):
    """The conversations of every user. Raises ``Transient`` while Redis cannot be used."""

    def __init__(
        self, client: Any, *, history_turns: int, retention: float, clock: Callable[[], float] | None = None,
        names: Names | None = None,
    ) -> None:  # fmt: skip
        super().__init__(client, clock=clock)
        self._names = names or Names()
        self._history_turns = history_turns
        self._retention = int(retention)
        self._moves = Moves(client, history_turns=history_turns, retention=int(retention))

    def begin_turn(
        self, message: Message, *, fence: str = "", seconds: float = CLAIM_SECONDS, gone: str = ""
    ) -> Begun | Answered:
        """Claim the user's next turn for ``message`` and return the past, oldest first, or the turn it had before.

        For ``seconds``, and longer where the claim is renewed, no other run can begin a turn of this
        user. ``fence`` names this run, which may ask twice because the first answer was lost; ``gone`` an
        earlier run of the same message that is known to be gone. The first message that
        names its author by phone and BSUID makes one conversation of the two. Raises
        ``Moved`` where the author is another user by now, ``TurnUnderWay`` while another
        run holds that right.
        """
        user, other = message.user, self._names.by_bsuid(message, message.account)
        fence = fence or uuid4().hex
        names = [
            keys.CONVERSATION.of(user),
            keys.HISTORY.of(user),
            _turn_key(message),
            keys.SESSIONS.of(),
            keys.CONVERSATION.of(other or user),
            keys.NAMES.of(user),
        ]
        arguments = [
            message.key, self._history_turns, user, seconds, fence,
            0 if message.origin else message.sent_at, int(bool(other)), self._retention, gone,
        ]  # fmt: skip
        answer = self._run("begin_turn", names, *arguments)
        while answer[0] == "apart":
            with reachable():
                self._lead({other: None}, Contact(user, message.phone, message.bsuid), message)
            answer = self._run("begin_turn", names, *arguments)
        if answer[0] == "moved":
            raise Moved(Contact(*answer[1:]))
        if answer[0] == "wait":
            raise TurnUnderWay("a turn of this user is under way", fence=answer[1])
        if answer[0] == "answered":
            return Answered(Turn.from_json(answer[1]))
        _, turns, attempts, waits, history, at = answer
        past = tuple(Turn.from_json(turn) for turn in history)
        return Begun(message, fence, turns + 1, attempts, waits, past, float(at))

    def renew_turn(self, user: str, fence: str) -> bool:
        """Have the claim of that run stand for ``CLAIM_SECONDS`` more; return whether it has it."""
        names = [keys.CONVERSATION.of(user)]
        return bool(self._run("renew", names, "run", "claim_until", fence, CLAIM_SECONDS))

    def release_turn(self, begun: Begun, *, waited: bool = True) -> None:
        """Give the right to commit back without a turn: this run ended, if not with an answer.

        ``waited`` says whether the message was given back for something that failed.
        """
        self._run("release_turn", [keys.CONVERSATION.of(begun.message.user)], begun.fence, int(waited))

    def commit_turn(self, begun: Begun, reply: str, *, failure: str = "") -> Committed | None:
        """Write the turn and put its reply in the outbox; ``None`` if another run took over."""
        user = begun.message.user
        at = self._clock() if self._clock else begun.now()
        turn = Turn(begun.number, begun.message, reply, at, failure)
        names = [
            keys.CONVERSATION.of(user),
            keys.HISTORY.of(user),
            _turn_key(begun.message),
            keys.OUTBOX.of(user),
            keys.DUE.of(),
        ]
        written = self._run(
            "commit_turn", names, begun.fence, turn.number, turn.to_json(), max(self._history_turns, 1),
            self._retention, keys.DEDUPE_SECONDS, user, OVERDUE_SECONDS,
        )  # fmt: skip
        return None if written == "overtaken" else Committed(turn, is_next=written == "next")

    def turn_of(self, message: Message) -> Turn | None:
        """Return the turn a message got, or ``None`` while it has none."""
        with reachable():
            stored = self._redis.get(_turn_key(message))
        return Turn.from_json(stored) if stored else None

    def turn_numbered(self, user: str, number: int) -> Turn | None:
        """Return a turn that is undelivered, or recent; ``None`` for an older one."""
        with reachable():
            stored = self._redis.hget(keys.OUTBOX.of(user), str(number))
        if stored:
            return Turn.from_json(stored)
        turns = (turn for name in self._ways(user) for turn in self.history(name))
        return next((turn for turn in turns if (turn.message.user, turn.number) == (user, number)), None)

    def quoted(self, user: str, message_id: str) -> str:
        """Return the text that has that id of the provider's, whoever wrote it; ``""`` where it is not kept."""
        turns = self.history(user)
        for turn in turns:
            if turn.message.id_at_provider == message_id:
                return turn.message.text
        users = list({user, *(turn.message.user for turn in turns)})
        with reachable():
            numbers = self._redis.mget([keys.SENT.of(name, message_id) for name in users])
        sent = dict(zip(users, numbers, strict=True))
        return next((turn.reply for turn in turns if str(turn.number) == sent[turn.message.user]), "")

    def answering(self, message: Message) -> tuple[bool, float]:
        """Return whether a run of this very message is under way, and the time as Redis has it."""
        with reachable():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hmget(keys.CONVERSATION.of(message.user), "message", "run")
            pipe.time()
            (current, run), (seconds, microseconds) = pipe.execute()
        now = self._clock() if self._clock else seconds + microseconds / 1_000_000
        return bool(current == message.key and run), now

    def history(self, user: str) -> list[Turn]:
        """Return the stored turns of a user, oldest first."""
        with reachable():
            return [Turn.from_json(turn) for turn in self._redis.lrange(keys.HISTORY.of(user), 0, -1)]

    def move(self, message: Message) -> str:
        """Have the author of ``message``, who moved, be who they are from then on; return that user.

        All the author was leads there: the past, what is not delivered yet, and whatever was
        written under the old name until then. Only that, for numbers that were given up are
        given out again. Of several moves the newest wins, in whatever order they come; done
        twice, one is done once. Raises ``Moved`` where the author had another name for
        good, ``TurnUnderWay`` while a turn or a send is under way.
        """
        with reachable():
            state = self._redis.hgetall(keys.CONVERSATION.of(message.user))
            if "moved" in state and "moved_at" not in state:
                raise Moved(destination(state))
            to = self._names.moved(message)
            known_as = (self._names.by_bsuid(one, message.account) for one in (to, message))
            users = {message.user: self._written_at(message)} | dict.fromkeys(filter(None, known_as))
            return self._lead(users, to, message)

    def _lead(self, users: Mapping[str, float | None], to: Contact, message: Message) -> str:
        return self._moves.lead(users, to, at=self._written_at(message), now=self.now(), message=message.key)

    def _written_at(self, message: Message) -> float:
        return message.sent_at or self.now()

    def _ways(self, user: str) -> Iterator[str]:
        """Yield ``user`` and whoever it leads to."""
        while user:
            yield user
            with reachable():
                user = self._redis.hget(keys.CONVERSATION.of(user), "moved")


def _turn_key(message: Message) -> str:
    return keys.TURN.of(message.origin or message.user, message.key)
