"""Places for calls in flight, counted across all workers.

In comes a call about to be made, out goes the permission to make it. Promises: no more than
``places`` calls are in flight at once while Redis keeps what it is told; who waits longest goes first;
a place whose holder crashed is free again after ``LEASE_SECONDS``, and who waits and crashes leaves
the line. While Redis cannot be used nobody takes a place; who has one goes on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from chatbot.errors import NoRoom, Transient
from chatbot.resilience.repeater import Repeater
from chatbot.store import keys
from chatbot.store.client import reachable, script

log = structlog.get_logger(__name__)

#: A place is its holder's for so long, renewed while its call lasts.
LEASE_SECONDS = 9.0
RENEW_SECONDS = 3.0
#: Who waits asks again this soon and, the further back, the later.
SOONEST, LATEST = 0.05, 1.0
#: Who has not asked for so long waits no more.
SEEN_SECONDS = 5.0


class Slots:
    """At most ``places`` at once under one ``name``; safe to use from many threads and processes."""

    def __init__(
        self, client: Any, name: str, places: int, *,
        sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._client = client
        self._keys = [row.of(name) for row in (keys.HOLDERS, keys.LINE, keys.SEEN, keys.LAST_NUMBER)]
        self._places = places
        self._take_slot = script(client, "take_slot")
        self._renew_slot = script(client, "renew_slot")
        self._renewing = Repeater(seconds=RENEW_SECONDS, name="slots")
        self._sleep = sleep
        self._clock = clock

    @contextmanager
    def held(self, *, wait: float) -> Iterator[None]:
        """Hold a place while the block runs. Raises ``NoRoom`` when none was free for ``wait`` seconds."""
        holder = uuid.uuid4().hex
        self._take(holder, self._clock() + wait)
        try:
            with self._renewing.repeating(lambda: self._renew(holder)):
                yield
        finally:
            self._leave(holder)

    def _take(self, holder: str, until: float) -> None:
        try:
            while place := self._place(holder):
                self._sleep(min(self._left(until), LATEST, SOONEST * place))
        except BaseException:
            self._leave(holder)
            raise

    def _left(self, until: float) -> float:
        left = until - self._clock()
        if left <= 0:
            raise NoRoom("every place for a call to the model is taken")
        return left

    def _place(self, holder: str) -> int:
        """Return 0 where the place is taken, else how many stand before ``holder``, itself included."""
        arguments = ["", holder, self._places, LEASE_SECONDS, SEEN_SECONDS, keys.SLOTS_SECONDS]
        try:
            with reachable():
                return int(self._take_slot(keys=self._keys, args=arguments))
        except Transient as err:
            raise NoRoom("the places for calls to the model cannot be counted: Redis cannot be used") from err

    def _renew(self, holder: str) -> None:
        try:
            with reachable():
                self._renew_slot(keys=self._keys[:1], args=["", holder, LEASE_SECONDS, keys.SLOTS_SECONDS])
        except Transient:
            log.warning("slot.not_renewed")

    def _leave(self, holder: str) -> None:
        try:
            with reachable():
                pipe = self._client.pipeline(transaction=False)
                for key in self._keys[:3]:
                    pipe.zrem(key, holder)
                pipe.execute()
        except Transient:
            log.warning("slot.not_given_back", lease=LEASE_SECONDS)
