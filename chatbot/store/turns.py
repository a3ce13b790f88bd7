"""Conversations in Redis: who said what, how far each reply got, who is who, who is being served.

Promises: a turn is written by compare-and-set, so a run that lost its claim writes
nothing once another one began; replies are taken one at a time, in order. A claim is short, is
renewed while its run lives (``store/presence.py``), and has a fencing token that no other run ever had, so
a Redis that was set back gives nobody's token away a second time.
All state of a user changes inside one Lua script, which Redis runs alone, or in one
transaction (``move``). One person has one conversation, by whatever names they write:
all others lead to it, and no turn begins under them. All times that processes are compared
by are Redis' own.

What a Redis that comes back as it was some seconds ago (a failover to an asynchronous replica, a
crash with ``appendfsync everysec``) can break: turns and notes of those seconds are gone, so a message
answered then may be answered again or, where the broker has forgotten it, stay without its turn; and a
part that was sent then may be sent again. What it cannot: nobody stays silent for longer than
``CLAIM_SECONDS``, and what is answered from then on is answered in order.

``store/keys.py`` lists the keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from chatbot.errors import TurnUnderWay
from chatbot.identity import Contact, Names
from chatbot.messages import Limits, Message, Turn
from chatbot.store import keys
from chatbot.store.client import connect, reachable, redis_time, script
from chatbot.store.merge import Moves, destination
from chatbot.store.presence import CLAIM_SECONDS

__all__ = ["Begun", "Busy", "Claimed", "Moved", "Store", "TurnUnderWay", "connect"]

#: A reply whose wake-up was lost is looked after this long after its commit.
OVERDUE_SECONDS = 30.0
#: A person whom the channel refuses is left in peace this long at most; refused again later
#: than this and twice the rest, it is no longer "in a row".
LONGEST_REST_SECONDS = 3600.0
FIRST_AGAIN_SECONDS = 60
#: A number that rested is slower at first: its first calls open connections and take longer
#: than those behind them, so at full rate they would arrive crowded, and be refused.
WARM_UP_SECONDS, WARM_UP_SLOWER = 1.0, 1.33
#: What settling a delivery came to: the claim is another run's, it is written, a status was there before.
LOST, WRITTEN, SETTLED = 0, 1, 2
#: One who finds an outbox claimed is to look again, but not more than one at a time: for so long.
LOOK_SECONDS = 5.0
#: A wake-up for the end of a rest may come this early: hosts' clocks differ.
EARLY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Begun:
    """The right to commit turn ``number`` of a user, and what the agent should know.

    ``fence`` is the token of the run that has it. ``attempts`` counts the runs of this message
    that never ended, this one included; ``waits`` how often it was given back in good order.
    ``at`` is when it began (Redis' time). ``answered`` is set instead when this message
    already had its turn.
    """

    message: Message
    answered: Turn | None
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
class Claimed:
    """The right to deliver turn ``number``, of which ``parts`` parts are sent already.

    ``fence`` is the token of the run that has it, ``at`` when it got it (Redis' time). ``stored`` is the turn
    as it is stored, ``""`` when it is no longer. ``doubt_since`` (Unix time) is set when the next part was
    being sent by somebody who never said how it ended. ``runs`` counts those that claimed this turn and
    never settled anything, this one included; ``plain`` is set once it is to go out without formatting.
    """

    user: str
    fence: str
    number: int
    stored: str
    parts: int
    doubt_since: float | None
    runs: int = 1
    plain: bool = False
    at: float = 0.0

    @property
    def turn(self) -> Turn | None:
        """The turn, ``None`` when it is no longer stored. Raises ``ValueError`` where it is unreadable."""
        return Turn.from_json(self.stored) if self.stored else None


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


class Busy(Exception):
    """Another run, ``fence``, is delivering this user's replies and will take this one too.

    It may end without a word: ``look_again`` says that whoever was told so is to come back for it.
    """

    def __init__(self, fence: str, *, look_again: bool) -> None:
        super().__init__("another sender has the claim")
        self.fence = fence
        self.look_again = look_again


class Rests(Exception):
    """What waits for this user is not to be tried for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the outbox rests")
        self.seconds = seconds


#: The scripts of a store (``lua/``).
_SCRIPTS = (
    "begin_turn", "commit_turn", "release_turn", "renew", "claim_delivery", "settle_delivery", "report_part",
    "pace", "hold_pair", "hold_number", "take_due", "unlock",
)  # fmt: skip


class Store:
    """The conversations of every user. Raises ``Transient`` while Redis cannot be used."""

    def __init__(
        self, client: Any, *, history_turns: int, retention: float, clock: Callable[[], float] | None = None,
        names: Names | None = None,
    ) -> None:  # fmt: skip
        self._redis = client  # Any: redis-py types every reply as "maybe awaitable"
        self._names = names or Names()
        self._history_turns = history_turns
        self._retention = int(retention)
        self._clock = clock  # a test's; otherwise all times are Redis'
        self._moves = Moves(client, history_turns=history_turns, retention=int(retention))
        self._script = {name: script(client, name) for name in _SCRIPTS}

    def now(self) -> float:
        """Return the time as Redis has it, in Unix seconds."""
        if self._clock:
            return self._clock()
        with reachable():
            return redis_time(self._redis)

    def _run(self, name: str, names: list[str], *arguments: Any) -> Any:
        now = self._clock() if self._clock else ""
        with reachable():
            return self._script[name](names, [now, *arguments])

    def ping(self) -> None:
        """Return when Redis answers."""
        with reachable():
            self._redis.ping()

    def info(self) -> dict[str, Any]:
        """Return what Redis says of itself: version, persistence, memory policy."""
        with reachable():
            return {**self._redis.info("server"), **self._redis.info("persistence"), **self._redis.info("memory")}

    # -- one turn ---------------------------------------------------------------

    def begin_turn(self, message: Message, *, fence: str = "", seconds: float = CLAIM_SECONDS, gone: str = "") -> Begun:
        """Claim the user's next turn for ``message`` and return the past, oldest first.

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
            return Begun(message, Turn.from_json(answer[1]), fence="", number=0, attempts=0, waits=0, history=())
        _, turns, attempts, waits, history, at = answer
        past = tuple(Turn.from_json(turn) for turn in history)
        return Begun(message, None, fence, turns + 1, attempts, waits, past, float(at))

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
        return Committed(turn, is_next=written == 1) if written else None

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

    # -- who is who -------------------------------------------------------------

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

    # -- delivery of replies ----------------------------------------------------

    def claim_delivery(
        self, user: str, *, fence: str, seconds: float = CLAIM_SECONDS, gone: str = ""
    ) -> Claimed | None:
        """Take the user's next undelivered turn for the run ``fence``; ``None`` when all are delivered.

        The claim stands for ``seconds`` unless it is renewed. ``gone`` is a run that is known to be
        gone: what it claimed may be taken at once. Raises ``Busy`` while another run's claim stands, ``Rests``
        while what waits is not to be tried.
        """
        names = [keys.CONVERSATION.of(user), keys.OUTBOX.of(user), keys.DUE.of()]
        answer = self._run("claim_delivery", names, fence, seconds, user, gone, LOOK_SECONDS, EARLY_SECONDS)
        if answer[0] == "busy":
            raise Busy(answer[1], look_again=bool(answer[2]))
        if answer[0] == "rests":
            raise Rests(float(answer[1]))
        if answer[0] == "nothing":
            return None
        _, number, turn, parts, doubt, runs, plain, at = answer
        return Claimed(
            user, fence, number, turn, parts, float(doubt) if doubt else None, runs, bool(plain), float(at),
        )  # fmt: skip

    def renew_delivery(self, user: str, fence: str) -> bool:
        """Have the claim of that run stand for ``CLAIM_SECONDS`` more; return whether it has it."""
        names = [keys.CONVERSATION.of(user)]
        return bool(self._run("renew", names, "sender", "sender_until", fence, CLAIM_SECONDS))

    def settle_part(self, claimed: Claimed, parts: int, *, sent: str = "") -> bool:
        """Write down that ``parts`` parts of the turn went out and keep the claim.

        ``sent`` is the provider's id of the last one, for whoever quotes it. Returns
        ``False`` if the claim is lost.
        """
        return self._settle(claimed, parts, "part", CLAIM_SECONDS, sent) == WRITTEN

    def settle_done(self, claimed: Claimed, *, sent: str = "") -> bool:
        """Write down that the whole turn is delivered (or never will be), the last part as ``sent``."""
        return self._settle(claimed, 0, "done", 0.0, sent) == WRITTEN

    def settle_calling(self, claimed: Claimed, part: int) -> int:
        """Write down that ``part``, the next one, is about to be sent (once more or after a wait); keep the claim.

        Returns ``WRITTEN``, ``LOST`` if the claim is, or ``SETTLED`` if a status says meanwhile that the part
        was sent.
        """
        return self._settle(claimed, part, "again", CLAIM_SECONDS)

    def settle_plain(self, claimed: Claimed) -> bool:
        """Write down that this turn goes out without formatting, whoever goes on with it."""
        return self._settle(claimed, 0, "plain", 0.0) == WRITTEN

    def settle_later(self, claimed: Claimed, *, pause: float) -> bool:
        """Release the claim of a part that was not sent; it is due again in ``pause`` seconds."""
        return self._settle(claimed, 0, "later", pause) == WRITTEN

    def settle_doubt(self, claimed: Claimed, *, pause: float) -> bool:
        """Release the claim of a part that may have been sent; due again in ``pause`` seconds."""
        return self._settle(claimed, 0, "doubt", pause) == WRITTEN

    def settle_failed(self, claimed: Claimed, *, pause: float) -> bool:
        """Release the claim of a run that broke; it counts like one that was never heard of again."""
        return self._settle(claimed, 0, "failed", pause) == WRITTEN

    def report_part(self, user: str, number: int, part: int) -> bool:
        """Write down that the provider has that part; return whether somebody was waiting to know."""
        return self._report(user, number, part, "sent")

    def report_refused(self, user: str, number: int, part: int) -> bool:
        """Write down that the provider refused that part, and with it the turn; return whether that was news."""
        return self._report(user, number, part, "refused")

    def _report(self, user: str, number: int, part: int, what: str) -> bool:
        names = [keys.CONVERSATION.of(user), keys.OUTBOX.of(user)]
        return bool(self._run("report_part", names, number, part, what))

    def tell_once(self, user: str, what: str, *, seconds: float) -> bool:
        """Return whether the user is to be told ``what``: not again for ``seconds``."""
        with reachable():
            return bool(self._redis.set(keys.TOLD.of(user, what), 1, nx=True, ex=int(seconds)))

    def was_told(self, user: str, what: str) -> bool:
        """Return whether ``tell_once`` was true for that within its time."""
        with reachable():
            return bool(self._redis.exists(keys.TOLD.of(user, what)))

    def alert_once(self, what: str, *, seconds: float) -> bool:
        """Return whether a person is to be called about ``what``: not again for ``seconds``."""
        with reachable():
            return bool(self._redis.set(keys.ALERTED.of(what), 1, nx=True, ex=int(seconds)))

    # -- how fast a channel may be used -----------------------------------------

    def pace(
        self, user: str, account: str, limits: Limits, *, longest: float, missed: bool = False
    ) -> tuple[bool, float]:
        """Take the next place of ``account`` and of ``user`` in their schedules, for all senders.

        With ``missed`` the place before was not used in time: only the account's is taken anew.
        A number that rested warms up first (``WARM_UP_SECONDS``).

        Returns ``(True, s)``: send in ``s`` seconds (``longest`` at most), or ``(False, s)``:
        nothing is taken, ask again in ``s`` seconds.
        """
        names = [keys.PAIR.of(user), keys.NUMBER.of(account)]
        taken, wait = self._run(
            "pace", names, limits.pair_seconds, limits.pair_burst, 1 / limits.per_second, longest, int(missed),
            WARM_UP_SECONDS, WARM_UP_SLOWER,
        )  # fmt: skip
        return bool(taken), float(wait)

    def hold_pair(self, user: str, limits: Limits, *, pause: float) -> float:
        """Have nothing sent to ``user`` for ``pause`` seconds, longer each time in a row; return for how long.

        Meta asks for 4^n seconds after its n-th refusal.
        """
        names = [keys.PAIR.of(user), keys.REFUSED.of(user)]
        rest = self._run(
            "hold_pair", names, pause, LONGEST_REST_SECONDS, limits.pair_seconds, limits.pair_burst, FIRST_AGAIN_SECONDS
        )
        return float(rest)

    def hold_number(self, account: str, *, pause: float) -> None:
        """Have nothing sent from ``account`` for ``pause`` seconds."""
        self._run("hold_number", [keys.NUMBER.of(account)], pause)

    def count(self, event: str) -> None:
        """Add one to how often ``event`` happened."""
        with reachable():
            self._redis.hincrby(keys.COUNTS.of(), event, 1)

    def counts(self) -> dict[str, int]:
        """Return how often each counted event happened."""
        with reachable():
            return {event: int(times) for event, times in self._redis.hgetall(keys.COUNTS.of()).items()}

    def _settle(self, claimed: Claimed, part: int, what: str, seconds: float, sent: str = "") -> int:
        user = claimed.user
        names = [keys.CONVERSATION.of(user), keys.OUTBOX.of(user), keys.DUE.of(), keys.SENT.of(user, sent)]
        remembered = keys.QUOTED_SECONDS if sent else 0
        return int(
            self._run("settle_delivery", names, claimed.fence, claimed.number, part, what, user, seconds, remembered)
        )

    # -- who is being served ----------------------------------------------------

    def sessions(self) -> dict[str, float]:
        """Return the users that are being served, with the Unix time of their last turn."""
        with reachable():
            return dict(self._redis.zrange(keys.SESSIONS.of(), 0, -1, withscores=True))

    def end_session(self, user: str, *, unless_active_since: float) -> None:
        """Forget that a user is being served, unless a turn began since (Unix time)."""
        with reachable():
            self._redis.eval(
                "local at = redis.call('ZSCORE', KEYS[1], ARGV[1])"
                " if at and tonumber(at) <= tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end",
                1, keys.SESSIONS.of(), user, unless_active_since,
            )  # fmt: skip

    def sessions_after(self, active_at: float, *, most: int) -> list[tuple[str, float]]:
        """Return up to ``most`` users whose last turn was after that Unix time, and when, in that order."""
        with reachable():
            return list(
                self._redis.zrangebyscore(keys.SESSIONS.of(), f"({active_at!r}", "+inf", 0, most, withscores=True)
            )

    def due_outboxes(self, *, before: float, skip: int = 0, most: int = -1) -> list[str]:
        """Return the users whose replies should have gone out before that Unix time: ``most`` behind ``skip``."""
        with reachable():
            return list(self._redis.zrangebyscore(keys.DUE.of(), "-inf", before, skip, most))

    def oldest_overdue(self) -> float:
        """Return for how many seconds the reply that has waited longest is overdue; 0 where none is."""
        with reachable():
            oldest = self._redis.zrange(keys.DUE.of(), 0, 0, withscores=True)
        return max(0.0, self.now() - oldest[0][1]) if oldest else 0.0

    def take_due(self, users: Sequence[str], *, seconds: float) -> list[str]:
        """Take those of ``users`` whose replies are overdue; they are overdue again only in ``seconds``."""
        return list(self._run("take_due", [keys.DUE.of()], seconds, *users)) if users else []

    def rescued_until(self, broker: str) -> float:
        """Return how far rescue has looked at the sessions of a broker, by their activity."""
        with reachable():
            return float(self._redis.get(keys.RESCUED.of(broker)) or "-inf")

    def note_rescued(self, broker: str, active_at: float) -> None:
        """Keep how far rescue has looked, for whoever goes on."""
        with reachable():
            self._redis.set(keys.RESCUED.of(broker), repr(active_at), ex=keys.RESCUED_SECONDS)

    @contextmanager
    def alone(self, what: str, *, seconds: float) -> Iterator[bool]:
        """Tell whether this process may do ``what`` in the block: nobody else may until it ends, or for ``seconds``."""
        lock, token = keys.LOCK.of(what), uuid4().hex
        with reachable():
            mine = bool(self._redis.set(lock, token, nx=True, px=int(seconds * 1000)))
        try:
            yield mine
        finally:
            if mine:
                self._run("unlock", [lock], token)


def _turn_key(message: Message) -> str:
    return keys.TURN.of(message.origin or message.user, message.key)
