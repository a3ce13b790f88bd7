"""Turns a second through ``chat.<user>`` against the same task on one static Celery queue.

Both sides: the task ``chatbot.answer`` with no turn behind it, two workers of 32 threads, two
publishers of 8 threads (what web has), JSON, persistent, confirmed, acknowledged late. Ours
declares before it publishes and has 500 sessions live, prefetch 1 each; Celery publishes to one
queue, from which each worker prefetches four messages a thread, its own default.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

from chatbot.app import Chatbot
from chatbot.broker import topology
from chatbot.broker.router import ANSWER
from chatbot.messages import Message
from tests.benchmarks.bench import Bench, Figures, ratio, table
from tests.benchmarks.workers import STATIC, Workers, chatbot

GOAL = 0.90
USERS = [f"55115555{n:05}" for n in range(500)]
WORKERS, PUBLISHERS, PUBLISHER_THREADS = 2, 2, 8
OURS, CELERY = "chat.<user>", "static queue"


def run(bench: Bench) -> Figures:
    """Return the turns a second of both, and the ratio ours to Celery's."""
    with _ways(bench) as ways:
        for way in ways.values():
            way.turns(len(USERS))  # every session live, every connection open
        turns, held = bench.scaled(5000, quick=1000), bench.scaled(2000, quick=500)
        whole = bench.interleave({name: partial(way.turns, turns) for name, way in ways.items()}, what="turns/s")
        publish = bench.interleave(
            {name: partial(way.publish_then_consume, held) for name, way in ways.items()}, what="published/s"
        )
    consume = {name: way.consumed[-len(publish[name]) :] for name, way in ways.items()}
    figures = {"turns/s": whole, "published/s (workers held)": publish, "consumed/s (published before)": consume}
    table(
        ("", OURS, CELERY, "ratio", "goal"),
        [
            (
                what, statistics.median(rates[OURS]), statistics.median(rates[CELERY]),
                ratio(rates[OURS], rates[CELERY]), f">= {GOAL}" if rates is whole else "",
            )
            for what, rates in figures.items()
        ],
    )  # fmt: skip
    return {
        "ratio": ratio(whole[OURS], whole[CELERY]),
        "goal": GOAL,
        "publish_ratio": ratio(publish[OURS], publish[CELERY]),
        "consume_ratio": ratio(consume[OURS], consume[CELERY]),
        "turns_per_second": statistics.median(whole[OURS]),
        "celery_turns_per_second": statistics.median(whole[CELERY]),
    }


class _Way:
    """One way to the workers; rates are messages a second."""

    def __init__(self, name: str, workers: Workers, publishers: ProcessPoolExecutor) -> None:
        self._name, self._workers, self._publishers = name, workers, publishers
        self._sent = 0
        self.consumed: list[float] = []

    def turns(self, count: int) -> float:
        """Publish while the workers work; return the rate from the first publish to the last turn."""
        began, _ = self._publish(count)
        return count / (self._workers.wait_done(self._sent) - began)

    def publish_then_consume(self, count: int) -> float:
        """Publish, then consume; return the first rate and keep the second in ``consumed``."""
        with self._workers.held():
            began, ended = self._publish(count)
            resumed = time.monotonic()
        self.consumed.append(count / (self._workers.wait_done(self._sent) - resumed))
        return count / (ended - began)

    def _publish(self, count: int) -> tuple[float, float]:
        numbers = range(self._sent, self._sent + count)
        self._sent += count
        shares = [
            self._publishers.submit(_publish, self._name, numbers[share::PUBLISHERS]) for share in range(PUBLISHERS)
        ]
        times = [share.result() for share in shares]
        return min(began for began, _ in times), max(ended for _, ended in times)


@contextmanager
def _ways(bench: Bench) -> Iterator[dict[str, _Way]]:
    servers = bench.folder, bench.rabbitmq, bench.redis
    with (
        Workers("ours", *servers, "chat.open", db=0, count=WORKERS) as ours,
        Workers("celery", *servers, STATIC, db=1, count=WORKERS, options=("--prefetch-multiplier=4",)) as celery,
        ProcessPoolExecutor(
            PUBLISHERS, get_context("spawn"), initializer=_connect, initargs=(ours.settings,)
        ) as publishers,
    ):
        yield {OURS: _Way(OURS, ours, publishers), CELERY: _Way(CELERY, celery, publishers)}


# -- in a publisher's process ----------------------------------------------------


class _Publisher:
    bot: Chatbot
    threads: ThreadPoolExecutor


def _connect(settings: dict[str, Any]) -> None:
    _Publisher.bot = chatbot(settings)
    _Publisher.threads = ThreadPoolExecutor(PUBLISHER_THREADS)


def _publish(way: str, numbers: range) -> tuple[float, float]:
    """Publish a message for each number; return when that began and ended."""
    publish = {OURS: _route, CELERY: _send}[way]

    def share(thread: int) -> None:
        for number in numbers[thread::PUBLISHER_THREADS]:
            user = USERS[number % len(USERS)]
            publish(Message(user=user, id=f"{way}{number}", text="olá, tudo bem?", sent_at=time.time()))

    began = time.monotonic()
    list(_Publisher.threads.map(share, range(PUBLISHER_THREADS)))
    return began, time.monotonic()


def _route(message: Message) -> None:
    _Publisher.bot.router.route(message)


def _send(message: Message) -> None:
    """Publish the same body as Celery does, to a queue that is known."""
    envelope = {name: value for name, value in message.to_dict().items() if name not in {"user", "text"}}
    _Publisher.bot.celery.send_task(
        ANSWER, (message.user, message.text), envelope, exchange=topology.CHAT.name, routing_key=STATIC,
        delivery_mode="persistent", argsrepr=repr((message.user, message.id, len(message.text))), kwargsrepr="{}",
    )  # fmt: skip
