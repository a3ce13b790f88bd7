"""Workers, senders and beat say that they live, from their start to their end.

In come the starts and ends that Celery tells; out go heartbeats (``store/presence.py``). They do not depend on
the broker: a process that lost its connection still lives, and so do its runs.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals

from chatbot.broker import topology
from chatbot.broker.sharding import name_of

#: A main loop says this often that it comes round.
PULSE_SECONDS = 1.0
#: What a process is called by the queues it consumes.
KINDS = {topology.OPEN: "worker", topology.SEND: "sender"}


class Heartbeat(bootsteps.StartStopStep):
    """Says that a worker lives, whatever becomes of its connection to the broker."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        queues = worker.app.amqp.queues.consume_from
        self._kind = "+".join(kind for queue, kind in KINDS.items() if queue in queues) or "housekeeper"

    def start(self, worker: Any) -> None:
        """Begin."""
        bot = worker.app.chatbot
        bot.presence.start(kind=self._kind, broker=name_of(bot.settings.broker_url))

    def stop(self, worker: Any) -> None:
        """Sign off: the turns under way have ended."""
        worker.app.chatbot.presence.stop()


class Pulse(bootsteps.StartStopStep):
    """Says that the event loop of a worker comes round, for as long as it has a connection."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Begin, on each new connection."""
        presence = consumer.app.chatbot.presence
        presence.pulse()
        self._timer = consumer.timer.call_repeatedly(PULSE_SECONDS, presence.pulse)

    def stop(self, consumer: Any) -> None:
        """Expect nothing while there is no connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        consumer.app.chatbot.presence.no_pulse()


@signals.beat_init.connect
def _beat_begins(sender: Any, **_: Any) -> None:
    bot = sender.app.chatbot
    bot.presence.start(kind="beat", broker=name_of(bot.settings.broker_url))
