"""Sessions that open and close leave nothing behind. ``pytest --churn 10000 --timeout 1800`` for many."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chatbot.messages import Message
from chatbot.sessions.bootstep import Session, Subscriptions
from tests.integration.test_sessions import bot, close_all, serving  # noqa: F401  # bot is a fixture
from tests.servers import wait_until

WAVE = 500


def test_sessions_leave_nothing_behind(request, rabbitmq, redis_server, bot):  # noqa: F811
    steps: list[Subscriptions] = []

    class Watched(Subscriptions):
        def start(self, consumer):
            steps.append(self)
            super().start(consumer)

    def wave(first, count):
        users = [f"churn{n}" for n in range(first, first + count)]
        list(people.map(lambda user: bot.router.route(Message(user=user, id=f"m-{user}", text="oi")), users))
        wait_until(lambda: len(bot.agent.seen) >= first + count, seconds=120, what="every message answered")
        close_all(bot)
        wait_until(lambda: _user_queues(rabbitmq) == [], what="every queue deleted")

    def left_behind():
        [step] = steps
        gc.collect()
        return {
            "sessions": len(step.sessions),
            "session objects": sum(isinstance(thing, Session) for thing in gc.get_objects()),
            "work": len(step._steps.work),
            "consumer callbacks": len(step._amqp_channel.callbacks),
            "amqp channels": len(step._connection.connection.channels),
            # Without the one that ends by itself, once nobody was answered for a while.
            "threads": [thread.name == "typing-indicator" for thread in threading.enumerate()].count(False),
            "files": len(list(Path("/proc/self/fd").iterdir())),
            "queues": sorted(rabbitmq.queues()),
            "consumers": len(rabbitmq.ctl("list_consumers", "-q").splitlines()),
            "connections": len(rabbitmq.ctl("list_connections", "-q", "pid").splitlines()),
            "channels": len(rabbitmq.ctl("list_channels", "-q", "pid").splitlines()),
            "bindings": len(rabbitmq.ctl("list_bindings", "-q").splitlines()),
            "waiting requests": rabbitmq.queues()["chat.open"][0],
        }

    sessions = request.config.getoption("--churn")
    bot.celery.conf.broker_pool_limit = 16
    with serving(bot, Watched), ThreadPoolExecutor(8) as people:
        wave(0, WAVE)
        # The pools open connections as they are needed: all of them now, so that more would be a leak.
        for pool in (bot.router._publishers.pool, bot.celery.pool):
            pooled = [pool.acquire(block=True) for _ in range(16)]
            for resource in pooled:
                assert resource.default_channel
                resource.release()
        redis_pool = bot.redis.connection_pool
        pooled = [redis_pool.get_connection() for _ in range(32)]
        for connection in pooled:
            redis_pool.release(connection)
        before = left_behind()
        for first in range(WAVE, sessions + WAVE, WAVE):
            wave(first, WAVE)
        assert left_behind() == before
        assert before["sessions"] == before["session objects"] == before["work"] == 0


def _user_queues(rabbitmq):
    return [queue for queue in rabbitmq.queues() if queue.startswith("chat.churn")]
