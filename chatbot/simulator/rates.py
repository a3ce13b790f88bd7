"""How fast Meta takes messages: 80 a second from a number, and one in 6 s to one person.

A burst of 45 to a person is taken at once (Meta, "Throughput" and "Pair rate limits").
Off until it is asked for. Written apart from the sender's own schedule, to judge it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from chatbot.simulator.graph import Refused


@dataclass(frozen=True, slots=True)
class Rates:
    """``per_second`` in any one second; to one person ``pair_burst``, refilled by one in ``pair_seconds``."""

    per_second: float = 80.0
    pair_seconds: float = 6.0
    pair_burst: int = 45

    @classmethod
    def from_dict(cls, asked: object) -> Rates:
        """Build from JSON. Raises ``ValueError`` saying what is wrong."""
        if not isinstance(asked, dict) or set(asked) - set(cls.__dataclass_fields__):
            raise ValueError(f"rates are an object with {', '.join(cls.__dataclass_fields__)}")
        if any(isinstance(v, bool) or not isinstance(v, int | float) or v <= 0 for v in asked.values()):
            raise ValueError("a rate is a number above 0")
        return cls(**asked)


class RateLimiter:
    """Counts what was accepted; safe between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.set(None)

    def set(self, rates: Rates | None) -> None:
        """Keep these rates from now on, or none; what was counted is forgotten."""
        with self._lock:
            self.rates = rates
            self._accepted: deque[float] = deque()
            self._tokens: dict[str, tuple[float, float]] = {}  # person → tokens left, at that time

    def take(self, to: str) -> None:
        """Count one message to that person. Raises ``Refused`` where it comes too fast."""
        with self._lock:
            if self.rates is None:
                return
            now = self._clock()
            while self._accepted and self._accepted[0] <= now - 1.0:
                self._accepted.popleft()
            if len(self._accepted) >= self.rates.per_second:
                raise Refused(429, 130429, "(#130429) Rate limit hit")
            left, at = self._tokens.get(to, (float(self.rates.pair_burst), now))
            left = min(left + (now - at) / self.rates.pair_seconds, float(self.rates.pair_burst))
            if left < 1.0:
                raise Refused(400, 131056, "(#131056) (Business Account, Consumer Account) pair rate limit hit")
            self._tokens[to] = (left - 1.0, now)
            self._accepted.append(now)
