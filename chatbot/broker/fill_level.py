"""How full the dead letters are, said loudly before the oldest are dropped.

In comes a channel, after a letter was put there; out goes a log line, at most one a minute.
Promise: it costs one round trip, and an error of it is the caller's connection's. Letters that
RabbitMQ moves there by itself are counted too, but not looked after: that is `chatbot doctor`'s.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from kombu import Queue

log = structlog.get_logger(__name__)

#: From this share of the bound on somebody should act.
NEARLY_FULL = 0.8
SILENT_SECONDS = 60.0


class FillLevel:
    """Looks at a bounded queue; safe to use from many threads, which at worst log twice."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue.name
        self._most = int(queue.queue_arguments["x-max-length"])
        self._silent_until = 0.0

    def look(self, channel: Any) -> None:
        """Log ``dead_letters.full`` or ``dead_letters.nearly_full`` where that is so."""
        if time.monotonic() < self._silent_until:
            return
        waiting = int(channel.queue_declare(self._queue, passive=True).message_count)
        if waiting < self._most * NEARLY_FULL:
            return
        self._silent_until = time.monotonic() + SILENT_SECONDS
        if waiting < self._most:
            log.warning("dead_letters.nearly_full", letters=waiting, most=self._most)
        else:
            log.error("dead_letters.full", letters=waiting, most=self._most, lost="the oldest make room for the next")
