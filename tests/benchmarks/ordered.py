"""What ``order.py`` starts: workers whose turns only wait, ours and what else one could pick.

``celery -A tests.benchmarks.ordered:ours worker`` (or ``:locked``), ``python -m
tests.benchmarks.ordered`` for procrastinate, ``groupmq.mjs`` for groupmq. Each process
appends a line a turn to a file of its own in ``BENCH_LEDGER``: user, number, began, ended,
by the machine's one monotonic clock. The file is there once the worker is ready.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import redis
from celery import Celery, signals

from chatbot.messages import Message
from tests.benchmarks.asking import publisher
from tests.benchmarks.workers import THREADS, Tally

LEDGER, DATABASE = "BENCH_LEDGER", "BENCH_DATABASE"
TURN, QUEUE = "turn", "turns"
#: How often procrastinate looks for jobs whose lock is free again, which nothing else tells it (by default every 5 s).
POLL_SECONDS = 0.1


class Ledger:
    """The turns of this process."""

    def __init__(self) -> None:
        self._lines = Path(os.environ[LEDGER], str(os.getpid())).open("a", buffering=1)  # noqa: SIM115  # the process's

    def wrote(self, user: str, number: int, began: float) -> None:
        """Note a turn that ends now."""
        self._lines.write(f"{user} {number} {began} {time.monotonic()}\n")

    def turn(self, user: str, number: int, seconds: float) -> None:
        """Take a turn that lasts so long."""
        began = time.monotonic()
        if seconds:
            time.sleep(seconds)
        self.wrote(user, number, began)


class Turns:
    """Stands where the conversation stands: a message's text says how long its turn lasts."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    def answer(self, message: Message) -> None:
        """Take the turn."""
        self._ledger.turn(message.user, int(message.id), float(message.text))


def __getattr__(name: str) -> Celery:
    """Build the app that ``celery -A`` asks for."""
    if name not in {"ours", "locked"}:
        raise AttributeError(name)
    store = redis.Redis.from_url(os.environ["CHATBOT_REDIS_URL"])
    signals.worker_ready.connect(lambda **_: Tally(store).start(), weak=False)
    if name == "locked":
        return _locked(store)
    from chatbot.app import from_environment

    bot = from_environment()
    bot.conversation, bot.agent = Turns(), None
    return bot.celery


def _locked(store: redis.Redis) -> Celery:
    app, ledger = publisher(os.environ["CHATBOT_BROKER_URL"]), Ledger()

    @app.task(name=TURN)
    def turn(user: str, number: int, seconds: float) -> None:
        with store.lock(f"lock:{user}", timeout=60):
            ledger.turn(user, number, seconds)

    return app


def _procrastinate() -> None:
    """Serve jobs until killed, done ones deleted."""
    from procrastinate import App, PsycopgConnector

    ledger = Ledger()
    app = App(connector=PsycopgConnector(conninfo=os.environ[DATABASE], max_size=8))

    @app.task(name=TURN, queue=QUEUE)
    async def turn(user: str, number: int, seconds: float) -> None:
        began = time.monotonic()
        if seconds:
            await asyncio.sleep(seconds)
        ledger.wrote(user, number, began)

    app.run_worker(concurrency=THREADS, delete_jobs="always", fetch_job_polling_interval=POLL_SECONDS)


if __name__ == "__main__":
    _procrastinate()
