"""The faults: each breaks one thing for a while and mends it again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.proxy import TcpProxy
from tests.servers import RabbitMQ, Redis, wait_until
from tests.stub_llm import Call, HangUp, StubLLM, completion
from tests.system import System

#: What is broken, and how often: kills of workers and senders are what a system lives with.
WEIGHTS = {
    "worker_kill": 10, "worker_term": 3, "sender_kill": 4, "sender_term": 2, "web_kill": 2, "web_term": 2,
    "beat_kill": 1, "broker_kill": 2, "broker_stop": 1, "broker_alarm": 1, "redis_kill": 2, "redis_stop": 1,
    "broker_cut": 3, "broker_stall": 2, "redis_cut": 2, "redis_stall": 2,
    "llm_429": 1, "llm_500": 1, "llm_hang": 1, "llm_refuse": 1, "llm_empty": 1, "llm_garbage": 1,
    "graph_500": 1, "graph_429": 1, "graph_timeout": 2, "graph_drop": 3, "graph_drop_all": 1,
}  # fmt: skip


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
    """Breaks the parts of one system; keeps restarting processes that ended."""

    system: System
    rabbitmq: RabbitMQ
    redis: Redis
    llm: StubLLM
    broker_proxy: TcpProxy
    redis_proxy: TcpProxy
    dice: random.Random
    happened: list[Happened] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)
    on_answer: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self._llm_mode = ""
        self._over = threading.Event()
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._broker_lock = threading.Lock()
        self._redis_lock = threading.Lock()
        self._names = list(self.system.processes)
        self.ready.update(self._names)
        self.llm.script = self._misbehave
        self._restarts: list[threading.Thread] = []
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def draw(self) -> str:
        """Return the kind of the next fault."""
        return self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]

    def cause(self, kind: str) -> None:
        """Break something and mend it; returns when that is done."""
        part, how = kind.split("_", 1)
        seconds = self.dice.uniform(1, 4)
        target = self.dice.choice([n for n in self._names if n.split(".")[0] == part] or [part])
        happened = Happened(kind, target, time.monotonic(), beside=frozenset(self.ready - {target}))
        self.happened.append(happened)
        if part in {"worker", "sender", "web", "beat"}:
            self._end(target, how)
        else:
            getattr(self, f"_{part}")(how, seconds)
        happened.ended = time.monotonic()

    def mend(self) -> None:
        """Break nothing more; returns when every process is up again."""
        self._llm_mode = ""
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
        with self._lock:
            if name in self._busy:
                return  # it is being restarted already
            self._busy.add(name)
            self.ready.discard(name)
        try:
            if how == "kill":
                self.system.processes[name].kill()
            else:
                self.system.processes[name].terminate(seconds=60)
        finally:
            self._busy.discard(name)

    def _supervise(self) -> None:
        while not self._over.wait(0.1):
            for name in self._names:
                with self._lock:
                    dead = name not in self._busy and not self.system.processes[name].alive
                    if dead:
                        self._busy.add(name)
                        self.ready.discard(name)
                if dead:
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

    # -- servers ------------------------------------------------------------------

    def _broker(self, how: str, seconds: float) -> None:
        with self._broker_lock:
            match how:
                case "cut" | "stall":
                    _disturb(self.broker_proxy, how, seconds)
                case "alarm":
                    self.rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
                    time.sleep(seconds)
                    self.rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
                case _:
                    self.rabbitmq.kill() if how == "kill" else self.rabbitmq.stop()
                    time.sleep(seconds)
                    self.rabbitmq.start()

    def _redis(self, how: str, seconds: float) -> None:
        with self._redis_lock:
            if how in {"cut", "stall"}:
                _disturb(self.redis_proxy, how, seconds)
                return
            self.redis.kill() if how == "kill" else self.redis.stop()
            time.sleep(seconds)
            self.redis.start()

    # -- the model ----------------------------------------------------------------

    def _llm(self, how: str, seconds: float) -> None:
        self._llm_mode = how
        time.sleep(seconds * 2)
        self._llm_mode = ""

    def _misbehave(self, call: Call):
        if "VENENO" in call.asked:
            now = time.monotonic()
            self.happened.append(Happened("worker_poison", call.asker, now, now))
            self._end(call.asker, "kill")
            raise HangUp
        match self._llm_mode:
            case "429":
                return 429, {"error": {"message": "slow down", "type": "rate_limit"}}, {"Retry-After": "1"}
            case "500":
                return 500, {"error": {"message": "broken", "type": "server_error"}}
            case "hang":
                time.sleep(8)
                raise HangUp
            case "refuse":
                raise HangUp
            case "empty":
                return 200, completion("")
            case "garbage":
                return 200, b"<html>bad gateway</html>"
        self.on_answer(call.asked)
        return None

    # -- the provider -------------------------------------------------------------

    def _graph(self, how: str, _: float) -> None:
        script = {
            "500": {"kind": "error", "status": 500, "code": 131000},
            "429": {"kind": "error", "status": 429, "code": 130429, "retry_after": 1},
            "timeout": {"kind": "timeout", "delay": 4},
            "drop": {"kind": "drop_answer"},
            "drop_all": {"kind": "drop_all"},
        }[how]
        self.system.stand_in.fail(**script, times=self.dice.randint(3, 15))


def _disturb(proxy: TcpProxy, how: str, seconds: float) -> None:
    if how == "cut":
        proxy.cut()
        return
    proxy.stall()
    time.sleep(seconds * 2)
    proxy.flow()
