"""What is said or done once, by whoever comes first; and how often things happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from chatbot.store import keys
from chatbot.store.client import Records, reachable


class Marks(Records):
    """Marks and counts. Raises ``Transient`` while Redis cannot be used."""

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

    def count(self, event: str) -> None:
        """Add one to how often ``event`` happened."""
        with reachable():
            self._redis.hincrby(keys.COUNTS.of(), event, 1)

    def counts(self) -> dict[str, int]:
        """Return how often each counted event happened."""
        with reachable():
            return {event: int(times) for event, times in self._redis.hgetall(keys.COUNTS.of()).items()}

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
