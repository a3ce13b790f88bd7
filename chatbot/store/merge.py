"""One person, one conversation: what several users hold becomes one user's.

In come users and the contact they turned out to be; out goes that contact's conversation,
and from then on the others lead there. All of it is one optimistic transaction over their
keys (``store/keys.py`` lists them): where one changes meanwhile, it begins anew. So it happens
once or not at all, whoever crashes, and done twice it is done once.

Promises: no turn and no undelivered reply is lost, and none is there twice; nobody's turns
are numbered anew but those that are not delivered, which take the next numbers of their
new user; a run or a send that began under an old name can write nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

from chatbot.errors import TurnUnderWay
from chatbot.identity import Contact
from chatbot.messages import Turn
from chatbot.store import keys

#: What a conversation knows of a turn and of a delivery under way.
_UNDER_WAY = (
    "message", "attempts", "waits", "run", "claim_until",
    "parts", "calling", "calling_at", "sender", "sender_until", "sender_turn", "sender_runs", "plain",
    "rests_until", "looked_at",
)  # fmt: skip
_MOVED = ("moved", "moved_phone", "moved_bsuid", "moved_at")


@dataclass(frozen=True, slots=True)
class _Held:
    """What Redis holds of a user: the hash of the conversation, the past, the undelivered turns in order."""

    user: str
    state: dict[str, str]
    history: list[Turn]
    waiting: list[Turn]

    def check_no_turn(self, now: float, message: str) -> None:
        """Raise ``TurnUnderWay`` while a turn of another message than this one is."""
        if self.state.get("message", message) != message and float(self.state.get("claim_until", 0)) > now:
            raise TurnUnderWay("a turn is under way under another name of this user")

    def check_no_send(self) -> None:
        """Raise ``TurnUnderWay`` while an undelivered reply may be out in part: it is numbered for good."""
        if self.waiting and ("calling" in self.state or self.state.get("parts", "0") != "0"):
            raise TurnUnderWay("a reply is being sent under another name of this user")


class Moves:
    """Merges conversations."""

    def __init__(self, client: Any, *, history_turns: int, retention: int) -> None:
        self._redis = client
        self._kept = max(history_turns, 1)
        self._retention = retention

    def lead(self, users: Mapping[str, float | None], to: Contact, *, at: float, now: float, message: str) -> str:
        """Have ``users`` lead to ``to``, each for good (``None``) or until a Unix time; return the user they are.

        That is another one than ``to`` where they moved on after ``at``. A user that
        leads somewhere for as long already keeps to that. ``message`` may have a turn under
        way. Raises ``TurnUnderWay`` while another one has, or an undelivered reply is out in part.
        """
        lead = partial(self._lead, users=users, to=to, at=at, now=now, message=message)
        return str(self._redis.transaction(lead, value_from_callable=True))

    def _lead(
        self, pipe: Any, *, users: Mapping[str, float | None], to: Contact, at: float, now: float, message: str
    ) -> str:
        to = self._newest(pipe, to, at)
        held = [self._held(pipe, user) for user in users if user != to.user]
        old = [one for one in held if not _leads(one.state, to.user, users[one.user])]
        # A BSUID goes with its number, unless that leads there already: then it is somebody else's.
        old += [link for one in old for link in self._links(pipe, one.user) if link.user not in users]
        if not old:
            return to.user
        new = self._held(pipe, to.user)
        new.check_no_turn(now, message)
        for one in old:
            one.check_no_turn(now, "")
            one.check_no_send()
        pipe.multi()
        self._write_new(pipe, new, old, to, now=now)
        for one in old:
            until = users.get(one.user)
            self._write_old(pipe, one, to, until)
            if until is None:
                pipe.sadd(keys.NAMES.of(to.user), one.user)
        pipe.expire(keys.NAMES.of(to.user), self._retention)
        return to.user

    def _newest(self, pipe: Any, to: Contact, at: float) -> Contact:
        """Return where ``to`` moved on to after ``at``, if they did: notices come out of order."""
        while True:
            pipe.watch(keys.CONVERSATION.of(to.user))
            state = pipe.hgetall(keys.CONVERSATION.of(to.user))
            if "moved" not in state or float(state.get("moved_at", "inf")) < at:
                return to
            to = destination(state)

    def _links(self, pipe: Any, user: str) -> list[_Held]:
        """Return what the users hold who lead to ``user`` for good."""
        pipe.watch(keys.NAMES.of(user))
        links = [self._held(pipe, name) for name in sorted(pipe.smembers(keys.NAMES.of(user)))]
        return [link for link in links if link.state.get("moved") == user]

    def _held(self, pipe: Any, user: str) -> _Held:
        conversation, history, outbox = (row.of(user) for row in (keys.CONVERSATION, keys.HISTORY, keys.OUTBOX))
        pipe.watch(conversation, history, outbox)
        state, replies = pipe.hgetall(conversation), pipe.hgetall(outbox)
        numbers = range(int(state.get("delivered", 0)) + 1, int(state.get("turns", 0)) + 1)
        return _Held(
            user,
            state,
            [Turn.from_json(turn) for turn in pipe.lrange(history, 0, -1)],
            [Turn.from_json(replies[str(number)]) for number in numbers if str(number) in replies],
        )

    def _write_new(self, pipe: Any, new: _Held, old: list[_Held], to: Contact, *, now: float) -> None:
        conversation, history, outbox = (row.of(to.user) for row in (keys.CONVERSATION, keys.HISTORY, keys.OUTBOX))
        numbers = count(int(new.state.get("turns", 0)) + 1)
        waiting = {
            (one.user, turn.number): replace(turn, number=next(numbers), message=to.take_over(turn.message))
            for one in old
            for turn in one.waiting
        }
        past = [
            waiting.get((turn.message.user, turn.number)) or _reaching(to, turn) for one in old for turn in one.history
        ]
        # When it moved last stays: an older notice of that, come again, is about somebody else.
        pipe.hdel(conversation, "moved", "moved_phone", "moved_bsuid")
        if waiting:
            pipe.hset(conversation, "turns", next(numbers) - 1)
            pipe.hset(outbox, mapping={str(turn.number): turn.to_json() for turn in waiting.values()})
            pipe.zadd(keys.DUE.of(), {to.user: now})
        if past:
            turns = sorted([*past, *new.history], key=lambda turn: turn.committed_at)[-self._kept :]
            pipe.delete(history)
            pipe.rpush(history, *(turn.to_json() for turn in turns))
        for key in (conversation, history, outbox):
            pipe.expire(key, self._retention)

    def _write_old(self, pipe: Any, old: _Held, to: Contact, until: float | None) -> None:
        conversation = keys.CONVERSATION.of(old.user)
        moved = dict(zip(_MOVED, (to.user, to.phone, to.bsuid, until), strict=True))
        pipe.hdel(conversation, *_UNDER_WAY, *_MOVED)
        pipe.hset(conversation, mapping={field: value for field, value in moved.items() if value is not None})
        # The numbers stay, so that the user's never repeat, should there be another person of that name.
        pipe.hset(conversation, "delivered", old.state.get("turns", "0"))
        pipe.expire(conversation, self._retention)
        pipe.delete(*(row.of(old.user) for row in (keys.HISTORY, keys.OUTBOX, keys.NAMES)))
        pipe.zrem(keys.DUE.of(), old.user)


def destination(state: Mapping[str, str]) -> Contact:
    """Return the contact a user leads to, as the hash of the conversation says."""
    return Contact(state["moved"], state.get("moved_phone", ""), state.get("moved_bsuid", ""))


def _leads(state: Mapping[str, str], to: str, until: float | None) -> bool:
    """Whether a user leads there for good or, not for good, moved anywhere at that time or later."""
    if until is None:
        return state.get("moved") == to and "moved_at" not in state
    return float(state.get("moved_at", "inf" if "moved" in state else "-inf")) >= until


def _reaching(to: Contact, turn: Turn) -> Turn:
    """Return ``turn``, which keeps its number and its user, with where its author is reached by now."""
    return replace(turn, message=replace(turn.message, phone=to.phone, bsuid=to.bsuid))
