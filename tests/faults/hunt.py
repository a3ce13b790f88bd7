"""A hunt: the sender that formats one reply is killed, again and again.

In comes the text of a message whose reply takes long to format; out go kills of whichever sender has begun with it. The
claim in Redis says who has: it is looked at every few milliseconds, and a run that only looks whether an earlier one's
send was settled (it is in doubt for ``settle`` seconds) is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import redis

KILLS = 3
#: Until the reply is in the outbox, and from there until it was killed so often.
COMMIT_SECONDS, HUNT_SECONDS = 30.0, 75.0
LOOK_SECONDS = 0.003


class Hunt:
    """Kills the senders of one reply: that to ``text``, of the person with ``phone``."""

    def __init__(self, client: redis.Redis, *, phone: str, text: str, settle: float) -> None:
        self._redis = client
        self._conversation = f"chatbot:{{{phone}}}:conversation"
        self._outbox = f"chatbot:{{{phone}}}:outbox"
        self._text = text
        self._settle = settle
        self._number = ""
        self._killed: set[str] = set()

    def go_on(self, kill: Callable[[int], None]) -> int:
        """Have ``kill`` end each process that begins with the reply; return how many did."""
        until = time.monotonic() + COMMIT_SECONDS
        while time.monotonic() < until and len(self._killed) < KILLS:
            try:
                if not self._number:
                    self._number = self._committed()
                    until = time.monotonic() + HUNT_SECONDS if self._number else until
                elif self._look(kill):
                    break
            except redis.RedisError:
                time.sleep(0.1)  # another fault has it
            time.sleep(LOOK_SECONDS)
        return len(self._killed)

    def _committed(self) -> str:
        """Return the number of the turn that answers the text, ``""`` while it waits for its turn."""
        outbox: dict[str, str] = self._redis.hgetall(self._outbox)  # type: ignore[assignment]  # decoded
        return next((number for number, turn in outbox.items() if f'"{self._text}"' in turn), "")

    def _look(self, kill: Callable[[int], None]) -> bool:
        """Kill whoever begins with the reply now; return whether it is delivered."""
        fields = ("delivered", "sender", "sender_turn", "calling_at")
        delivered, sender, turn, calling_at = self._redis.hmget(self._conversation, *fields)  # type: ignore[misc]
        if int(delivered or 0) >= int(self._number):
            return True
        if sender and turn == self._number and sender not in self._killed and self._sends(float(calling_at or 0)):
            self._killed.add(sender)
            kill(int(sender.rpartition("/")[0].split(".")[-2]))
        return False

    def _sends(self, calling_at: float) -> bool:
        if not self._killed:
            return True
        seconds, microseconds = self._redis.time()  # type: ignore[misc]
        return bool(seconds + microseconds / 1e6 - calling_at >= self._settle)
