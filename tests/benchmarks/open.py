"""What it costs to begin to serve one more user: from their first message to the start of its turn.

Ours with 100 and with 10,000 sessions live, and Celery's own ``control.add_consumer`` with 5,000
queues. Each has a broker and a worker of its own, so that none carries the queues of another.
Openings come one at a time and stay, so the small place grows while it is measured. Celery's is
measured twice: once nobody waits for an answer, so that nobody knows whether a worker heard, and
once as its guide shows it (``reply=True``), which waits a second for whoever answers. Ours returns
once the request for a worker is on disk.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import kombu

from chatbot.broker import topology
from chatbot.broker.router import ANSWER, declare_user_queue
from chatbot.messages import Message
from tests.benchmarks.bench import Bench, Figures, allow_queues, note, percentile, ratio, table
from tests.benchmarks.workers import PROBE, STATIC, Workers
from tests.servers import RabbitMQ, wait_until

GOAL, GOAL_CELERY = 1.3, 10.0
FEW, MANY, CELERY, ANSWERED = "few live", "many live", "add_consumer", "add_consumer, answered"


def run(bench: Bench) -> Figures:
    """Return how the time to open grows with the sessions live, and how much more Celery's takes."""
    live = {
        FEW: bench.scaled(100, quick=10),
        MANY: bench.scaled(10_000, quick=400),
        CELERY: bench.scaled(5_000, quick=200),
    }
    probes = dict.fromkeys(live, bench.scaled(40, quick=10)) | {ANSWERED: bench.scaled(5, quick=2)}
    live = {name: allow_queues(count) for name, count in live.items()}
    with _places(bench, live) as places:
        medians = bench.interleave(
            {name: lambda name=name, place=place: place.open(probes[name]) for name, place in places.items()},
            what="s to open",
        )
        every = {name: place.seconds[-probes[name] * bench.rounds :] for name, place in places.items()}
        cpu = {name: statistics.median(place.cpu[-bench.rounds :]) for name, place in places.items()}
    live[ANSWERED] = live[CELERY]  # the same place
    table(
        ("", "live", "median ms", "p99 ms", "worker's CPU ms"),
        [
            (name, live[name], 1000 * statistics.median(s), 1000 * percentile(s, 0.99), 1000 * cpu[name])
            for name, s in every.items()
        ],
    )
    flat, cheaper = ratio(medians[MANY], medians[FEW]), ratio(medians[CELERY], medians[MANY])
    answered = ratio(medians[ANSWERED], medians[MANY])
    table(
        ("", "ratio", "goal"),
        [
            (f"{MANY} / {FEW}", flat, f"<= {GOAL}"),
            (f"{CELERY} / {MANY}", cheaper, f">= {GOAL_CELERY:g}"),
            (f"{ANSWERED} / {MANY}", answered, f">= {GOAL_CELERY:g}"),
        ],
    )
    return {
        "ratio": flat,
        "goal": GOAL,
        "celery_ratio": cheaper,
        "celery_answered_ratio": answered,
        "celery_goal": GOAL_CELERY,
        "celery_cpu_ratio": cpu[CELERY] / cpu[MANY] if cpu[MANY] else None,
        "live": live,
        "median_ms": {name: 1000 * statistics.median(s) for name, s in every.items()},
        "p99_ms": {name: 1000 * percentile(s, 0.99) for name, s in every.items()},
    }


class _Place:
    """A worker that serves many, and one way to have it serve one more; ``seconds`` and CPU of each opening."""

    def __init__(
        self, workers: Workers, first_message: Callable[[Workers, Message], object], numbers: Iterator[int]
    ) -> None:
        self._workers, self._first_message, self._numbers = workers, first_message, numbers
        self.seconds: list[float] = []
        self.cpu: list[float] = []

    def open(self, count: int) -> float:
        """Open so many, one after the other; return the median of the seconds."""
        cpu = self._workers.cpu_seconds
        opened = [self._open_one() for _ in range(count)]
        self.seconds += opened
        self.cpu.append((self._workers.cpu_seconds - cpu) / count)
        return statistics.median(opened)

    def _open_one(self) -> float:
        number = next(self._numbers)
        message = Message(user=f"55116666{number:05}", id=f"{PROBE}{number}", text="oi", sent_at=time.time())
        began = time.monotonic()
        self._first_message(self._workers, message)
        return self._workers.wait_began(message.id) - began


def _route(workers: Workers, message: Message) -> None:
    workers.bot.router.route(message)


def _add_consumer(workers: Workers, message: Message, *, answered: bool = False) -> None:
    """Serve one more as Celery does: a queue, a broadcast, a message."""
    app, name = workers.bot.celery, topology.queue_name(message.user)
    with app.producer_or_acquire() as producer:
        kombu.Queue(name, topology.CHAT, routing_key=name, durable=True)(producer.channel).declare()
        app.control.add_consumer(
            name, exchange=topology.CHAT.name, exchange_type="topic", routing_key=name, reply=answered
        )
        envelope = {field: value for field, value in message.to_dict().items() if field not in {"user", "text"}}
        app.send_task(
            ANSWER, (message.user, message.text), envelope, producer=producer,
            exchange=topology.CHAT.name, routing_key=name, delivery_mode="persistent",
        )  # fmt: skip


@contextmanager
def _places(bench: Bench, live: dict[str, int]) -> Iterator[dict[str, _Place]]:
    """Start a broker and a worker for each, the sessions live."""
    with ExitStack() as stack:
        brokers = {CELERY: bench.rabbitmq} | {
            name: RabbitMQ(bench.folder / f"rabbitmq {name}".replace(" ", "-")) for name in (FEW, MANY)
        }
        for name in (FEW, MANY):
            stack.callback(brokers[name].close)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: brokers[name].start(), (FEW, MANY)))
        places = {}
        for db, (name, count) in enumerate(live.items()):
            began = time.monotonic()
            celery = name == CELERY
            queues = ",".join(f"{STATIC}.{n}" for n in range(count)) if celery else topology.OPEN
            workers = stack.enter_context(
                Workers(
                    name.replace(" ", "-"), bench.folder, brokers[name], bench.redis, queues, db=db, count=1,
                    max_sessions=65_535,
                )
            )  # fmt: skip
            if not celery:
                _fill(workers, count)
            numbers = itertools.count()
            places[name] = _Place(workers, _add_consumer if celery else _route, numbers)
            if celery:
                places[ANSWERED] = _Place(workers, partial(_add_consumer, answered=True), numbers)
            note(f"  {name}: {count} in {time.monotonic() - began:.0f} s")
        yield places


def _fill(workers: Workers, count: int) -> None:
    """Have so many sessions opened, by nobody who writes, and return once they are."""
    queues = [topology.queue_name(f"55117777{n:05}") for n in range(count)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(workers.bot.router.request_subscriber, queues))
    with workers.bot.celery.connection_for_read() as connection, connection.channel() as channel:
        for queue in queues:
            wait_until(
                lambda queue=queue: declare_user_queue(channel, queue, workers.bot.queue_arguments),
                seconds=300, what=f"consumer of {queue}",
            )  # fmt: skip
