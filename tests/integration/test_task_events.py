"""The events of tasks that Flower shows: all of them, in few messages."""

from __future__ import annotations

from contextlib import closing

import kombu
from celery.events.event import event_exchange

from chatbot.app import Chatbot
from chatbot.broker.internals import task_events
from chatbot.config import Settings
from chatbot.demo import embedded
from chatbot.messages import Status
from tests.servers import wait_until

TASKS = 5


def test_the_events_of_many_tasks_are_one_message_and_none_is_lost(rabbitmq, monkeypatch):
    monkeypatch.setattr(task_events, "SECONDS", 3600.0)  # so that what waits at the end is sent then
    vhost = rabbitmq.add_vhost()
    url = rabbitmq.url.removesuffix("/") + vhost
    settings = Settings(_env_file=None, env="test", broker_url=url, redis_url="fakeredis://events")
    with closing(Chatbot(settings)) as bot, kombu.Connection(url) as connection:
        monkeypatch.setattr(bot, "warm_up", lambda: None)
        channel = connection.default_channel
        heard = kombu.Queue("heard", event_exchange(channel), routing_key="task.#", durable=False)(channel)
        heard.declare()
        with embedded.worker(bot, concurrency=2):
            for n in range(TASKS):
                bot.router.report(Status(f"wamid.{n}", "sent", callback="not ours"))
                wait_until(lambda: not rabbitmq.queues(vhost)["send"][0], what="the task done")
            assert heard.get() is None, "nothing is sent before its time"
        events = heard.get().payload
        assert heard.get() is None
    by_task = [[event["type"] for event in events if event["uuid"] == task] for task in {e["uuid"]: 0 for e in events}]
    assert by_task == [["task-received", "task-started", "task-succeeded"]] * TASKS
    assert events[0]["timestamp"] < events[-1]["timestamp"], "each carries its own time"
