"""Workers started, held and counted from outside; by default their turns do nothing (``noop.py``).

What they tell in Redis (one database for each ``Workers``):

=================  ======  ==============================================================
``bench:done``     hash    worker's process id → turns so far, and when the last one began
``bench:began``    hash    id of a probe → when its turn began
=================  ======  ==============================================================

All moments are those of ``time.monotonic()``, which is one clock for the whole machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import redis

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.errors import BrokerUnavailable
from chatbot.messages import Message
from tests.servers import PYTHON, Process, RabbitMQ, Redis, held, wait_until

THREADS = 32
TELL_SECONDS = 0.02
DONE, BEGAN = "bench:done", "bench:began"
#: The queue of Celery's own way.
STATIC = "static"
#: The ids of messages whose turns are told one by one begin like this.
PROBE = "probe"


class Workers(AbstractContextManager["Workers"]):
    """``count`` workers on ``queues`` (as ``celery worker -Q``), ready inside the block.

    ``app`` is what ``celery -A`` is given; it tells a ``Tally``. ``settings`` are the
    chatbot's, for them and for ``bot``, which publishes to them.
    """

    def __init__(
        self, name: str, folder: Path, rabbitmq: RabbitMQ, redis_server: Redis, queues: str, *, db: int, count: int,
        options: tuple[str, ...] = (), app: str = "tests.benchmarks.noop", threads: int = THREADS,
        environment: Mapping[str, str] = MappingProxyType({}), **settings: Any,
    ) -> None:  # fmt: skip
        self.settings = {
            "env": "test",
            "broker_url": rabbitmq.url,
            "redis_url": redis_server.url.removesuffix("0") + str(db),
            "log_level": "WARNING",  # nobody compares log lines, and writing them would hide what is compared
            **settings,
        }
        self.bot = chatbot(self.settings)
        self._store = redis.Redis.from_url(self.settings["redis_url"], decode_responses=True, socket_timeout=60)
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")},
            **{f"CHATBOT_{name.upper()}": str(value) for name, value in self.settings.items()},
            **environment,
            "C_FORCE_ROOT": "1",
        }
        command = [
            PYTHON, "-m", "celery", "-A", app, "worker", "-P", "threads", "-c", str(threads),
            "-Q", queues, "--without-gossip", "--without-mingle", *options,
        ]  # fmt: skip
        self.processes = [
            Process([*command, "-n", f"{name}{n}@%h"], log=folder / f"{name}{n}.log", env=env) for n in range(count)
        ]

    def __enter__(self) -> Self:
        with ExitStack() as unless_ready:
            unless_ready.callback(self.__exit__)
            for process in self.processes:
                process.start()
            wait_until(self._ready, seconds=120, what="workers ready")
            unless_ready.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        self.bot.close()
        self._store.close()

    def _ready(self) -> bool:
        for process in self.processes:
            assert process.alive, process.output()[-3000:]
        return self._store.hlen(DONE) == len(self.processes)

    def write(self, message: Message) -> int:
        """Route ``message`` until it is taken, as WhatsApp does; return how often it was refused."""
        for refused in range(10):
            with suppress(BrokerUnavailable):
                self.bot.router.route(message)
                return refused
        raise BrokerUnavailable(f"ten times, for {message.user}")

    @property
    def done(self) -> int:
        """How many turns they took so far."""
        return sum(int(told.split()[0]) for told in self._store.hvals(DONE))

    @property
    def cpu_seconds(self) -> float:
        """The processor time they used so far, to a hundredth of a second."""
        return sum(process.cpu_seconds for process in self.processes)

    def wait_done(self, count: int, *, seconds: float = 600.0) -> float:
        """Return once they took ``count`` turns in all: the moment at which the last one began."""
        try:
            wait_until(lambda: self.done >= count, seconds=seconds, what=f"{count} turns")
        except AssertionError as err:
            for process in self.processes:
                told = self._store.hget(DONE, str(process.pid))
                err.add_note(f"{process.pid}, alive: {process.alive}, turns and the last: {told}")
                err.add_note(process.output()[-1000:])
            raise
        return max(float(told.split()[1]) for told in self._store.hvals(DONE))

    def wait_began(self, probe: str) -> float:
        """Return the moment at which the turn of that message began, once it did."""
        return float(wait_until(lambda: self._store.hget(BEGAN, probe), what=f"turn of {probe}", every=0.002))

    @property
    def probed(self) -> set[str]:
        """The probes whose turn began."""
        return set(self._store.hkeys(BEGAN))

    def held(self) -> AbstractContextManager[None]:
        """Hold them inside the block; their connections stay."""
        return held(self.processes)


class Tally:
    """A worker's side: counts turns and tells them by a thread of its own, so that none waits for being counted."""

    def __init__(self, store: redis.Redis) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._counted = threading.Event()
        self._done, self._last = 0, 0.0

    def count(self) -> float:
        """Count one turn; return the moment."""
        now = time.monotonic()
        with self._lock:
            self._done, self._last = self._done + 1, now
        self._counted.set()
        return now

    def start(self) -> None:
        """Tell from now on, beginning with none, for as long as the process lives."""
        threading.Thread(target=self._tell, daemon=True).start()

    def _tell(self) -> None:
        while True:
            self._counted.clear()
            with self._lock:
                done, last = self._done, self._last
            try:
                self._store.hset(DONE, str(os.getpid()), f"{done} {last}")
            except redis.RedisError:  # a disk that stalls, or this process was held meanwhile: told next time
                self._counted.set()
            self._counted.wait()  # who has nothing to do costs those nothing who are measured
            time.sleep(TELL_SECONDS)


def chatbot(settings: dict[str, Any]) -> Chatbot:
    """Return a chatbot that publishes, whose Celery waits for the broker's confirm as its router does."""
    bot = Chatbot(Settings(_env_file=None, **settings))
    bot.celery.conf.broker_transport_options = {"confirm_publish": True}
    return bot
