"""Which processes live, and which of their runs: who holds a claim and who only seems to.

In comes a heartbeat of each process every second (``Presence``), and each run of a task while
it lasts (``Runs``); out go fencing tokens, the renewal of the claims they hold, and the answer
to "is the run that holds this claim gone?". Promises: a run that lives is never said to be gone while
its process says that it lives; one whose process was killed is gone ``ALIVE_SECONDS`` later, one
whose process ended in order at once; where nobody could reach Redis for a while, nobody is gone
before everybody could say that they live. A process that stands still for longer (``SIGSTOP``) is
taken for gone, and its fencing token lets it write nothing any more.

Time is Redis' own, so skewed clocks of hosts decide nothing; each process also tells how far its
clock is off.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

import structlog

from chatbot.errors import Transient
from chatbot.resilience.repeater import Repeater
from chatbot.store import keys
from chatbot.store.client import reachable, redis_time, script

log = structlog.get_logger(__name__)

#: A process says this often that it lives, and is taken for gone after this long without a word.
BEAT_SECONDS, ALIVE_SECONDS = 1.0, 5.0
#: What a process last said of itself is kept this long, for whoever asks who is missing.
REMEMBERED_SECONDS = 3600.0
#: A claim stands this long after its last renewal. Renewed this often, it outlives two that fail.
CLAIM_SECONDS, RENEW_SECONDS = 60.0, 15.0
#: Others are looked at once in so many heartbeats.
BEATS_A_LOOK = 3


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it last spoke: ``silent`` seconds ago, its clock ``skew`` seconds ahead of Redis'.

    ``stuck`` says for how many seconds its main loop had not come round by then.
    """

    id: str
    kind: str
    silent: float
    skew: float
    host: str = ""
    broker: str = ""
    sessions: int = 0
    stuck: float = 0.0

    @property
    def lives(self) -> bool:
        """Whether it spoke recently enough not to be taken for gone."""
        return self.silent <= ALIVE_SECONDS


class Liveness(Protocol):
    """Who knows of other processes whether they are gone (``Presence``)."""

    def is_gone(self, process: str) -> bool: ...


@dataclass(slots=True)
class Runs:
    """The runs of this process, ``process``: each has a fencing token that no other run ever has."""

    process: str
    liveness: Liveness
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _living: set[str] = field(default_factory=set)
    _renewals: Repeater = field(default_factory=lambda: Repeater(seconds=RENEW_SECONDS, name="claims"))

    @contextmanager
    def run(self, renew: Callable[[str], object]) -> Iterator[str]:
        """Live until the block ends; yield the fencing token, for which ``renew`` is called again and again."""
        fence = f"{self.process}/{next(self._numbers)}"
        self._living.add(fence)
        try:
            with self._renewals.repeating(lambda: renew(fence)):
                yield fence
        finally:
            self._living.discard(fence)

    def is_gone(self, fence: str) -> bool:
        """Return whether the run with this token can do nothing more. Raises ``Transient``."""
        process, slash, _ = fence.rpartition("/")
        if process == self.process:
            return fence not in self._living
        return bool(slash) and self.liveness.is_gone(process)


class Redeliveries:
    """Counts the processes that ended while they ran one task of the broker, which then delivered it again.

    A task that ends its process would otherwise come back for ever.
    """

    def __init__(self, client: Any, runs: Runs) -> None:
        self._redis = client
        self._runs = runs

    @contextmanager
    def counted(self, task_id: str) -> Iterator[int]:
        """Run a task that was delivered again; yield how many processes ended under it. Raises ``Transient``."""
        key, process = keys.REDELIVERED.of(task_id), self._runs.process
        with reachable():
            others = self._redis.smembers(key) - {process}
        ended = sum(self._runs.liveness.is_gone(other) for other in others)
        with reachable():
            self._redis.sadd(key, process)
            self._redis.expire(key, keys.REDELIVERED_SECONDS)
        try:
            yield ended
        finally:
            with suppress(Transient), reachable():
                self._redis.srem(key, process)


