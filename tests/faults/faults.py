"""The faults: each breaks one thing for a while and mends it again."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

import redis

from tests.faults import rollback
from tests.faults.hunt import Hunt
from tests.faults.model import Model
from tests.faults.rollback import Forgotten
from tests.proxy import TcpProxy
from tests.servers import RabbitMQ, Redis, process_at, wait_until
from tests.stub_llm import Call, StubLLM
from tests.system import System

#: What is broken, and how often at first: a kind that happened becomes less likely.
WEIGHTS = {
    "worker_kill": 10, "worker_term": 3, "worker_twice": 6, "sender_kill": 4, "sender_term": 2, "sender_format": 6,
    "sender_pause": 6, "sender_clock": 5, "web_kill": 2, "web_term": 2,
    "beat_kill": 1, "broker_kill": 2, "broker_stop": 1, "broker_alarm": 1, "redis_kill": 2, "redis_stop": 1,
    "redis_set_back": 6, "broker_cut": 3, "broker_cuts": 6, "broker_stall": 2, "redis_cut": 2, "redis_stall": 2,
    "llm_429": 1, "llm_500": 1, "llm_hang": 1, "llm_refuse": 1, "llm_empty": 1, "llm_garbage": 1, "llm_hostile": 6,
    "graph_500": 1, "graph_429": 1, "graph_timeout": 2, "graph_drop": 3, "graph_drop_all": 1, "graph_504": 6,
}  # fmt: skip
PROCESSES = {"worker", "sender", "web", "beat"}
#: These last: others go on meanwhile, and of each there is one at a time.
LONG = {"sender_format", "sender_pause"}
#: What it takes to kill the senders of one reply.
FORMAT_SECONDS = 30.0
#: How far a Redis is set back, and how far ahead a clock is.
SET_BACK_SECONDS, AHEAD_SECONDS = 2.0, 25.0
#: A broker's connections are closed so often, every so many seconds.
CUTS, CUT_SECONDS = 5, 1.5
#: Turns that are under way when the workers are killed for the second time, and how long they are waited for.
UNDER_WAY, UNDER_WAY_SECONDS = 4, 15.0
GRAPH = {
    "500": {"kind": "error", "status": 500, "code": 131000},
    "429": {"kind": "error", "status": 429, "code": 130429, "retry_after": 1},
    "504": {"kind": "error_after", "status": 504},
    "timeout": {"kind": "timeout", "delay": 4},
    "drop": {"kind": "drop_answer"},
    "drop_all": {"kind": "drop_all"},
}


@dataclass
class Happened:
    """One fault: when it began and when everything was mended (monotonic seconds).

    ``beside``: what else was up then, started and ready.
    """

    kind: str
    target: str
    began: float
    ended: float = float("inf")
    beside: frozenset[str] = frozenset()


@dataclass
class Faults:
    """Breaks the parts of one system; keeps restarting processes that ended.

    ``only`` are the kinds to draw from (by default all), ``pause`` the seconds that a sender stands still;
    ``skewed`` are the processes whose clock is to be ahead, from their next start on.
    """

    system: System
    rabbitmq: RabbitMQ
    redis: Redis
    llm: StubLLM
    broker_proxy: TcpProxy
    redis_proxy: TcpProxy
    dice: random.Random
    only: Collection[str] = ()
    pause: float = 75.0
    settle: float = 10.0
    skewed: set[str] = field(default_factory=set)
    happened: list[Happened] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)
    forgotten: Forgotten = field(default_factory=Forgotten)
    on_answer: Callable[[str], None] = lambda _: None
    phone_of: Callable[[str], str] = lambda text: text

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._broker_lock = threading.Lock()
        self._redis_lock = threading.Lock()
        self._names = list(self.system.processes)
        self.ready.update(self._names)
        self.model = Model(random.Random(self.dice.random()), on_answer=self.on_answer, on_poison=self._poison)
        self.llm.script = self.model
        self._restarts: list[threading.Thread] = []
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def draw(self) -> str:
        """Return the kind of the next fault, of those of which none that lasts is under way."""
        kinds: list[str] = []
        while not kinds:
            under_way = {h.kind for h in list(self.happened) if h.kind in LONG and h.ended == float("inf")}
            kinds = [kind for kind in self.only or WEIGHTS if kind not in under_way]
            time.sleep(0 if kinds else 0.1)
        times = Counter(h.kind for h in self.happened)
        if self.only:
            return min(kinds, key=lambda kind: times[kind])
        return self.dice.choices(kinds, [WEIGHTS[kind] / (1 + times[kind]) for kind in kinds])[0]

    def begin(self, kind: str) -> Happened:
        """Choose what is broken and note it."""
        part = kind.split("_", 1)[0]
        target = self.dice.choice([n for n in self._names if n.split(".")[0] == part] or [part])
        happened = Happened(kind, target, time.monotonic(), beside=frozenset(self.ready - {target}))
        self.happened.append(happened)
        return happened

    def cause(self, happened: Happened) -> None:
        """Break something and mend it; returns when that is done."""
        part, how = happened.kind.split("_", 1)
        seconds = self.dice.uniform(1, 4)
        try:
            if how in {"kill", "term"} and part in PROCESSES:
                self._end(happened.target, how)
            elif part in PROCESSES:
                getattr(self, f"_{happened.kind}")(happened.target)
            else:
                getattr(self, f"_{part}")(how, seconds)
        finally:
            happened.ended = time.monotonic()

    def lasts(self) -> float:
        """Return for how many seconds more the longest fault that is under way lasts, as far as one can say."""
        now = time.monotonic()
        lengths = {"sender_pause": self.pause, "sender_format": FORMAT_SECONDS}
        under_way = [h for h in list(self.happened) if h.kind in LONG and h.ended == float("inf")]
        return max((h.began + lengths[h.kind] - now for h in under_way), default=0.0)

    def mend(self) -> None:
        """Break nothing more; returns when every process is up again."""
        self.model.mode = ""
        self.broker_proxy.flow()
        self.redis_proxy.flow()
        wait_until(lambda: self.ready == set(self._names), seconds=120, what=f"all of {self._names} up")

    def close(self) -> None:
        """Start no process any more; returns when none is being started."""
        self._over.set()
        self._supervisor.join()
        for restart in self._restarts:
            restart.join()

    # -- processes ----------------------------------------------------------------

    def _end(self, name: str, how: str) -> None:
        if not self._take(name):
            return  # it is being restarted already
        try:
            if how == "kill":
                self.system.processes[name].kill()
            else:
                self.system.processes[name].terminate(seconds=60)
        finally:
            self._busy.discard(name)

    def _take(self, name: str, *, dead: bool = False) -> bool:
        """Return whether the process is ours now: nobody else ends, holds or starts it until we are done.

        ``dead``: only where it does not run.
        """
        with self._lock:
            if name in self._busy or (dead and self.system.processes[name].alive):
                return False
            self._busy.add(name)
            self.ready.discard(name)
            return True

    def _supervise(self) -> None:
        while not self._over.wait(0.1):
            for name in self._names:
                if self._take(name, dead=True):
                    self._restarts.append(threading.Thread(target=self._restart, args=(name,), daemon=True))
                    self._restarts[-1].start()

    def _restart(self, name: str) -> None:
        try:
            time.sleep(0.5)
            self.system.start(name)
            self.ready.add(name)
        except AssertionError:
            self.system.processes[name].kill()  # it ended again, or takes too long: the supervisor starts it anew
        finally:
            self._busy.discard(name)

    def _poison(self, call: Call) -> None:
        """End the process that made the call: a worker, or one that it keeps for suspects."""
        now, pid = time.monotonic(), process_at(call.port)
        if pid == self.system.processes[call.asker].pid:
            self.happened.append(Happened("worker_poison", call.asker, now, now))
            self._end(call.asker, "kill")
        elif pid:
            self.happened.append(Happened("suspect_poison", call.asker, now, now))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _worker_twice(self, _: str) -> None:
        """Kill every worker, and again as soon as they have turns under way."""
        workers = {name for name in self._names if name.startswith("worker")}
        with self.model.slow():
            for name in workers:
                self._end(name, "kill")
            self._await(lambda: workers <= self.ready, seconds=60)
            asked = self.model.asked
            self._await(lambda: self.model.asked >= asked + UNDER_WAY, seconds=UNDER_WAY_SECONDS)
            for name in workers:
                self._end(name, "kill")

    def _sender_format(self, _: str) -> None:
        """Kill whichever sender formats one reply, again and again."""
        caught = self.model.trap()
        self._await(lambda: caught, seconds=30)
        for text in caught:
            url = self.system.env["CHATBOT_REDIS_URL"]
            with redis.Redis.from_url(url, decode_responses=True, socket_timeout=5) as client:
                Hunt(client, phone=self.phone_of(text), text=text, settle=self.settle).go_on(self._kill_process)

    def _kill_process(self, pid: int) -> None:
        for name, process in self.system.processes.items():
            if process.pid == pid:
                self._end(name, "kill")

    def _sender_pause(self, name: str) -> None:
        """Hold a sender for longer than its claims stand."""
        if not self._take(name):
            return
        process = self.system.processes[name]
        try:
            process.pause()
            self._over.wait(self.pause)
            with suppress(ProcessLookupError):
                process.resume()
            self.ready.add(name)
        finally:
            self._busy.discard(name)

    def _sender_clock(self, name: str) -> None:
        """Start a sender anew on a host whose clock is ahead, or right where it was ahead."""
        self.skewed ^= {name}
        self._end(name, "term")
        self._await(lambda: name in self.ready, seconds=60)

    def _await(self, holds: Callable[[], object], *, seconds: float) -> None:
        """Return once that holds, or after so many seconds: then there is less to break."""
        until = time.monotonic() + seconds
        while not holds() and time.monotonic() < until and not self._over.is_set():
            time.sleep(0.02)

    # -- servers ------------------------------------------------------------------

    def _broker(self, how: str, seconds: float) -> None:
        with self._broker_lock:
            match how:
                case "cut" | "stall":
                    _disturb(self.broker_proxy, how, seconds)
                case "cuts":
                    self._cut_again_and_again()
                case "alarm":
                    self.rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
                    time.sleep(seconds)
                    self.rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
                case _:
                    self.rabbitmq.kill() if how == "kill" else self.rabbitmq.stop()
                    time.sleep(seconds)
                    self.rabbitmq.start()

    def _cut_again_and_again(self) -> None:
        """Close the broker's connections while turns take longer than it takes until the next time."""
        with self.model.slow():
            for _ in range(CUTS):
                time.sleep(CUT_SECONDS)
                self.broker_proxy.cut()
            time.sleep(CUT_SECONDS)

    def _redis(self, how: str, seconds: float) -> None:
        with self._redis_lock:
            if how in {"cut", "stall"}:
                _disturb(self.redis_proxy, how, seconds)
            elif how == "set_back":
                self._set_back()
            else:
                self.redis.kill() if how == "kill" else self.redis.stop()
                time.sleep(seconds)
                self.redis.start()

    def _set_back(self) -> None:
        before = rollback.mark(self.redis.folder)
        time.sleep(SET_BACK_SECONDS)
        self.redis.kill()
        self.forgotten |= rollback.cut(before)
        self.redis.start()

    # -- the model ----------------------------------------------------------------

    def _llm(self, how: str, seconds: float) -> None:
        if how == "hostile":
            self.model.be_hostile(self.dice.randint(5, 15))
            return
        self.model.mode = how
        time.sleep(seconds * 2)
        self.model.mode = ""

    # -- the provider -------------------------------------------------------------

    def _graph(self, how: str, _: float) -> None:
        self.system.stand_in.fail(**GRAPH[how], times=self.dice.randint(3, 15))


def _disturb(proxy: TcpProxy, how: str, seconds: float) -> None:
    if how == "cut":
        proxy.cut()
        return
    proxy.stall()
    time.sleep(seconds * 2)
    proxy.flow()
