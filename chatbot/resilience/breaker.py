"""A circuit breaker: a model that is down is spared, and asked again now and then.

In come calls and whose they are, out go their results. Promises: only what says that the service
fails counts (``ServiceDown``, ``ModelTimeout``): an empty answer, a refusal or a request that is too
long is one person's, and the failures of one person alone open nothing. Closed, every call goes
through, until ``failures`` of them in a row failed. Open, calls end at once in ``CircuitOpen``; when
it has rested, a single call is let through: its success closes the circuit, its failure lets it
rest twice as long. For one process, safe between threads. What a service is called, and which failures
are those of the service, can be told (``another``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from chatbot.errors import CircuitOpen, ModelTimeout, NoRoom, ServiceDown, Transient

log = structlog.get_logger(__name__)

LONGEST_REST = 60.0
#: Who was answered within so many seconds shows that the service works.
LATELY = 60.0
#: Failures of fewer people than this open nothing.
PEOPLE = 2

T = TypeVar("T")


class Breaker:
    """Guards the calls to one service. ``rest`` in seconds is its first pause.

    ``name`` is what its errors and log lines call the service; ``counts`` are the errors that say that it fails.
    """

    def __init__(
        self, *, failures: int, rest: float, clock: Callable[[], float] = time.monotonic,
        name: str = "the model", counts: tuple[type[Transient], ...] = (ServiceDown, ModelTimeout),
    ) -> None:  # fmt: skip
        self._most_failures = failures
        self._first_rest = rest
        self._clock = clock
        self._name = name
        self._counts = counts
        self._lock = threading.Lock()
        self._failures = 0
        self._failed_for: set[object] = set()
        self._rest = rest
        self._rests_until: float | None = None  # None: closed
        self._trying = False
        self._last_tried: object = None
        self._others_wait = False
        self._answered_at: float | None = None

    def another(self, name: str, *, counts: tuple[type[Transient], ...]) -> Breaker:
        """Return a closed breaker of another service, as patient as this one."""
        return Breaker(failures=self._most_failures, rest=self._first_rest, clock=self._clock, name=name, counts=counts)

    def check(self) -> None:
        """Return unless a call would end at once in ``CircuitOpen``; raises that."""
        with self._lock:
            self._raise_if_resting(None)

    def is_open(self) -> bool:
        """Return whether the service failed several people, and has answered nobody since."""
        with self._lock:
            return self._rests_until is not None

    def answers(self) -> bool:
        """Return whether the service is known to work: it is not resting, and answered somebody lately."""
        with self._lock:
            lately = self._answered_at is not None and self._clock() - self._answered_at < LATELY
            return self._rests_until is None and lately

    def call(self, ask: Callable[[], T], *, key: object = None) -> T:
        """Return ``ask()``. Raises ``CircuitOpen`` without asking, or what ``ask`` raises.

        ``key`` says whose call it is; calls without one are each somebody else's.
        """
        key = object() if key is None else key
        trial = self._admit(key)
        try:
            result = ask()
        except NoRoom:
            self._not_asked(trial=trial)
            raise
        except Transient as err:
            if isinstance(err, self._counts):
                self._failed(err, key, trial=trial)
            else:
                self._answered(well=False)
            raise
        except BaseException:
            self._answered()  # a refusal is an answer too
            raise
        self._answered()
        return result

    def _admit(self, key: object) -> bool:
        """Return whether this call is the one that tries if the service is back. Raises ``CircuitOpen``."""
        with self._lock:
            self._raise_if_resting(key)
            self._trying = self._rests_until is not None
            if self._trying:
                self._last_tried, self._others_wait = key, False
            return self._trying

    def _raise_if_resting(self, key: object) -> None:
        if self._rests_until is None:
            return
        left = self._rests_until - self._clock()
        # Whoever tried last lets somebody else try, for as long again: it may be their request that fails.
        gives_way = key is not None and key == self._last_tried and self._others_wait and left > -self._rest
        if left > 0 or self._trying or gives_way:
            self._others_wait |= key is not None and key != self._last_tried
            raise CircuitOpen(f"{self._name} is not asked while it rests", retry_after=max(left, 0.0))

    def _failed(self, err: Transient, key: object, *, trial: bool) -> None:
        with self._lock:
            if trial:
                self._trying = False
                self._rest = min(self._rest * 2, LONGEST_REST)
            elif self._rests_until is not None or not self._is_enough(key):
                return
            rest = max(self._rest, min(err.retry_after or 0.0, LONGEST_REST))
            self._rests_until = self._clock() + rest
        if trial:
            log.warning("breaker.still_open", of=self._name, seconds=rest, error=str(err))
        else:
            log.error("breaker.open", of=self._name, seconds=rest, error=str(err))

    def _is_enough(self, key: object) -> bool:
        self._failures += 1
        if len(self._failed_for) < PEOPLE:
            self._failed_for.add(key)
        return self._failures >= self._most_failures and len(self._failed_for) >= min(PEOPLE, self._most_failures)

    def _not_asked(self, *, trial: bool) -> None:
        if trial:
            with self._lock:
                self._trying = False

    def _answered(self, *, well: bool = True) -> None:
        with self._lock:
            was_open = self._rests_until is not None
            if well:
                self._answered_at = self._clock()
            self._failures = 0
            self._failed_for.clear()
            self._rest = self._first_rest
            self._rests_until = None
            self._trying = False
            self._last_tried = None
        if was_open:
            log.info("breaker.closed", of=self._name)
