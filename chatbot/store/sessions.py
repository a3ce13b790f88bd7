"""Which users are being served, and how far rescue looked at them.

A turn that begins notes its user as active (``lua/begin_turn.lua``); housekeeping ends what is idle.
"""

from __future__ import annotations

from chatbot.store import keys
from chatbot.store.client import Records, reachable


class ServedUsers(Records):
    """The users that are being served. Raises ``Transient`` while Redis cannot be used."""

    def sessions(self) -> dict[str, float]:
        """Return the users that are being served, with the Unix time of their last turn."""
        with reachable():
            return dict(self._redis.zrange(keys.SESSIONS.of(), 0, -1, withscores=True))

    def end_session(self, user: str, *, unless_active_since: float) -> None:
        """Forget that a user is being served, unless a turn began since (Unix time)."""
        self._run("end_session", [keys.SESSIONS.of()], user, unless_active_since)

    def sessions_after(self, active_at: float, *, most: int) -> list[tuple[str, float]]:
        """Return up to ``most`` users whose last turn was after that Unix time, and when, in that order."""
        with reachable():
            return list(
                self._redis.zrangebyscore(keys.SESSIONS.of(), f"({active_at!r}", "+inf", 0, most, withscores=True)
            )

    def rescued_until(self, broker: str) -> float:
        """Return how far rescue has looked at the sessions of a broker, by their activity."""
        with reachable():
            return float(self._redis.get(keys.RESCUED.of(broker)) or "-inf")

    def note_rescued(self, broker: str, active_at: float) -> None:
        """Keep how far rescue has looked, for whoever goes on."""
        with reachable():
            self._redis.set(keys.RESCUED.of(broker), repr(active_at), ex=keys.RESCUED_SECONDS)