class Presence:
    """Tells the other processes that this one lives, from ``start`` until ``stop``.

    ``clock`` is Redis' own unless a test gives one. ``told`` is what this process says of itself
    besides; ``peers`` are the processes it last saw, itself among them.
    """

    def __init__(self, client: Any, *, clock: Callable[[], float] | None = None) -> None:
        self.id = f"{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:8]}"
        self.told: dict[str, Any] = {"host": socket.gethostname()}
        self.peers: tuple[Process, ...] = ()
        self._redis = client
        self._clock = clock
        self._heartbeat = script(client, "heartbeat")
        self._is_gone = script(client, "is_gone")
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._came_round: float | None = None

    def pulse(self) -> None:
        """Be told by the process's main loop that it came round."""
        self._came_round = time.monotonic()

    def no_pulse(self) -> None:
        """Be told that the main loop waits for something else (the broker), and is not expected to come round."""
        self._came_round = None

    def start(self, **told: Any) -> None:
        """Say that this process lives, and go on saying it; ``told`` is known of it from now on."""
        self.told |= told
        if self._thread is None:
            self._ends.clear()
            self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Say that this process ended in order: what it held may be taken at once."""
        if self._thread is None:
            return
        self._ends.set()
        self._thread.join()
        self._thread = None
        try:
            with reachable():
                self._redis.hdel(keys.PROCESSES.of(), self.id)
        except Transient as err:
            log.warning("presence.not_signed_off", error=str(err))

    def beat(self) -> None:
        """Say once that this process lives. Raises ``Transient``."""
        asked = time.time()
        with reachable():
            now = float(self._heartbeat([keys.PROCESSES.of()], [self._now(), self.id, self._said(), ALIVE_SECONDS]))
        self.told["skew"] = round((asked + time.time()) / 2 - now, 3)

    def is_gone(self, process: str) -> bool:
        """Return whether a process has not said for so long that it lives that it does not. Raises ``Transient``."""
        with reachable():
            return bool(self._is_gone([keys.PROCESSES.of()], [self._now(), process, ALIVE_SECONDS]))

    def look(self) -> tuple[Process, ...]:
        """Return every process that spoke within the last hour, and forget the others. Raises ``Transient``."""
        with reachable():
            said = self._redis.hgetall(keys.PROCESSES.of())
            now = self._clock() if self._clock else redis_time(self._redis)
        for field_of_all in (":last", ":quiet_until"):
            said.pop(field_of_all, None)
        found = [_process(id_, text, now) for id_, text in sorted(said.items())]
        forgotten = [process.id for process in found if process.silent > REMEMBERED_SECONDS]
        if forgotten:
            with reachable():
                self._redis.hdel(keys.PROCESSES.of(), *forgotten)
        return tuple(process for process in found if process.silent <= REMEMBERED_SECONDS)

    def _said(self) -> str:
        since = self._came_round
        self.told["stuck"] = round(time.monotonic() - since, 1) if since is not None else 0.0
        return json.dumps(self.told, separators=(",", ":"))

    def _now(self) -> float | str:
        return self._clock() if self._clock else ""

    def _go_on(self) -> None:
        for beat in count():
            try:
                self.beat()
                if beat % BEATS_A_LOOK == 0:
                    self.peers = self.look()
            except Transient as err:
                log.warning("presence.not_told", error=str(err))
            if self._ends.wait(BEAT_SECONDS):
                return


def _process(id_: str, said: str, now: float) -> Process:
    at, _, rest = said.partition(" ")
    told = json.loads(rest)
    return Process(
        id=id_,
        kind=str(told.get("kind", "")),
        silent=max(0.0, now - float(at)),
        skew=float(told.get("skew", 0.0)),
        host=str(told.get("host", "")),
        broker=str(told.get("broker", "")),
        sessions=int(told.get("sessions", 0)),
        stuck=float(told.get("stuck", 0.0)),
    )
