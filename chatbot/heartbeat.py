"""Workers, senders and beat say that they live, from their start to their end.

In come the starts and ends that Celery tells; out go heartbeats (``presence.py``). They do not depend on
the broker: a process that lost its connection still lives, and so do its runs.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals

from chatbot import topology
from chatbot.shards import name_of

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


@signals.beat_init.connect
def _beat_begins(sender: Any, **_: Any) -> None:
    bot = sender.app.chatbot
    bot.presence.start(kind="beat", broker=name_of(bot.settings.broker_url))
