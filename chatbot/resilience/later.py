"""Calls of this process that are made some seconds from now.

In come calls, each under a name; out goes each when its time has come. Promises: one thread makes
all of them; of two under one name only the sooner is made; at most ``MOST`` wait. What waits here is lost
with its process: only for what somebody else looks after as well, later. Seconds are this process's
own, so no clock of a host is compared with another one's.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Hashable
from itertools import count

import structlog

log = structlog.get_logger(__name__)

#: More than that are not remembered: whoever looks after them as well has them to do.
MOST = 50_000


class Later:
    """Makes calls later, on a thread called ``name``; safe to use from many threads."""

    def __init__(self, *, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._numbers = count()
        self._heap: list[tuple[float, int, Hashable]] = []
        self._calls: dict[Hashable, tuple[int, float, Callable[[], object]]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def call(self, seconds: float, name: Hashable, call: Callable[[], object]) -> bool:
        """Have ``call`` made in ``seconds``, unless one of that name is made sooner; return whether it will be."""
        due = self._clock() + seconds
        with self._changed:
            known = self._calls.get(name)
            if known and known[1] <= due:
                return True
            if not known and len(self._calls) >= MOST:
                return False
            number = next(self._numbers)
            self._calls[name] = number, due, call
            heapq.heappush(self._heap, (due, number, name))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return True

    def _run(self) -> None:
        while call := self._next():
            try:
                call()
            except Exception:  # the outermost loop of this thread
                log.exception("later.call_failed", thread=self._name)

    def _next(self) -> Callable[[], object] | None:
        """Return the next call once it is due; ``None`` where none waits."""
        with self._changed:
            while self._heap:
                due, number, name = self._heap[0]
                if name not in self._calls or self._calls[name][0] != number:
                    heapq.heappop(self._heap)  # a sooner one took its place
                    continue
                left = due - self._clock()
                if left <= 0:
                    heapq.heappop(self._heap)
                    return self._calls.pop(name)[2]
                self._changed.wait(left)
            self._thread = None
            return None
