"""What the simulator remembers: bubbles by person, calls to the stand-in, numbered events.

In come what happened, out go copies; every method is safe between threads. Only the last
``MOST_KEPT`` of each are kept. Events are numbered from the start time in milliseconds,
so that a page that outlives the process notices it has missed something.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

from chatbot.simulator.graph import Option, titles

MOST_KEPT = 100_000
TYPING_SECONDS = 25.0
PAGE_HISTORY = 500

# A person's own message goes clock → delivered → read or clock → failed (→ clock …);
# one of the business goes accepted → delivered → read.
RANK = {"failed": 0, "clock": 0, "accepted": 1, "delivered": 2, "read": 3}


@dataclass(slots=True)
class Bubble:
    """One message in one person's phone; ``side`` is ``out`` for what the person wrote."""

    id: str
    user: str
    side: str
    text: str
    time: float
    state: str
    callback: str = ""
    silent: bool = False  # no status webhook ever says what became of it
    name: str = ""
    type: str = "text"  # as Meta names it; ``said.shown`` says what ``content`` holds for each
    content: dict[str, Any] = field(default_factory=dict)
    options: tuple[Option, ...] = ()
    menu: str = ""  # the button of a list; without one the options are buttons
    quotes: str = ""
    reaction: str = ""  # of the person, to this message
    edited: bool = False
    revoked: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON for a page."""
        return {**asdict(self), "choices": titles(self.options)}


@dataclass(frozen=True, slots=True)
class Event:
    """Something a page shows: ``kind`` is message, changed, status, typing or forgotten."""

    number: int
    kind: str
    user: str
    data: dict[str, Any]


class State:
    """Everything that happened, for all people."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bubbles: OrderedDict[str, Bubble] = OrderedDict()
        self._by_user: defaultdict[str, deque[str]] = defaultdict(deque)
        self._calls: deque[dict[str, Any]] = deque(maxlen=MOST_KEPT)
        self._events: deque[Event] = deque(maxlen=MOST_KEPT)
        self._last = int(time.time() * 1000)
        self._typing_until: dict[str, float] = {}
        self._posted: OrderedDict[str, None] = OrderedDict()  # ids of people's messages, under way or taken
        self._watched: Counter[str] = Counter()
        self._closed = False

    def close(self) -> None:
        """Wake everybody who waits for events; from now on they get none."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # What people write

    def claim(self, message_id: str) -> bool:
        """Note that a message is posted now; return ``False`` where it is under way or was taken already."""
        with self._changed:
            new = message_id not in self._posted
            self._posted[message_id] = None
            while len(self._posted) > MOST_KEPT:
                self._posted.popitem(last=False)
            return new

    def say(self, *, message_id: str, user: str, name: str, text: str, **more: Any) -> None:
        """Show a person's message with a clock; saying the same id again shows no second one.

        ``more`` is what else a ``Bubble`` holds of it: ``type``, ``content``, ``quotes``.
        """
        with self._changed:
            known = self._bubbles.get(message_id)
            if known is None:
                self._add(Bubble(message_id, user, "out", text, time.time(), "clock", name=name, **more))
            elif known.state == "failed":
                self._set_state(known, "clock")

    def settle(self, message_id: str, *, taken: bool) -> None:
        """Note whether the webhook took a person's message; one that was read stays read."""
        with self._changed:
            if not taken:
                self._posted.pop(message_id, None)
            bubble = self._bubbles.get(message_id)
            if bubble is not None and bubble.side == "out" and RANK[bubble.state] < RANK["delivered"]:
                self._set_state(bubble, "delivered" if taken else "failed")

    def react(self, message_id: str, user: str, emoji: str) -> None:
        """Show what a person thinks of a message; an empty emoji takes it back."""
        with self._changed:
            bubble = self._of_person(message_id, user)
            if bubble is not None:
                bubble.reaction = emoji
                self._emit("changed", user, bubble.to_dict())

    def edit(self, message_id: str, user: str, text: str) -> None:
        """Show what a person's own text or caption says now."""
        with self._changed:
            bubble = self._of_person(message_id, user)
            if bubble is not None and bubble.side == "out":
                if "caption" in bubble.content:
                    bubble.content = {**bubble.content, "caption": text}
                bubble.text, bubble.edited = text, True
                self._emit("changed", user, bubble.to_dict())

    def revoke(self, message_id: str, user: str) -> None:
        """Show that a person deleted a message of their own; nothing of it is shown any more."""
        with self._changed:
            bubble = self._of_person(message_id, user)
            if bubble is not None and bubble.side == "out":
                bubble.text, bubble.type, bubble.content = "", "text", {}
                bubble.reaction, bubble.revoked = "", True
                self._emit("changed", user, bubble.to_dict())

    # What the business does

    def send(self, *, message_id: str, user: str, text: str, callback: str, silent: bool, **more: Any) -> bool:
        """Show a message of the business; return whether somebody looks at that phone.

        ``more`` is what else a ``Bubble`` holds of it: ``options``, ``menu``, ``quotes``.
        """
        with self._changed:
            self._typing_until.pop(user, None)
            seen = self._watched[user] > 0
            state = "read" if seen and not silent else "accepted" if silent else "delivered"
            self._add(Bubble(message_id, user, "in", text, time.time(), state, callback, silent, **more))
            return seen

    def read(self, message_id: str, *, typing: bool) -> str:
        """Mark a person's message and all before it as read; return the person, or ``""``."""
        with self._changed:
            bubble = self._bubbles.get(message_id)
            if bubble is None or bubble.side != "out":
                return ""
            self._read_up_to(bubble)
            if typing:
                self._typing_until[bubble.user] = time.monotonic() + TYPING_SECONDS
                self._emit("typing", bubble.user, {"seconds": TYPING_SECONDS})
            return bubble.user

    def called(self, **call: Any) -> None:
        """Remember one call to the stand-in with its outcome."""
        with self._changed:
            self._calls.append({"time": time.time(), **call})

    # What is asked

    def sent(self, user: str | None) -> list[dict[str, Any]]:
        """Return what the stand-in accepted for a user, or for all, oldest first."""
        with self._changed:
            return [
                {
                    "id": b.id, "to": b.user, "text": b.text, "time": b.time, "callback": b.callback,
                    "choices": titles(b.options), "options": [asdict(option) for option in b.options],
                    "quotes": b.quotes,
                }
                for b in self._of(user)
                if b.side == "in"
            ]  # fmt: skip

    def bubble(self, message_id: str) -> Bubble | None:
        """Return a copy of a message, ``None`` where it is not kept."""
        with self._changed:
            bubble = self._bubbles.get(message_id)
            return replace(bubble) if bubble else None

    def calls(self, user: str | None) -> list[dict[str, Any]]:
        """Return every call for a user, or all, oldest first."""
        with self._changed:
            return [dict(call) for call in self._calls if user in (None, call["to"])]

    def conversations(self, users: Collection[str]) -> dict[str, Any]:
        """Return the end of these people's conversations, and the number of the last event."""
        with self._changed:
            now = time.monotonic()
            return {
                "last": self._last,
                "conversations": {
                    user: {
                        "messages": [b.to_dict() for b in self._end_of(user)],
                        "typing": max(0.0, self._typing_until.get(user, 0.0) - now),
                    }
                    for user in users
                },
            }

    def forget(self) -> None:
        """Forget every message and call; events keep counting."""
        with self._changed:
            self._bubbles.clear()
            self._by_user.clear()
            self._calls.clear()
            self._posted.clear()
            self._typing_until.clear()
            self._emit("forgotten", "", {})

    # Who looks, and what they see

    @contextmanager
    def watching(self, users: Collection[str]) -> Iterator[list[Bubble]]:
        """Count these phones as looked at; yields what is read by that, oldest first."""
        with self._changed:
            self._watched.update(users)
            unread = [bubble for user in users for bubble in self._unread(user)]
            for bubble in unread:
                self._set_state(bubble, "read")
        try:
            yield unread
        finally:
            with self._changed:
                self._watched.subtract(users)
                self._watched = +self._watched

    def events(self, since: int, *, wait: float) -> list[Event] | None:
        """Return the events after ``since``, waiting up to ``wait`` seconds for one.

        ``None`` says that some of them are gone, and once this is closed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or since > self._last or (self._events and self._events[-1].number > since),
                timeout=wait,
            )
            oldest = self._events[0].number if self._events else self._last + 1
            if self._closed or since > self._last or 0 < since < oldest - 1:
                return None
            return list(reversed(list(islice(reversed(self._events), self._last - max(since, oldest - 1)))))

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self._last

    # Under the lock

    def _add(self, bubble: Bubble) -> None:
        self._bubbles[bubble.id] = bubble
        self._by_user[bubble.user].append(bubble.id)
        if len(self._bubbles) > MOST_KEPT:
            _, oldest = self._bubbles.popitem(last=False)
            self._by_user[oldest.user].popleft()
            if not self._by_user[oldest.user]:
                del self._by_user[oldest.user]
        self._emit("message", bubble.user, bubble.to_dict())

    def _of_person(self, message_id: str, user: str) -> Bubble | None:
        bubble = self._bubbles.get(message_id)
        return bubble if bubble is not None and bubble.user == user and not bubble.revoked else None

    def _set_state(self, bubble: Bubble, state: str) -> None:
        bubble.state = state
        self._emit("status", bubble.user, {"id": bubble.id, "state": state, "side": bubble.side})

    def _read_up_to(self, last: Bubble) -> None:
        found = False
        for message_id in reversed(self._by_user[last.user]):
            bubble = self._bubbles[message_id]
            found = found or bubble is last
            if not found or bubble.side != "out":
                continue
            if bubble.state == "read":
                return
            if bubble is last or bubble.state != "failed":
                self._set_state(bubble, "read")

    def _unread(self, user: str) -> list[Bubble]:
        unread = []
        for message_id in reversed(self._by_user.get(user, ())):
            bubble = self._bubbles[message_id]
            if bubble.side == "in" and bubble.state == "read":
                break
            if bubble.side == "in" and not bubble.silent:
                unread.append(bubble)
        return unread[::-1]

    def _of(self, user: str | None) -> list[Bubble]:
        if user is None:
            return list(self._bubbles.values())
        return [self._bubbles[message_id] for message_id in self._by_user.get(user, ())]

    def _end_of(self, user: str) -> list[Bubble]:
        ids = list(islice(reversed(self._by_user.get(user, ())), PAGE_HISTORY))
        return [self._bubbles[message_id] for message_id in reversed(ids)]

    def _emit(self, kind: str, user: str, data: dict[str, Any]) -> None:
        self._last += 1
        self._events.append(Event(self._last, kind, user, data))
        self._changed.notify_all()
