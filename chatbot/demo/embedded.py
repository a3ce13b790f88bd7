"""A Celery worker and beat as threads of this process: for the demo and for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from celery.beat import Service
from celery.worker import WorkController, state

from chatbot.app import Chatbot
from chatbot.sessions.beat import Scheduler

STOP_SECONDS = 20.0


@contextmanager
def worker(bot: Chatbot, *, concurrency: int) -> Iterator[None]:
    """Run one worker on every queue of ``bot``; ready inside the block, stopped warmly after it.

    Raises ``RuntimeError`` when it ends before it is ready. One at a time: Celery keeps
    the wish to stop in a global.
    """
    ready = threading.Event()
    controller = WorkController(
        app=bot.celery,
        pool_cls="threads",
        concurrency=concurrency,
        ready_callback=lambda _: ready.set(),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    thread = threading.Thread(target=controller.start, name="worker", daemon=True)
    thread.start()
    try:
        while not ready.wait(0.05):
            if not thread.is_alive():
                raise RuntimeError("the worker ended before it was ready; see the log")
        yield
    finally:
        state.should_stop = 0
        thread.join(STOP_SECONDS)
        state.should_stop = None


@contextmanager
def beat(bot: Chatbot) -> Iterator[None]:
    """Run beat, its schedule kept in memory."""
    service = Service(bot.celery, scheduler_cls=Scheduler)
    thread = threading.Thread(target=service.start, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        service.stop()
