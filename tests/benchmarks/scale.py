"""One broker, two workers, ever more live sessions: memory, opening, a broker's restart, closing.

Each number of sessions has workers of its own, so that what one left behind is not the next
one's. Turns do nothing (``noop.py``). While all are closed, people write: their messages are
counted, and none may be lost. Who is refused writes again, as WhatsApp does.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from chatbot.messages import Message
from tests.benchmarks.bench import Bench, Figures, allow_queues, note, table
from tests.benchmarks.workers import PROBE, Workers
from tests.servers import RabbitMQ, wait_until

GOAL_WORKER_KIB, GOAL_BROKER_KIB, GOAL_CLOSE, GOAL_RESTART = 10.0, 50.0, 60.0, 20.0
WORKERS, PUBLISHER_THREADS = 2, 8
#: Of those whose session is being closed, one in so many writes meanwhile.
WRITES = 100
#: How often beat has idle sessions closed here (seconds).
REAP_SECONDS = 2.0
#: What the broker is asked, in Erlang.
CONSUMERS = "ets:info(consumer_created, size)"
USER_QUEUES = 'length([N || {resource, _, queue, <<"chat.55", _/binary>>} = N <- rabbit_amqqueue:list_names()])'


@dataclass(frozen=True, slots=True)
class _Level:
    """What so many sessions cost; KiB a session, seconds for all. The workers' figure is of both together."""

    sessions: int
    worker_kib: float
    broker_kib: float
    open_seconds: float
    restart_seconds: float
    close_seconds: float
    refused: int
    lost: int


def run(bench: Bench) -> Figures:
    """Return what each number of sessions costs; the goals are for the largest, closing for 10,000."""
    counts = [500] if bench.quick else [1_000, 10_000, 20_000]
    counts[-1] = allow_queues(counts[-1])
    with closing(RabbitMQ(bench.folder / "rabbitmq-scale", memory="16GB")) as broker:
        broker.start()
        levels = [_measure(bench, broker, count, db) for db, count in enumerate(counts)]
    table(
        (
            "sessions", "worker KiB", "broker KiB", "open all s", "a second", "subscribed again s", "close all s",
            "refused", "lost",
        ),
        [
            (
                of.sessions, of.worker_kib, of.broker_kib, of.open_seconds, of.sessions / of.open_seconds,
                of.restart_seconds, of.close_seconds, of.refused, of.lost,
            )
            for of in levels
        ],
    )  # fmt: skip
    closed, largest = levels[-2:][0], levels[-1]
    table(
        ("", "is", "goal"),
        [
            ("a worker's memory a session, KiB", largest.worker_kib, f"<= {GOAL_WORKER_KIB:g}"),
            ("the broker's memory a session, KiB", largest.broker_kib, f"<= {GOAL_BROKER_KIB:g}"),
            (f"close {closed.sessions}, s", closed.close_seconds, f"<= {GOAL_CLOSE:g}"),
            ("subscribed again, s", largest.restart_seconds, f"<= {GOAL_RESTART:g}"),
            ("lost", sum(of.lost for of in levels), "0"),
        ],
    )
    return {
        "worker_kib": largest.worker_kib,
        "worker_goal_kib": GOAL_WORKER_KIB,
        "broker_kib": largest.broker_kib,
        "broker_goal_kib": GOAL_BROKER_KIB,
        "close_seconds": closed.close_seconds,
        "close_goal_seconds": GOAL_CLOSE,
        "restart_seconds": largest.restart_seconds,
        "restart_goal_seconds": GOAL_RESTART,
        "lost": sum(of.lost for of in levels),
        "levels": [asdict(of) for of in levels],
    }


def _measure(bench: Bench, broker: RabbitMQ, count: int, db: int) -> _Level:
    users = [f"55118888{n:05}" for n in range(count)]
    with (
        Workers(f"scale{count}-", bench.folder, broker, bench.redis, "chat.open", db=db, count=WORKERS,
                max_sessions=65_535) as workers,
        ThreadPoolExecutor(PUBLISHER_THREADS) as people,
    ):  # fmt: skip
        list(people.map(lambda user: _write(workers, user), users[:PUBLISHER_THREADS]))  # connections open
        workers.wait_done(PUBLISHER_THREADS)
        consumers = _consumers(broker) - PUBLISHER_THREADS
        idle = _worker_memory(workers), _broker_memory(broker)
        began = time.monotonic()
        list(people.map(lambda user: _write(workers, user), users[PUBLISHER_THREADS:]))
        opened = workers.wait_done(count) - began
        note(f"  {count} opened in {opened:.1f} s")
        worker, server = (
            (now - before) / (count - PUBLISHER_THREADS) / 1024
            for now, before in zip((_worker_memory(workers), _broker_memory(broker)), idle, strict=True)
        )
        restarted = _restart(broker, consumers + count)
        note(f"  {count} subscribed again in {restarted:.1f} s")
        written = {f"{PROBE} while closing {user}": user for user in users[::WRITES]}
        closed, refused = _close_all(workers, broker, people, written)
        note(f"  {count} closed in {closed:.1f} s, {refused} messages refused meanwhile")
        with suppress(AssertionError):
            wait_until(lambda: written.keys() <= workers.probed, seconds=60)
        lost = len(written.keys() - workers.probed)
    return _Level(count, worker, server, opened, restarted, closed, refused, lost)


def _write(workers: Workers, user: str, id_: str = "") -> int:
    """Write until it is taken; return how often it was refused."""
    return workers.write(Message(user, id_ or f"{user}.{time.monotonic()}", "oi", sent_at=time.time()))


def _restart(broker: RabbitMQ, consumers: int) -> float:
    """Stop the broker and start it; return the seconds from its being up until all are served again."""
    broker.stop()
    broker.start()
    began = time.monotonic()
    broker.wait_for(f"{CONSUMERS} >= {consumers}", seconds=300)
    return time.monotonic() - began


def _close_all(
    workers: Workers, broker: RabbitMQ, people: ThreadPoolExecutor, messages: dict[str, str]
) -> tuple[float, int]:  # fmt: skip
    """Have the reaper close everything, again and again while people write ``messages``, id → user.

    Returns the seconds it took, and how often one who wrote was refused.
    """
    began = time.monotonic()
    written = [people.submit(_write, workers, user, id_) for id_, user in messages.items()]
    with ThreadPoolExecutor(1) as watch:
        closed = watch.submit(broker.wait_for, f"{USER_QUEUES} =:= 0", seconds=600)
        while not closed.done():
            _reap(workers)
            wait([closed], timeout=REAP_SECONDS)
        closed.result()
    took = time.monotonic() - began
    return took, sum(one.result() for one in written)


def _reap(workers: Workers) -> None:
    workers.bot.celery.control.broadcast("close_idle_sessions", arguments={"idle_timeout": 0.0})


def _worker_memory(workers: Workers) -> float:
    """Return the bytes that the workers hold, all together."""
    pages = sum(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) for process in workers.processes)
    return pages * 4096.0


def _broker_memory(broker: RabbitMQ) -> float:
    """Return the bytes that the broker's Erlang holds once it has collected its garbage."""
    broker.ctl("force_gc")
    return float(broker.ctl("eval", "erlang:memory(total)."))


def _consumers(broker: RabbitMQ) -> int:
    return int(broker.ctl("eval", f"{CONSUMERS}."))
