"""Calls that are made again and again for as long as something lasts.

In come calls, each for the length of a block: a turn that shows its author "typing", a run
that renews its claim. Out goes each of them every ``seconds``. Promises: one thread makes all
calls; there is no thread where there has been nothing to call for ``seconds``; a block that
ends sooner makes no call at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger(__name__)


class Repeater:
    """Makes calls every ``seconds`` on one thread, which is called ``name``; safe to use from many threads.

    What a call raises is logged, and it is made again.
    """

    def __init__(self, *, seconds: float, name: str) -> None:
        self._seconds = seconds
        self._name = name
        # When each is due, soonest first: what is put in goes to the end.
        self._due: dict[object, tuple[float, Callable[[], object]]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def repeating(self, call: Callable[[], object]) -> Iterator[None]:
        """Make ``call`` again and again until the block ends, the first time after ``seconds``."""
        block = object()
        with self._changed:
            self._due[block] = (time.monotonic() + self._seconds, call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            if len(self._due) == 1:  # else it waits for one that is due sooner
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._due[block]

    def _run(self) -> None:
        while call := self._next():
            try:
                call()
            except Exception:  # the outermost loop of this thread
                log.exception("repeater.call_failed", thread=self._name)

    def _next(self) -> Callable[[], object] | None:
        """Return the next call once it is due, and put it in again; ``None``: there is none any more."""
        with self._changed:
            while self._changed.wait_for(lambda: self._due, self._seconds):
                block, (due, call) = next(iter(self._due.items()))
                left = due - time.monotonic()
                if left <= 0:
                    del self._due[block]
                    self._due[block] = (time.monotonic() + self._seconds, call)
                    return call
                self._changed.wait(left)
            self._thread = None
            return None
