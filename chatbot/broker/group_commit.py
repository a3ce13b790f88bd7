"""Group commit: what several threads want written at once, one of them writes for all.

A call that finds nobody at it writes at once, alone. Those that come meanwhile wait; when
the leader is done, the first of them leads them all. So a call that is alone pays nothing,
and the more there are, the less each costs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Call(Generic[T]):
    """One call: what it wants written, and the group it leads, if it does."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.group: list[_Call[T]] = []
        self.woken = threading.Lock()
        self.woken.acquire()


class GroupCommit(Generic[T]):
    """Hands items of many threads to ``write``, several at a time; one thread is in it."""

    def __init__(self, write: Callable[[list[T]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._led = False
        self._waiting: list[_Call[T]] = []  # empty while nobody leads

    def commit(self, item: T) -> None:
        """Return once ``write`` returned that was given ``item``, maybe among others.

        What it raises reaches the thread it ran in alone: the others find out by ``item``
        whether it was written.
        """
        call = _Call(item)
        with self._lock:
            if self._led:
                self._waiting.append(call)
            else:
                self._led = True
                call.group = [call]
        if not call.group:
            call.woken.acquire()
        if call.group:
            self._lead(call.group)

    def _lead(self, group: list[_Call[T]]) -> None:
        try:
            self._write([call.item for call in group])
        finally:
            self._hand_over()
            for follower in group[1:]:
                follower.woken.release()

    def _hand_over(self) -> None:
        with self._lock:
            group, self._waiting = self._waiting, []
            self._led = bool(group)
            if group:
                group[0].group = group
                group[0].woken.release()
