"""What Flower sees of tasks, sent together.

Celery's worker sends the events of each turn of its event loop in a message of their own, which
at a few tasks a second is one message an event, each with a wake-up of the loop. In come its
events; out goes one message with all of the last quarter of a second. Promise: each carries its
own time, and a worker that is stopped sends what waits.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

SECONDS = 0.25
#: More than come in that time: from there on whichever thread has an event sends them.
MOST = 5_000


class TaskEvents(bootsteps.StartStopStep):
    """Has the events of tasks wait a moment for others; only where the worker sends events, and has a loop."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Take over from Celery, on each new connection."""
        if consumer.hub is None or consumer.event_dispatcher is None:
            return
        consumer.event_dispatcher.on_send_buffered = None
        consumer.event_dispatcher.buffer_limit = MOST
        self._timer = consumer.timer.call_repeatedly(SECONDS, consumer.event_dispatcher.flush)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        """Leave it, when the connection is gone or the worker ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def shutdown(self, consumer: Any) -> None:
        """Send what waits, when the worker has ended its last task."""
        self.stop(consumer)
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()
