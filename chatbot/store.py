"""Conversations in Redis: who said what, how far each reply got, who is who, who is being served.

Promises: a turn is written by compare-and-set, so a run that lost its connection
writes nothing once a newer one began; replies are taken one at a time, in order.
All state of a user changes inside one Lua script, which Redis runs alone, or in one
transaction (``move``). One person has one conversation, by whatever names they write:
all others lead to it, and no turn begins under them.

Keys (``<user>`` percent-encoded as in queue names):

=====================================  ======  ===============================================
``chatbot:{<user>}:conversation``      hash    ``turns`` committed; ``claim`` of the newest ``run``;
                                               ``message``/``attempts``/``waits``/``claim_until``
                                               of the message being answered;
                                               ``delivered`` turns; ``parts`` of the next one sent;
                                               ``sender``/``sender_until``/``fence`` of its delivery;
                                               ``calling``/``calling_at``: the part being sent;
                                               ``moved`` to that user (``moved_phone``/``moved_bsuid``
                                               reach them): all, or what was written until ``moved_at``,
                                               which stays when the user is one again
``chatbot:{<user>}:history``           list    turns as JSON, oldest first, the last few
``chatbot:{<user>}:outbox``            hash    turn number → turn as JSON, until delivered
``chatbot:{<user>}:names``             set     users (by BSUID) who lead here for good
``chatbot:{<user>}:turn:<message>``    string  turn as JSON: one message, one turn; under the user it
                                               came in as (``Message.origin``), so that it never moves
``chatbot:{<user>}:sent:<id>``         string  number of the turn that a message of ours belongs to
``chatbot:{<user>}:told:<what>``       string  present while the user need not be told again
``chatbot:{<user>}:pace``              string  Unix time from which the user's burst is whole again
``chatbot:{<user>}:refused``           string  how often in a row the channel said "too fast" to the pair
``chatbot:pace:<account>``             string  Unix time from which the number may send again, and that of its first
``chatbot:alerted:<what>``             string  present while nobody need be called again
``chatbot:sessions``                   zset    user → Unix time of the last activity
``chatbot:due``                        zset    user → Unix time from which its outbox is overdue
``chatbot:counts``                     hash    event → how often it happened
=====================================  ======  ===============================================

The first four expire after ``retention``; ``turn:`` after 9 days, because WhatsApp
delivers a webhook again for up to 7 (Meta, "Webhooks", retries).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from uuid import uuid4

import redis
import redis.exceptions

from chatbot.contacts import Contact, Names
from chatbot.errors import Transient, TurnUnderWay
from chatbot.messages import Limits, Message, Turn
from chatbot.moves import Moves, destination
from chatbot.topology import queue_name

DEDUPE_SECONDS = 9 * 86_400
SESSIONS = "chatbot:sessions"
DUE = "chatbot:due"
COUNTS = "chatbot:counts"
#: A reply whose wake-up was lost is looked after this long after its commit.
OVERDUE_SECONDS = 30.0
#: People quote what we wrote as long as this later.
QUOTED_SECONDS = 30 * 86_400
#: A person whom the channel refuses is left in peace this long at most; refused again later
#: than this and twice the rest, it is no longer "in a row".
LONGEST_REST_SECONDS = 3600.0
FIRST_AGAIN_SECONDS = 60
#: A number that rested is slower at first: its first calls open connections and take longer
#: than those behind them, so at full rate they would arrive crowded, and be refused.
WARM_UP_SECONDS, WARM_UP_SLOWER = 1.0, 1.33


@dataclass(frozen=True, slots=True)
class Begun:
    """The right to commit turn ``number`` of a user, and what the agent should know.

    ``attempts`` counts the runs of this message that never ended, this one included;
    ``waits`` how often it was given back in good order. ``answered`` is set instead when
    this message already had its turn.
    """

    message: Message
    answered: Turn | None
    claim: int
    number: int
    attempts: int
    waits: int
    history: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """The right to deliver turn ``number``, of which ``parts`` parts are sent already.

    ``turn`` is ``None`` when it is no longer stored. ``doubt_since`` (Unix time) is set
    when the next part was being sent by somebody who never said how it ended.
    """

    user: str
    fence: int
    number: int
    turn: Turn | None
    parts: int
    doubt_since: float | None


class Moved(Exception):
    """The author is another user by now: ``to``."""

    def __init__(self, to: Contact) -> None:
        super().__init__("the user moved")
        self.to = to


class Busy(Exception):
    """Another sender is delivering this user's replies and will take this one too."""


