"""A circuit breaker: a model that is down is spared, and asked again now and then.

Closed, every call goes through, until ``failures`` of them in a row ended in ``Transient``.
Open, calls end at once in ``CircuitOpen``; when it has rested, a single call is let
through: its success closes the circuit, its failure lets it rest twice as long. For one
process, safe between threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from chatbot.errors import CircuitOpen, Transient

log = structlog.get_logger(__name__)

LONGEST_REST = 60.0
#: Who was answered within so many seconds shows that the service works.
LATELY = 60.0

T = TypeVar("T")


class Breaker:
    """Guards the calls to one service. ``rest`` in seconds is its first pause."""

    def __init__(self, *, failures: int, rest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_failures = failures
        self._first_rest = rest
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._rest = rest
        self._rests_until: float | None = None  # None: closed
        self._trying = False
        self._answered_at: float | None = None

    def check(self) -> None:
        """Return unless a call would end at once in ``CircuitOpen``; raises that."""
        with self._lock:
            self._raise_if_resting()

    def answers(self) -> bool:
        """Return whether the service is known to work: it is not resting, and answered somebody lately."""
        with self._lock:
            lately = self._answered_at is not None and self._clock() - self._answered_at < LATELY
            return self._rests_until is None and lately

    def call(self, ask: Callable[[], T]) -> T:
        """Return ``ask()``. Raises ``CircuitOpen`` without asking, or what ``ask`` raises."""
        self._admit()
        try:
            result = ask()
        except Transient as err:
            self._failed(err)
            raise
        except BaseException:
            self._answered()  # a refusal is an answer too
            raise
        self._answered()
        return result

    def _admit(self) -> None:
        with self._lock:
            self._raise_if_resting()
            self._trying = self._rests_until is not None

    def _raise_if_resting(self) -> None:
        if self._rests_until is None:
            return
        left = self._rests_until - self._clock()
        if left > 0 or self._trying:
            raise CircuitOpen("the model is not asked while it rests", retry_after=max(left, 0.0))

    def _failed(self, err: Transient) -> None:
        with self._lock:
            self._failures += 1
            if self._rests_until is not None and not self._trying:
                return  # begun before it opened
            if self._trying:
                self._rest = min(self._rest * 2, LONGEST_REST)
            elif self._failures < self._most_failures:
                return
            self._trying = False
            rest = max(self._rest, min(err.retry_after or 0.0, LONGEST_REST))
            self._rests_until = self._clock() + rest
        log.error("breaker.open", seconds=rest, error=str(err))

    def _answered(self) -> None:
        with self._lock:
            was_open = self._rests_until is not None
            self._answered_at = self._clock()
            self._failures = 0
            self._rest = self._first_rest
            self._rests_until = None
            self._trying = False
        if was_open:
            log.info("breaker.closed")
