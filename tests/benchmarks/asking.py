"""What ``llm_bound.py`` starts: workers whose turns ask the model, the chatbot's and a plain one.

``celery -A tests.benchmarks.asking:ours worker`` is the chatbot's own app, all of it;
``…asking:bare`` has one task that calls ``openai`` and returns. Both count their turns.
"""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery, signals
from kombu import Queue

from tests.benchmarks.workers import STATIC, Tally

ASK = "bare.ask"


def __getattr__(name: str) -> Celery:
    """Build the app that ``celery -A`` asks for; neither imports what only the other needs."""
    if name not in {"ours", "bare"}:
        raise AttributeError(name)
    tally = Tally(redis.Redis.from_url(os.environ["CHATBOT_REDIS_URL"]))
    signals.worker_ready.connect(lambda **_: tally.start(), weak=False)
    if name == "bare":
        return _bare(tally)
    from chatbot.app import from_environment
    from chatbot.broker.router import ANSWER

    signals.task_postrun.connect(lambda task, **_: tally.count() if task.name == ANSWER else None, weak=False)
    return from_environment().celery


def publisher(broker_url: str) -> Celery:
    """Return the plain app without its task: it waits for the broker's confirm."""
    app = Celery("bare", broker=broker_url)
    app.conf.update(
        task_queues=[Queue(STATIC, durable=True)],
        task_default_queue=STATIC,
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        broker_transport_options={"confirm_publish": True},
    )
    return app


def _bare(tally: Tally) -> Celery:
    from openai import OpenAI

    app = publisher(os.environ["CHATBOT_BROKER_URL"])
    client = OpenAI(base_url=os.environ["CHATBOT_LLM_BASE_URL"], api_key="none", max_retries=2, timeout=60)

    @app.task(name=ASK)
    def ask(messages: list[Any]) -> str | None:
        try:
            return client.chat.completions.create(model="stub", messages=messages).choices[0].message.content
        finally:
            tally.count()  # a call that failed for good is over, too

    return app