def connect(url: str, *, timeout: float = 5.0) -> Any:
    """Return a redis-py client for ``url``; ``fakeredis://`` is a store inside this process.

    Nothing is connected yet. ``timeout`` in seconds bounds every call.
    """
    if url.startswith("fakeredis:"):
        import fakeredis  # only the demo and tests have no Redis of their own

        server = fakeredis.FakeServer.get_server(url, server_type="redis", version=(7,))
        return fakeredis.FakeRedis(server=server, decode_responses=True)
    return redis.Redis.from_url(
        url, decode_responses=True, socket_timeout=timeout, socket_connect_timeout=timeout, health_check_interval=30
    )


class Store:
    """The conversations of every user. Raises ``Transient`` while Redis cannot be used."""

    def __init__(
        self, client: Any, *, history_turns: int, retention: float, clock: Callable[[], float],
        names: Names | None = None,
    ) -> None:  # fmt: skip
        self._redis = client  # Any: redis-py types every reply as "maybe awaitable"
        self._names = names or Names()
        self._history_turns = history_turns
        self._retention = int(retention)
        self._clock = clock
        self._moves = Moves(client, _key, DUE, history_turns=history_turns, retention=int(retention))
        scripts = files("chatbot") / "lua"
        self._script = {
            name: self._redis.register_script((scripts / f"{name}.lua").read_text())
            for name in (
                "begin_turn",
                "commit_turn",
                "claim_delivery",
                "settle_delivery",
                "report_part",
                "release_turn",
                "pace",
            )
        }

    def ping(self) -> None:
        """Return when Redis answers."""
        with _reachable():
            self._redis.ping()

    def info(self) -> dict[str, Any]:
        """Return what Redis says of itself: version, persistence, memory policy."""
        with _reachable():
            return {**self._redis.info("server"), **self._redis.info("persistence"), **self._redis.info("memory")}

    # -- one turn ---------------------------------------------------------------

    def begin_turn(self, message: Message, *, seconds: float, run: str = "") -> Begun:
        """Claim the user's next turn for ``message`` and return the past, oldest first.

        From here on, an earlier run for the same message can no longer commit, and for
        ``seconds`` no other message of this user can begin. ``run`` names this run where
        it may have to ask twice because the first answer was lost. The first message that
        names its author by phone and BSUID makes one conversation of the two. Raises
        ``Moved`` where the author is another user by now, ``TurnUnderWay`` while another
        message's turn holds that right.
        """
        user, now, other = message.user, self._clock(), self._names.by_bsuid(message, message.account)
        keys = [
            _key(user, "conversation"),
            _key(user, "history"),
            _turn_key(message),
            SESSIONS,
            _key(other or user, "conversation"),
            _key(user, "names"),
        ]
        arguments = [
            message.key, self._history_turns, user, now, now + seconds, run or uuid4().hex,
            0 if message.origin else message.sent_at, int(bool(other)), self._retention,
        ]  # fmt: skip
        with _reachable():
            answer = self._script["begin_turn"](keys, arguments)
            while answer[0] == "apart":
                self._lead({other: None}, Contact(user, message.phone, message.bsuid), message)
                answer = self._script["begin_turn"](keys, arguments)
        if answer[0] == "moved":
            raise Moved(Contact(*answer[1:]))
        if answer[0] == "wait":
            raise TurnUnderWay("another message of this user is being answered")
        if answer[0] == "answered":
            return Begun(message, Turn.from_json(answer[1]), claim=0, number=0, attempts=0, waits=0, history=())
        _, claim, turns, attempts, waits, history = answer
        past = tuple(Turn.from_json(turn) for turn in history)
        return Begun(message, None, claim=claim, number=turns + 1, attempts=attempts, waits=waits, history=past)

    def release_turn(self, begun: Begun) -> None:
        """Give the right to commit back without a turn: this run ended, if not with an answer."""
        self._release(begun, message_goes_back=True)

    def not_begun(self, begun: Begun) -> None:
        """Write down that this run has to wait: it counts as no attempt, and no other message may begin."""
        self._release(begun, message_goes_back=False)

    def _release(self, begun: Begun, *, message_goes_back: bool) -> None:
        with _reachable():
            self._script["release_turn"](
                [_key(begun.message.user, "conversation")], [begun.claim, int(message_goes_back)]
            )

    def commit_turn(self, begun: Begun, reply: str, *, failure: str = "") -> Turn | None:
        """Write the turn and put its reply in the outbox; ``None`` if a newer run took over."""
        user = begun.message.user
        turn = Turn(begun.number, begun.message, reply, self._clock(), failure)
        keys = [
            _key(user, "conversation"),
            _key(user, "history"),
            _turn_key(begun.message),
            _key(user, "outbox"),
            DUE,
        ]
        kept = max(self._history_turns, 1)
        overdue = turn.committed_at + OVERDUE_SECONDS
        arguments = [
            begun.claim, turn.number, turn.to_json(), kept, self._retention, DEDUPE_SECONDS, user, overdue,
        ]  # fmt: skip
        with _reachable():
            written = self._script["commit_turn"](keys, arguments)
        return turn if written else None

    def turn_of(self, message: Message) -> Turn | None:
        """Return the turn a message got, or ``None`` while it has none."""
        with _reachable():
            stored = self._redis.get(_turn_key(message))
        return Turn.from_json(stored) if stored else None

    def turn_numbered(self, user: str, number: int) -> Turn | None:
        """Return a turn that is undelivered, or recent; ``None`` for an older one."""
        with _reachable():
            stored = self._redis.hget(_key(user, "outbox"), str(number))
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
        with _reachable():
            numbers = self._redis.mget([_key(name, f"sent:{message_id}") for name in users])
        sent = dict(zip(users, numbers, strict=True))
        return next((turn.reply for turn in turns if str(turn.number) == sent[turn.message.user]), "")

    def is_being_answered(self, message: Message) -> bool:
        """Return whether a run of this very message is under way."""
        with _reachable():
            current, run = self._redis.hmget(_key(message.user, "conversation"), "message", "run")
        return bool(current == message.key and run)

    def history(self, user: str) -> list[Turn]:
        """Return the stored turns of a user, oldest first."""
        with _reachable():
            return [Turn.from_json(turn) for turn in self._redis.lrange(_key(user, "history"), 0, -1)]

    # -- who is who -------------------------------------------------------------

    def move(self, message: Message) -> str:
        """Have the author of ``message``, who moved, be who they are from then on; return that user.

        All the author was leads there: the past, what is not delivered yet, and whatever was
        written under the old name until then. Only that, for numbers that were given up are
        given out again. Of several moves the newest wins, in whatever order they come; done
        twice, one is done once. Raises ``Moved`` where the author had another name for
        good, ``TurnUnderWay`` while a turn or a send is under way.
        """
        with _reachable():
            state = self._redis.hgetall(_key(message.user, "conversation"))
            if "moved" in state and "moved_at" not in state:
                raise Moved(destination(state))
            to = self._names.moved(message)
            known_as = (self._names.by_bsuid(one, message.account) for one in (to, message))
            users = {message.user: self._written_at(message)} | dict.fromkeys(filter(None, known_as))
            return self._lead(users, to, message)

    def _lead(self, users: Mapping[str, float | None], to: Contact, message: Message) -> str:
        at, now = self._written_at(message), self._clock()
        return self._moves.lead(users, to, at=at, now=now, message=message.key)

    def _written_at(self, message: Message) -> float:
        return message.sent_at or self._clock()

    def _ways(self, user: str) -> Iterator[str]:
        """Yield ``user`` and whoever it leads to."""
        while user:
            yield user
            with _reachable():
                user = self._redis.hget(_key(user, "conversation"), "moved")

    # -- delivery of replies ----------------------------------------------------

    def claim_delivery(self, user: str, *, holder: str, seconds: float) -> Claimed | None:
        """Take the user's next undelivered turn for ``seconds``; ``None`` when all are delivered.

        The same ``holder`` may claim again (its own delivery came back). Raises
        ``Busy`` while another holder's claim stands.
        """
        now = self._clock()
        keys = [_key(user, "conversation"), _key(user, "outbox"), DUE]
        with _reachable():
            answer = self._script["claim_delivery"](keys, [holder, now, now + seconds, user])
        if answer[0] == "busy":
            raise Busy(user)
        if answer[0] == "nothing":
            return None
        _, fence, number, turn, parts, doubt = answer
        return Claimed(
            user, fence, number, Turn.from_json(turn) if turn else None, parts, float(doubt) if doubt else None
        )

    def settle_part(self, claimed: Claimed, parts: int, *, seconds: float, sent: str = "") -> bool:
        """Write down that ``parts`` parts of the turn went out and keep the claim for ``seconds`` more.

        ``sent`` is the provider's id of the last one, for whoever quotes it. Returns
        ``False`` if the claim is lost.
        """
        return self._settle(claimed, parts, "part", self._clock() + seconds, sent)

    def settle_done(self, claimed: Claimed, *, sent: str = "") -> bool:
        """Write down that the whole turn is delivered (or never will be), the last part as ``sent``."""
        return self._settle(claimed, 0, "done", 0.0, sent)

    def settle_calling(self, claimed: Claimed, *, seconds: float) -> bool:
        """Write down that the next part is about to be sent (once more); keep the claim for ``seconds`` more.

        Returns ``False`` if the claim is lost.
        """
        return self._settle(claimed, 0, "again", self._clock() + seconds)

    def settle_later(self, claimed: Claimed, *, pause: float) -> bool:
        """Release the claim of a part that was not sent; it is due again in ``pause`` seconds."""
        return self._settle(claimed, 0, "later", self._clock() + pause)

    def settle_doubt(self, claimed: Claimed, *, pause: float) -> bool:
        """Release the claim of a part that may have been sent; due again in ``pause`` seconds."""
        return self._settle(claimed, 0, "doubt", self._clock() + pause)

    def report_part(self, user: str, number: int, part: int) -> bool:
        """Write down that the provider has that part; return whether somebody was waiting to know."""
        with _reachable():
            return bool(self._script["report_part"]([_key(user, "conversation")], [number, part]))

    def tell_once(self, user: str, what: str, *, seconds: float) -> bool:
        """Return whether the user is to be told ``what``: not again for ``seconds``."""
        with _reachable():
            return bool(self._redis.set(_key(user, f"told:{what}"), 1, nx=True, ex=int(seconds)))

    def was_told(self, user: str, what: str) -> bool:
        """Return whether ``tell_once`` was true for that within its time."""
        with _reachable():
            return bool(self._redis.exists(_key(user, f"told:{what}")))

    def alert_once(self, what: str, *, seconds: float) -> bool:
        """Return whether a person is to be called about ``what``: not again for ``seconds``."""
        with _reachable():
            return bool(self._redis.set(f"chatbot:alerted:{what}", 1, nx=True, ex=int(seconds)))

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
        keys = [_key(user, "pace"), _pace(account)]
        arguments = [
            self._clock(), limits.pair_seconds, limits.pair_burst, 1 / limits.per_second, longest, int(missed),
            WARM_UP_SECONDS, WARM_UP_SLOWER,
        ]  # fmt: skip
        with _reachable():
            taken, wait = self._script["pace"](keys, arguments)
        return bool(taken), float(wait)

    def hold_pair(self, user: str, limits: Limits, *, pause: float) -> float:
        """Have nothing sent to ``user`` for ``pause`` seconds, longer each time in a row; return for how long.

        Meta asks for 4^n seconds after its n-th refusal.
        """
        with _reachable():
            refusals = self._redis.incr(_key(user, "refused"))
            rest = float(min(pause**refusals if pause > 1 else pause, LONGEST_REST_SECONDS))
            # A refusal long after the rest is the first one again.
            self._redis.expire(_key(user, "refused"), int(2 * rest) + FIRST_AGAIN_SECONDS)
            full = self._clock() + rest + (limits.pair_burst - 1) * limits.pair_seconds
            self._redis.set(_key(user, "pace"), full, px=int((full - self._clock()) * 1000) + 1000)
        return rest

    def hold_number(self, account: str, *, pause: float) -> None:
        """Have nothing sent from ``account`` for ``pause`` seconds."""
        with _reachable():
            self._redis.set(_pace(account), self._clock() + pause, px=int(pause * 1000) + 1000)

    def count(self, event: str) -> None:
        """Add one to how often ``event`` happened."""
        with _reachable():
            self._redis.hincrby(COUNTS, event, 1)

    def counts(self) -> dict[str, int]:
        """Return how often each counted event happened."""
        with _reachable():
            return {event: int(times) for event, times in self._redis.hgetall(COUNTS).items()}

    def _settle(self, claimed: Claimed, parts: int, what: str, until: float, sent: str = "") -> bool:
        user = claimed.user
        keys = [_key(user, "conversation"), _key(user, "outbox"), DUE, _key(user, f"sent:{sent}")]
        remembered = QUOTED_SECONDS if sent else 0
        arguments = [claimed.fence, claimed.number, parts, what, user, until, self._clock(), remembered]
        with _reachable():
            return bool(self._script["settle_delivery"](keys, arguments))

    # -- who is being served ----------------------------------------------------

    def sessions(self) -> dict[str, float]:
        """Return the users that are being served, with the Unix time of their last turn."""
        with _reachable():
            return dict(self._redis.zrange(SESSIONS, 0, -1, withscores=True))

    def end_session(self, user: str, *, unless_active_since: float) -> None:
        """Forget that a user is being served, unless a turn began since (Unix time)."""
        with _reachable():
            self._redis.eval(
                "local at = redis.call('ZSCORE', KEYS[1], ARGV[1])"
                " if at and tonumber(at) <= tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end",
                1, SESSIONS, user, unless_active_since,
            )  # fmt: skip

    def due_outboxes(self, *, before: float) -> list[str]:
        """Return the users whose replies should have gone out before that Unix time."""
        with _reachable():
            return list(self._redis.zrangebyscore(DUE, "-inf", before))


def _pace(account: str) -> str:
    return f"chatbot:pace:{account}"


def _turn_key(message: Message) -> str:
    return _key(message.origin or message.user, f"turn:{message.key}")


def _key(user: str, what: str) -> str:
    return f"chatbot:{{{queue_name(user).removeprefix('chat.')}}}:{what}"


@contextmanager
def _reachable() -> Iterator[None]:
    """Turn what Redis raises while it is down, loading or full into ``Transient``."""
    try:
        yield
    except (redis.exceptions.RedisError, OSError) as err:
        raise Transient(f"Redis cannot be used: {err}") from err
