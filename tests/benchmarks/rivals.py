"""Four ways to serve each user's messages in order: ours, and what else one could pick.

Each has two worker processes of 32 slots. ``publish`` hands a turn over and returns; turns of
one lane are published one after the other, each confirmed, as the threads of a web process do.
``wait_published`` returns once every one is confirmed. What the workers did stands in the
files of ``ledger`` (``ordered.py``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

from celery import Celery

from chatbot.broker import topology
from chatbot.messages import Message
from tests.benchmarks.asking import publisher
from tests.benchmarks.bench import Bench, note
from tests.benchmarks.ordered import DATABASE, LEDGER, QUEUE, TURN
from tests.benchmarks.postgres import Postgres, programs
from tests.benchmarks.workers import STATIC, THREADS, Workers
from tests.npm import NotInstalled, package
from tests.servers import PYTHON, Process, held, wait_until

WORKERS, LANES = 2, 8


class Turn(NamedTuple):
    """One to take: whose, which of theirs, how many seconds it lasts."""

    user: str
    number: int
    seconds: float


class Rival(ABC):
    """One way, running from its making until ``stack`` ends."""

    def __init__(self, name: str, bench: Bench, stack: ExitStack) -> None:
        self.name, self.ledger = name, bench.folder / f"{name} ledger".replace(" ", "-")
        self.ledger.mkdir()
        self._environment = {LEDGER: str(self.ledger)}
        self._workers = self._start(bench, stack)

    @abstractmethod
    def _start(self, bench: Bench, stack: ExitStack) -> list[Process]:
        """Return its workers once they are ready."""

    def held(self) -> AbstractContextManager[None]:
        """Hold its workers inside the block."""
        return held(self._workers)

    @abstractmethod
    def publish(self, turn: Turn, lane: int) -> None:
        """Have it published after those of its lane."""

    @abstractmethod
    def wait_published(self) -> None:
        """Return once every turn is confirmed."""

    def _processes(self, command: list[str], env: dict[str, str], bench: Bench, stack: ExitStack) -> list[Process]:
        processes = [
            Process(command, log=bench.folder / f"{self.ledger.name}{n}.log", env={**os.environ, **env})
            for n in range(WORKERS)
        ]
        for process in processes:
            stack.callback(process.kill)
            process.start()

        def ready() -> bool:
            for process in processes:
                assert process.alive, process.output()[-3000:]
            return len(list(self.ledger.iterdir())) == WORKERS

        wait_until(ready, seconds=60, what=f"{self.name} ready")
        return processes


class _FromThreads(Rival):
    """Published by this process, one thread a lane."""

    def __init__(self, name: str, bench: Bench, stack: ExitStack) -> None:
        self._lanes = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(LANES)]
        self._published: list[Future[None]] = []
        super().__init__(name, bench, stack)

    def publish(self, turn: Turn, lane: int) -> None:
        self._published.append(self._lanes[lane].submit(self._publish, turn))

    def wait_published(self) -> None:
        for future in self._published:
            future.result()
        self._published.clear()

    @abstractmethod
    def _publish(self, turn: Turn) -> None:
        """Return once it is confirmed."""


class Ours(_FromThreads):
    """``chat.<user>``."""

    def _start(self, bench: Bench, stack: ExitStack) -> list[Process]:
        workers = stack.enter_context(
            Workers(
                "ours", bench.folder, bench.rabbitmq, bench.redis, topology.OPEN, db=0, count=WORKERS,
                app="tests.benchmarks.ordered:ours", environment=self._environment,
            )
        )  # fmt: skip
        self._router = workers.bot.router
        return workers.processes

    def _publish(self, turn: Turn) -> None:
        message = Message(turn.user, str(turn.number), str(turn.seconds), sent_at=time.time())
        self._router.route(message)


class Locked(_FromThreads):
    """Celery: one queue, and a lock in Redis for each user."""

    def _start(self, bench: Bench, stack: ExitStack) -> list[Process]:
        workers = stack.enter_context(
            Workers(
                "locked", bench.folder, bench.rabbitmq, bench.redis, STATIC, db=1, count=WORKERS,
                app="tests.benchmarks.ordered:locked", environment=self._environment,
            )
        )  # fmt: skip
        self._app: Celery = stack.enter_context(publisher(bench.rabbitmq.url))
        return workers.processes

    def _publish(self, turn: Turn) -> None:
        self._app.send_task(TURN, tuple(turn), delivery_mode="persistent")


class Procrastinate(_FromThreads):
    """procrastinate on PostgreSQL, ``lock=user``."""

    def _start(self, bench: Bench, stack: ExitStack) -> list[Process]:
        from procrastinate import App, SyncPsycopgConnector

        database = Postgres(bench.folder / "postgres", programs() or Path())
        stack.callback(database.close)
        database.start()
        self._app = App(connector=SyncPsycopgConnector(conninfo=database.url, min_size=LANES, max_size=LANES))
        stack.enter_context(self._app.open())
        self._app.schema_manager.apply_schema()
        environment = {**self._environment, DATABASE: database.url}
        return self._processes([PYTHON, "-m", "tests.benchmarks.ordered"], environment, bench, stack)

    def _publish(self, turn: Turn) -> None:
        self._app.configure_task(TURN, queue=QUEUE, lock=turn.user).defer(**turn._asdict())


class GroupMQ(Rival):
    """npm's groupmq on Redis, published by a process of its own."""

    PACKAGES = ("groupmq@1.1.0", "ioredis@5")

    def _start(self, bench: Bench, stack: ExitStack) -> list[Process]:
        env = {
            **self._environment,
            "BENCH_PACKAGES": str(package(*self.PACKAGES)),
            "BENCH_REDIS": bench.redis.url.removesuffix("0") + "2",
            "BENCH_THREADS": str(THREADS),
        }
        script = str(Path(__file__).with_name("groupmq.mjs"))
        workers = self._processes(["node", script, "work"], env, bench, stack)
        self._publisher = stack.enter_context(
            subprocess.Popen(
                ["node", script, "publish"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                env={**os.environ, **env},
            )
        )  # fmt: skip
        stack.callback(self._publisher.kill)
        self._unconfirmed = 0
        return workers

    def publish(self, turn: Turn, lane: int) -> None:
        assert self._publisher.stdin
        self._publisher.stdin.write(json.dumps({"lane": lane, **turn._asdict()}) + "\n")
        self._unconfirmed += 1

    def wait_published(self) -> None:
        assert self._publisher.stdout
        while self._unconfirmed:
            assert self._publisher.stdout.readline(), "groupmq's publisher ended"
            self._unconfirmed -= 1


def rivals(bench: Bench, stack: ExitStack) -> dict[str, Rival]:
    """Start ours and the others that this machine can run, by name; say which it can't."""
    started: dict[str, Rival] = {
        "ours": Ours("ours", bench, stack),
        "celery + redis lock": Locked("celery", bench, stack),
    }
    if programs():
        started["procrastinate"] = Procrastinate("procrastinate", bench, stack)
    else:
        note("  procrastinate is left out: PostgreSQL is not installed (/usr/lib/postgresql)")
    if shutil.which("node") and shutil.which("npm"):
        try:
            started["groupmq"] = GroupMQ("groupmq", bench, stack)
        except NotInstalled as err:
            note(f"  groupmq is left out: {err}")
    else:
        note("  groupmq is left out: node and npm are not installed")
    return started
