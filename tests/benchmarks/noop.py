"""What ``workers.py`` starts: the chatbot's own Celery app, whose turns do nothing.

``celery -A tests.benchmarks.noop worker``. A message travels the real way up to the task
``chatbot.answer``; only stage 4, which it calls, is left out.
"""

from __future__ import annotations

import sys

import redis
from celery import signals
from kombu import Queue

from chatbot.app import from_environment
from chatbot.broker import topology
from chatbot.messages import Message
from tests.benchmarks.workers import BEGAN, PROBE, STATIC, Tally


class NoTurns:
    """Stands where the conversation stands (``Conversation.answer``)."""

    def __init__(self, store: redis.Redis) -> None:
        self._store = store
        self.tally = Tally(store)

    def answer(self, message: Message) -> None:
        """Count; of a probe, tell when it began."""
        now = self.tally.count()
        if message.id.startswith(PROBE):
            self._store.hset(BEGAN, message.id, now)


def _static_queues(arguments: list[str]) -> list[str]:
    """Return the queues of Celery's own way among those that this worker is to consume."""
    return [name for name in arguments[arguments.index("-Q") + 1].split(",") if name.startswith(STATIC)]


bot = from_environment()
app = bot.celery
app.conf.task_queues = (
    *app.conf.task_queues,
    *(Queue(name, topology.CHAT, routing_key=name, durable=True) for name in _static_queues(sys.argv)),
)
turns = NoTurns(redis.Redis.from_url(bot.settings.redis_url))
bot.conversation, bot.agent = turns, None


@signals.worker_ready.connect
def _tell(**_: object) -> None:
    turns.tally.start()
